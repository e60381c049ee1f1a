"""Closing a socket that is to linger (SO_LINGER): in order it waits until all is sent, at once it waits for nothing."""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from smtpkit.sync_client import drive
from smtpkit.transport.connect import Target, connect, connect_blocking
from smtpkit.transport.socket_stream import LINGER
from smtpkit.transport.stream import Stream
from tests.peers import peer

WORLDS = pytest.mark.parametrize("world", ["blocking", "asyncio", "trio"])
OCTETS = b"x" * 120_000  # more than the peer has room for, less than this end has
HOUR = 3600


def _with_stream(world: str, port: int, then: Callable[[Stream], Awaitable[None]]) -> None:
    """Do something with a stream that lingers for an hour."""
    level = socket.SOL_SOCKET
    options = ((level, socket.SO_SNDBUF, 1_000_000), (level, socket.SO_LINGER, LINGER.pack(1, HOUR)))
    target = Target("127.0.0.1", port, socket_options=options)

    async def main() -> None:
        opener: Any = connect_blocking if world == "blocking" else connect
        await then(await opener(target, None))

    if world == "blocking":
        drive(main())
    elif world == "asyncio":
        asyncio.run(main())
    else:
        trio.run(main)


class Reader:
    """A peer that reads nothing until ``going`` is set, and then all; ``heard`` is how much that was."""

    def __init__(self) -> None:
        self.arrived, self.going = threading.Event(), threading.Event()
        self.heard = 0

    def __call__(self, connection: socket.socket) -> None:
        self.arrived.set()
        self.going.wait(50)
        while octets := connection.recv(65536):
            self.heard += len(octets)


@WORLDS
def test_in_order_it_waits_and_nobody_else_does(world: str) -> None:
    """It returns once the peer has read what was on its way; meanwhile the loop goes on."""
    reader = Reader()
    steps: list[str] = []

    def go() -> None:
        steps.append("going")
        reader.going.set()

    async def then(stream: Stream) -> None:
        await stream.send(OCTETS)
        if world == "blocking":
            timer = threading.Timer(0.05, go)
            timer.start()
            await stream.aclose()
            timer.join()
        elif world == "asyncio":
            asyncio.get_running_loop().call_later(0.05, go)
            await stream.aclose()
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_later, go)
                await stream.aclose()
        steps.append("closed")

    with peer(reader, small_buffers=True) as port:
        _with_stream(world, port, then)
    assert steps == ["going", "closed"]
    assert reader.heard == len(OCTETS)


async def _later(function: Callable[[], None]) -> None:
    await trio.sleep(0.05)
    function()


@WORLDS
def test_at_once_it_waits_for_nothing(world: str) -> None:
    """An abort returns while the peer reads nothing, which it does only then; what the system has still goes out."""
    reader = Reader()

    async def then(stream: Stream) -> None:
        await stream.send(OCTETS)
        stream.abort()
        stream.abort()
        if world == "asyncio":
            await asyncio.sleep(0)

    with peer(reader, small_buffers=True) as port:
        _with_stream(world, port, then)
        assert not reader.going.is_set()
        reader.arrived.wait(50)
        reader.going.set()
    assert reader.heard == len(OCTETS)


@pytest.mark.parametrize("world", ["asyncio", "trio"])
def test_who_is_cancelled_waits_for_nothing(world: str) -> None:
    """A close that lingers and is cancelled is an abort."""
    import anyio

    reader = Reader()
    for limit in (0, 0.05):
        reader.going.clear()

        async def then(stream: Stream, limit: float = limit) -> None:
            await stream.send(OCTETS)
            with anyio.move_on_after(limit) as scope:
                await stream.aclose()
            stream.abort()
            assert scope.cancelled_caught

        with peer(reader, small_buffers=True) as port:
            _with_stream(world, port, then)
            reader.going.set()
