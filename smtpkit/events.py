"""What has happened, as frozen values: an event tells, it never asks.

Every event carries ``at`` (seconds on the stream's monotonic clock), ``session`` (a number that is unique within the
client) and ``item`` (what was handed to ``send``, or None). What it shows is rendered and masked already: no event
holds a secret, a header field or mail data.
"""

from dataclasses import dataclass
from typing import Any, Literal

from smtpkit.errors import Outcome
from smtpkit.protocol.reply import Reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The base of all events."""

    at: float
    session: int
    item: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected(Event):
    """The stream to the server (or through its proxy) is open."""

    server: str  # its URL, without the password
    address: str  # the peer's address as the system knows it; through a proxy the proxy's


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSent(Event):
    """A command was handed to the stream; ``text`` is masked and has no line end."""

    text: str
    secured: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyReceived(Event):
    """A reply was read; within an AUTH exchange its text is masked."""

    reply: Reply
    secured: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Secured(Event):
    """TLS has begun. ``verified`` is False where opportunistic TLS took any certificate.

    ``resumed``: by a ticket of an earlier session, without a certificate being shown again.
    """

    version: str
    cipher: str
    verified: bool
    resumed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityMissing(Event):
    """This server offered STARTTLS before and no longer does: an attack or a misconfiguration (RFC 8314)."""

    server: str  # its URL, without the password


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticated(Event):
    """The server accepted the credentials."""

    mechanism: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferStarted(Event):
    """The mail data begins; ``size`` in octets, None where unknown."""

    size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferProgress(Event):
    """So much of the mail data was taken by the stream: octets done, size where known, octets per second so far."""

    done: int
    size: int | None
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferEnded(Event):
    """The last octet of the mail data was taken by the stream."""

    done: int
    took: float  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipientRefused(Event):
    """A forward-path was refused."""

    path: str
    reply: Reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled(Event):
    """What became of one mail is known."""

    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempted(Event):
    """A file of a spool was taken, and is settled: what a ``Worker`` tells of each attempt.

    ``state``: "sent" (accepted for everybody who was left), "queued" (certainly not, for now), "sending" (in doubt) or
    "failed" (set aside: somebody was refused for good, or it is no mail). ``attempts`` counts this one, if the server
    heard of the mail at all; the next one comes at ``until`` (seconds since 1970; None: none, or with the next run).
    """

    path: str  # where the file is now, or was
    state: Literal["sent", "queued", "sending", "failed"]
    outcome: Outcome
    attempts: int = 0
    until: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionClosed(Event):
    """The session is over; ``reason`` is None after a QUIT."""

    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsMissed(Event):
    """The observer was too slow: ``count`` events were dropped before this point."""

    count: int
