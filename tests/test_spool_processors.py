"""Several processors of one spool at once, killed or not, and the spool held against a model of it."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from smtpkit.protocol.envelope import Envelope
from smtpkit.protocol.mail_data import MailData
from smtpkit.spool import Entry, Spool
from tests import spool_child
from tests.spool_child import RECIPIENTS, mail, mended

MAILS = [f"<{number}@x>" for number in range(500)]

# The kernel ends it where it is, as kill -9 does, with the alarm that nobody heeds; the time begins with the work.
LIVE = """
import runpy, signal, sys
main = runpy.run_path(sys.argv[1])["main"]
main(lambda: signal.setitimer(signal.ITIMER_REAL, float(sys.argv[2])), *sys.argv[3:])
"""


class Processors:
    """Processes that send what is in a spool, each with a record of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool = folder / "spool"
        self.spool.mkdir(mode=0o700)
        with Spool(self.spool) as spool:
            for message_id in MAILS:
                envelope = Envelope.of("ann@example.com", RECIPIENTS[:1])
                spool.add(envelope, MailData.of(mail(message_id)), message_id=message_id)
        self.started = 0

    def start(self, life: float = 0) -> "subprocess.Popen[bytes]":
        """Begin to send; ``life`` seconds later the process is killed, unless that is 0. It is to be waited for."""
        self.started += 1
        record = self.folder / f"record-{self.started}"
        command = [sys.executable, "-S", "-c", LIVE, spool_child.__file__, str(life)]
        command += ["process", str(self.spool), str(record), "retry"]
        path = ":".join(part or "." for part in sys.path)
        return subprocess.Popen(command, env={"PYTHONPATH": path})

    def records(self) -> list[list[str]]:
        """For each process the Message-IDs that it sent; what was sent was whole."""
        found = []
        for record in self.folder.glob("record-*"):
            lines = [line.split() for line in record.read_text().splitlines()]
            assert all((word, digest) == ("sent", mended(message_id)) for word, message_id, _, digest in lines)
            found.append([message_id for _, message_id, _, _ in lines])
        return found


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [2, 4])
def test_each_once(memory_path: Path, number: int) -> None:
    """Two and four processors that begin at once on 500 mails send each of them exactly once."""
    processors = Processors(memory_path)
    running = [processors.start() for _ in range(number)]
    assert [process.wait() for process in running] == [0] * number
    assert Counter(message_id for record in processors.records() for message_id in record) == Counter(MAILS)
    assert list(processors.spool.iterdir()) == []


@pytest.mark.timeout(120)
def test_killed_at_random(memory_path: Path) -> None:
    """Four processors are killed at odd moments, again and again: none is lost, twice only what was in their hands."""
    chance = random.Random(5321)
    processors = Processors(memory_path)
    ends: list[int] = []
    while list(processors.spool.iterdir()):
        longest = 0.006 + len(ends) / 4000  # so that it comes to an end on a slow machine too
        running = [processors.start(chance.uniform(0.001, longest)) for _ in range(4)]
        ends += [process.wait() for process in running]
    sent = Counter(message_id for record in processors.records() for message_id in record)
    assert set(sent) == set(MAILS)
    # Whatever a processor sent before its last mail it had settled; nobody else may have sent that.
    last = Counter(record[-1] for record in processors.records() if record)
    assert all(times <= 1 + last[message_id] for message_id, times in sent.items())
    assert set(ends) <= {0, -signal.SIGALRM}
    assert ends.count(-signal.SIGALRM) >= 4


def test_threads_each_once(memory_path: Path) -> None:
    """Threads that share one spool and begin at the same moment send each mail exactly once too."""
    processors = Processors(memory_path)
    together = threading.Barrier(4)

    def work() -> list[str | None]:
        together.wait()
        sent = []
        for entry in spool.claim():
            assert isinstance(entry, Entry)
            sent.append(entry.message_id)
            entry.sent(keep=False)
        return sent

    with Spool(processors.spool) as spool, ThreadPoolExecutor(4) as workers:
        shares = [worker.result() for worker in [workers.submit(work) for _ in range(4)]]
    assert Counter(message_id for share in shares for message_id in share) == Counter(MAILS)
    assert len([share for share in shares if share]) > 1


MEMORY = Path("/dev/shm")


class Model(RuleBasedStateMachine):
    """Two processors of one spool against a model: for each mail its state, and who has it for whom."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None)
        self.spools = [Spool(self.folder.name), Spool(self.folder.name)]
        self.states: dict[str, str] = {}  # by Message-ID
        self.paths: dict[str, list[str]] = {}  # recipients who have not got it
        self.entries: dict[str, Entry] = {}  # those not settled

    def teardown(self) -> None:
        """Close all."""
        for spool in self.spools:
            spool.close()
        for entry in self.entries.values():
            entry.leave()
        self.folder.cleanup()

    @rule(which=st.sampled_from([0, 1]), recipients=st.integers(1, 3))
    def add(self, which: int, recipients: int) -> None:
        """Queue a mail."""
        message_id = f"<{len(self.states)}@x>"
        paths = [f"{number}@example.com" for number in range(recipients)]
        self.spools[which].add(Envelope.of("", paths), MailData.of(mail(message_id)), message_id=message_id)
        self.states[message_id] = "queued"
        self.paths[message_id] = paths

    @rule(which=st.sampled_from([0, 1]), in_doubt=st.sampled_from(["retry", "hold"]), most=st.integers(1, 3))
    def claim(self, which: int, in_doubt: Any, most: int) -> None:
        """Take some mails: they are those that the model says, in its order."""
        expected = [message_id for message_id, state in self.states.items() if state == "queued"]
        doubtful = [message_id for message_id, state in self.states.items() if state == "sending"]
        if in_doubt == "retry":
            expected += [message_id for message_id in doubtful if message_id not in self.entries]
        claims = self.spools[which].claim(in_doubt=in_doubt)
        for message_id, entry in zip(expected[:most], claims, strict=False):
            assert isinstance(entry, Entry)
            assert entry.message_id == message_id
            assert entry.in_doubt == (message_id in doubtful)
            assert [path.address for path in entry.envelope.forward_paths] == self.paths[message_id]
            assert b"".join(entry.mail_data.tell()).startswith(b"Message-ID: " + message_id.encode())  # type: ignore[arg-type]
            self.states[message_id] = "sending"
            self.entries[message_id] = entry
        if len(expected) < most:
            assert list(claims) == []

    @precondition(lambda self: self.entries)
    @rule(data=st.data(), how=st.sampled_from(["sent", "keep", "failed", "back", "leave", "crash", "served"]))
    def settle(self, data: st.DataObject, how: str) -> None:
        """Settle an entry, or let its processor die."""
        message_id = data.draw(st.sampled_from(sorted(self.entries)))
        entry = self.entries[message_id]
        if how == "served":
            if len(self.paths[message_id]) > 1:
                entry.served([self.paths[message_id].pop(0)])
            return
        after = {"sent": "", "keep": "sent", "failed": "failed", "back": "queued"}
        self.states[message_id] = after.get(how, "sending")
        if how in {"sent", "keep"}:
            entry.sent(keep=how == "keep")
        elif how == "failed":
            entry.failed()
        elif how == "back":
            entry.give_back()
        elif how == "leave":
            entry.leave()
        else:
            entry._file.close()  # as the kernel does for a process that died
        del self.entries[message_id]

    @invariant()
    def files(self) -> None:
        """There is a file for each mail in its state, and no other."""
        found = Counter(file.suffix for file in Path(self.folder.name).iterdir())
        assert found == Counter(f".{state}" for state in self.states.values() if state)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
