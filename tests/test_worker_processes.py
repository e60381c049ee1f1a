"""Workers in processes of their own: several on one directory, ended in order, and killed."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

import smtpkit
from smtpkit.testing import Script, Server

HOME = Path(smtpkit.__file__).parents[1]
QUICK = smtpkit.Retry(first=0.01, most=0.01, greylisted=0.01)

KILLED = """
import os, signal, sys
import anyio, smtpkit

async def main(url, directory, in_doubt, left):
    async with smtpkit.Client(url, connections=2) as client:
        def count(event):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        client.on(smtpkit.Event, count)
        retry = smtpkit.Retry(first=0.01, most=0.01, greylisted=0.01, in_doubt=in_doubt)
        await client.worker(directory, retry=retry).run(wait=True)

anyio.run(main, sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
"""


@pytest.fixture
def folder(memory_path: Path) -> Path:
    """An empty directory for a spool."""
    made = memory_path / "spool"
    made.mkdir(mode=0o700)
    return made


def fill(folder: Path, count: int, *others: str) -> None:
    """Queue so many mails, each to a user of its own and to the others."""

    async def add() -> None:
        for number in range(count):
            people = (f"user{number}@example.org", *others)
            await smtpkit.enqueue(folder, b"Message-ID: <%d@x>\r\n\r\nHi.\r\n" % number, "ann@example.com", people)

    anyio.run(add)


def work(folder: Path, url: str, in_doubt: Any = "retry") -> None:
    """Send in this process what is left."""

    async def run() -> None:
        retry = smtpkit.Retry(first=0.01, most=0.01, greylisted=0.01, in_doubt=in_doubt)
        async with smtpkit.Client(url) as client:
            await client.worker(folder, retry=retry).run(wait=True)

    anyio.run(run)


def served(server: Server) -> Counter[str]:
    """How often each recipient has got a mail."""
    return Counter(path for mail in server.received for path in mail.paths)


def states(folder: Path) -> Counter[str]:
    """How many files there are in each state; one that was only begun to be written is none."""
    return Counter(file.suffix for file in folder.iterdir() if file.suffix != ".writing")


@contextmanager
def queue(*words: str | Path) -> Iterator[subprocess.Popen[str]]:
    """The command line's queue, in a process."""
    command = [sys.executable, "-m", "smtpkit", "queue", *map(str, words)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=HOME, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_two_processes(folder: Path) -> None:
    """Two workers on 200 files deliver each once, put off some at first, and leave nothing."""
    grey = {f"RCPT:user{number}@example.org": ["450 4.2.0 greylisted", "250 ok"] for number in range(0, 200, 10)}
    fill(folder, 200)
    with Server(Script(replies=grey, delay={"END": 0.05})) as server:
        words = ("run", folder, "--url", server.url, "--wait", "--first", "0.01")
        with queue(*words) as one, queue(*words) as two:
            told = [process.communicate(timeout=50) for process in (one, two)]
            codes = [one.returncode, two.returncode]
        if states(folder):  # one had what the other waited for when that ended
            work(folder, server.url)
        assert codes == [0, 0], told
        assert served(server) == {f"user{number}@example.org": 1 for number in range(200)}
        assert states(folder) == {}
        assert [err for _, err in told] == ["", ""]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ended_in_the_middle(folder: Path, number: int) -> None:
    """A signal in the middle: exit code 0, nothing is in doubt, and what is left goes once with the next run."""
    fill(folder, 60)
    with Server(Script(delay={"END": 0.02})) as server:
        with queue("watch", folder, "--url", server.url, "--connections", "4") as process:
            server.wait_for(12, 30)
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
            assert process.returncode == 0, err
        assert "stopping" in err
        done = len(server.received)
        assert 12 <= done < 60
        assert out.splitlines()[-1] == f"{done} sent"
        assert states(folder) == {".queued": 60 - done}
        work(folder, server.url)
        assert served(server) == {f"user{number}@example.org": 1 for number in range(60)}
    assert states(folder) == {}


def test_ended_with_a_limit(folder: Path) -> None:
    """What is in flight when the grace is over is in doubt if it may have been accepted: exit code 0 all the same."""
    fill(folder, 5)
    with Server(Script(replies={"END": [None]})) as server:
        with queue(
            "watch", folder, "--url", server.url, "--connections", "2", "--in-doubt", "hold", "--grace", "0.2"
        ) as process:
            until_told(server, 2)
            process.terminate()
            out, err = process.communicate(timeout=30)
            assert process.returncode == 0, err
        assert out.splitlines()[-1] == "2 in doubt"
        assert states(folder) == {".queued": 3, ".sending": 2}


def test_a_second_signal(folder: Path) -> None:
    """A second signal does not wait for what is in flight; the exit code is that of the signal."""
    fill(folder, 5)
    with Server(Script(replies={"END": [None]})) as server:
        with queue(
            "run", folder, "--url", server.url, "--connections", "2", "--in-doubt", "hold", "--grace", "1000"
        ) as process:
            until_told(server, 2)
            process.terminate()
            assert process.stderr is not None
            assert "stopping" in process.stderr.readline()
            process.terminate()
            process.communicate(timeout=30)
            assert process.returncode == 128 + signal.SIGTERM
        assert states(folder) == {".queued": 3, ".sending": 2}


def until_told(server: Server, count: int) -> None:
    """Wait until so many mails have come whole to a server that does not answer."""
    until = time.monotonic() + 30
    while server.counts.get("END", 0) < count:
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("in_doubt", ["retry", "hold"])
def test_killed(folder: Path, in_doubt: str) -> None:
    """Killed at any event, it loses no mail; twice goes only what was ``.sending``, and that not with ``hold``."""
    with Server() as server:
        for moment in (1, 4, 9, 12, 15, 18, 21, 24, 27, 30, 33, 36, 40):
            later = {"RCPT:eve@example.org": ["450 4.2.0 later", "250 ok"]}
            server.scripts = (Script(replies=later),)
            server.clear()
            fill(folder, 3, "eve@example.org")
            killed = subprocess.run(
                [sys.executable, "-c", KILLED, server.url, str(folder), in_doubt, str(moment)],
                cwd=HOME,
                check=False,
                timeout=30,
            ).returncode
            assert killed == -signal.SIGKILL, "it was done before that event"
            begun = states(folder)[".sending"]
            assert begun <= 2
            work(folder, server.url, in_doubt)
            twice = sum(count - 1 for path, count in served(server).items() if path.startswith("user"))
            lost = {f"user{number}@example.org" for number in range(3)} - served(server).keys()
            if in_doubt == "retry":
                assert not lost
                assert twice <= begun
                assert states(folder) == {}
            else:
                assert twice == 0
                assert len(lost) <= begun
                assert states(folder) == ({".sending": begun} if begun else {})
                assert served(server)["eve@example.org"] <= 3
            for file in folder.iterdir():
                file.unlink()


def test_killed_with_all_in_flight(folder: Path) -> None:
    """Killed while it waits for final replies it leaves as many in doubt as were in flight, and no more."""
    fill(folder, 6)
    with Server(Script(replies={"END": [None]}), Script(replies={"END": [None]}), Script()) as server:
        with queue("run", folder, "--url", server.url, "--connections", "2") as process:
            until_told(server, 2)
            os.kill(process.pid, signal.SIGKILL)
            process.communicate(timeout=30)
        assert states(folder) == {".queued": 4, ".sending": 2}
        work(folder, server.url, "hold")
        assert len(served(server)) == 4
        work(folder, server.url, "retry")
        assert served(server) == {f"user{number}@example.org": 1 for number in range(6)}
    assert states(folder) == {}
