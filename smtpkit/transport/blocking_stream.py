"""The stream of those who block: its coroutines never suspend, so ``coroutine.send(None)`` runs them to their end."""

# ruff: noqa: D102 - the methods are those of Stream, which says what they do

import math
import select
import socket
import time
from collections.abc import Callable
from typing import TypeVar

from smtpkit.transport.socket_stream import SocketStream

T = TypeVar("T")


class BlockingStream(SocketStream):
    """A Stream over a socket; the caller's thread waits."""

    async def _wait(self, *, reading: bool, writing: bool) -> None:
        if not wait_for(self._socket, reading=reading, writing=writing, deadline=self.deadline):
            raise TimeoutError(f"{self.peer} was silent for too long")

    async def _give_turn(self) -> None:
        """Other threads run anyway."""

    async def run(self, function: Callable[[], T]) -> T:
        return function()

    async def sleep_until(self, when: float) -> None:
        left = when - time.monotonic()
        if left > 0:
            time.sleep(left)  # noqa: ASYNC251 - the caller blocks anyway


def wait_for(waiting: socket.socket, *, reading: bool, writing: bool, deadline: float | None) -> bool:
    """Wait until the socket is ready; False if the deadline (time.monotonic) came first."""
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    if not hasattr(select, "poll"):
        observed = [waiting]
        ready = select.select(observed if reading else [], observed if writing else [], observed, left)
        return any(ready)
    poll = select.poll()
    poll.register(waiting, (select.POLLIN if reading else 0) | (select.POLLOUT if writing else 0))
    # Rounded up, or the last fraction of a millisecond would be a busy loop; poll counts in a C int.
    return bool(poll.poll(None if left is None else min(math.ceil(left * 1000), 2**31 - 1)))
