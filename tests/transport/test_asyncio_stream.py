"""What only asyncio's stream has to get right: loops, turns, buffers, timers."""

import asyncio
import gc
import warnings

import pytest

from smtpkit.errors import ChannelLost, UsageError
from smtpkit.transport.asyncio_stream import AsyncioStream
from smtpkit.transport.connect import Target, connect
from tests.peers import echo, peer, silence


async def _connect(port: int) -> AsyncioStream:
    stream = await connect(Target("127.0.0.1", port), None)
    assert isinstance(stream, AsyncioStream)
    return stream


def test_another_loop() -> None:
    """A stream that is used from another loop, or from none, says so; aborting it there does no harm."""
    with peer(silence) as port, asyncio.Runner() as first:
        stream = first.run(_connect(port))
        with asyncio.Runner() as second:
            for use in (stream.receive, lambda: stream.send(b"x")):
                with pytest.raises(UsageError, match="belongs to the event loop that opened it"):
                    second.run(use())
        with pytest.raises(UsageError, match="belongs to the event loop"):
            stream.receive().send(None)
        first.run(stream.aclose())


def test_abort_after_the_loop_has_closed() -> None:
    """Aborting a stream whose loop is gone closes its socket, without an error and without a warning."""
    with peer(silence) as port, warnings.catch_warnings():
        warnings.simplefilter("error")
        stream = asyncio.run(_connect(port))
        stream.abort()
        stream.abort()
        assert stream.at_hand() == b""
        del stream
        gc.collect()


def test_abort_from_another_thread() -> None:
    """Aborting from another thread wakes who waits in the loop."""

    async def main() -> None:
        stream = await _connect(port)
        waiting = asyncio.ensure_future(stream.receive())
        await asyncio.sleep(0)
        await asyncio.to_thread(stream.abort)
        with pytest.raises(ChannelLost, match="is closed"):
            await waiting

    with peer(silence) as port:
        asyncio.run(main())


@pytest.mark.asyncio
async def test_buffer_is_shared_by_the_loop() -> None:
    """All connections of a loop receive into one buffer, and what they got stays theirs."""
    with peer(echo) as one, peer(echo) as two:
        first, second = await _connect(one), await _connect(two)
        assert first.get_buffer(-1) is second.get_buffer(-1)
        await first.send(b"first")
        await second.send(b"second")
        assert await second.receive() == b"second"
        assert await first.receive() == b"first"
        await first.aclose()
        await second.aclose()


@pytest.mark.asyncio
async def test_others_get_their_turn() -> None:
    """Sends that never have to wait let other tasks run, again and again."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    with peer(silence) as port:
        stream = await _connect(port)
        counting = asyncio.ensure_future(count())
        for _ in range(4096):
            await stream.send(bytes(1024))
        assert turns >= 8
        counting.cancel()
        await stream.aclose()


@pytest.mark.asyncio
async def test_one_timer() -> None:
    """An exchange under a later deadline makes no new timer, and a closed stream has none."""
    with peer(echo) as port:
        stream = await _connect(port)
        timers = set()
        for number in range(5):
            stream.deadline = stream.now() + 60 + number
            await stream.send(b"x")
            await stream.receive()
            timers.add(stream._timer)
        assert len(timers) == 1
        await stream.aclose()
        assert stream._timer is None


@pytest.mark.asyncio
async def test_cancelled_send_sends_no_more() -> None:
    """What a cancelled send says has not left, does not leave afterwards."""
    heard = bytearray()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        heard.extend(await reader.read())
        writer.close()
        over.set()

    go, over = asyncio.Event(), asyncio.Event()
    server = await asyncio.start_server(take, "127.0.0.1", 0)
    stream = await _connect(server.sockets[0].getsockname()[1])
    sending = asyncio.ensure_future(stream.send(bytes(32_000_000)))
    while not stream._paused:  # noqa: ASYNC110 - the transport tells nobody else
        await asyncio.sleep(0)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    untaken = stream.untaken
    assert untaken > 0
    go.set()
    await over.wait()
    assert len(heard) == 32_000_000 - untaken
    server.close()
    await server.wait_closed()


@pytest.mark.asyncio
async def test_one_turn_of_the_loop_for_a_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for octets goes on in the turn in which they come: one look at the sockets for each reply."""
    with peer(echo) as port:
        stream = await _connect(port)
        await stream.send(b"x")
        await stream.receive()
        selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
        select, looks = selector.select, 0

        def counted(timeout: float | None = None) -> object:
            nonlocal looks
            looks += 1
            return select(timeout)

        monkeypatch.setattr(selector, "select", counted)
        for _ in range(50):
            await stream.send(b"x")
            assert await stream.receive() == b"x"
        assert looks <= 52
        await stream.aclose()


@pytest.mark.asyncio
async def test_nothing_is_read_where_nothing_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look reads only what has arrived: where nothing has, it costs neither a read nor the exception of one."""
    with peer(echo) as port:
        stream = await _connect(port)
        with monkeypatch.context() as patched:
            patched.setattr("os.read", None)
            assert stream.at_hand() is None
        await stream.send(b"x")
        assert await stream.receive() == b"x"
        await stream.aclose()
