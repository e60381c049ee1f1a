"""A process that is killed while it sends a queue, after each line of the dialogue: no mail is lost."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import smtpkit
from smtpkit.testing import Server
from tests.component.ways import make

CHILD = """
import os, signal, sys
import smtpkit

smtp = smtpkit.SMTP()
smtp.mail_server, smtp.mail_port = "127.0.0.1", int(sys.argv[1])
left = int(sys.argv[3])

def count(line):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

smtp.on_pi_trail = count
smtp.process_queue(sys.argv[2])
"""


def _process(server: Server, directory: Path, line: int) -> int:
    """Send the queue in a process that is killed after so many lines; return how it ended."""
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(server.port), str(directory), str(line)],
        cwd=Path(smtpkit.__file__).parents[1],
        check=False,
        timeout=30,
    ).returncode


@pytest.mark.timeout(200)
@pytest.mark.parametrize("in_doubt", ["retry", "hold"])
def test_killed_after_each_line(tmp_path: Path, in_doubt: str) -> None:
    """The next run sends what is left; twice goes only what was ``.sending``, and that not with ``hold``."""
    with Server() as server:
        for line in range(1, 60, 3):
            directory = tmp_path / str(line)
            directory.mkdir(mode=0o700)
            smtp = make("blocking", server, in_doubt=in_doubt)
            for number in (1, 2):
                smtp.send_to = f"user{number}@example.com"
                smtp.queue(str(directory))
            server.clear()
            ended = _process(server, directory, line)
            if ended == 0:  # it was done before that line
                assert len(server.received) == 2
                break
            assert ended == -signal.SIGKILL
            begun = len(list(directory.glob("*.sending")))
            waiting = len(list(directory.glob("*.queued")))
            first = len(server.received)
            smtp.process_queue(str(directory))
            assert begun <= 1
            assert len(server.received) - first == waiting + (begun if in_doubt == "retry" else 0)
            paths = [mail.paths[0] for mail in server.received]
            assert len(paths) - len(set(paths)) <= begun
            if in_doubt == "hold":
                assert len(paths) == len(set(paths))
                assert len(list(directory.iterdir())) == begun
            else:
                assert set(paths) == {"user1@example.com", "user2@example.com"}
                assert list(directory.iterdir()) == []
        else:
            pytest.fail("the dialogue has more lines than were tried")
