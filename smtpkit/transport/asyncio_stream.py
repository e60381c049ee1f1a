"""A stream on asyncio's plain transport: one receive buffer for all connections of a loop, one lazy timer, no task.

asyncio's transport decides when octets leave, so ``send`` lets it hold no more than one piece and waits until that is
gone; where it raises, what the transport still holds is thrown away at once, or ``untaken`` would not stay true.
"""

# ruff: noqa: D102 - the methods are those of Stream, which says what they do

import asyncio
import os
import select
import sys
import time
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from smtpkit.errors import ChannelLost, UsageError
from smtpkit.transport.connect import run_in_worker
from smtpkit.transport.socket_stream import hurry, linger, lingers
from smtpkit.transport.stream import RawSocket

T = TypeVar("T")

PIECE = 256 * 1024  # the most that the transport ever holds
RECEIVE = 256 * 1024
UNREAD = 1024 * 1024  # from here on the peer has to wait
TURN = 256 * 1024  # after so many octets that never had to wait, the loop gets a turn

# Where the loop reads only when there is something to read, a buffer is in use for one call: one serves all
# connections of the loop, and an idle one costs nothing.
_buffers: "WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview]" = WeakKeyDictionary()


class _Waiter:
    """What one task awaits until ``wake``: a future whose task goes on at once, within the callback that wakes it.

    asyncio's own futures let it go on in the loop's next turn, which costs a look at all sockets for each reply. Duck
    typing of futures is asyncio's (``asyncio.isfuture``).
    """

    __slots__ = ("_asyncio_future_blocking", "_callback", "_cancelled", "_context", "_done", "_loop", "_outcome")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False
        self._loop = loop
        self._callback: Callable[[Any], object] | None = None
        self._context: Context | None = None
        self._cancelled: asyncio.CancelledError | None = None
        self._outcome = self._done = False

    def wake(self, outcome: bool) -> None:  # noqa: FBT001 - a value
        """Let the task go on with this outcome; from a callback of the loop, in which no task runs."""
        if not self._done:
            self._done, self._outcome = True, outcome
            if self._callback is not None and self._context is not None:
                self._context.run(self._callback, self)

    def __await__(self) -> Generator["_Waiter", None, bool]:
        if not self._done:
            self._asyncio_future_blocking = True
            yield self
        return self.result()

    # What a task asks of a future

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Context) -> None:
        self._callback, self._context = callback, context

    def cancel(self, msg: object = None) -> bool:
        if self._done or self._callback is None:
            return False
        self._done, self._cancelled = True, asyncio.CancelledError(*([] if msg is None else [msg]))
        self._loop.call_soon(self._callback, self, context=self._context)
        return True

    def done(self) -> bool:
        return self._done

    def result(self) -> bool:
        if self._cancelled is not None:
            raise self._cancelled
        return self._outcome


class AsyncioStream(asyncio.BufferedProtocol):
    """A Stream for asyncio and loops like it; made as the protocol of ``loop.create_connection``.

    ``peer`` is the other end's address as text, ``local_host`` this end's as an address literal (RFC 5321 4.1.3).
    A ``send`` that raises leaves the stream closed; a ``receive`` that is cancelled or runs out of time loses nothing.
    """

    __slots__ = (
        "_buffer",
        "_cause",
        "_ended",
        "_fd",
        "_full",
        "_given",
        "_loop",
        "_lost",
        "_paused",
        "_pieces",
        "_poll",
        "_timer",
        "_timer_at",
        "_transport",
        "_unread",
        "_waiter",
        "deadline",
        "local_host",
        "peer",
        "untaken",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, *, peer: str, local_host: str) -> None:
        self.peer = peer
        self.local_host = local_host
        self.deadline: float | None = None
        self.untaken = 0
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._fd = -1  # for a look into the kernel; -1 where there is none, or no more
        self._poll: Any = None  # says whether a look pays: to find nothing by reading is an exception
        self._buffer = _receive_buffer(loop)
        self._pieces: list[bytes] = []
        self._unread = 0
        self._given = 0  # octets since the loop had its turn
        self._paused = False  # the transport still holds something
        self._full = False  # reading is paused
        self._ended = False
        self._lost: str | None = None  # what became of the connection
        self._cause: BaseException | None = None
        self._waiter: _Waiter | None = None  # True: the deadline has come
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=0)
        if os.name == "posix":
            self._fd = transport.get_extra_info("socket").fileno()
        if hasattr(select, "poll"):
            self._poll = select.poll()
            self._poll.register(self._fd, select.POLLIN)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._take_in(self._buffer[:nbytes].tobytes())
        self._wake()

    def eof_received(self) -> bool:
        self._ended = self._lost is None
        self._wake()
        return True  # what is still to be said may be said

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._lost is None:
            self._lose(exc)
        self._look()  # the peer's last words, before the transport closes the socket
        self._fd = -1
        self._transport = None
        self._stop_timer()
        self._wake()

    # The stream

    @property
    def raw_socket(self) -> RawSocket | None:
        raw: RawSocket | None = None if self._transport is None else self._transport.get_extra_info("socket")
        return raw

    async def send(self, octets: bytes | bytearray | memoryview) -> None:
        self._check_user()
        self.untaken = size = len(octets)
        while self.untaken:
            if self._given >= TURN:
                self._loop.call_soon(self._wake)
                await self._wait()
            transport = self._transport
            if self._lost is not None or transport is None:
                raise self._loss()
            start = size - self.untaken
            piece = memoryview(octets)[start : start + PIECE] if size > PIECE else octets
            self._given += len(piece)
            transport.write(piece)
            if self._paused or transport.is_closing():
                await self._written(transport, len(piece))
            self.untaken -= len(piece)

    async def receive(self) -> bytes:
        self._check_user()
        while not self._pieces:
            if self._ended:
                return b""
            if self._lost is not None:
                raise self._loss()
            await self._wait()
        return self._taken_out()

    def at_hand(self) -> bytes | None:
        if not self._pieces:
            self._look()
        if self._pieces:
            return self._taken_out()
        return b"" if self._ended or self._lost is not None else None

    async def run(self, function: Callable[[], T]) -> T:
        return await run_in_worker(function)

    async def sleep_until(self, when: float) -> None:
        left = when - time.monotonic()
        if left > 0:
            await asyncio.sleep(left)

    now = staticmethod(time.monotonic)

    def abort(self) -> None:
        if self._lost is None:
            self._lost = "is closed"
        self._fd = -1
        self._stop_timer()
        transport, self._transport = self._transport, None
        if transport is None:
            return
        hurry(transport.get_extra_info("socket"))
        if self._loop.is_closed():
            # Nobody is left to call the transport back. Without this it would complain when it is collected; it is
            # asyncio's own last step, and other loops close their handles themselves.
            finish = getattr(transport, "_call_connection_lost", None)
            if finish is not None:
                finish(None)
        elif self._loop.is_running() and _running_loop() is not self._loop:
            self._loop.call_soon_threadsafe(transport.abort)
        else:
            transport.abort()

    async def aclose(self) -> None:
        raw: Any = self.raw_socket
        seconds = 0 if raw is None else lingers(raw)
        lingering = raw.dup() if seconds else None  # closed last, and not in the loop
        self.abort()
        try:
            await asyncio.sleep(0)  # the transport closes the socket in the loop's next turn
            if lingering is not None:
                linger(lingering, seconds)
                await self.run(lingering.close)
        finally:
            if lingering is not None:
                hurry(lingering)
                lingering.close()

    # Within

    async def _written(self, transport: asyncio.Transport, size: int) -> None:
        """Wait until the transport holds nothing of the piece of this size."""
        rest = self.untaken - size
        # What broke in write() itself was not taken at all; of what is held, more than one octet may go yet.
        untaken = 1 if self._paused else size
        try:
            # A connection that broke in write() is told to be lost in the loop's next turn.
            while (self._paused or transport.is_closing()) and self._lost is None:
                await self._wait()
        except BaseException:
            # What the transport still holds would leave after the caller was told that it had not.
            self.untaken = rest + (transport.get_write_buffer_size() if self._paused else 0)
            self._look()
            self.abort()
            raise
        if self._lost is not None:
            self.untaken = rest + untaken
            raise self._loss()

    async def _wait(self) -> None:
        """Return when something has happened; TimeoutError at the deadline."""
        deadline = self.deadline
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{self.peer} was silent for too long")
            if self._timer is None or deadline < self._timer_at:
                self._start_timer(deadline, left)
        self._given = 0
        self._waiter = _Waiter(self._loop)
        try:
            if await self._waiter:
                raise TimeoutError(f"{self.peer} was silent for too long")
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None:
            self._waiter.wake(False)

    def _start_timer(self, deadline: float, left: float) -> None:
        self._stop_timer()
        self._timer_at = deadline
        self._timer = self._loop.call_later(left, self._on_timer)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        """Follow a deadline that has moved on since; a stream at which nobody waits gets no timer again."""
        self._timer = None
        if self._waiter is None or self._waiter.done() or self.deadline is None:
            return
        left = self.deadline - time.monotonic()
        if left > 0:
            self._start_timer(self.deadline, left)
        else:
            self._waiter.wake(True)

    def _check_user(self) -> None:
        if self._waiter is not None:
            raise UsageError(f"busy: another task is using the stream to {self.peer}")
        try:
            if asyncio.get_running_loop() is self._loop:
                return
        except RuntimeError:
            pass
        raise UsageError(
            f"The stream to {self.peer} belongs to the event loop that opened it, which is not the running one; "
            "use one client per event loop."
        )

    def _look(self) -> None:
        """Take in what the kernel has, without waiting for the loop's turn."""
        if self._fd < 0 or self._ended or (self._poll is not None and not self._poll.poll(0)):
            return
        try:
            octets = os.read(self._fd, 65536)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            if self._lost is None:
                self._lose(error)
            return
        if octets:
            self._take_in(octets)
        elif self._lost is None:  # a reset is told once; what follows it looks like an end
            self._ended = True

    def _take_in(self, octets: bytes) -> None:
        self._pieces.append(octets)
        self._unread += len(octets)
        if self._unread > UNREAD and not self._full and self._lost is None and self._transport is not None:
            self._full = True
            self._transport.pause_reading()

    def _taken_out(self) -> bytes:
        pieces = self._pieces
        octets = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._unread = 0
        if self._full:
            self._full = False
            if self._transport is not None and not self._ended and not self._transport.is_closing():
                self._transport.resume_reading()
        return octets

    def _lose(self, error: Exception | None) -> None:
        self._cause = error
        self._lost = "is closed" if error is None else f"was lost: {getattr(error, 'strerror', None) or error}"

    def _loss(self) -> ChannelLost:
        lost = ChannelLost(f"The connection to {self.peer} {self._lost}.")
        lost.__cause__ = self._cause
        return lost


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _receive_buffer(loop: asyncio.AbstractEventLoop) -> memoryview:
    if sys.platform == "win32":  # the buffer is handed to the system in advance: each connection needs its own
        return memoryview(bytearray(64 * 1024))
    buffer = _buffers.get(loop)
    if buffer is None:
        buffer = _buffers[loop] = memoryview(bytearray(RECEIVE))
    return buffer
