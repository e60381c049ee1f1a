"""Queue and ProcessQueue when their process is killed, or the system fails, at any system call that they make.

The server is one of the test's own process: it has a mail's Message-ID before it answers. A mail is lost if neither the
server nor the directory has it.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from smtpkit import ComponentError
from smtpkit.testing import Script, Server
from tests import tracing
from tests.component import queue_child
from tests.component.ways import make
from tests.tracing import Call, Forks, Place, Run, at_each

MAILS = ("<a@x>", "<b@x>", "<c@x>")
REFUSED = "<b@x>"

BOTH = pytest.mark.parametrize("way", ["blocking", "asyncio"])
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    """The script that uses a queue, loaded. Skips where nothing can be traced, but never in CI."""
    with tracing.loaded(queue_child.__file__) as forks:
        yield forks


@pytest.fixture
def place(memory_path: Path, forks: Forks) -> Place:
    """An empty directory for a queue."""
    made = Place(memory_path / "place", forks)
    made.spool.mkdir(parents=True, mode=0o700)
    return made


def process(directory: Path, in_doubt: str) -> Counter[str]:
    """Send what there is; return how often the server has got each."""
    with Server(Script(replies={"RCPT:b@example.com": "550 5.1.1 no"})) as server:
        smtp = make("blocking", server, in_doubt=in_doubt)
        with suppress(ComponentError):  # the refused one
            smtp.process_queue(str(directory))
    return received(server)


def received(server: Server) -> Counter[str]:
    """How often the server has got each mail, and that nobody spoke out of turn to it."""
    assert not [error for session in server.sessions for error in session.errors]
    return Counter(mail.message()["Message-ID"] for mail in server.received)


def sending(place: Place, way: str, inject: str = "", thread: int = 0) -> tuple[Run, Counter[str]]:
    """Send the queue in a process of its own; what became of that, and what the server has got."""
    with Server(Script(replies={"RCPT:b@example.com": "550 5.1.1 no"})) as server:
        ended = place.run(way, "process", "spool", "record", str(server.port), "retry", inject=inject, thread=thread)
    return ended, received(server)


def queueing(place: Place, way: str, inject: str = "", thread: int = 0) -> Run:
    """Queue two mails in a process of its own."""
    return place.run(way, "queue", "spool", "record", MAILS[0], MAILS[2], inject=inject, thread=thread)


def judge_sending(place: Place, names: dict[str, str], before: Counter[str]) -> bool:
    """Send what is left, by either policy: is each mail with the server once, or else was it in doubt?"""
    states = place.files()
    doubtful = {message_id for name, message_id in names.items() if states.get(name) == "sending"}
    assert set(states.values()) <= {"queued", "sending", "failed"}
    for policy in ("retry", "hold"):
        after = place.copy(place.folder.with_name(f"{place.folder.name}-{policy}"))
        total = before + process(after.spool, policy)
        for message_id in MAILS:
            if message_id == REFUSED:
                assert total[message_id] == 0
            elif message_id not in doubtful:
                assert total[message_id] == 1, (policy, message_id)
            elif policy == "retry":
                assert 1 <= total[message_id] <= 2
            else:
                assert total[message_id] <= 1
        left = {names[name]: state for name, state in after.files().items()}
        held = dict.fromkeys(doubtful, "sending") if policy == "hold" else {}
        assert left == {REFUSED: "failed"} | held
        shutil.rmtree(after.folder)
    return bool(doubtful)


def judge_queueing(place: Place, *, clean: bool) -> int:
    """What queue() returned for is there, and nothing else but whole mails. How many were that?"""
    acknowledged = {message_id: place.folder / path for message_id, path in place.lines("queued")}
    assert all(path.exists() and path.suffix == ".queued" for path in acknowledged.values())
    files = Counter(place.files().values())
    assert files.keys() <= ({"queued"} if clean else {"queued", "writing"})
    assert files["queued"] - len(acknowledged) in ({0} if clean else {0, 1})
    sent = process(place.spool, "retry")
    assert sent.keys() >= acknowledged.keys()
    assert sum(sent.values()) == files["queued"] == len(sent)
    assert set(place.files().values()) <= {"writing"}
    return len(acknowledged)


@pytest.fixture
def filled(place: Place) -> Place:
    """A queue of three mails, of which one is to be refused."""
    smtp = make("blocking", None)
    for message_id in MAILS:
        smtp.message_id, smtp.send_to = message_id, f"{message_id[1]}@example.com"
        smtp.queue(str(place.spool))
    return place


def concerned(run: Run) -> list[Call]:
    """The calls that have to do with the spool: they are made in two threads at most."""
    calls = [call for call in run.calls if "/spool" in call.arguments.split("= ")[0]]
    assert {call.thread for call in calls} <= {0, 1}
    return calls


@BOTH
def test_killed_while_sending(filled: Place, memory_path: Path, way: str) -> None:
    """Killed at any call of process_queue: none is lost; twice goes only what was .sending, and not with "hold"."""
    names = dict(zip(sorted(filled.files()), MAILS, strict=True))
    base, got = sending(filled.copy(memory_path / "base"), way)
    assert (base.status, base.stderr, got) == (0, "", Counter({"<a@x>": 1, "<c@x>": 1}))
    assert len(concerned(base)) > 30

    def kill(number: int, call: Call, inject: str) -> bool:
        there = filled.copy(memory_path / str(number))
        ended, got = sending(there, way, inject, call.thread)
        # How often a loop waits, and in how many pieces an answer comes, is not the same each time.
        assert ended.status == -9 or "/spool" not in call.arguments, (inject, call)
        doubtful = judge_sending(there, names, got)
        shutil.rmtree(there.folder)
        return doubtful

    assert 30 < at_each(base.kills, kill) < len(base.kills)


@BOTH
def test_killed_while_queueing(place: Place, memory_path: Path, way: str) -> None:
    """Killed at any call of queue: what it returned for is there and goes once; no half file is taken for a mail."""
    base = queueing(place.copy(memory_path / "base"), way)
    assert (base.status, base.stdout, base.stderr) == (0, "", "")
    assert len(concerned(base)) > 20

    def kill(number: int, call: Call, inject: str) -> bool:
        there = place.copy(memory_path / str(number))
        ended = queueing(there, way, inject, call.thread)
        assert ended.status == -9 or "/spool" not in call.arguments, (inject, call)
        acknowledged = judge_queueing(there, clean=ended.status == 0)
        shutil.rmtree(there.folder)
        return acknowledged == 1

    assert 10 < at_each(base.kills, kill) < len(base.kills)


@BOTH
def test_system_fails_while_sending(filled: Place, memory_path: Path, way: str) -> None:
    """Any call on the directory fails: a ComponentError or an Error event with the path, and no mail is lost by it.

    Python hears nothing of some calls: then all is done as if nothing had failed.
    """
    names = dict(zip(sorted(filled.files()), MAILS, strict=True))
    base, _ = sending(filled.copy(memory_path / "base"), way)

    def fail(number: int, call: Call, inject: str) -> bool:
        there = filled.copy(memory_path / str(number))
        ended, got = sending(there, way, inject, call.thread)
        assert (ended.status, ended.stderr) == (0, ""), (inject, call, ended.stderr)
        told = [line for line in there.lines("error") if line[0] == "302"]
        heard = told or ended.stdout.startswith("ComponentError 302: spool 'spool': ")
        assert heard or there.files() == {name: "failed" for name in names if names[name] == REFUSED}, (inject, call)
        assert all(line[1].startswith("spool/") for line in told)
        assert all(line[1][:-1] in ended.stdout for line in told)
        judge_sending(there, names, got)
        shutil.rmtree(there.folder)
        return bool(heard)

    assert at_each(base.faults, fail) > 40


@BOTH
def test_system_fails_while_queueing(place: Place, memory_path: Path, way: str) -> None:
    """Any call on the directory fails: a ComponentError with the path, and what was not acknowledged is not there."""
    base = queueing(place.copy(memory_path / "base"), way)

    def fail(number: int, call: Call, inject: str) -> bool:
        there = place.copy(memory_path / str(number))
        ended = queueing(there, way, inject, call.thread)
        assert (ended.status, ended.stderr) == (0, ""), (inject, call, ended.stderr)
        assert ended.stdout == "" or ended.stdout.startswith("ComponentError 302: spool 'spool': "), ended.stdout
        acknowledged = judge_queueing(there, clean=True)
        assert acknowledged == 2 if ended.stdout == "" else acknowledged < 2
        shutil.rmtree(there.folder)
        return ended.stdout != ""

    assert at_each(base.faults, fail) > 25


# How the network may fail at each call.
OUTAGES = {
    "socket": ("EMFILE", "ENOBUFS"),
    "connect": ("ECONNREFUSED", "ENETUNREACH"),
    "setsockopt": ("EINVAL",),
    "getsockopt": ("EINVAL",),
    "getsockname": ("ENOTCONN",),
    "getpeername": ("ENOTCONN",),
    "sendto": ("ECONNRESET", "EPIPE"),
    "recvfrom": ("ECONNRESET", "ETIMEDOUT"),
}


@BOTH
def test_network_fails_while_sending(filled: Place, memory_path: Path, way: str) -> None:
    """Any call on a socket fails: a ComponentError, and the mail in the air is queued, or in doubt where it is."""
    names = dict(zip(sorted(filled.files()), MAILS, strict=True))
    base, _ = sending(filled.copy(memory_path / "base"), way)

    def fail(number: int, call: Call, inject: str) -> bool:
        there = filled.copy(memory_path / str(number))
        ended, got = sending(there, way, inject, call.thread)
        assert (ended.status, ended.stderr) == (0, ""), (inject, call, ended.stderr)
        assert ended.stdout.startswith("ComponentError ")
        waits = "queued" in there.files().values()
        judge_sending(there, names, got)
        shutil.rmtree(there.folder)
        return waits

    (opened,) = [call for call in base.calls if call.name == "socket"]
    ours = opened.arguments.rpartition("= ")[2]
    points = [
        (call, f"{call.name}:error={error}:when={call.number}")
        for call in base.calls
        if ours in call.arguments
        for error in OUTAGES.get(call.name, ())
    ]
    assert {call.name for call, _ in points} >= {"socket", "connect", "sendto", "recvfrom"}
    assert at_each(points, fail) > 10
