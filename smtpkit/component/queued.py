"""The directory of a queue, as Queue and ProcessQueue use it: what is taken from it, and what becomes of that.

Everything here blocks for the disk. A directory that cannot be had is a ComponentError, with the number of the queue.
"""

import os
from collections.abc import Generator
from contextlib import closing, suppress
from typing import Literal

from smtpkit.component.errors import QUEUE, VALUE, ComponentError
from smtpkit.errors import (
    ChannelLost,
    Outcome,
    ProtocolViolation,
    ServiceClosing,
    SMTPError,
    SpoolError,
    TimedOut,
    UsageError,
)
from smtpkit.message.header import header_end
from smtpkit.message.message import Prepared
from smtpkit.spool import Entry, Spool, Unfit

# Certainly not sent, and may be sent another time: the connection or the disk failed, and not the mail.
_FOR_NOW = (ChannelLost, TimedOut, ServiceClosing, ProtocolViolation, SpoolError)


def add(queue_dir: str, mail: Prepared) -> str:
    """Queue a mail; return the path of its file."""
    with _opened(queue_dir) as spool:
        return spool.add(mail.envelope, mail.mail_data, message_id=mail.message_id)


def state_after(outcome: Outcome | None) -> Literal["sent", "sending", "queued", "failed"]:
    """What a mail of the queue is after its transaction; None is one that ended in a way that nobody foresaw."""
    if outcome is None or outcome.in_doubt:
        return "sending"
    if outcome.accepted:
        return "sent"
    return "queued" if isinstance(wrong(outcome), _FOR_NOW) else "failed"


def wrong(outcome: Outcome) -> SMTPError | None:
    """What was wrong; where the mail data could not be read, that is the disk and not the mail."""
    error = outcome.error
    return error.__cause__ if error is not None and isinstance(error.__cause__, SpoolError) else error


class Waiting:
    """What there is to send, taken one after the other. The directory is open from the first until ``close``.

    ``taken`` is in hand until it is settled, and ``header_size`` its header's, in octets with the empty line.
    """

    taken: Entry | Unfit
    header_size = 0

    def __init__(self, queue_dir: str, in_doubt: Literal["retry", "hold"]) -> None:
        self._claims = _claims(queue_dir, in_doubt)
        self._unsettled: Entry | None = None

    def take(self) -> bool:
        """Take the next, if there is one. What is wrong with its mail data is told by who sends them."""
        taken = next(self._claims, None)
        if taken is None:
            return False
        self.taken = taken
        if isinstance(taken, Entry):
            self._unsettled = taken
            self.header_size = _header_size(taken)
        return True

    def settle(self, outcome: Outcome | None, *, keep: bool) -> None:
        """Give what was sent its new state; ``keep`` those that were accepted. Raises SpoolError with the outcome."""
        entry, self._unsettled = self._unsettled, None
        assert entry is not None
        with entry:
            try:
                match state_after(outcome):
                    case "sent":
                        entry.sent(keep=keep)
                    case "failed":
                        entry.failed()
                    case "queued":
                        entry.give_back()
            except SpoolError as error:
                error.outcome = outcome
                raise

    def close(self) -> None:
        """Let go of the directory; what was taken and not begun is queued again."""
        with closing(self._claims):
            if self._unsettled is not None:
                with self._unsettled as entry:
                    entry.give_back()


def _opened(queue_dir: str) -> Spool:
    if not isinstance(queue_dir, str | os.PathLike):
        raise ComponentError(VALUE, f"queue_dir must be the path of a directory, not {queue_dir!r}")
    try:
        return Spool(queue_dir)
    except UsageError as error:
        raise ComponentError(QUEUE, str(error)) from error


def _claims(queue_dir: str, in_doubt: Literal["retry", "hold"]) -> Generator[Entry | Unfit, None, None]:
    with _opened(queue_dir) as spool:
        yield from spool.claim(in_doubt=in_doubt)


def _header_size(entry: Entry) -> int:
    octets = bytearray()
    with suppress(SMTPError):
        for piece in entry.mail_data.tell():  # type: ignore[union-attr]  # a file's: nobody is waited for
            octets += piece
            if (end := header_end(octets)) is not None:
                return end + 2 * (octets[end : end + 2] == b"\r\n")
    return header_end(octets, at_end=True) or 0
