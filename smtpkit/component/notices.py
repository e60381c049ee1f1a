"""The seven documented events, and how they are made of the library's own: nothing else is known than those tell."""

from collections.abc import Iterator
from dataclasses import dataclass

from smtpkit.component.errors import LOST
from smtpkit.events import (
    Authenticated,
    CommandSent,
    Connected,
    Event,
    ReplyReceived,
    Secured,
    SecurityMissing,
    SessionClosed,
    Settled,
    TransferEnded,
    TransferProgress,
    TransferStarted,
)
from smtpkit.protocol.reply import Reply

CLIENT, SERVER, INFORMATION = 0, 1, 2  # who speaks


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionStatus(Event):
    """The connection has come about or ended, or TLS has. ``status_code`` is 0, or the number of an error."""

    connection_event: str
    status_code: int
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTransfer(Event):
    """The body begins to go out; a mail without a body has no such event."""

    direction: int = CLIENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer(Event):
    """So many octets of the body have gone out, and how many in a hundred that is (-1: its size is not known)."""

    direction: int = CLIENT
    bytes_transferred: int
    percent_done: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EndTransfer(Event):
    """The last octet of the body has gone out; the server has not answered yet."""

    direction: int = CLIENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Error(Event):
    """Something went wrong that did not stop the mail, or the queue."""

    error_code: int
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expand(Event):
    """A member of a mailing list, as the server gives it; it may stand in ``send_to``."""

    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PITrail(Event):
    """A line of the dialogue, without its end; 0 said by us, 1 by the server, 2 a remark of ours.

    No secret is in it, no header field and nothing of the body.
    """

    direction: int
    message: str


class Translator:
    """Makes notices of the library's events. ``header_size`` is that of the mail under way, with its empty line.

    ``through_firewall``: the connection goes by way of a firewall.
    """

    def __init__(self) -> None:
        self.header_size = 0
        self.through_firewall = False
        self._secured = False
        self._size: int | None = None  # of the body

    def notices(self, event: Event) -> Iterator[Event]:
        """What an event of the library means in the documented words; nothing for some."""
        at, session, item = event.at, event.session, event.item

        def status(what: str, description: str, code: int = 0) -> ConnectionStatus:
            return ConnectionStatus(
                at=at, session=session, connection_event=what, status_code=code, description=description
            )

        def remark(text: str) -> PITrail:
            return PITrail(at=at, session=session, item=item, direction=INFORMATION, message=text)

        match event:
            case CommandSent(text=text):
                yield PITrail(at=at, session=session, item=item, direction=CLIENT, message=text)
            case ReplyReceived():
                for line in reply_lines(event):
                    yield PITrail(at=at, session=session, item=item, direction=SERVER, message=line)
            case TransferStarted(size=size):
                self._size = None if size is None else max(0, size - self.header_size)
                if self._size != 0:
                    yield StartTransfer(at=at, session=session, item=item)
            case TransferProgress(done=done):
                octets = done - self.header_size
                if octets > 0:
                    percent = -1 if self._size is None else 100 * octets // self._size
                    yield Transfer(at=at, session=session, item=item, bytes_transferred=octets, percent_done=percent)
            case TransferEnded():
                if self._size != 0:
                    yield EndTransfer(at=at, session=session, item=item)
            case Connected(address=address):
                self._secured = False
                if self.through_firewall:
                    yield status("Firewall connected", address)
                yield status("Remote host connected", address)
            case Secured(version=version, cipher=cipher, verified=verified):
                self._secured = True
                yield status("TLS handshake complete", f"{version} {cipher}{'' if verified else ', not verified'}")
                yield remark(f"TLS has begun: {version} {cipher}")
            case Authenticated(mechanism=mechanism):
                yield remark(f"logged in by {mechanism}")
            case Settled(outcome=outcome) if outcome.in_doubt:
                yield remark(f"in doubt, it may have been accepted: {', '.join(outcome.in_doubt)}")
            case SecurityMissing(server=server):
                yield remark(f"{server} offered STARTTLS before and no longer does")
            case SessionClosed(reason=reason):
                code, why = (0, "after QUIT") if reason is None else (LOST, reason)
                if self._secured:
                    yield status("TLS ended", why, code)
                yield status("Remote host disconnected", why, code)
                if self.through_firewall:
                    yield status("Firewall disconnected", why, code)


def reply_lines(event: ReplyReceived) -> list[str]:
    """The lines of a reply as they stand on the wire, controls in them escaped."""
    reply = event.reply
    shown = [str(Reply(reply.code, (text,)))[4:] for text in reply.lines]
    return [*(f"{reply.code}-{text}" for text in shown[:-1]), f"{reply.code} {shown[-1]}".rstrip()]
