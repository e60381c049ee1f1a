"""The stream of those who block: its coroutines never suspend, so ``coroutine.send(None)`` runs them to their end."""

# ruff: noqa: D102 - the methods are those of Stream, which says what they do

import math
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from smtpkit.transport.socket_stream import SocketStream

T = TypeVar("T")


class Interrupted(BaseException):
    """What waited was told to give up; no ``except Exception`` may take it for a failure."""


class Interruption:
    """What ends the waits of a thread that blocks. ``ring`` may come from any thread, also from the one that waits."""

    def __init__(self) -> None:
        self.bell, self._rope = socket.socketpair()
        self.bell.setblocking(False)
        self._rope.setblocking(False)

    def ring(self) -> None:
        """Let the wait that is under way, or the next one, raise Interrupted."""
        with suppress(OSError):  # it rings already, or is closed
            self._rope.send(b"!")

    def hush(self) -> None:
        """Let it ring no more."""
        with suppress(BlockingIOError):
            self.bell.recv(4096)

    def close(self) -> None:
        """Let go of what it holds."""
        self.bell.close()
        self._rope.close()


class BlockingStream(SocketStream):
    """A Stream over a socket; the caller's thread waits. ``interruption`` may end its waits."""

    interruption: Interruption | None = None

    async def _wait(self, *, reading: bool, writing: bool) -> None:
        if self._poll is not None and not writing and self.interruption is None:
            ready = bool(self._poll.poll(_milliseconds(self.deadline)))
        else:
            ready = wait_for(
                self._socket, reading=reading, writing=writing, deadline=self.deadline, interruption=self.interruption
            )
        if not ready:
            raise TimeoutError(f"{self.peer} was silent for too long")

    async def _give_turn(self) -> None:
        """Other threads run anyway."""

    async def run(self, function: Callable[[], T]) -> T:
        return function()

    async def sleep_until(self, when: float) -> None:
        if self.interruption is not None:
            wait_for(None, deadline=when, interruption=self.interruption)
            return
        left = when - time.monotonic()
        if left > 0:
            time.sleep(left)  # noqa: ASYNC251 - the caller blocks anyway


def _milliseconds(deadline: float | None) -> int | None:
    """How long until then, for poll: rounded up, or the last fraction would be a busy loop; it counts in a C int."""
    return None if deadline is None else min(max(0, math.ceil((deadline - time.monotonic()) * 1000)), 2**31 - 1)


def wait_for(
    waiting: socket.socket | None,
    *,
    reading: bool = False,
    writing: bool = False,
    deadline: float | None,
    interruption: Interruption | None = None,
) -> bool:
    """Wait until the socket is ready; False if the deadline (time.monotonic) came first. Raises Interrupted."""
    bell = None if interruption is None else interruption.bell
    if hasattr(select, "poll"):
        poll = select.poll()
        if waiting is not None:
            poll.register(waiting, (select.POLLIN if reading else 0) | (select.POLLOUT if writing else 0))
        if bell is not None:
            poll.register(bell, select.POLLIN)
        ready = {number for number, _ in poll.poll(_milliseconds(deadline))}
    else:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        observed = [] if waiting is None else [waiting]
        heard = [*(observed if reading else []), *([] if bell is None else [bell])]
        ready = {
            one.fileno() for some in select.select(heard, observed if writing else [], observed, left) for one in some
        }
    if bell is not None and bell.fileno() in ready:
        raise Interrupted
    return bool(ready)
