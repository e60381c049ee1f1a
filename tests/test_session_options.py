"""Options of a session that show on the socket or on the wire: socket options, address family, HELO, reply lines."""

import contextlib
import math
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import anyio
import pytest

from smtpkit import Client, ConnectError, NotSupported, Outcome, ProtocolViolation, SyncClient, UsageError
from smtpkit.errors import ChannelLost
from smtpkit.message.message import prepare
from smtpkit.observers import Observers
from smtpkit.options import Options, SocketOption
from smtpkit.protocol.command import OPENINGS, Verb
from smtpkit.session import Known, Session, World
from smtpkit.sync_client import drive
from smtpkit.testing import Script, Server
from smtpkit.transport.blocking_stream import Interrupted, Interruption, wait_for
from smtpkit.transport.connect import connect, connect_blocking, run_in_worker, run_inline
from smtpkit.transport.stream import RawSocket
from tests.peers import deafness, peer

MAIL = b"From: ann@example.com\r\nTo: bob@example.com\r\n\r\nhello\r\n"
BLOCKING = World(connect_blocking, run_inline, time.monotonic)

# What is set, and what the kernel then says; it doubles the sizes of buffers.
OPTIONS: tuple[tuple[SocketOption, Callable[[int], bool]], ...] = (
    ((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), lambda found: found == 1),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77), lambda found: found == 77),
    ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 0), lambda found: found == 0),
    ((socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000), lambda found: found == 40_000),
)


def check(raw: RawSocket | None) -> None:
    """The kernel has taken each option."""
    assert raw is not None
    for (level, option, _), right in OPTIONS:
        assert right(raw.getsockopt(level, option))


@contextlib.asynccontextmanager
async def opened(options: Options, world: World) -> AsyncIterator[Session]:
    """A session that is open."""
    session = Session(options, 1, Observers())
    await session.open(world, None, Known())
    try:
        yield session
    finally:
        await session.close()


@pytest.mark.anyio
@pytest.mark.parametrize("secured", [False, True])
async def test_socket_options(*, secured: bool) -> None:
    """Socket options hold on the live socket, on asyncio and trio, and seen through TLS."""
    script = Script(tls="starttls" if secured else "none")
    async with Server(script) as server:
        tls: dict[str, Any] = {"tls": "required", "ssl_context": server.client_context(), "tls_name": "localhost"}
        wanted = tuple(option for option, _ in OPTIONS)
        options = Options.of(server.url, socket_options=wanted, **(tls if secured else {"tls": "none"}))
        async with opened(options, World(connect, run_in_worker, time.monotonic)) as session:
            check(session.channel.stream.raw_socket)


def test_socket_options_blocking() -> None:
    """Socket options hold on the live socket where the caller blocks."""

    async def look(options: Options) -> None:
        async with opened(options, BLOCKING) as session:
            check(session.channel.stream.raw_socket)
        assert session.channel.stream.raw_socket is None

    with Server() as server:
        drive(look(Options.of(server.url, tls="none", socket_options=tuple(option for option, _ in OPTIONS))))


def test_socket_options_through_a_proxy() -> None:
    """The connection to a proxy has the socket options and the local port that were asked for the server's."""
    seen: list[int] = []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        local_port = free.getsockname()[1]

    def proxy(connection: socket.socket) -> None:
        seen.append(connection.getpeername()[1])
        while b"\r\n\r\n" not in connection.recv(65536):
            pass
        connection.sendall(b"HTTP/1.1 200 ok\r\n\r\n220 ready\r\n")
        for reply in (b"250 hello\r\n", b"221 bye\r\n"):
            connection.recv(65536)
            connection.sendall(reply)

    async def look(options: Options) -> None:
        async with opened(options, BLOCKING) as session:
            check(session.channel.stream.raw_socket)

    with peer(proxy) as port:
        wanted = tuple(option for option, _ in OPTIONS)
        proxied = {"proxy": f"http://127.0.0.1:{port}", "local_port": local_port, "socket_options": wanted}
        drive(look(Options.of("smtp://mail.example.com", tls="none", **proxied)))
    assert seen == [local_port]


@pytest.mark.parametrize("wrong", [[(1, 2, 3)], ((1, 2),), (("a", 1, 1),), ((1, 1, None),)])
def test_socket_options_refused(wrong: Any) -> None:
    """What setsockopt could not take is refused before anything is connected."""
    with pytest.raises(UsageError, match="socket_options must be a tuple"):
        SyncClient("smtp://mail.example.com", socket_options=wrong)


def test_a_socket_option_that_the_system_refuses() -> None:
    """What the system does not know is a clear error, and nothing is said."""
    with Server() as server, SyncClient(server.url, tls="none", socket_options=((9999, 1, 1),)) as client:
        with pytest.raises(ConnectError, match="cannot be reached"):
            client.send(MAIL)
        assert not server.sessions


@pytest.mark.parametrize(("family", "reached"), [("any", True), ("ipv4", True), ("ipv6", False)])
def test_family(family: Any, *, reached: bool) -> None:
    """Only addresses of the family asked for are used."""
    with Server() as server, SyncClient(server.url, tls="none", family=family) as client:
        if reached:
            assert client.send(MAIL).accepted
        else:
            with pytest.raises(ConnectError):
                client.send(MAIL)


def test_family_against_local_address() -> None:
    """A local address of the other family is refused by name."""
    with pytest.raises(UsageError, match="local_address"):
        SyncClient("smtp://mail.example.com", family="ipv6", local_address="127.0.0.1")


def test_without_extensions() -> None:
    """With extensions=False HELO is said at once, and nothing of ESMTP follows."""
    with Server() as server, SyncClient(server.url, tls="none", extensions=False, hello="client.example") as client:
        client.send(MAIL)
        said = [line.octets for line in server.sessions[0].transcript if line.direction == "C"]
    assert said[:2] == [b"HELO client.example", b"MAIL FROM:<ann@example.com>"]


def test_without_extensions_by_lmtp() -> None:
    """LMTP knows no HELO."""
    with pytest.raises(UsageError, match="LMTP"):
        SyncClient("lmtp://mail.example.com", extensions=False)


def test_reply_line() -> None:
    """A line of a reply that is longer than allowed ends the session; one of that length does not."""
    with Server(Script(replies={"MAIL": f"250 {'x' * 300}"})) as server:
        with SyncClient(server.url, tls="none", reply_line=305) as client:
            assert client.send(MAIL).accepted
        with (
            SyncClient(server.url, tls="none", reply_line=303) as client,
            pytest.raises(ProtocolViolation, match="longer than 303"),
        ):
            client.send(MAIL)


def test_no_limits() -> None:
    """math.inf is no limit, for the connection, a reply and the reply to the mail data."""
    with Server() as server:
        limits = {"connect": math.inf, "timeout": math.inf, "final": math.inf}
        with SyncClient(server.url, tls="none", **limits) as client:  # type: ignore[arg-type]
            assert client.send(MAIL).accepted


@pytest.mark.anyio
async def test_no_limits_in_a_loop() -> None:
    """The same on asyncio and trio."""
    async with (
        Server() as server,
        Client(server.url, tls="none", connect=math.inf, timeout=math.inf, final=math.inf) as client,
    ):
        assert (await client.send(MAIL)).accepted


@pytest.mark.parametrize("verb", list(OPENINGS))
@pytest.mark.parametrize("offered", [True, False])
def test_terminals(verb: Verb, *, offered: bool) -> None:
    """SEND, SOML and SAML begin a transaction where the server offers them, and are refused before MAIL where not."""

    async def send(options: Options) -> Outcome:
        async with opened(options, BLOCKING) as session:
            mail = await prepare(MAIL, run=run_inline)
            outcome, _ = await session.transact(mail, None, None, verb=verb)
            return outcome

    extensions = ("PIPELINING", *(verb for verb in OPENINGS if offered and verb != "MAIL"))
    script = Script(extensions=extensions, replies={} if verb == "MAIL" else {verb: "550 nobody is logged in"})
    with Server(script) as server:
        outcome = drive(send(Options.of(server.url, tls="none")))
        said = [line.octets for line in server.sessions[0].transcript if line.direction == "C"]
    if not offered and verb != "MAIL":
        assert isinstance(outcome.error, NotSupported)
        assert outcome.error.extension == verb
        assert not any(line.startswith(verb.encode()) for line in said)
    else:
        assert f"{verb} FROM:<ann@example.com>".encode() in said


def test_reset_on_demand() -> None:
    """With reset=True RSET leads a transaction, also where none was left open."""

    async def send(options: Options) -> None:
        async with opened(options, BLOCKING) as session:
            mail = await prepare(MAIL, run=run_inline)
            await session.transact(mail, None, None)
            await session.transact(mail, None, None, reset=True)
            await session.transact(mail, None, None)

    with Server() as server:
        drive(send(Options.of(server.url, tls="none")))
        verbs = [line.octets[:4] for line in server.sessions[0].transcript if line.direction == "C"]
    assert verbs.count(b"MAIL") == 3
    assert verbs.count(b"RSET") == 1
    assert verbs.index(b"RSET") > verbs.index(b"MAIL")


@contextlib.contextmanager
def interruption() -> Any:
    """One that is closed in the end."""
    bell = Interruption()
    try:
        yield bell
    finally:
        bell.close()


def test_interrupted_while_reading() -> None:
    """Another thread ends the wait for a greeting; the socket is closed and nothing takes it for a failure."""
    with interruption() as bell, peer(deafness) as port:
        world = World(partial(connect_blocking, interruption=bell), run_inline, time.monotonic)
        timer = threading.Timer(0.05, bell.ring)
        timer.start()
        with pytest.raises(Interrupted):
            drive(opened(Options.of(f"smtp://127.0.0.1:{port}", tls="none"), world).__aenter__())
        timer.join()


def test_interrupted_while_sleeping() -> None:
    """A pause of the throttle ends too, and one that was rung for in advance at once; hushed it is as before."""
    with interruption() as bell, Server() as server:
        stream = drive(connect_blocking_to(server.port, bell))
        try:
            bell.ring()
            with pytest.raises(Interrupted):
                drive(stream.sleep_until(time.monotonic() + 60))
            bell.hush()
            bell.hush()
            drive(stream.sleep_until(time.monotonic() + 0.001))
        finally:
            stream.abort()


def test_interrupted_while_resolving(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that does not answer is left behind."""
    answer = threading.Event()

    def resolver(*_: object, **__: object) -> Any:
        answer.wait(20)
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    with interruption() as bell:
        bell.ring()
        world = World(partial(connect_blocking, interruption=bell), run_inline, time.monotonic)
        with pytest.raises(Interrupted):
            drive(opened(Options.of("smtp://mail.example.com", tls="none"), world).__aenter__())
        answer.set()


def test_resolved_without_being_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an interruption at hand that does not ring, names are resolved as ever."""
    with interruption() as bell, Server() as server:
        world = World(partial(connect_blocking, interruption=bell), run_inline, time.monotonic)

        async def look() -> str:
            async with opened(Options.of(f"smtp://localhost:{server.port}", tls="none", family="ipv4"), world) as one:
                return one.greeting.text

        assert drive(look())


def test_a_ring_too_many_or_too_late() -> None:
    """Ringing a thousand times, and after the end, does nothing more."""
    with interruption() as bell:
        for _ in range(1000):
            bell.ring()
        with pytest.raises(Interrupted):
            wait_for(None, deadline=time.monotonic() + 60, interruption=bell)
        bell.hush()
    bell.ring()


async def connect_blocking_to(port: int, bell: Interruption) -> Any:
    """A stream whose waits the bell ends."""
    from smtpkit.transport.connect import Target

    return await connect_blocking(Target("127.0.0.1", port), None, interruption=bell)


@pytest.mark.anyio
async def test_raw_socket_of_a_foreign_stream() -> None:
    """A stream that the user brings tells its socket as long as it is open."""
    from smtpkit.transport.anyio_stream import AnyioStream

    async with Server() as server:
        stream = AnyioStream(await anyio.connect_tcp("127.0.0.1", server.port))
        raw = stream.raw_socket
        assert raw is not None
        assert raw.getsockname()[0] == "127.0.0.1"
        await stream.aclose()
        assert stream.raw_socket is None
        with contextlib.suppress(ChannelLost):
            await stream.receive()
