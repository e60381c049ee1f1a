"""What became of a mail, and what can go wrong.

::

    SMTPError                          .transient   may it work if tried again?   .outcome
    ├── Refused (reply, stage)         the server answered no
    │   ├── SenderRefused              at MAIL
    │   ├── RecipientsRefused          at RCPT: nobody, or a required one, was accepted (.refused)
    │   ├── DataRefused                at DATA, BDAT or after the mail data
    │   ├── AuthenticationRefused      at AUTH
    │   └── ServiceClosing             421, at any stage
    ├── TransportError                 the channel failed
    │   ├── ConnectError (OSError)     never connected
    │   ├── ProxyError                 the proxy refused or failed
    │   ├── TLSError                   no TLS, or not the right peer
    │   ├── ChannelLost (ConnectionError)
    │   ├── TimedOut (TimeoutError)    .limit names which
    │   └── InDoubt                    lost between the last octet and its reply: it may have been accepted (RFC 1047)
    ├── ProtocolViolation              the server broke the protocol
    ├── NotSupported                   the server lacks an extension this mail needs (.extension)
    ├── SpoolError (OSError)           the directory of mail waiting, or a ledger, could not be read or written
    ├── InvalidMail (ValueError)       the caller's mistake, found before an octet of the mail was accepted
    └── UsageError (RuntimeError)      busy; wrong state; wrong options

Four questions are answered by the class, never by parsing a message: whose fault, at which stage, may it be tried
again, might it have been delivered.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from smtpkit.protocol.reply import Reply


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one mail, for each forward-path (an address as it stood on the wire).

    A path that is in none of ``accepted``, ``refused`` and ``in_doubt`` was certainly not served; ``error`` says why.
    """

    accepted: tuple[str, ...] = ()
    refused: Mapping[str, Reply] = field(default_factory=dict)
    in_doubt: tuple[str, ...] = ()
    reply: Reply | None = None  # the final one: to the mail data, or the one that ended the transaction
    replies: Mapping[str, Reply] = field(default_factory=dict)  # LMTP: the reply to the mail data for each path
    message_id: str | None = None
    item: Any = None  # what was handed to send
    error: "SMTPError | None" = None

    def raise_for_refused(self) -> None:
        """Raise ``error``, or RecipientsRefused if anyone was refused; do nothing if everyone was accepted."""
        if self.error is not None:
            raise self.error
        if self.refused:
            raise RecipientsRefused(self.refused, outcome=self)


class SMTPError(Exception):
    """The base of all errors of this library."""

    transient: bool = False
    outcome: Outcome | None = None

    def __init__(self, message: str, *, outcome: Outcome | None = None) -> None:
        super().__init__(message)
        if outcome is not None:
            self.outcome = outcome

    def __reduce__(self) -> tuple[Any, ...]:
        # The state comes last, when the error itself is known: its outcome names it again.
        return _rebuild, (type(self), self.args), self.__dict__


def _rebuild(kind: type[SMTPError], args: tuple[Any, ...]) -> SMTPError:
    error = kind.__new__(kind, *args)
    error.args = args
    return error


class Refused(SMTPError):
    """The server answered no. ``reply`` is its answer, ``stage`` the verb it answered."""

    def __init__(self, reply: Reply, stage: str, *, outcome: Outcome | None = None) -> None:
        super().__init__(f"{stage}: {reply}", outcome=outcome)
        self.reply = reply
        self.stage = stage
        self.transient = reply.transient


class SenderRefused(Refused):
    """MAIL was refused."""


class RecipientsRefused(Refused):
    """Nobody was accepted, or a required forward-path was not. ``refused`` maps each refused path to its reply."""

    def __init__(self, refused: Mapping[str, Reply], *, outcome: Outcome | None = None) -> None:
        super().__init__(next(iter(refused.values())), "RCPT", outcome=outcome)
        self.refused = refused
        self.transient = any(reply.transient for reply in refused.values())
        self.args = ("; ".join(f"<{path}> {reply}" for path, reply in refused.items()),)


class DataRefused(Refused):
    """The mail data was refused, before, during or after it."""


class AuthenticationRefused(Refused):
    """The credentials were refused. ``challenge`` is the last challenge the server sent, decoded, or None."""

    def __init__(
        self, reply: Reply, stage: str, *, challenge: bytes | None = None, outcome: Outcome | None = None
    ) -> None:
        super().__init__(reply, stage, outcome=outcome)
        self.challenge = challenge


class ServiceClosing(Refused):
    """421: the server closes the channel (RFC 5321 section 3.8)."""


class TransportError(SMTPError):
    """The channel failed."""

    transient = True


class ConnectError(TransportError, OSError):
    """No connection came about."""


class ProxyError(TransportError):
    """The proxy refused or failed."""


class TLSError(TransportError):
    """TLS could not be had, or not with the right peer."""

    transient = False


class ChannelLost(TransportError, ConnectionError):
    """The connection ended or broke."""


class TimedOut(TransportError, TimeoutError):
    """A limit ran out. ``limit`` is its name in the options: connect, timeout, final, total or least_rate."""

    def __init__(self, message: str, *, limit: str, outcome: Outcome | None = None) -> None:
        super().__init__(message, outcome=outcome)
        self.limit = limit


class InDoubt(TransportError):
    """The channel was lost between the last octet and its reply: the mail may have been accepted (RFC 1047)."""

    transient = False


class ProtocolViolation(SMTPError):
    """The server broke the protocol; the session is closed."""


class NotSupported(SMTPError):
    """The server lacks what this mail needs. ``extension`` is its EHLO keyword."""

    def __init__(self, message: str, *, extension: str, outcome: Outcome | None = None) -> None:
        super().__init__(message, outcome=outcome)
        self.extension = extension


class SpoolError(SMTPError, OSError):
    """The directory of mail waiting, or the ledger of a run, could not be read or written.

    The disk is full, or fails, or may not be used.
    """

    transient = True


class InvalidMail(SMTPError, ValueError):
    """The caller's mail, address or option text cannot be sent as it is."""


class UsageError(SMTPError, RuntimeError):
    """The library was used in a way or at a moment that cannot work."""
