"""Through a proxy: every row of the threat table's part on proxies, on asyncio, on trio and in the caller's thread."""

import asyncio
import logging
import pickle
import re
import socket
import ssl
import time
import traceback
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import anyio
import pytest
import trio
import trustme

from smtpkit import Client, Connected, Event, ProxyError, SyncClient, TimedOut, TLSError, UsageError
from smtpkit.errors import ConnectError, SMTPError
from smtpkit.options import OptionKeywords, Options, Proxy, Secret
from smtpkit.testing import Script, Server
from smtpkit.transport.connect import Target, connect, connect_blocking, run_in_worker, run_inline
from smtpkit.transport.proxy import REPLY, Tunnel, connect_through, system_proxy
from smtpkit.transport.stream import Stream
from tests.peers import Behaviour, peer, reset, silence
from tests.relay import Relay
from tests.streams import MemoryStream, run

T = TypeVar("T")
Then = Callable[[Stream], Awaitable[Any]]

WORLDS = ("asyncio", "trio", "blocking")
SCHEMES = ("socks4", "socks4a", "socks5", "socks5h", "http", "https")
USER, PASSWORD = "bob", "pass-Wort+7"
BASIC = b64encode(f"{USER}:{PASSWORD}".encode())
PORT = b"\x09\xdd"  # 2525
GRANTED = b"\0\x5a" + bytes(6)
OPENED = b"\5\0\0\1" + bytes(6)
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 us\r\n\r\n"
GREETING = b"220 mail.test ready\r\n"

# For each dialogue: the scheme and its login, and what is said by turns, the client first.
Turns = tuple[tuple[bytes, bytes], ...]
DIALOGUES: dict[str, tuple[str, Turns]] = {
    "socks4": ("socks4://{}", ((b"\4\1" + PORT + b"\x7f\0\0\1\0", GRANTED),)),
    "socks4 with a user": ("socks4://bob@{}", ((b"\4\1" + PORT + b"\x7f\0\0\1bob\0", GRANTED),)),
    "socks4a": ("socks4a://{}", ((b"\4\1" + PORT + b"\0\0\0\1\0localhost\0", GRANTED),)),
    "socks5": ("socks5://{}", ((b"\5\1\0", b"\5\0"), (b"\5\1\0\1\x7f\0\0\1" + PORT, OPENED))),
    "socks5h": ("socks5h://{}", ((b"\5\1\0", b"\5\0"), (b"\5\1\0\3\x09localhost" + PORT, OPENED))),
    "socks5h, IPv6 bound": (
        "socks5h://{}",
        ((b"\5\1\0", b"\5\0"), (b"\5\1\0\3\x09localhost" + PORT, b"\5\0\0\4" + bytes(18))),
    ),
    "socks5h, a name bound": (
        "socks5h://{}",
        ((b"\5\1\0", b"\5\0"), (b"\5\1\0\3\x09localhost" + PORT, b"\5\0\0\3\5proxy" + bytes(2))),
    ),
    "socks5h with a login": (
        f"socks5h://{USER}:{PASSWORD}@{{}}",
        (
            (b"\5\2\0\2", b"\5\2"),
            (b"\1\3bob\x0b" + PASSWORD.encode(), b"\1\0"),
            (b"\5\1\0\3\x09localhost" + PORT, OPENED),
        ),
    ),
    "socks5h with a user without password": (
        "socks5h://bob@{}",
        ((b"\5\2\0\2", b"\5\2"), (b"\1\3bob\0", b"\1\0"), (b"\5\1\0\3\x09localhost" + PORT, OPENED)),
    ),
    "socks5h with a login that is not asked for": (
        f"socks5h://{USER}:{PASSWORD}@{{}}",
        ((b"\5\2\0\2", b"\5\0"), (b"\5\1\0\3\x09localhost" + PORT, OPENED)),
    ),
    "http": ("http://{}", ((b"CONNECT localhost:2525 HTTP/1.1\r\nHost: localhost:2525\r\n\r\n", ESTABLISHED),)),
    "http with a login": (
        f"http://{USER}:{PASSWORD}@{{}}",
        (
            (
                b"CONNECT localhost:2525 HTTP/1.1\r\nHost: localhost:2525\r\n"
                b"Proxy-Authorization: Basic " + BASIC + b"\r\n\r\n",
                ESTABLISHED,
            ),
        ),
    ),
    "http, 1xx first": (
        "http://{}",
        (
            (
                b"CONNECT localhost:2525 HTTP/1.1\r\nHost: localhost:2525\r\n\r\n",
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n" + ESTABLISHED,
            ),
        ),
    ),
    "http, a 2xx of HTTP/1.0": (
        "http://{}",
        ((b"CONNECT localhost:2525 HTTP/1.1\r\nHost: localhost:2525\r\n\r\n", b"HTTP/1.0 201 OK\r\n\r\n"),),
    ),
}
each_dialogue = pytest.mark.parametrize("dialogue", DIALOGUES)


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def in_world(world: str, main: Callable[[], Any]) -> Any:
    """Run a coroutine function in a world."""
    match world:
        case "asyncio":
            return asyncio.run(main())
        case "trio":
            return trio.run(main)
        case _:
            return run(main())


async def through(world: str, proxy: Any, host: str = "localhost", wait: float = 10, **target: Any) -> Stream:
    """Connect to port 2525 of a host through a proxy, its URL or itself, within a world."""
    return await connect_through(
        Proxy.of(proxy) if "://" in str(proxy) and isinstance(proxy, str) else proxy,
        Target(host, 2525, **target),
        time.monotonic() + wait,
        connect=connect_blocking if world == "blocking" else connect,
        run=run_inline if world == "blocking" else run_in_worker,
    )


def attempt(world: str, proxy: Any, then: Then | None = None, **options: Any) -> Any:
    """Connect through a proxy, do something, close."""

    async def main() -> Any:
        stream = await through(world, proxy, **options)
        stream.deadline = time.monotonic() + 10
        try:
            return None if then is None else await then(stream)
        finally:
            await stream.aclose()

    return in_world(world, main)


async def greeting(stream: Stream) -> bytes:
    """The first line."""
    octets = b""
    while not octets.endswith(b"\n"):
        piece = await stream.receive()
        assert piece, octets
        octets += piece
    return octets


def takes(turns: Turns, heard: list[bytes], end: bytes = b"", by_octet: float | None = None) -> Behaviour:
    """A proxy that plays its part, keeps what it heard, says ``end`` in one piece with its last reply, then listens."""

    def behaviour(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number, (said, reply) in enumerate(turns):
            octets = b""
            while len(octets) < len(said) and (piece := connection.recv(len(said) - len(octets))):
                octets += piece
            heard.append(octets)
            answer = reply + (end if number == len(turns) - 1 else b"")
            if by_octet is None:
                connection.sendall(answer)
            else:
                for index in range(len(answer)):
                    connection.sendall(answer[index : index + 1])
                    time.sleep(by_octet)
        silence(connection)

    return behaviour


def answers(reply: bytes) -> Behaviour:
    """A proxy that says this as soon as it is spoken to, and then nothing."""

    def behaviour(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(reply)
        silence(connection)

    return behaviour


# What is said


@each_dialogue
def test_a_tunnel(world: str, dialogue: str, ipv4_localhost: None) -> None:
    """Each dialogue says what its standard says, octet for octet, and the stream that comes of it carries the rest."""
    url, turns = DIALOGUES[dialogue]
    heard: list[bytes] = []
    with peer(takes(turns, heard)) as port:

        async def then(stream: Stream) -> str:
            assert not isinstance(stream, Tunnel), "nothing is in the way when nothing came with the reply"
            return stream.peer

        assert attempt(world, url.format(f"127.0.0.1:{port}"), then) == f"127.0.0.1:{port}"
    assert heard == [said for said, _ in turns]


@each_dialogue
def test_a5_reply_and_greeting_in_one_segment(world: str, dialogue: str, ipv4_localhost: None) -> None:
    """200 connections on one loop, each with the greeting in one piece with the proxy's reply: none is lost."""
    url, turns = DIALOGUES[dialogue]
    heard: list[bytes] = []

    async def main(port: int) -> int:
        count = 0
        for _ in range(200 if dialogue in {"http", "socks5h", "socks4a"} else 20):
            stream = await through(world, url.format(f"127.0.0.1:{port}"))
            count += await greeting(stream) == GREETING
            assert stream.at_hand() is None
            await stream.aclose()
        return count

    with peer(takes(turns, heard, GREETING), connections=200) as port:
        assert in_world(world, partial(main, port)) == len(heard) // len(turns) >= 20


@each_dialogue
def test_a5_split_at_each_octet(world: str, dialogue: str, ipv4_localhost: None) -> None:
    """A reply that comes octet by octet is understood, and the greeting behind it is whole."""
    url, turns = DIALOGUES[dialogue]
    with peer(takes(turns, [], GREETING, by_octet=0.0002)) as port:
        assert attempt(world, url.format(f"127.0.0.1:{port}"), greeting) == GREETING


@each_dialogue
@pytest.mark.parametrize("cut", ["end", "reset", "stall"])
def test_a5_end_at_each_octet(dialogue: str, cut: Any, ipv4_localhost: None) -> None:
    """An end, a reset or silence after any octet of the replies is a ProxyError, or runs into the limit: no hang."""
    url, turns = DIALOGUES[dialogue]
    total = sum(len(reply) for _, reply in turns)
    for count in range(total):
        replies = iter([reply for _, reply in turns])

        def proxy(octets: bytes, replies: Iterator[bytes] = replies) -> bytes:
            return next(replies)

        stream = MemoryStream(proxy, cut_after=count, cut=cut)

        async def connected(target: Target, deadline: float | None, stream: MemoryStream = stream) -> Stream:
            return stream

        with pytest.raises(TimeoutError if cut == "stall" else ProxyError) as caught:
            run(
                connect_through(
                    Proxy.of(url.format("p.test")),
                    Target("localhost", 2525),
                    time.monotonic() + 5,
                    connect=connected,
                    run=run_inline,
                )
            )
        assert stream.closed
        assert isinstance(caught.value, SMTPError) == (cut != "stall")


@each_dialogue
def test_a5_proxy_that_ends_or_resets(world: str, dialogue: str, ipv4_localhost: None) -> None:
    """On sockets too: an end before the last octet of the reply is a ProxyError."""
    url, turns = DIALOGUES[dialogue]
    said, reply = turns[0]
    for ending in (socket.socket.close, reset):

        def behaviour(connection: socket.socket, ending: Behaviour = ending) -> None:
            connection.recv(len(said))
            connection.sendall(reply[:-1])
            ending(connection)

        with peer(behaviour) as port, pytest.raises(ProxyError):
            attempt(world, url.format(f"127.0.0.1:{port}"))


@pytest.mark.parametrize("dialogue", ["socks4a", "socks5h", "http"])
def test_a5_drip(world: str, dialogue: str) -> None:
    """Octets that drip do not put off the deadline: it is one for the whole dialogue."""
    url, turns = DIALOGUES[dialogue]
    began = time.monotonic()
    with peer(takes(turns, [], by_octet=0.05)) as port, pytest.raises(TimeoutError) as caught:
        attempt(world, url.format(f"127.0.0.1:{port}"), wait=0.15)
    assert not isinstance(caught.value, SMTPError)
    assert time.monotonic() - began < 5


def test_a5_silence(world: str) -> None:
    """A proxy that says nothing runs into the connect limit of a client, whose error names the limit."""
    with peer(silence) as port:
        error = failure_of(world, "smtp://mail.test", {"proxy": f"socks5h://127.0.0.1:{port}", "connect": 0.2})
    assert isinstance(error, TimedOut)
    assert error.limit == "connect"
    assert f"127.0.0.1:{port} was silent" in str(error.__cause__)


# Replies that refuse, and replies that are wrong

WRONG: dict[str, tuple[str, bytes, str, bool]] = {
    "socks4 version": ("socks4a", b"\4\x5a" + bytes(6), "Unexpected reply version", False),
    "socks4 code": ("socks4a", b"\0\x10" + bytes(6), "Invalid reply code", False),
    "socks4 refused": ("socks4a", b"\0\x5b" + bytes(6), "rejected or failed", True),
    "socks4 identd": ("socks4a", b"\0\x5d" + bytes(6), "user-ids", False),
    "version": ("socks5h", b"\4\0", "Unexpected SOCKS version", False),
    "method not offered": ("socks5h", b"\5\2", "Unexpected SOCKS authentication method", False),
    "GSSAPI": ("socks5h", b"\5\1", "Unexpected SOCKS authentication method", False),
    "method unknown": ("socks5h", b"\5\x80", "Invalid authentication method", False),
    "no method": ("socks5h", b"\5\xff", "No acceptable authentication.*check the user", False),
    "version of the reply": ("socks5h", b"\5\0\4\0\0\1" + bytes(6), "Unexpected SOCKS version", False),
    "reserved octet": ("socks5h", b"\5\0\5\0\1\1" + bytes(6), "reserved byte", False),
    "code": ("socks5h", b"\5\0\5\x42\0\1" + bytes(6), "Invalid reply code", False),
    "address type": ("socks5h", b"\5\0\5\0\0\2" + bytes(6), "Invalid address type", False),
    "bound name not UTF-8": ("socks5h", b"\5\0\5\0\0\3\2\xff\xfe\0\0", "no UTF-8", False),
    "not permitted": ("socks5h", b"\5\0\5\2\0\1" + bytes(6), "not allowed by ruleset", False),
    "unreachable": ("socks5h", b"\5\0\5\4\0\1" + bytes(6), "Host unreachable", True),
    "HTTP, not SOCKS": ("socks5h", b"HTTP/1.1 400 Bad Request\r\n\r\n", "Unexpected SOCKS version", False),
    "407 with a body": ("http", b"HTTP/1.1 407 No\r\nContent-Length: 2\r\n\r\nno", "407.*wants a user", False),
    "407 without a body": ("http", b"HTTP/1.1 407 No\r\n\r\n", "407 Proxy Auth.*wants a user", False),
    "403": ("http", b"HTTP/1.1 403 No\r\n\r\n", "403 Forbidden", False),
    "503": ("http", b"HTTP/1.1 503 Later\r\n\r\n", "503 Service Unavailable", True),
    "302": ("http", b"HTTP/1.1 302 There\r\nLocation: http://a.test/\r\n\r\n", "302 Found", False),
    "a status of nobody's": ("http", b"HTTP/1.1 599 \x1b[31m\r\n\r\n", r"connect to localhost:2525: 599\.$", True),
    "HTTP 0.9": ("http", b"<html>no</html>\r\n\r\n", "does not speak HTTP", False),
    "HTTP 0.9 by name": ("http", b"HTTP/0.9 200 OK\r\n\r\n", "does not speak HTTP", False),
    "HTTP 2": ("http", b"HTTP/2.0 200 OK\r\n\r\n", "does not speak HTTP", False),
    "another protocol": ("http", b"SMTP 200 OK\r\n\r\n", "does not speak HTTP", False),
    "a status of four figures": ("http", b"HTTP/1.1 0200 OK\r\n\r\n", "does not speak HTTP", False),
    "the greeting at once": ("http", GREETING * 2, "does not speak HTTP", False),
    "101": ("http", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "does not speak HTTP", False),
    "64 KB header": ("http", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 65536 + b"\r\n\r\n", "HTTP|octets", False),
    "17 KB header": ("http", b"HTTP/1.1 200 OK\r\nX: " + b"y" * (REPLY + 9) + b"\r\n\r\n", "HTTP|octets", False),
    "1xx without end": ("http", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, "HTTP|octets", False),
}


@pytest.mark.parametrize("name", WRONG)
def test_a5_replies_that_are_no_tunnel(world: str, name: str) -> None:
    """Each reply that refuses, or is no reply at all, is a ProxyError that says so and whether to try again."""
    scheme, reply, says, transient = WRONG[name]
    head = reply[: reply.find(b"\5", 1) if name != "version" and reply[:2] == b"\5\0" else len(reply)]

    def behaviour(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(head)
        if reply[len(head) :]:
            connection.recv(65536)
            connection.sendall(reply[len(head) :])
        silence(connection)

    with peer(behaviour) as port, pytest.raises(ProxyError, match=says) as caught:
        attempt(world, f"{scheme}://127.0.0.1:{port}")
    assert caught.value.transient == transient
    assert str(port) in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).transient == transient


def test_a5_200_with_body_headers(world: str) -> None:
    """Content-Length and Transfer-Encoding of a 200 to CONNECT mean nothing (RFC 9110 9.3.6)."""
    for field in (b"Content-Length: 5", b"Transfer-Encoding: chunked"):
        with peer(answers(b"HTTP/1.1 200 OK\r\n" + field + b"\r\n\r\n" + GREETING)) as port:
            assert attempt(world, f"http://127.0.0.1:{port}", greeting) == GREETING


def test_a_reply_as_long_as_may_be(world: str) -> None:
    """A reply of 16 KiB is taken, with a greeting of any length behind it."""
    head = b"HTTP/1.1 200 OK\r\nX: "
    longest = head + b"y" * (REPLY - len(head) - 4) + b"\r\n\r\n"
    for reply in (longest, ESTABLISHED, b"HTTP/1.1 100 Continue\r\n\r\n" + ESTABLISHED):
        with peer(answers(reply + GREETING * 1000 + b"\n")) as port:
            assert attempt(world, f"http://127.0.0.1:{port}", greeting).startswith(GREETING)


# Names


@pytest.mark.parametrize(
    ("host", "socks", "http"),
    [
        ("Straße.test.", b"\3\x12xn--strae-oqa.test", b"xn--strae-oqa.test:2525"),
        ("my_host", b"\3\x07my_host", b"my_host:2525"),
        ("192.0.2.1", b"\1\xc0\0\2\1", b"192.0.2.1:2525"),
        ("2001:db8::1", b"\4\x20\1\x0d\xb8" + bytes(11) + b"\1", b"[2001:db8::1]:2525"),
        ("::1", b"\4" + bytes(15) + b"\1", b"[::1]:2525"),
        ("::ffff:192.0.2.1", b"\4" + bytes(10) + b"\xff\xff\xc0\0\2\1", b"[::ffff:192.0.2.1]:2525"),
    ],
)
def test_a5_remote_names(world: str, host: str, socks: bytes, http: bytes) -> None:
    """The proxy is asked for A-labels (IDNA 2008), no trailing dot; IPv6 is an address, in brackets for HTTP."""
    heard: list[bytes] = []
    with peer(takes(((b"\5\1\0", b"\5\0"), (b"\5\1\0" + socks + PORT, OPENED)), heard)) as port:
        attempt(world, f"socks5h://127.0.0.1:{port}", host=host)
    assert heard[1] == b"\5\1\0" + socks + PORT
    wanted = b"CONNECT " + http + b" HTTP/1.1\r\nHost: " + http + b"\r\n\r\n"
    with peer(takes(((wanted, ESTABLISHED),), heard)) as port:
        attempt(world, f"http://127.0.0.1:{port}", host=host)
    assert heard[2] == wanted


@pytest.mark.parametrize("scheme", ["socks4", "socks5"])
def test_a5_name_that_cannot_be_resolved_here(world: str, scheme: str, nowhere: None) -> None:
    """Where names are resolved here, one that is not known is a ConnectError before a word to the proxy."""
    heard: list[int] = []
    with peer(lambda connection: heard.append(1)) as port:
        with pytest.raises(ConnectError, match=r"nowhere\.invalid:2525 was not found"):
            attempt(world, f"{scheme}://127.0.0.1:{port}", host="nowhere.invalid")
        assert not heard
        socket.create_connection(("127.0.0.1", port)).close()


def test_socks4_and_a_name_with_ipv6_only(world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SOCKS4 says that it knows no IPv6."""
    monkeypatch.setattr("smtpkit.transport.proxy.resolve", lambda target, deadline: ["::1"])
    with pytest.raises(ProxyError, match="SOCKS4 knows no other; use socks5"):
        attempt(world, "socks4://127.0.0.1:9")


@pytest.fixture
def ipv4_localhost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver for which localhost is 127.0.0.1, and after it ::1."""
    known = ["127.0.0.1", "::1"]
    monkeypatch.setattr("smtpkit.transport.proxy.resolve", lambda target, deadline: known)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that knows no name below "invalid", and asks nobody."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        if str(host).strip("b'").endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


# The way to the proxy


def test_proxy_that_is_not_known(world: str, nowhere: None) -> None:
    """A proxy whose name is not known is a ProxyError, wherever the server's name would be resolved."""
    with pytest.raises(ProxyError, match=r"nowhere\.invalid:1080 was not found"):
        attempt(world, "socks5h://nowhere.invalid")


def test_a5_never_a_direct_connection(world: str) -> None:
    """A proxy that is not there is a ProxyError that names it, and the server hears nothing."""
    with socket.socket() as free, Server() as server:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        for scheme in SCHEMES:
            error = failure_of(world, server.url, {"proxy": f"{scheme}://127.0.0.1:{port}"})
            assert isinstance(error, ProxyError)
            assert re.match(
                rf"The proxy {scheme}://(127\.0\.0\.1:{port}): \1 cannot be reached: Connection", str(error)
            )
        assert not server.sessions


def test_local_address_and_port(world: str) -> None:
    """The connection to the proxy comes from the address and port that were asked for."""
    with socket.socket() as free:
        free.bind(("127.0.0.2", 0))
        port = free.getsockname()[1]
    for scheme in ("socks5h", "http"):
        with Server() as server, Relay(scheme, server.port) as relay:
            send(world, server.url, {"proxy": relay.url, "local_address": "127.0.0.2", "local_port": port})
            assert relay.peers == [("127.0.0.2", port)]
            assert len(server.received) == 1
        port += 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("dialogue", ["socks4a", "socks5h with a login", "http"])
def test_cancellation(backend: str, dialogue: str) -> None:
    """A dialogue that is cancelled, wherever it is, leaves no connection behind (of which the fixtures tell)."""
    url, turns = DIALOGUES[dialogue]

    async def main(port: int) -> None:
        for delay in (0.001, 0.003, 0.008, 0.013, 0.021):
            with anyio.move_on_after(delay):
                (await through(backend, url.format(f"127.0.0.1:{port}"))).abort()
            await anyio.sleep(0.01)

    with peer(takes(turns, [], by_octet=0.002), connections=5) as port:
        anyio.run(main, port, backend=backend)


# Whole mails


def send(world: str, url: str, options: OptionKeywords) -> list[Event]:
    """Send a mail by a client of this world; what was told."""
    told: list[Event] = []

    async def within() -> None:
        async with Client(url, **options) as client:
            client.on(Event, told.append)
            await client.send(b"Subject: x\r\n\r\nx\r\n", sender="ann@a.test", recipients=["bob@b.test"])

    if world != "blocking":
        anyio.run(within, backend=world)
        return told
    with SyncClient(url, **options) as client:
        client.on(Event, told.append)
        client.send(b"Subject: x\r\n\r\nx\r\n", sender="ann@a.test", recipients=["bob@b.test"])
    return told


def failure_of(world: str, url: str, options: OptionKeywords) -> SMTPError:
    """The error of a mail."""
    with pytest.raises(SMTPError) as caught:
        send(world, url, options)
    return caught.value


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who signs for the proxies of this file."""
    return trustme.CA()


def context_of(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """A server's context with a certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts this authority alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


@pytest.mark.parametrize("mode", ["none", "starttls", "implicit"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_mail_arrives(world: str, scheme: str, mode: Any, authority: trustme.CA) -> None:
    """A mail arrives through each kind of proxy, by each mode of TLS with the server, TLS in TLS included."""
    login = (USER, "") if scheme.startswith("socks4") else (USER, PASSWORD)
    context = context_of(authority, "localhost") if scheme == "https" else None
    with Server(Script(tls=mode)) as server, Relay(scheme, server.port, login=login, context=context) as relay:
        proxy = Proxy.of(relay.url.replace(":@", "@"), ssl_context=trusting(authority) if context else None)
        options: OptionKeywords = {"proxy": proxy, "tls": "none"}
        if mode != "none":
            tls_mode: Any = "required" if mode == "starttls" else mode
            options = {"proxy": proxy, "tls": tls_mode, "ssl_context": server.client_context()}
        told = send(world, f"smtp://localhost:{server.port}", options)
        assert len(server.received) == 1
        assert server.sessions[0].errors == []
        assert relay.asked == [(relay.asked[0][0], server.port)]
        assert relay.asked[0][0] == "localhost" or scheme in {"socks4", "socks5"}
        connected = next(event for event in told if isinstance(event, Connected))
        assert connected.address in {f"127.0.0.1:{relay.port}", f"[::1]:{relay.port}"}


@pytest.mark.parametrize(
    ("proxy_names", "trusts", "says"),
    [
        (["proxy.test"], True, "TLS with the proxy .* not for localhost"),
        (["localhost"], False, "TLS with the proxy .* cannot be trusted"),
    ],
)
def test_a5_tls_with_the_proxy_is_verified(
    world: str, proxy_names: list[str], trusts: object, says: str, authority: trustme.CA
) -> None:
    """An https proxy must show a certificate for its own name, by its own trust; it hears no word before that."""
    with Server() as server, Relay("https", server.port, context=context_of(authority, *proxy_names)) as relay:
        proxy = Proxy.of(relay.url, ssl_context=trusting(authority if trusts else trustme.CA()))
        error = failure_of(world, server.url, {"proxy": proxy})
        assert isinstance(error, TLSError)
        assert re.search(says, str(error))
        assert not any(relay.requests)
        assert not server.sessions


def test_a5_certificates_are_never_mixed_up(world: str, authority: trustme.CA) -> None:
    """The trust for the server does not count for the proxy, nor that for the proxy for the server."""
    with (
        Server(Script(tls="implicit")) as server,
        Relay("https", server.port, context=context_of(authority, "localhost")) as relay,
    ):
        ours, theirs = trusting(authority), server.client_context()
        for for_proxy, for_server, says in (
            (theirs, theirs, "TLS with the proxy"),
            (None, theirs, "TLS with the proxy"),
            (ours, ours, "The certificate of localhost"),
            (ours, None, "The certificate of localhost"),
        ):
            options: OptionKeywords = {"proxy": Proxy.of(relay.url, ssl_context=for_proxy)}
            if for_server is not None:
                options["ssl_context"] = for_server
            error = failure_of(world, f"smtps://localhost:{server.port}", options)
            assert isinstance(error, TLSError)
            assert says in str(error)
        assert not server.received


def test_tls_with_the_proxy_is_no_tls_with_the_server(world: str, authority: trustme.CA) -> None:
    """Through an https proxy without TLS inside, nothing claims TLS, and a login stays at home."""
    with Server() as server, Relay("https", server.port, context=context_of(authority, "localhost")) as relay:
        proxy = Proxy.of(relay.url, ssl_context=trusting(authority))

        async def then(stream: Stream) -> Any:
            return getattr(stream, "version", None), getattr(stream, "certificate", None)

        assert attempt(world, proxy, then) == (None, None)
        error = failure_of(world, server.url, {"proxy": proxy, "user": "ann", "password": "secret"})
        assert isinstance(error, TLSError)
        assert "TLS is required" in str(error)


def test_a_tunnel_is_a_stream() -> None:
    """What arrived with the reply comes first, by receive and at_hand; all else is the stream's own."""
    inner = MemoryStream(lambda octets: octets)
    tunnel = Tunnel(inner)
    run(tunnel.send(b"abcdef"))
    assert run(tunnel.exactly(2)) == b"ab"
    assert tunnel.leading == b"cdef"
    assert tunnel.at_hand() == b"cdef"
    assert tunnel.at_hand() is None
    tunnel.deadline = 7.0
    assert (inner.deadline, tunnel.deadline, tunnel.untaken, tunnel.now()) == (7.0, 7.0, 0, inner.clock)
    tunnel.untaken = 3
    assert inner.untaken == 3
    assert run(tunnel.run(lambda: 42)) == 42
    run(tunnel.sleep_until(2000.0))
    assert inner.clock == 2000.0
    tunnel.abort()
    assert inner.closed


def test_extra_header_lines(world: str) -> None:
    """The caller's header lines stand in the request as they were given."""
    with Server() as server, Relay("http", server.port) as relay:
        proxy = Proxy.of(relay.url, headers=("X-Reason: mail, and more", "Proxy-Authorization: Bearer abc"))
        send(world, server.url, {"proxy": proxy})
        assert b"X-Reason: mail, and more\r\nProxy-Authorization: Bearer abc\r\n" in relay.requests[0]
        assert len(server.received) == 1


# Secrets

FAILURES: dict[str, tuple[str, Behaviour | None]] = {
    "socks5 refused": ("socks5h", None),
    "http refused": ("http", None),
    "socks5 echo": ("socks5h", lambda connection: echo_after(connection, b"\5\2")),
    "socks5 name is the login": ("socks5h", lambda connection: echo_after(connection, b"\5\2", b"\1\0\5\0\0\3\xff")),
    "http echo": ("http", lambda connection: connection.sendall(connection.recv(65536))),
    "http echo as status": ("http", lambda connection: connection.sendall(b"HTTP/1.1 403 " + echoed(connection))),
    "http echo as header": (
        "http",
        lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\n\0" + echoed(connection) + b"\r\n\r\n"),
    ),
    "http echo as protocol": ("http", lambda connection: connection.sendall(echoed(connection) + b"\r\n\r\n")),
    "socks5 reset": ("socks5h", lambda connection: echo_after(connection, b"\5\2", end=reset)),
    "http reset": ("http", reset),
    "socks5 silence": ("socks5h", silence),
    "http silence": ("http", silence),
    "no TLS": ("https", silence),
}


def echo_after(
    connection: socket.socket, first: bytes, prefix: bytes = b"", end: Behaviour = socket.socket.close
) -> None:
    """Ask for the login, and say it back."""
    connection.recv(65536)
    connection.sendall(first)
    connection.sendall(prefix + connection.recv(65536))
    end(connection)


def echoed(connection: socket.socket) -> bytes:
    """The login of a CONNECT."""
    return re.findall(rb"Basic (.*)\r\n", connection.recv(65536))[0]  # type: ignore[no-any-return]  # bytes it is


def forms() -> Iterator[str]:
    """The secret in each form in which it might show."""
    login = f"{USER}:{PASSWORD}".encode()
    yield PASSWORD
    for octets in (PASSWORD.encode(), login, PASSWORD.encode("utf-16-le"), PASSWORD.encode("utf-16-be")):
        yield b64encode(octets).decode().rstrip("=")
        yield octets.hex()
    yield PASSWORD.encode("utf-16-le").decode("latin-1")
    yield repr(PASSWORD.encode("utf-16-le"))[2:-1]


@pytest.mark.parametrize("name", FAILURES)
def test_a5_secrets_are_nowhere(world: str, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """However a proxy fails, and whatever it says back: no secret, in no form, in errors, events or logs."""
    caplog.set_level(logging.DEBUG)
    scheme, behaviour = FAILURES[name]
    with Server() as server:
        told: list[Event] = []
        if behaviour is None:
            with Relay(scheme, server.port, login=("other", "one")) as relay:
                error, told = failed(world, server.url, f"{scheme}://{USER}:{PASSWORD}@127.0.0.1:{relay.port}")
                assert not server.sessions
        else:
            with peer(behaviour) as port:
                error, told = failed(world, server.url, f"{scheme}://{USER}:{PASSWORD}@127.0.0.1:{port}")
    options = Options.of(server.url, proxy=f"{scheme}://{USER}:{PASSWORD}@127.0.0.1:1")
    shown = [
        *("".join(traceback.format_exception(error)), *chain(error)),
        *(repr(pickle.loads(pickle.dumps(error))), repr(vars(error)), repr(told), caplog.text),
        *(repr(options), str(options.proxy), repr(options.proxy), options.shown),
    ]
    found = [text for text in shown for form in forms() if form in text]
    assert not found
    assert isinstance(error, ProxyError | TimedOut | TLSError)


def chain(error: BaseException | None) -> Iterator[str]:
    """The error and all behind it, also those that a traceback leaves out."""
    while error is not None:
        yield repr(error)
        yield str(error)
        error = error.__cause__ or error.__context__


def failed(world: str, url: str, proxy: str) -> tuple[SMTPError, list[Event]]:
    """The error of a client through this proxy, and all that was told."""
    told: list[Event] = []
    options: OptionKeywords = {"proxy": proxy, "connect": 0.2}

    async def within() -> None:
        async with Client(url, **options) as client:
            client.on(Event, told.append)
            await client.noop()

    def blocking() -> None:
        with SyncClient(url, **options) as client:
            client.on(Event, told.append)
            client.noop()

    with pytest.raises(SMTPError) as caught:
        blocking() if world == "blocking" else anyio.run(within, backend=world)
    return caught.value, told


def test_a5_search_finds_what_is_there() -> None:
    """The forms that are searched for are those in which a login leaves."""
    found = list(forms())
    assert BASIC.decode().rstrip("=") in found
    assert PASSWORD in found


def test_a5_credentials_only_where_they_are_asked_for(world: str) -> None:
    """A SOCKS5 proxy that asks for no login, or for GSSAPI, sees no password."""
    for method in (b"\5\0", b"\5\1", b"\5\xff"):
        heard: list[bytes] = []
        with peer(takes(((b"\5\2\0\2", method), (b"", b"\5\1\0")), heard)) as port, pytest.raises(ProxyError):
            attempt(world, f"socks5h://{USER}:{PASSWORD}@127.0.0.1:{port}")
        assert PASSWORD.encode() not in b"".join(heard)


# The proxy as an option


def test_urls() -> None:
    """A URL says all of a proxy; the usual ports; percent-encoding; IPv6 in brackets."""
    proxy = Proxy.of("SOCKS5H://b%40b:p%3Aw%2F@[2001:db8::1]:99/")
    assert proxy == Proxy("socks5h", "2001:db8::1", 99, "b@b", Secret("p:w/"))
    assert str(proxy) == "socks5h://b%40b:***@[2001:db8::1]:99"
    assert repr(proxy) == f"<Proxy {proxy}>"
    ports = {scheme: Proxy.of(f"{scheme}://p.test").port for scheme in SCHEMES}
    assert ports == {"socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080, "http": 8080, "https": 443}
    assert str(Proxy.of("http://bob@p.test")) == "http://bob@p.test:8080"
    secretive = Proxy.of("http://p.test", headers=("Proxy-Authorization: Bearer abc",))
    assert repr(secretive) == "<Proxy http://p.test:8080 with Proxy-Authorization>"
    assert hash(secretive) == hash(Proxy.of("http://p.test", headers=("Proxy-Authorization: Bearer abc",)))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "must be a URL such as socks5h://"),
        ("p.test:1080", "must be a URL such as socks5h://"),
        ("socks://p.test", "by one of socks4, socks4a, socks5, socks5h, http, https"),
        ("socks5://p.test/path", "must be a URL"),
        ("socks5://p.test?x=y", "must be a URL"),
        ("socks5://p.test#x", "must be a URL"),
        ("socks5://p.test\r\n", "must be a URL"),
        ("socks5://", "no host"),
        ("socks5://p.test:0", "port"),
        ("socks5://p.test:65536", "port"),
        ("socks5://p..test", "host must be"),
        ("socks5://[p.test]", "IPv6"),
        ("socks5://p%0d%0a.test", "host must be"),
        ("socks5://bob:a%0d%0ab@p.test", "password must be"),
        ("socks4://bo%00b@p.test", "user must be"),
        ("socks5://bob:%zz@p.test", "percent-encoded"),
        ("socks5://:geheim@p.test", "password needs a user"),
        ("socks4://bob:geheim@p.test", "SOCKS4 knows a user and no password"),
        (f"socks5://{'b' * 256}:geheim@p.test", "at most 255 ASCII"),
        (f"socks5://bob:{'b' * 256}@p.test", "at most 255 ASCII"),
        ("socks5://bob:p%C3%A4ss@p.test", "at most 255 ASCII"),
        ("socks4://b%C3%B6b@p.test", "at most 255 ASCII"),
        ("http://b%3Ab:geheim@p.test", "no ':'"),
    ],
)
def test_a5_crlf_and_the_like_in_urls(url: str, says: str) -> None:
    """What cannot be a proxy is refused when it is made, by what would be right; no piece of a password shows."""
    with pytest.raises(UsageError, match=re.escape(says)) as caught:
        Proxy.of(url)
    assert str(caught.value).startswith("proxy")
    assert "geheim" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"headers": ("X: a\r\nY: b",)}, "header lines"),
        ({"headers": ("X: a\0",)}, "header lines"),
        ({"headers": ("X a",)}, "header lines"),
        ({"headers": ("X:" + "a" * 99 + "\0",)}, "header lines"),
        ({"headers": ("X : a",)}, "header lines"),
        ({"headers": ("X: ä",)}, "header lines"),
        ({"headers": ["X: a"]}, "header lines"),
        ({"headers": ("Host: a",)}, "must not hold Host"),
        ({"headers": ("transfer-encoding: chunked",)}, "must not hold"),
        ({"headers": ("proxy-authorization: x",), "user": "bob"}, "exclude each other"),
        ({"scheme": "socks5", "headers": ("X: a",)}, "mean nothing to SOCKS"),
        ({"scheme": "ftp"}, "scheme must be one of"),
        ({"ssl_context": ssl.create_default_context()}, "https proxy"),
        ({"password": "plain"}, "password must be"),
    ],
)
def test_a5_crlf_and_the_like_in_values(keywords: dict[str, Any], says: str) -> None:
    """The same where a proxy is made from its parts."""
    parts: dict[str, Any] = {"scheme": "http", "host": "p.test", "port": 8080} | keywords
    with pytest.raises(UsageError, match=says):
        Proxy(**parts)


CONTROLS = [*map(chr, (*range(32), *range(127, 160))), "\u2028", "\u2029", "\r\nX: y", "\ud800"]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", ["{}", "bo{}b@", "bob:pa{}ss@", "host"])
def test_a5_controls_in_each_part(scheme: str, shape: str) -> None:
    """No control character gets into a user, a password or a host, plain or percent-encoded."""
    url = f"{scheme}://p{{}}.test" if shape == "host" else f"{scheme}://{shape}p.test"
    for control in CONTROLS:
        encoded = "".join(f"%{octet:02X}" for octet in control.encode("utf-8", "surrogatepass"))
        for text in (control, encoded):
            with pytest.raises(UsageError, match="proxy") as caught:
                Proxy.of(url.format(text))
            assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("url", "proxy", "says"),
    [
        ("lmtp+unix:///run/lmtp", "socks5h://p.test", "cannot reach the path of a unix socket"),
        ("lmtp+unix:///run/lmtp", "system", "cannot reach the path of a unix socket"),
        ("smtp://[fe80::1%25eth0]", "socks5h://p.test", "zone"),
        ("smtp://[2001:db8::1]", "socks4a://p.test", "SOCKS4 knows no IPv6"),
        ("smtp://a.test", 5, "must be a URL"),
        ("smtp://a.test", "direct", "must be a URL"),
    ],
)
def test_servers_that_no_proxy_reaches(url: str, proxy: Any, says: str) -> None:
    """What cannot be reached through a proxy is refused when the options are made."""
    keywords: Any = {"proxy": proxy}
    with pytest.raises(UsageError, match=says):
        Options.of(url, **keywords)


def test_proxy_is_part_of_the_key() -> None:
    """Sessions through different proxies, or by different logins at one, are never shared."""
    url = "smtp://a.test"
    proxies = (None, "system", "http://p.test", "http://b@p.test", "http://b:c@p.test", "https://p.test:8080")
    assert len({Options.of(url, proxy=proxy).key for proxy in proxies}) == len(proxies)
    assert Options.of(f"{url}?proxy=http://b:c@p.test").proxy == Proxy.of("http://b:c@p.test")
    assert Proxy("http", "p.test", 8080) == Options.of(url, proxy=Proxy.of("http://p.test")).proxy


# The system's proxy


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that names no proxy."""
    for name in ("smtp", "all", "no", "http", "https", "socks", "ftp"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "host", "found"),
    [
        ({}, "a.test", None),
        ({"all_proxy": "socks5h://p.test"}, "a.test", "socks5h://p.test:1080"),
        ({"ALL_PROXY": "socks5h://p.test"}, "a.test", "socks5h://p.test:1080"),
        ({"all_proxy": "http://p.test", "smtp_proxy": "https://q.test"}, "a.test", "https://q.test:443"),
        ({"smtp_proxy": "p.test:3128"}, "a.test", "http://p.test:3128"),
        ({"http_proxy": "http://p.test", "https_proxy": "http://p.test"}, "a.test", None),
        ({"socks_proxy": "http://p.test:99"}, "a.test", "socks5h://p.test:99"),
        ({"all_proxy": "http://p.test", "no_proxy": "a.test"}, "a.test.", None),
        ({"all_proxy": "http://p.test", "no_proxy": "test"}, "a.test", None),
        ({"all_proxy": "http://p.test", "no_proxy": "a.test:25"}, "a.test", None),
        ({"all_proxy": "http://p.test", "no_proxy": "a.test:26"}, "a.test", "http://p.test:8080"),
        ({"all_proxy": "http://p.test", "no_proxy": "*"}, "a.test", None),
        ({"all_proxy": "http://p.test", "NO_PROXY": "::1"}, "::1", None),
        ({"all_proxy": "http://p.test", "no_proxy": "b.test"}, "a.test", "http://p.test:8080"),
    ],
)
def test_system_proxy(environment: pytest.MonkeyPatch, variables: dict[str, str], host: str, found: str | None) -> None:
    """smtp_proxy before all_proxy, unless no_proxy names the server; no other variable counts."""
    for name, value in variables.items():
        environment.setenv(name, value)
    proxy = system_proxy(host, 25)
    assert (None if proxy is None else str(proxy)) == found


def test_system_proxy_that_is_none(environment: pytest.MonkeyPatch) -> None:
    """What the environment says is checked like any other, and its password does not show."""
    environment.setenv("all_proxy", "ftp://bob:geheim@p.test")
    with pytest.raises(UsageError, match="smtp_proxy, all_proxy") as caught:
        system_proxy("a.test", 25)
    assert "geheim" not in "".join(traceback.format_exception(caught.value))
    environment.setenv("all_proxy", "socks4a://p.test")
    with pytest.raises(UsageError, match="knows no IPv6"):
        system_proxy("::1", 25)


def test_system(world: str, environment: pytest.MonkeyPatch) -> None:
    """proxy="system" goes by the environment, directly where it names none; without it the environment is not read."""
    with Server() as server, Relay("socks5h", server.port) as relay:
        send(world, server.url, {"proxy": "system"})
        assert not relay.asked
        environment.setenv("all_proxy", relay.url)
        send(world, server.url, {})
        assert not relay.asked
        send(world, server.url, {"proxy": "system"})
        assert len(relay.asked) == 1
        environment.setenv("no_proxy", "127.0.0.1")
        send(world, server.url, {"proxy": "system"})
        assert len(relay.asked) == 1
        assert len(server.received) == 4
