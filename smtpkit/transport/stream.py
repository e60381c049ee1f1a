"""The stream: octets in order, with one deadline; the only thing the channel knows of the world."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class RawSocket(Protocol):
    """What a socket may be asked."""

    def getsockname(self) -> Any:
        """This end's address."""

    def getsockopt(self, level: int, optname: int, /) -> int:
        """An option's value."""


class Stream(Protocol):
    """Octets in order.

    Three adapters fulfil it (asyncio, anyio, blocking sockets), and ``tls.SecureStream`` on top of any of them. The
    methods of the blocking one never suspend. A stream has one user at a time.

    ``deadline`` is the moment, on ``now()``'s clock, at which a waiting ``send``, ``receive`` or handshake raises
    TimeoutError; None for never. It is set before a wait and stays until it is set again.

    ``untaken`` is the number of octets of the latest ``send`` that the system has certainly not taken: 0 once it has
    returned; after it has raised never more than the truth, and not 0 where the last octet has certainly not left.
    """

    deadline: float | None
    untaken: int
    peer: str  # the other end's address, "192.0.2.1:25"
    local_host: str  # this end's, as an address literal, "[192.0.2.2]" or "[IPv6:2001:db8::2]"

    @property
    def raw_socket(self) -> "RawSocket | None":
        """The system's socket, to be asked; None where there is none, or no more."""

    async def send(self, octets: bytes | bytearray | memoryview) -> None:
        """Return once the system has taken all octets.

        Takes in what arrives meanwhile (bounded by 1 MiB), so that two full buffers never face each other. Raises
        TimeoutError at the deadline and ChannelLost when the connection breaks; what was received before stays
        readable.
        """

    async def receive(self) -> bytes:
        """What has arrived, at least one octet; b"" at the end of the stream. Raises TimeoutError, ChannelLost."""

    def at_hand(self) -> bytes | None:
        """What has arrived, without waiting: octets (taken out), b"" at the end of the stream, None if nothing has."""

    async def run(self, function: Callable[[], T]) -> T:
        """Run something that blocks: in a worker thread, or inline where the caller blocks anyway."""

    async def sleep_until(self, when: float) -> None:
        """Return at ``when`` on ``now()``'s clock."""

    def now(self) -> float:
        """Seconds, monotonic (time.monotonic)."""

    def abort(self) -> None:
        """Close at once; never waits, never raises, may be called twice and in a cancelled scope."""

    async def aclose(self) -> None:
        """Close in order (TLS: say so); never raises but for cancellation, and never waits longer than the deadline."""
