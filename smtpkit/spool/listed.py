"""What is in a directory of mail, to be looked at: nothing is taken, and nothing is changed."""

import fcntl
import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

from smtpkit.errors import InvalidMail, SMTPError
from smtpkit.spool.directory import Directory, put_off_until, since
from smtpkit.spool.file import read

_NAME = re.compile(r"([0-9A-Za-z_-]{1,64})\.(queued|sending|sent|failed)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A file of a spool, as it was when it was looked at.

    ``state`` is its suffix; "in doubt" for one that is ``.sending`` and that nobody holds. ``since`` is when it was
    queued and ``until`` when it is tried again (seconds since 1970); None where its name or its state does not say.
    ``size`` counts the octets of the mail data. Where ``error`` says why it is no mail of a spool, the rest is empty.
    """

    path: str
    state: Literal["queued", "sending", "in doubt", "sent", "failed"]
    since: float | None
    until: float | None = None
    sender: str = ""
    recipients: tuple[str, ...] = ()
    size: int | None = None
    message_id: str | None = None
    notes: Mapping[str, Any] | None = None
    error: SMTPError | None = None


def look(directory: Directory, name: str) -> Listed | None:
    """Look at a file; None if it is none of a spool, or gone."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    state: Any = match[2]
    path, queued = directory.path(name), since(name)
    try:
        opened = directory.look(name)
        if opened is None:
            return None
        with closing(opened[0]) as file:
            if state == "sending" and _is_free(file.fileno()):
                state = "in doubt"
            envelope, message_id, mail_data, notes = read(file, whole=False)
    except InvalidMail as why:
        return Listed(path=path, state=state, since=queued, error=why)
    except OSError as fault:
        return Listed(path=path, state=state, since=queued, error=directory.error(f"{name} cannot be read", fault))
    return Listed(
        path=path,
        state=state,
        since=queued,
        until=put_off_until(opened[1]) if state == "queued" else None,
        sender=envelope.reverse_path,
        recipients=tuple(path.address for path in envelope.forward_paths),
        size=mail_data.size,
        message_id=message_id,
        notes=notes,
    )


def _is_free(fd: int) -> bool:
    """Has nobody a lock on it? Looking holds one for a moment, so that a processor may pass over the file once."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True
