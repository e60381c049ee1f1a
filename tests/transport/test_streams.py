"""All streams, plain and within TLS, over real sockets: they keep one contract."""

# ruff: noqa: PT012 - a write may have to be repeated until it fails
import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, Literal

import anyio
import anyio.abc
import pytest
import trio
import trustme
from blockbuster import blockbuster_ctx

from smtpkit.errors import ChannelLost, UsageError
from smtpkit.transport.anyio_stream import AnyioStream
from smtpkit.transport.asyncio_stream import AsyncioStream
from smtpkit.transport.connect import Target, connect, connect_blocking
from smtpkit.transport.socket_stream import SocketStream
from smtpkit.transport.stream import Stream
from smtpkit.transport.tls import secure
from tests.peers import Behaviour, deafness, echo, peer, reset, say, shrink, silence
from tests.streams import run

Main = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="session")
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


class World:
    """One way to run a coroutine, and to get a stream in it."""

    def __init__(self, name: str, server: ssl.SSLContext | None, client: ssl.SSLContext | None) -> None:
        self.name = name
        self.server = server
        self.client = client

    def peer(self, behaviour: Behaviour, *, small_buffers: bool = False) -> AbstractContextManager[int]:
        return peer(behaviour, context=self.server, small_buffers=small_buffers)

    def run(self, main: Main) -> None:
        match self.name:
            case "asyncio" | "anyio-asyncio":
                with blockbuster_ctx("smtpkit"):
                    asyncio.run(main(), debug=False)
            case "trio" | "anyio-trio":
                trio.run(main)
            case _:
                run(main())

    @asynccontextmanager
    async def stream(self, port: int, *, wait: float | None = 20) -> AsyncIterator[Stream]:
        stream = await self.connect(port)
        _shrink(stream)
        stream.deadline = stream.now() + 20
        try:
            if self.client is not None:
                stream = await secure(stream, self.client, "127.0.0.1")
            stream.deadline = None if wait is None else stream.now() + wait
            yield stream
        finally:
            stream.deadline = stream.now() + 5
            await stream.aclose()

    async def connect(self, port: int) -> Stream:
        if self.name == "blocking":
            return await connect_blocking(Target("127.0.0.1", port), None)
        if self.name.startswith("anyio"):
            return AnyioStream(await anyio.connect_tcp("127.0.0.1", port))
        return await connect(Target("127.0.0.1", port), None)

    @property
    def is_exact(self) -> bool:
        return not self.name.startswith("anyio")


def _shrink(stream: Stream) -> None:
    match stream:
        case AsyncioStream():
            assert stream._transport is not None
            shrink(stream._transport.get_extra_info("socket"))
        case SocketStream():
            shrink(stream._socket)
        case AnyioStream():
            shrink(stream._stream.extra(anyio.abc.SocketAttribute.raw_socket))


@pytest.fixture(params=["asyncio", "trio", "blocking", "anyio-asyncio", "anyio-trio"])
def loop_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=["plain", "tls"])
def world(
    request: pytest.FixtureRequest, loop_name: str, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> World:
    if request.param == "plain":
        return World(loop_name, None, None)
    return World(loop_name, server_context, client_context)


@pytest.fixture
def plain(loop_name: str) -> World:
    return World(loop_name, None, None)


@pytest.fixture(autouse=True)
def _no_unraisable() -> Iterator[None]:
    """What is collected complains within the test that left it."""
    import gc

    yield
    gc.collect(1)  # what a test leaves is young


def test_both_ways_at_once(world: World) -> None:
    """A big write whose echo is not read meanwhile does not make two full buffers face each other."""
    data = bytes(range(256)) * 3500  # 896,000 octets: below what a stream takes in

    async def main() -> None:
        async with world.stream(port) as stream:
            await stream.send(data)
            assert stream.untaken == 0
            got = b""
            while len(got) < len(data):
                octets = await stream.receive()
                assert octets
                got += octets
            assert got == data

    with world.peer(echo, small_buffers=True) as port:
        world.run(main)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_kinds_of_octets(world: World, kind: Callable[[bytes], bytes | bytearray | memoryview]) -> None:
    """Whatever holds octets can be sent, and a bytearray can be changed again afterwards."""

    async def main() -> None:
        async with world.stream(port) as stream:
            octets = kind(b"abc" * 100)
            await stream.send(octets)
            if isinstance(octets, bytearray):
                octets.clear()
            got = b""
            while len(got) < 300:
                got += await stream.receive()
            assert got == b"abc" * 100
            await stream.send(b"")

    with world.peer(echo) as port:
        world.run(main)


def test_deadline_of_receive(world: World) -> None:
    """A silent peer is a TimeoutError at the deadline; the stream works on with a later one."""

    async def main() -> None:
        async with world.stream(port) as stream:
            stream.deadline = stream.now() + 0.05
            with pytest.raises(TimeoutError):
                await stream.receive()
            with pytest.raises(TimeoutError):
                await stream.receive()
            assert stream.now() >= stream.deadline
            stream.deadline = stream.now() + 20
            await stream.send(b"still there")
            assert await stream.receive() == b"still there"

    with world.peer(echo) as port:
        world.run(main)


def test_deadline_moves_on(world: World) -> None:
    """A deadline set later, or taken away, before a wait is the one that holds, though a timer runs already."""

    async def main() -> None:
        async with world.stream(port) as stream:
            stream.deadline = stream.now() + 0.05
            with pytest.raises(TimeoutError):
                await stream.receive()
            stream.deadline = stream.now() + 20
            await stream.send(b"x")
            await stream.receive()
            stream.deadline = stream.now() + 0.1
            with pytest.raises(TimeoutError):
                await stream.receive()
            assert stream.now() >= stream.deadline
            stream.deadline = stream.now() + 1000
            await stream.send(b"x")
            await stream.receive()
            stream.deadline = stream.now() + 0.05
            with pytest.raises(TimeoutError):
                await stream.receive()

    with world.peer(echo) as port:
        world.run(main)


def test_deadline_of_send(world: World) -> None:
    """A peer that does not read is a TimeoutError at the deadline, and the last octet is known not to have left."""

    async def main() -> None:
        async with world.stream(port) as stream:
            stream.deadline = stream.now() + 0.1
            with pytest.raises(TimeoutError):
                await stream.send(bytes(16_000_000))
            assert 0 < stream.untaken < 16_000_000
            if world.client is not None:  # within a record: nothing more can follow
                with pytest.raises(ChannelLost, match=r"broken|closed"):
                    await stream.send(b"x")

    with world.peer(deafness, small_buffers=True) as port:
        world.run(main)


def test_drip_does_not_extend_the_deadline(world: World) -> None:
    """Octets that arrive one by one do not move the deadline."""
    done = threading.Event()

    def drip(connection: socket.socket) -> None:
        while not done.wait(0.01):
            connection.sendall(b".")

    async def main() -> None:
        async with world.stream(port) as stream:
            stream.deadline = stream.now() + 0.1
            with pytest.raises(TimeoutError):
                while True:
                    assert set(await stream.receive()) == set(b".")
            assert stream.now() < stream.deadline + 5

    with world.peer(drip) as port:
        try:
            world.run(main)
        finally:
            done.set()


def test_end(world: World) -> None:
    """After the peer's last octets comes the end, again and again."""

    async def main() -> None:
        async with world.stream(port) as stream:
            got = b""
            while octets := await stream.receive():
                got += octets
            assert got == b"bye"
            assert await stream.receive() == b""
            assert stream.at_hand() == b""

    with world.peer(say(b"bye")) as port:
        world.run(main)


def test_end_of_one_direction(plain: World) -> None:
    """A peer that has ended its direction still takes what is sent."""
    taken: list[bytes] = []

    def half(connection: socket.socket) -> None:
        connection.shutdown(socket.SHUT_WR)
        taken.append(connection.recv(100))

    async def main() -> None:
        async with plain.stream(port) as stream:
            assert await stream.receive() == b""
            await stream.send(b"heard?")

    with plain.peer(half) as port:
        plain.run(main)
    assert taken == [b"heard?"]


def test_reset(world: World) -> None:
    """A reset is ChannelLost while receiving and while sending."""

    def behaviour(connection: socket.socket) -> None:
        connection.recv(1)
        raw = connection.detach() if isinstance(connection, ssl.SSLSocket) else None
        reset(connection if raw is None else socket.socket(fileno=raw))

    async def main() -> None:
        async with world.stream(port) as stream:
            await stream.send(b"x")
            with pytest.raises(ChannelLost, match="connection"):
                while True:
                    assert await stream.receive()
            with pytest.raises(ChannelLost):
                await stream.send(b"more")
            if world.is_exact:
                assert stream.untaken == 4

    with world.peer(behaviour) as port:
        world.run(main)


def test_untaken_when_reset_while_sending(world: World) -> None:
    """A peer that stops reading and then resets has not taken the last octet, and never more than is said."""
    taken: list[int] = []

    def behaviour(connection: socket.socket) -> None:
        count = 0
        while count < 100_000:
            count += len(connection.recv(1000))
        taken.append(count)
        raw = connection.detach() if isinstance(connection, ssl.SSLSocket) else None
        reset(connection if raw is None else socket.socket(fileno=raw))

    async def main() -> None:
        async with world.stream(port) as stream:
            with pytest.raises(ChannelLost):
                await stream.send(bytes(16_000_000))
            assert 0 < stream.untaken <= 16_000_000 - taken[0]

    with world.peer(behaviour, small_buffers=True) as port:
        world.run(main)


def test_last_words_after_a_failed_write(plain: World) -> None:
    """What the peer said before it broke the connection is readable after the write has failed."""

    def behaviour(connection: socket.socket) -> None:
        connection.sendall(b"421 go away\r\n")
        connection.recv(1)  # and closes with unread octets: the kernel resets

    async def main() -> None:
        async with plain.stream(port) as stream:
            with pytest.raises(ChannelLost):
                while True:
                    await stream.send(bytes(4_000_000))
            assert await stream.receive() == b"421 go away\r\n"

    if plain.name == "anyio-asyncio":
        pytest.skip("anyio's stream on asyncio drops what it has received when a write fails")
    with plain.peer(behaviour, small_buffers=True) as port:
        plain.run(main)


def test_at_hand(world: World) -> None:
    """An idle stream tells, without waiting, whether nothing has come, octets have, or the end has."""
    speak, spoken = threading.Event(), threading.Event()
    end, ended = threading.Event(), threading.Event()

    def behaviour(connection: socket.socket) -> None:
        connection.recv(1)
        connection.sendall(b"!")
        speak.wait(20)
        connection.sendall(b"421 idle\r\n")
        spoken.set()
        end.wait(20)
        connection.shutdown(socket.SHUT_RDWR)
        ended.set()

    async def main() -> None:
        async with world.stream(port) as stream:
            await stream.send(b"?")
            assert await stream.receive() == b"!"
            await stream.sleep_until(stream.now() + 0.001)  # or this test would block within a callback of the stream
            assert stream.at_hand() is None
            speak.set()
            spoken.wait(20)
            assert stream.at_hand() == b"421 idle\r\n"
            assert stream.at_hand() is None
            end.set()
            ended.wait(20)
            assert stream.at_hand() == b""
            assert stream.at_hand() == b""
            assert await stream.receive() == b""

    if not world.is_exact:
        pytest.skip("a foreign stream cannot be asked without waiting")
    with world.peer(behaviour) as port:
        world.run(main)


def test_unread_octets_are_bounded(plain: World) -> None:
    """A peer that floods is made to wait: neither an idle stream nor a send takes in more than about 1 MiB."""
    sent: list[int] = []
    done = threading.Event()

    def flood(connection: socket.socket) -> None:
        connection.settimeout(0.15)
        count = 0
        try:
            while True:
                count += connection.send(bytes(65536))
        except TimeoutError:
            sent.append(count)
            done.wait(20)

    async def main() -> None:
        async with plain.stream(port) as stream:
            stream.deadline = stream.now() + 0.4
            with pytest.raises(TimeoutError):
                await stream.send(bytes(32_000_000))
            arrived = stream.at_hand()
            assert arrived is not None
            assert len(arrived) < 1_500_000
            done.set()

    with plain.peer(flood, small_buffers=True) as port:
        plain.run(main)
    assert sent


def test_abort(world: World) -> None:
    """Abort closes at once, twice does no harm, and afterwards everything fails as lost."""

    async def main() -> None:
        async with world.stream(port) as stream:
            stream.abort()
            stream.abort()
            with pytest.raises(ChannelLost):
                await stream.send(b"x")
            assert stream.untaken == (1 if world.is_exact or world.client is None else stream.untaken)
            with pytest.raises(ChannelLost):
                await stream.receive()
            assert stream.at_hand() == b""

    with world.peer(silence) as port:
        world.run(main)


def test_run_and_sleep(world: World) -> None:
    """Work that blocks gives its result or its error; a moment that has passed is not waited for."""

    def fail() -> None:
        raise ZeroDivisionError

    async def main() -> None:
        async with world.stream(port) as stream:
            assert await stream.run(lambda: 6 * 7) == 42
            with pytest.raises(ZeroDivisionError):
                await stream.run(fail)
            when = stream.now() + 0.02
            await stream.sleep_until(when)
            assert stream.now() >= when - 0.005
            await stream.sleep_until(stream.now() - 10)

    with world.peer(silence) as port:
        world.run(main)


def test_names(world: World) -> None:
    """A stream tells the peer's address and this end's address literal."""

    async def main() -> None:
        async with world.stream(port) as stream:
            assert stream.peer == f"127.0.0.1:{port}"
            assert stream.local_host == "[127.0.0.1]"

    with world.peer(silence) as port:
        world.run(main)


async def _second(stream: Stream, results: list[str]) -> None:
    try:
        await stream.receive()
    except UsageError as error:
        results.append(str(error))


@pytest.mark.parametrize("loop_name", ["asyncio", "trio", "anyio-asyncio", "anyio-trio"])
def test_second_user(plain: World) -> None:
    """A second task at the same stream is told that it is busy; the first one is not disturbed."""

    async def main() -> None:
        results: list[str] = []
        async with plain.stream(port) as stream, anyio.create_task_group() as tasks:
            tasks.start_soon(_first, stream)
            await anyio.wait_all_tasks_blocked()
            await _second(stream, results)
            with pytest.raises(UsageError, match="busy"):
                await stream.send(b"x")
            assert results
            assert "busy" in results[0]
            tasks.cancel_scope.cancel()

    async def _first(stream: Stream) -> None:
        await stream.receive()

    with plain.peer(silence) as port:
        plain.run(main)


@pytest.mark.parametrize("loop_name", ["asyncio", "trio", "anyio-asyncio", "anyio-trio"])
def test_abort_wakes_who_waits(world: World) -> None:
    """Who waits at a stream that another task closes gets ChannelLost, at once."""

    async def main() -> None:
        async with world.stream(port) as stream:

            async def wait() -> None:
                with pytest.raises(ChannelLost):
                    assert await stream.receive() == b"", "a shut socket ends"
                    raise ChannelLost("ended")

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                stream.abort()

    with world.peer(silence) as port:
        world.run(main)


@pytest.mark.parametrize("loop_name", ["asyncio", "trio", "anyio-asyncio", "anyio-trio"])
@pytest.mark.parametrize("what", ["send", "receive"])
def test_cancellation(world: World, what: Literal["send", "receive"]) -> None:
    """A cancelled operation leaves nothing behind once the stream is aborted in the cancelled scope."""

    async def main() -> None:
        async with world.stream(port) as stream:

            async def use() -> None:
                try:
                    await (stream.send(bytes(16_000_000)) if what == "send" else stream.receive())
                finally:
                    stream.abort()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(use)
                await anyio.wait_all_tasks_blocked()
                await anyio.sleep(0.05)
                tasks.cancel_scope.cancel()
            if what == "send":
                assert 0 < stream.untaken < 16_000_000

    with world.peer(deafness, small_buffers=True) as port:
        world.run(main)


@pytest.mark.parametrize("loop_name", ["asyncio", "trio", "anyio-asyncio", "anyio-trio"])
def test_cancelled_receive_loses_nothing(world: World) -> None:
    """A receive that was cancelled, or ran out of time, can be taken up again."""

    async def main() -> None:
        async with world.stream(port) as stream:
            with anyio.move_on_after(0.02):
                await stream.receive()
            await stream.send(b"again")
            assert await stream.receive() == b"again"

    with world.peer(echo) as port:
        world.run(main)


def test_threaded_abort_wakes_blocking() -> None:
    """The blocking stream can be aborted from another thread; its descriptor is closed by who used it."""
    world = World("blocking", None, None)

    async def main() -> None:
        async with world.stream(port, wait=20) as stream:
            timer = threading.Timer(0.05, stream.abort)
            timer.start()
            with pytest.raises(ChannelLost):
                assert await stream.receive()
                raise AssertionError
            timer.join()
            assert stream._socket.fileno() == -1  # type: ignore[attr-defined]  # a test may look inside

    with world.peer(silence) as port:
        world.run(main)
