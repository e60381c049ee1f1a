"""What surrounds a session: how its caller waits, what the client knows of its servers, what a server showed."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from smtpkit.protocol.reply import Reply
from smtpkit.transport.stream import Stream

if TYPE_CHECKING:
    from ssl import SSLContext, SSLSession

    from smtpkit.transport.connect import Target


class World(NamedTuple):
    """How the caller waits: how a stream comes about, and where blocking work runs before there is one."""

    connect: Callable[["Target", float | None], Awaitable[Stream]]
    run: Callable[..., Awaitable[Any]]  # of a function, and perhaps a deadline on ``now()``'s clock
    now: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Known:
    """What a client has come to know of its servers, for all its sessions.

    ``offered_tls``: who has offered STARTTLS. ``decided``: what ``on_untrusted`` said to a certificate in DER; it is
    asked under ``deciding``, by one session at a time. ``tickets`` resume TLS, by context and options; each is used
    once (RFC 8446 appendix C.4), and None stands where the server broke off at one. ``replies``: those of one short
    line that were read last, by their octets.
    """

    offered_tls: set[str] = field(default_factory=set)
    decided: dict[bytes, bool] = field(default_factory=dict)
    deciding: Lock = field(default_factory=Lock)
    tickets: "dict[tuple[SSLContext, object], SSLSession | None]" = field(default_factory=dict)
    replies: dict[bytes, Reply] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """What a server showed when a session was opened: a value to print, to compare or to keep.

    ``times`` maps each stage (connect, greeting, hello, tls, authentication) to the seconds it took. ``extensions``
    maps each EHLO keyword to its argument text. ``certificate`` is the one whose chain was verified, as
    ``SSLSocket.getpeercert`` has it. ``pins`` are any certificate and its key, as the option ``pins`` takes them.
    ``verified``: the server is known by its chain and name, by a pin, or by what ``on_untrusted`` said.
    """

    server: str
    address: str
    greeting: str
    extensions: Mapping[str, str]
    tls_version: str | None
    cipher: str | None
    verified: bool
    resumed: bool
    certificate: Mapping[str, Any] | None
    pins: tuple[str, ...]
    mechanisms: tuple[str, ...]
    mechanism: str | None
    times: Mapping[str, float]
