"""The streams of trio, and of any byte stream that a user brings: they wait as anyio waits."""

# ruff: noqa: D102 - the methods are those of Stream, which says what they do

import math
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import anyio
import anyio.abc
import anyio.lowlevel

from smtpkit.errors import ChannelLost, UsageError
from smtpkit.transport.connect import address_literal, peer_text, run_in_worker
from smtpkit.transport.socket_stream import UNREAD, SocketStream
from smtpkit.transport.stream import RawSocket

T = TypeVar("T")

PIECE = 64 * 1024
SMALL = 4 * 1024  # after it has spoken, a peer takes so much without being heard


class AnyioSocketStream(SocketStream):
    """A Stream over a socket of our own, waiting by anyio: exact, and free to look into the kernel."""

    async def _wait(self, *, reading: bool, writing: bool) -> None:
        with _until(self.deadline, self.peer):
            if not writing:
                await anyio.wait_readable(self._socket)
            elif not reading:
                await anyio.wait_writable(self._socket)
            else:
                await self._wait_for_either()

    async def _wait_for_either(self) -> None:
        async with anyio.create_task_group() as tasks:

            async def readable() -> None:
                await anyio.wait_readable(self._socket)
                tasks.cancel_scope.cancel()

            tasks.start_soon(readable)
            await anyio.wait_writable(self._socket)
            tasks.cancel_scope.cancel()

    async def _give_turn(self) -> None:
        await anyio.lowlevel.checkpoint()

    async def run(self, function: Callable[[], T]) -> T:
        return await run_in_worker(function)

    async def sleep_until(self, when: float) -> None:
        await _sleep_until(when)


class AnyioStream:
    """A Stream over any anyio byte stream: one that a user brings, ready and connected; this owns it from now on.

    Such a stream does not say how much of a piece has left. So of the last 64 KiB of a ``send`` that fails,
    ``untaken`` says 0, which means "perhaps": it is anything else only where that is certain. ``at_hand`` knows only
    what arrived during a ``send``, and the end once it was read.
    """

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        attribute = anyio.abc.SocketAttribute
        get = stream.extra
        self.peer = peer_text(get(attribute.remote_address, None))
        self.local_host = address_literal(get(attribute.local_address, None))
        self.deadline: float | None = None
        self.untaken = 0
        self._stream = stream
        self._raw: socket.socket | None = get(attribute.raw_socket, None)
        self._pieces: list[bytes] = []
        self._unread = 0
        self._unheard = 0  # octets sent since the last receive
        self._ended = False
        self._closed = False
        self._busy = False
        self._lost: Exception | None = None

    @property
    def raw_socket(self) -> RawSocket | None:
        return None if self._closed else self._raw

    async def send(self, octets: bytes | bytearray | memoryview) -> None:
        self._enter()
        view = memoryview(octets)
        self.untaken = len(view)
        try:
            while self.untaken:
                if self._closed or self._lost is not None:
                    raise self._loss()
                start = len(view) - self.untaken
                piece = bytes(view[start : start + PIECE])
                with _until(self.deadline, self.peer):
                    self.untaken -= len(piece)  # from here on it may have left
                    await self._send_piece(piece)
                if self._lost is not None:
                    raise self._loss()
        finally:
            self._busy = False

    async def receive(self) -> bytes:
        self._enter()
        self._unheard = 0
        try:
            if not self._pieces and not self._ended and not self._closed and self._lost is None:
                with _until(self.deadline, self.peer):
                    await self._take_in()
            octets = self.at_hand()
            if octets is None or (octets == b"" and not self._ended):
                raise self._loss()
            return octets
        finally:
            self._busy = False

    def at_hand(self) -> bytes | None:
        if self._pieces:
            octets = b"".join(self._pieces)
            self._pieces.clear()
            self._unread = 0
            return octets
        return b"" if self._ended or self._closed or self._lost is not None else None

    async def run(self, function: Callable[[], T]) -> T:
        return await run_in_worker(function)

    async def sleep_until(self, when: float) -> None:
        await _sleep_until(when)

    def now(self) -> float:
        return time.monotonic()

    def abort(self) -> None:
        """Break the connection now, if it has a socket; the stream itself is closed by a task that waits for nobody."""
        if self._closed:
            return
        self._closed = True
        if self._raw is not None:
            with suppress(OSError):
                self._raw.shutdown(socket.SHUT_RDWR)
        _close_soon(self._stream)

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        limit = math.inf if self.deadline is None else self.deadline - time.monotonic()
        with anyio.move_on_after(limit):
            try:
                await self._stream.aclose()
            except Exception as error:  # noqa: BLE001 - a foreign stream's failure to close changes nothing
                self._lost = self._lost or error

    def _enter(self) -> None:
        if self._busy:
            raise UsageError(f"busy: another task is using the stream to {self.peer}")
        self._busy = True

    async def _send_piece(self, piece: bytes) -> None:
        """Send, and take in what arrives meanwhile; sets ``_lost``, raises nothing foreign."""
        self._unheard += len(piece)
        if self._unheard <= SMALL:
            await self._send_raw(piece)
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._take_in_while_sending)
            await self._send_raw(piece)
            tasks.cancel_scope.cancel()

    async def _send_raw(self, piece: bytes) -> None:
        try:
            await self._stream.send(piece)
        except Exception as error:  # noqa: BLE001 - whatever a foreign stream raises, the connection is gone
            self._lost = error

    async def _take_in_while_sending(self) -> None:
        while not self._ended and self._lost is None and self._unread < UNREAD:
            await self._take_in()

    async def _take_in(self) -> None:
        try:
            octets = await self._stream.receive()
        except anyio.EndOfStream:
            self._ended = True
        except Exception as error:  # noqa: BLE001 - whatever a foreign stream raises, the connection is gone
            self._lost = self._lost or error
        else:
            self._pieces.append(octets)
            self._unread += len(octets)

    def _loss(self) -> ChannelLost:
        if self._lost is None:
            return ChannelLost(f"The connection to {self.peer} is closed.")
        reason = str(self._lost) or type(self._lost).__name__
        lost = ChannelLost(f"The connection to {self.peer} was lost: {reason}.")
        lost.__cause__ = self._lost
        return lost


@contextmanager
def _until(deadline: float | None, peer: str) -> Iterator[None]:
    """Bound what is awaited within by the deadline on time.monotonic's clock, whatever clock the loop has."""
    if deadline is None:
        yield
        return
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError(f"{peer} was silent for too long")
    with anyio.move_on_after(left) as scope:
        yield
    if scope.cancelled_caught:
        raise TimeoutError(f"{peer} was silent for too long")


async def _sleep_until(when: float) -> None:
    left = when - time.monotonic()
    if left > 0:
        await anyio.sleep(left)


def _close_soon(stream: anyio.abc.ByteStream) -> None:
    """Close from a function that cannot wait; outside of a running loop there is nobody who could."""
    import asyncio
    import sys

    with suppress(RuntimeError):
        if (trio := sys.modules.get("trio")) is not None and trio.lowlevel.in_trio_run():
            trio.lowlevel.spawn_system_task(anyio.aclose_forcefully, stream)
        else:
            loop = asyncio.get_running_loop()
            closing = loop.create_task(anyio.aclose_forcefully(stream))
            loop.call_soon(lambda: closing)  # the loop alone holds tasks weakly
