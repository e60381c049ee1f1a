"""Several processes that send one queue at once, through the component."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from smtpkit.testing import Server
from tests.component import queue_child
from tests.component.ways import make

MAILS = [f"<{number}@x>" for number in range(500)]
PATH = ":".join(part or "." for part in sys.path)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("ways", [("blocking", "asyncio"), ("blocking", "blocking"), ("asyncio", "asyncio")])
def test_each_once(memory_path: Path, ways: tuple[str, str]) -> None:
    """Two processes, SMTP, AsyncSMTP or one of each, send each of 500 mails exactly once, and both have a part."""
    directory = memory_path / "queue"
    directory.mkdir(mode=0o700)
    smtp = make("blocking", None)
    for message_id in MAILS:
        smtp.message_id = message_id
        smtp.queue(str(directory))
    with Server() as server:
        command = ["process", str(directory), str(memory_path / "record"), str(server.port), "retry"]
        running = [
            subprocess.Popen(
                [sys.executable, "-S", queue_child.__file__, way, *command],
                env=os.environ | {"PYTHONPATH": PATH},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for way in ways
        ]
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in running:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        assert [process.communicate()[0] for process in running] == ["", ""]
        assert [process.returncode for process in running] == [0, 0]
    assert Counter(mail.message()["Message-ID"] for mail in server.received) == Counter(MAILS)
    assert {mail.session for mail in server.received} == {1, 2}
    assert [session.errors for session in server.sessions] == [[], []]
    assert list(directory.iterdir()) == []
