"""Testing your own code that sends mail: the fixtures that come with the library.

pytest finds them by itself where the library is installed. Run it with ``pytest``, or as a script.
"""

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import smtpkit
from smtpkit.testing import Script, Server

if TYPE_CHECKING:
    from smtpkit.testing.pytest_plugin import Outbox


def remind(address: str) -> bool:
    """The code under test: it sends by the server that SMTPKIT_URL names."""
    with smtpkit.SyncClient() as client:
        try:
            client.send(smtpkit.Message(sender="bills@example.com", to=address, subject="Reminder", text="Please pay."))
        except smtpkit.RecipientsRefused:
            return False
    return True


def test_reminder(smtpkit_outbox: "Outbox") -> None:
    """A reminder goes to whom it is for, once."""
    assert remind("bob@example.org")
    assert [mail.paths for mail in smtpkit_outbox] == [("bob@example.org",)]
    assert smtpkit_outbox[0].message()["Subject"] == "Reminder"


def test_unknown_mailbox(smtpkit_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the server does not know the mailbox, we hear of it."""
    smtpkit_server.scripts = (Script(replies={"RCPT": "550 5.1.1 no such mailbox"}),)
    monkeypatch.setenv("SMTPKIT_URL", smtpkit_server.url)
    assert not remind("nobody@example.org")


if __name__ == "__main__":
    sys.exit(subprocess.run([sys.executable, "-m", "pytest", "-q", __file__], check=False).returncode)  # noqa: S603  ours
