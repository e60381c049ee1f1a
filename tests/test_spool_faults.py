"""The spool when its process is killed, or the system fails, at any system call that it makes.

Two things are done by a process of its own: to queue mails, and to send a directory of them. strace tells each call
that this makes; then it is done again and again, and killed or failed at one of these calls after the other.
"""

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from tests import spool_child, tracing
from tests.spool_child import RECIPIENTS, mended
from tests.tracing import Call, Forks, Run, at_each

# What the server says to each: all ways to settle a mail are among them.
ANSWERS = {"<accepted@x>": "accept", "<refused@x>": "refuse", "<partly@x>": "partly"}
WORDS = [f"{message_id}={answer}" for message_id, answer in ANSWERS.items()]

pytestmark = pytest.mark.timeout(300)


class Place(tracing.Place):
    """A folder with a spool, and how it is used."""

    def process(self, in_doubt: Literal["retry", "hold"]) -> None:
        """Send what there is, in this process, to a server that accepts all."""
        spool_child.process(str(self.spool), str(self.record), in_doubt, {})

    def sent(self) -> Counter[tuple[str, str]]:
        """How often each Message-ID was sent to each recipient; what was sent was whole."""
        lines = self.lines("sent")
        assert all(digest == mended(message_id) for message_id, _, digest in lines)
        return Counter((message_id, recipient) for message_id, recipient, _ in lines)


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    """The script that uses a spool, loaded. Skips where nothing can be traced, but never in CI."""
    with tracing.loaded(spool_child.__file__) as forks:
        yield forks


@pytest.fixture
def place(memory_path: Path, forks: Forks) -> Place:
    """An empty spool."""
    made = Place(memory_path / "place", forks)
    made.spool.mkdir(parents=True, mode=0o700)
    return made


@pytest.fixture
def filled(place: Place) -> Place:
    """A spool with a mail for each answer of the server."""
    spool_child.add(str(place.spool), str(place.folder / "added"), list(ANSWERS))
    return place


def message_ids(place: Place) -> dict[str, str]:
    """By the name of each file, the Message-ID of the mail in it: they were queued in the order of ANSWERS."""
    return dict(zip(sorted(place.files()), ANSWERS, strict=True))


def judge_sending(place: Place, names: dict[str, str]) -> bool:
    """Send what is left, by either policy, and hold the record against what was there before. Was any in doubt?"""
    states = place.files()
    by_mail = {message_id: states.get(name) for name, message_id in names.items()}
    doubtful = {message_id for message_id, state in by_mail.items() if state == "sending"}
    refused = {message_id for message_id, state in by_mail.items() if state == "failed"}
    assert refused <= {"<refused@x>"}
    for policy in ("retry", "hold"):
        after = place.copy(place.folder.with_name(f"{place.folder.name}-{policy}"))
        after.process("retry" if policy == "retry" else "hold")
        sent = after.sent()
        for message_id in names.values():
            for recipient in RECIPIENTS:
                times = sent.pop((message_id, recipient), 0)
                if message_id in refused:
                    assert times == 0
                elif message_id not in doubtful:
                    assert times == 1, (policy, message_id)
                elif policy == "retry":
                    assert 1 <= times <= 2
                else:
                    assert times <= 1
        assert not sent
        left = {names[name]: state for name, state in after.files().items() if state != "writing"}
        assert left == dict.fromkeys(refused, "failed") | (
            dict.fromkeys(doubtful, "sending") if policy == "hold" else {}
        )
        assert not [file for file, *_ in after.lines("unfit") if not (after.spool / file).name.endswith(".queued")]
        shutil.rmtree(after.folder)
    return bool(doubtful)


def test_killed_while_sending(filled: Place, memory_path: Path) -> None:
    """Killed at any call: none is lost; only what was .sending may be sent twice, and never with "hold"."""
    names = message_ids(filled)
    base = filled.copy(memory_path / "base").run("process", "spool", "record", "retry", *WORDS)
    assert (base.status, base.stdout, base.stderr) == (0, "", "")

    def kill(number: int, call: Call, inject: str) -> bool:
        there = filled.copy(memory_path / str(number))
        assert there.run("process", "spool", "record", "retry", *WORDS, inject=inject).status == -9, call
        doubtful = judge_sending(there, names)
        shutil.rmtree(there.folder)
        return doubtful

    points = base.kills
    assert {"openat", "flock", "fsync", "unlinkat", "close", "write", "pread64"} <= {call.name for call, _ in points}
    assert 10 < at_each(points, kill) < len(points)


def test_system_fails_while_sending(filled: Place, memory_path: Path) -> None:
    """Any call on the spool fails: a clear error or the file told as unfit, the spool intact, nothing lost.

    Python hears nothing of some calls: then all is done as if nothing had failed.
    """
    names = message_ids(filled)
    base = filled.copy(memory_path / "base").run("process", "spool", "record", "retry", *WORDS)

    def fail(number: int, call: Call, inject: str) -> bool:
        there = filled.copy(memory_path / str(number))
        ended = there.run("process", "spool", "record", "retry", *WORDS, inject=inject)
        assert (ended.status, ended.stderr) == (0, ""), (inject, call, ended.stderr)
        assert ended.stdout == "" or ended.stdout.startswith("SpoolError: spool '"), (inject, ended.stdout)
        told = ended.stdout + " ".join(" ".join(line) for line in there.lines("unfit"))
        assert told or sorted(there.files().values()) == ["failed", "queued"], (inject, call)
        judge_sending(there, names)
        shutil.rmtree(there.folder)
        return bool(told)

    assert at_each(base.faults, fail) > 50


def judge_queue(place: Place, *, clean: bool) -> int:
    """What was said to be queued is sent, once, and nothing else than whole mails. How many were?"""
    acknowledged = [message_id for (message_id,) in place.lines("queued")]
    files = Counter(place.files().values())
    assert files.keys() <= ({"queued"} if clean else {"queued", "writing"})
    assert files["writing"] <= 1
    assert files["queued"] - len(acknowledged) in ({0} if clean else {0, 1})
    place.process("retry")
    sent = place.sent()
    assert set(sent.values()) <= {1}
    assert {(message_id, recipient) for message_id in acknowledged for recipient in RECIPIENTS} <= set(sent)
    assert not place.lines("unfit")
    assert set(place.files().values()) <= {"writing"}
    return len(acknowledged)


def test_killed_while_queueing(place: Place, memory_path: Path) -> None:
    """Killed at any call: what ``add`` returned for is there and whole, and no half file is taken for a mail."""
    base = place.copy(memory_path / "base").run("add", "spool", "record", "<1@x>", "<2@x>")
    assert (base.status, base.stdout, base.stderr) == (0, "", "")

    def kill(number: int, call: Call, inject: str) -> bool:
        there = place.copy(memory_path / str(number))
        assert there.run("add", "spool", "record", "<1@x>", "<2@x>", inject=inject).status == -9, call
        acknowledged = judge_queue(there, clean=False)
        shutil.rmtree(there.folder)
        return acknowledged == 1

    points = base.kills
    assert {"openat", "flock", "write", "fsync", "close"} <= {call.name for call, _ in points}
    assert 5 < at_each(points, kill) < len(points)


def test_system_fails_while_queueing(place: Place, memory_path: Path) -> None:
    """Any call on the spool fails: a clear error, and nothing that is queued or looks so but what was acknowledged."""
    base = place.copy(memory_path / "base").run("add", "spool", "record", "<1@x>", "<2@x>")

    def fail(number: int, call: Call, inject: str) -> bool:
        there = place.copy(memory_path / str(number))
        ended = there.run("add", "spool", "record", "<1@x>", "<2@x>", inject=inject)
        assert (ended.status, ended.stderr) == (0, ""), (inject, call, ended.stderr)
        assert ended.stdout == "" or ended.stdout.startswith("SpoolError: spool '"), (inject, ended.stdout)
        acknowledged = judge_queue(there, clean=True)
        assert acknowledged == 2 if ended.stdout == "" else acknowledged < 2
        shutil.rmtree(there.folder)
        return ended.stdout != ""

    assert at_each(base.faults, fail) > 30


@pytest.mark.parametrize("room", [0, 1, 400, 700])
def test_disk_takes_a_part(place: Place, room: int) -> None:
    """A write that is short, and the next fails: the error says so, and nothing is left."""
    limited = (
        "import resource, runpy, sys; room = int(sys.argv.pop(1)); del sys.argv[0];"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)); runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", limited, str(room), spool_child.__file__, "", "add", "spool", "record", "<1@x>"]
    ended = subprocess.run(
        command,
        cwd=place.folder,
        env=os.environ | {"PYTHONPATH": ":".join(part or "." for part in sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout.startswith(
        "SpoolError: spool 'spool': nothing was queued: File too large; this process may not"
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert not place.files()


# Nothing is written back but what is asked for. A file system made, filled and at rest; then the work; then the plug is
# pulled: what has reached the image by then is copied and mounted, and its journal replayed. All mounts and loop
# devices go with the namespace. The record lies elsewhere and loses nothing.
POWER_CUT = """
truncate -s 16M image
mkfs.ext4 -q image
mkdir disk
mount -o loop,data=ordered,commit=300 image disk
cp -a spool disk/spool
sync -f disk
"$@" || status=$?
cp --sparse=always image cut
umount -l disk
mount -o loop cut disk
rm -r spool
cp -a disk/spool spool
exit ${status:-0}
"""


def cut_off(place: Place, *words: str, inject: str = "") -> Run:
    """Do it on a disk whose power is cut when it ends, or is killed; what the disk kept is then in the place."""
    traced = tracing.command(spool_child.__file__, words[0], "disk/spool", "record", *words[1:], inject=inject)
    return tracing.run(
        ["unshare", "-m", "--propagation", "private", "bash", "-euc", POWER_CUT, "cut", *traced], place.folder
    )


def cuts(run: Run) -> list[tuple[Call, str]]:
    """To be killed before anything reaches the disk, and before anything is told."""
    return [point for point in run.kills if point[0].name in {"fsync", "write"}]


@pytest.fixture
def disk(place: Place, tmp_path: Path) -> None:
    """Skips where no file system can be made and mounted: it needs root, and loop devices."""
    try:
        trial = cut_off(place.copy(tmp_path / "trial"), "add", "<1@x>")
    except FileNotFoundError as error:
        pytest.skip(f"no power can be cut here: {error}")
    if trial.status:
        pytest.skip(f"no power can be cut here: {trial.stderr.strip()}")


@pytest.mark.usefixtures("disk")
def test_power_cut_while_queueing(place: Place, tmp_path: Path) -> None:
    """The power fails before any write or fsync, or at the end: what ``add`` returned for is there and whole."""
    there = place.copy(tmp_path / "base")
    base = cut_off(there, "add", "<1@x>", "<2@x>")
    assert judge_queue(there, clean=True) == 2
    for number, (call, inject) in enumerate(cuts(base)):
        there = place.copy(tmp_path / str(number))
        assert cut_off(there, "add", "<1@x>", "<2@x>", inject=inject).status == 137, call
        judge_queue(there, clean=False)
        shutil.rmtree(there.folder)


@pytest.mark.usefixtures("disk")
def test_power_cut_while_sending(filled: Place, tmp_path: Path) -> None:
    """The power fails before any write or fsync, or at the end: what was begun is .sending, and none is lost."""
    names = message_ids(filled)
    there = filled.copy(tmp_path / "base")
    base = cut_off(there, "process", "retry", *WORDS)
    assert not judge_sending(there, names)
    doubtful = 0
    for number, (call, inject) in enumerate(cuts(base)):
        there = filled.copy(tmp_path / str(number))
        assert cut_off(there, "process", "retry", *WORDS, inject=inject).status == 137, call
        doubtful += judge_sending(there, names)
        shutil.rmtree(there.folder)
    assert doubtful > 5
