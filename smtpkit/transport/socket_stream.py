"""A stream on a non-blocking socket, written once; how it waits is all that a world adds."""

# ruff: noqa: D102 - the methods are those of Stream, which says what they do

import select
import socket
import struct
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from smtpkit.errors import ChannelLost, UsageError
from smtpkit.transport.stream import RawSocket

T = TypeVar("T")

PIECE = 256 * 1024
RECEIVE = 64 * 1024  # larger ones are fresh pages from the system each time
UNREAD = 1024 * 1024  # from here on the peer has to wait
TURN = 256 * 1024  # after so many octets that never had to wait, others get a turn
LINGER = struct.Struct("hh" if sys.platform == "win32" else "ii")  # SO_LINGER: is it on, and for how many seconds


class SocketStream(ABC):
    """A Stream that knows exactly what the kernel has taken, since it asks the kernel itself.

    It owns the connected socket. ``peer`` is the other end's address as text, ``local_host`` this end's as an address
    literal (RFC 5321 4.1.3). ``abort`` may come from another thread: it wakes whoever waits.
    """

    def __init__(self, connected: socket.socket, *, peer: str, local_host: str) -> None:
        connected.setblocking(False)
        self.peer = peer
        self.local_host = local_host
        self.deadline: float | None = None
        self.untaken = 0
        self._socket = connected
        self._pieces: list[bytes] = []
        self._unread = 0
        self._given = 0  # octets since others had their turn
        self._dry = False  # at the last look the kernel had no more: it pays to wait first
        self._ended = False
        self._closed = False
        self._busy = False
        self._lost: OSError | None = None
        self._poll: Any = None  # says whether the socket can be read: to find nothing by reading is an exception
        if hasattr(select, "poll"):
            self._poll = select.poll()
            self._poll.register(connected, select.POLLIN)

    @abstractmethod
    async def _wait(self, *, reading: bool, writing: bool) -> None:
        """Return when the socket can be read (or has ended), or written, or perhaps; TimeoutError at the deadline."""

    @abstractmethod
    async def _give_turn(self) -> None:
        """Let others run."""

    @abstractmethod
    async def run(self, function: Callable[[], T]) -> T: ...

    @abstractmethod
    async def sleep_until(self, when: float) -> None: ...

    @property
    def raw_socket(self) -> RawSocket | None:
        return None if self._closed else self._socket

    async def send(self, octets: bytes | bytearray | memoryview) -> None:
        self._enter()
        self.untaken = size = len(octets)
        try:
            while self.untaken:
                start = size - self.untaken
                piece = memoryview(octets)[start : start + PIECE] if start or size > PIECE else octets
                self._given += len(piece)
                if self._given > TURN:
                    await self._share()
                if self._closed or self._lost is not None:
                    raise self._loss()
                self.untaken -= len(piece)  # it may leave at once, and Ctrl-C come before the count of it
                try:
                    self.untaken += len(piece) - self._socket.send(piece)
                except BlockingIOError:
                    self.untaken += len(piece)
                    await self._wait(reading=not self._ended and self._unread < UNREAD, writing=True)
                    self._take_in()
                except OSError as error:
                    self.untaken += len(piece)
                    self._take_in()  # the peer's last words
                    self._lost = error
        finally:
            self._leave()

    async def receive(self) -> bytes:
        self._enter()
        try:
            while (octets := self._taken_out(look=not self._dry)) is None:
                if self._closed or self._lost is not None:
                    raise self._loss()
                await self._wait(reading=True, writing=False)
                self._dry = False
            self._given += len(octets)
            if self._given > TURN:
                await self._share()
            return octets
        finally:
            self._leave()

    def at_hand(self) -> bytes | None:
        octets = self._taken_out(look=self._poll is None or bool(self._poll.poll(0)))
        if octets is None and (self._closed or self._lost is not None):
            return b""
        return octets

    now = staticmethod(time.monotonic)

    def abort(self) -> None:
        self._closed = True
        if not self._busy:
            self._close()
            return
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the user, who closes it: a descriptor in use is not closed

    async def aclose(self) -> None:
        if not (self._closed or self._busy) and lingers(self._socket):
            self._closed = True
            await self.run(self._socket.close)
        self.abort()

    def _enter(self) -> None:
        if self._busy:
            raise UsageError(f"busy: another task is using the stream to {self.peer}")
        self._busy = True

    def _leave(self) -> None:
        self._busy = False
        if self._closed:
            self._close()

    def _close(self) -> None:
        hurry(self._socket)
        self._socket.close()

    async def _share(self) -> None:
        self._given = 0
        await self._give_turn()

    def _taken_out(self, *, look: bool = True) -> bytes | None:
        """What has arrived; b"" at the end; None if nothing has."""
        if look and not self._pieces:
            self._take_in()
        if self._pieces:
            octets = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces.clear()
            self._unread = 0
            return octets
        return b"" if self._ended else None

    def _take_in(self) -> None:
        if self._ended or self._closed or self._lost is not None or self._unread >= UNREAD:
            return
        try:
            octets = self._socket.recv(RECEIVE)
        except BlockingIOError:
            self._dry = True
            return
        except OSError as error:
            self._lost = error
            return
        if octets:
            self._pieces.append(octets)
            self._unread += len(octets)
            self._dry = len(octets) < RECEIVE
        else:
            self._ended = True

    def _loss(self) -> ChannelLost:
        if self._lost is None:
            return ChannelLost(f"The connection to {self.peer} is closed.")
        lost = ChannelLost(f"The connection to {self.peer} was lost: {self._lost.strerror or self._lost}.")
        lost.__cause__ = self._lost
        return lost


def lingers(raw: socket.socket) -> int:
    """How many seconds closing it may wait for what is still to be sent; a reset, and the system's way, do not wait."""
    try:
        on, seconds = LINGER.unpack(raw.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER.size))
    except OSError:  # it is closed already
        return 0
    return int(seconds) if on else 0


def linger(raw: socket.socket, seconds: int) -> None:
    """Let closing it wait so long; 0 is the system's way."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER.pack(seconds > 0, seconds))


def hurry(raw: socket.socket) -> None:
    """Let closing it wait for nothing; what is still to be sent is the system's business, and a reset stays one."""
    if lingers(raw):
        with suppress(OSError):  # some systems refuse it where the peer has gone
            linger(raw, 0)
