"""Uses a spool in a process of its own: ``main(begin, add|process, directory, record, words)``.

What is done is told in the record, a line at a time, each on the disk before the next step: ``queued`` and the
Message-ID of a mail that ``add`` returned for; ``sent``, the Message-ID, one recipient and the digest of the mail data
for a mail that was given to a server, as it were. It is a script, and imports nothing of the tests.

``begin`` is called just before the work begins. As a program it takes the words after a path, which is looked at, to
no end, by then: whoever traces this sees it.
"""

import hashlib
import os
import sys
from collections.abc import Callable
from typing import Literal

from smtpkit.errors import SMTPError
from smtpkit.protocol.envelope import Envelope
from smtpkit.protocol.mail_data import MailData
from smtpkit.spool import Entry, Spool, Unfit

RECIPIENTS = ("bob@example.com", "eve@example.com")


def mail(message_id: str) -> bytes:
    """The mail of this Message-ID, with something to mend in it."""
    return b"Message-ID: %s\r\n\r\n.a dot\nand a line that is not ended: %s" % (message_id.encode(), b"x" * 200)


def mended(message_id: str) -> str:
    """The digest that it has on the wire."""
    return hashlib.sha256(mail(message_id).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") + b"\r\n").hexdigest()


def tell(record: str, *words: str) -> None:
    """Write a line into the record."""
    fd = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.write(fd, " ".join(words).encode() + b"\n")
    os.fsync(fd)
    os.close(fd)


def add(directory: str, record: str, message_ids: list[str]) -> None:
    """Queue a mail for each Message-ID."""
    with Spool(directory) as spool:
        for message_id in message_ids:
            envelope = Envelope.of("ann@example.com", RECIPIENTS)
            spool.add(envelope, MailData.of(mail(message_id)), message_id=message_id)
            tell(record, "queued", message_id)


def process(directory: str, record: str, in_doubt: Literal["retry", "hold"], answers: dict[str, str]) -> None:
    """Send what is there. ``answers``, by Message-ID: accept, keep, refuse, later or partly; accept for all others."""
    with Spool(directory) as spool:
        for entry in spool.claim(in_doubt=in_doubt):
            if isinstance(entry, Unfit):
                tell(record, "unfit", os.path.basename(entry.path), str(entry.error))  # noqa: PTH119
                continue
            with entry:
                settle(entry, record, answers.get(entry.message_id or "", "accept"))


def settle(entry: Entry, record: str, answer: str) -> None:
    """Send one mail, and do as the server answers."""
    if answer == "refuse":
        entry.failed()
        return
    if answer == "later":
        entry.give_back()
        return
    served = [path.address for path in entry.envelope.forward_paths][: 1 if answer == "partly" else None]
    digest = hashlib.sha256(b"".join(entry.mail_data.tell())).hexdigest()  # type: ignore[arg-type]  # told by a file
    for recipient in served:
        tell(record, "sent", entry.message_id or "", recipient, digest)
    if answer == "partly":
        entry.served(served)
        entry.give_back()
    else:
        entry.sent(keep=answer == "keep")


def main(begin: Callable[[], object], verb: str, directory: str, record: str, *words: str) -> None:
    """Do what is asked, and print the error if it is one of ours."""
    begin()
    try:
        if verb == "add":
            add(directory, record, list(words))
        else:
            in_doubt: Literal["retry", "hold"] = "hold" if words[0] == "hold" else "retry"
            process(directory, record, in_doubt, dict(word.split("=") for word in words[1:]))
    except SMTPError as error:
        print(f"{type(error).__name__}: {error}")  # noqa: T201  what the parent reads


if __name__ == "__main__":
    main(lambda: os.access(sys.argv[1], os.F_OK), *sys.argv[2:])
