"""A stream without a socket or a loop: it never suspends, so a coroutine over it runs by ``coroutine.send(None)``."""

from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal, Protocol, TypeVar

from smtpkit.errors import ChannelLost, UsageError

T = TypeVar("T")
Ending = Literal["end", "reset", "stall"]


class Dialogue(Protocol):
    """The server's side: gives actions, which are known by their class names (``smtpkit.testing.outlet``)."""

    def begin(self) -> Sequence[Any]: ...

    def receive(self, octets: bytes) -> Sequence[Any]: ...

    def eof(self) -> Sequence[Any]: ...


class MemoryStream:
    """A Stream (``smtpkit.transport.stream``) to a peer in memory, with a clock that moves only when somebody waits.

    ``peer`` is a function from the octets of one write to the octets said at once about them, or a ``Dialogue``.
    ``greeting`` is at hand from the start. ``by_octet`` gives out each octet by itself. After ``cut_after`` octets that
    the client received, ``cut`` happens. After ``fail_after`` octets that the client sent, its write fails by ``fail``:
    those octets have left, and reached the peer. Waiting for what will never come moves ``clock`` to the deadline.
    """

    def __init__(
        self,
        peer: Callable[[bytes], bytes] | Dialogue,
        *,
        greeting: bytes = b"",
        by_octet: bool = False,
        cut_after: int | None = None,
        cut: Ending = "end",
        fail_after: int | None = None,
        fail: Literal["reset", "stall"] = "reset",
        clock: float = 1000.0,
    ) -> None:
        self.deadline: float | None = None
        self.untaken = 0
        self.peer = "memory:25"
        self.local_host = "[127.0.0.1]"
        self.raw_socket = None
        self.clock = clock
        self.sent = bytearray()  # what has left
        self.received = 0  # octets given out
        self.closed = False
        self.secured = False  # the peer has begun TLS: nothing else changes
        self._peer = peer
        self._by_octet = by_octet
        self._cut_after = cut_after
        self._cut: Ending = cut
        self._fail_after = fail_after
        self._fail = fail
        self._arriving: deque[tuple[float, bytes]] = deque()  # when, what
        self._later = clock  # when what the peer says now arrives
        self._ending: Ending = "stall"  # what comes after all that
        self._deaf = False
        if greeting:
            self._arriving.append((clock, greeting))
        if not callable(peer):
            self._perform(peer.begin())

    async def send(self, octets: bytes | bytearray | memoryview) -> None:
        data = bytes(octets)
        self.untaken = len(data)
        if self.closed:
            raise UsageError("the stream is closed")
        room = len(data)
        if self._fail_after is not None:
            room = min(room, self._fail_after - len(self.sent))
        if self._deaf or (self._ending == "reset" and not self._arriving):
            room = 0
        if room:
            self.sent += data[:room]
            self.untaken -= room
            self._tell(data[:room])
        if self.untaken:
            if self._fail == "stall" or self._deaf:
                self._out_of_time()
            self._ending = "reset"
            raise ChannelLost("The connection to memory was lost: broken pipe.")

    async def receive(self) -> bytes:
        octets = self.at_hand()
        while octets is None:
            if (
                self._is_cut()
                or not self._arriving
                or (self.deadline is not None and self._arriving[0][0] > self.deadline)
            ):
                self._out_of_time()
            self.clock = self._arriving[0][0]
            octets = self.at_hand()
        if not octets and self._end() == "reset":
            raise ChannelLost("The connection to memory was lost: connection reset by peer.")
        return octets

    def at_hand(self) -> bytes | None:
        if self.closed:
            return b""
        if self._is_cut() or not self._arriving:
            return None if self._end() == "stall" else b""
        when, octets = self._arriving[0]
        if when > self.clock:
            return None
        length = 1 if self._by_octet else len(octets)
        if self._cut_after is not None:
            length = min(length, self._cut_after - self.received)
        self._arriving.popleft()
        if octets[length:]:
            self._arriving.appendleft((when, octets[length:]))
        self.received += length
        return octets[:length]

    async def run(self, function: Callable[[], T]) -> T:
        return function()

    async def sleep_until(self, when: float) -> None:
        self.clock = max(self.clock, when)

    def now(self) -> float:
        return self.clock

    def abort(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        if not self.closed and not callable(self._peer):
            self._peer.eof()
        self.closed = True

    def _is_cut(self) -> bool:
        return self._cut_after is not None and self.received >= self._cut_after

    def _end(self) -> Ending:
        return self._cut if self._is_cut() else self._ending

    def _out_of_time(self) -> None:
        assert self.deadline is not None, "the client would wait for ever"
        self.clock = max(self.clock, self.deadline)
        raise TimeoutError("memory was silent for too long")

    def _tell(self, octets: bytes) -> None:
        self._later = max(self._later, self.clock)
        if not callable(self._peer):
            self._perform(self._peer.receive(octets))
        elif said := self._peer(octets):
            self._arriving.append((self.clock, said))

    def _perform(self, actions: Sequence[Any]) -> None:
        for action in actions:
            match type(action).__name__:
                case "Send":
                    self._arriving.append((self._later, action.octets))
                case "Wait":
                    self._later += action.seconds
                case "StartTLS":
                    self.secured = True
                case "Close" | "Cut":
                    self._ending = "end"
                case "Reset":
                    self._ending = "reset"
                case "Stall":
                    self._ending = "stall"
                case "Deaf":
                    self._deaf = True
                case unknown:
                    raise AssertionError(f"an action that is not known here: {unknown}")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise AssertionError("the coroutine suspended")
