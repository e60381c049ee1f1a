"""The socket's settings as the peer sees them, under TLS, by IPv6, and when it is closed."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from smtpkit import ComponentError
from smtpkit.component.choices import socket_options
from smtpkit.testing import Script, Server
from smtpkit.transport.socket_stream import LINGER
from tests.component.ways import WAYS, call, make, run
from tests.peers import peer

LEVEL, TCP = socket.SOL_SOCKET, socket.IPPROTO_TCP


@pytest.mark.parametrize(
    ("milliseconds", "seconds"), [(1, 1), (999, 1), (1000, 1), (1001, 2), (61_500, 62), (7_200_000, 7200)]
)
@pytest.mark.parametrize(
    ("setting", "option"), [("KeepAliveTime", socket.TCP_KEEPIDLE), ("KeepAliveInterval", socket.TCP_KEEPINTVL)]
)
def test_keep_alive_is_in_whole_seconds(setting: str, option: int, milliseconds: int, seconds: int) -> None:
    """Milliseconds are rounded up to what the socket takes, and the question is asked at all."""
    smtp = make("blocking", None)
    smtp.config(f"{setting}={milliseconds}")
    found = {row[:2]: row[2] for row in socket_options(smtp._settings)}
    assert found[TCP, option] == seconds
    assert found[LEVEL, socket.SO_KEEPALIVE] == 1


def test_what_is_not_set_is_left_to_the_system() -> None:
    """Without a setting the socket is told of TCP_NODELAY alone; 0 is no setting."""
    smtp = make("blocking", None)
    for _ in range(2):
        assert socket_options(smtp._settings) == [(TCP, socket.TCP_NODELAY, 0)]
        for name in ("KeepAliveTime", "KeepAliveInterval", "LingerTime", "InBufferSize", "OutBufferSize"):
            smtp.config(f"{name}=0")
    smtp.config("Linger=False")
    smtp.config("LingerTime=9")  # of what is closed at once it means nothing
    assert socket_options(smtp._settings)[1:] == [(LEVEL, socket.SO_LINGER, LINGER.pack(1, 0))]


@WAYS
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_on_the_socket_under_tls(way: str, tls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What holds without TLS holds within it."""
    settings = ("TCPKeepAlive=True", "KeepAliveTime=61500", "KeepAliveInterval=7001", "LingerTime=3", "TcpNoDelay=True")
    with Server(Script(tls=tls)) as server:
        if tls == "implicit":
            monkeypatch.setattr("smtpkit.component.choices.IMPLICIT_TLS", server.port)

        async def scenario() -> None:
            smtp = make(way, server, ssl_context=server.client_context())
            smtp.mail_server = "localhost"
            for setting in (*settings, "OutBufferSize=32768"):
                smtp.config(setting)
            await call(smtp.connect)
            raw = smtp._work.session.channel.stream.raw_socket
            assert smtp._work.session.channel.secured
            assert raw.getsockopt(LEVEL, socket.SO_KEEPALIVE) != 0
            assert raw.getsockopt(TCP, socket.TCP_KEEPIDLE) == 62
            assert raw.getsockopt(TCP, socket.TCP_KEEPINTVL) == 8
            assert raw.getsockopt(TCP, socket.TCP_NODELAY) != 0
            assert LINGER.unpack(raw.getsockopt(LEVEL, socket.SO_LINGER, LINGER.size)) == (1, 3)
            assert smtp.config("OutBufferSize") in {"32768", "65536"}
            await call(smtp.send)
            await call(smtp.disconnect)

        run(way, scenario)
        assert server.received[0].secured


class Watcher:
    """A server for one connection, without mail: from where it came, and how it ended."""

    def __init__(self) -> None:
        self.peer: Any = None
        self.end = ""

    def __call__(self, connection: socket.socket) -> None:
        self.peer = connection.getpeername()[:2]
        for reply in (b"220 hi\r\n", b"250 hi\r\n", b"221 bye\r\n"):
            connection.sendall(reply)
            try:
                self.end = "end" if connection.recv(1000) == b"" else "more"
            except ConnectionResetError:
                self.end = "reset"


@WAYS
@pytest.mark.parametrize(
    ("setting", "end"), [("Linger=True", "end"), ("Linger=False", "reset"), ("LingerTime=2", "end")]
)
def test_how_it_closes(way: str, setting: str, end: str) -> None:
    """In order; with Linger=False by a reset, which the peer sees in place of the end."""
    watcher = Watcher()
    with peer(watcher) as port:

        async def scenario() -> None:
            smtp = make(way, None)
            smtp.mail_server, smtp.mail_port = "127.0.0.1", port
            smtp.config(setting)
            await call(smtp.connect)
            await call(smtp.disconnect)

        run(way, scenario)
    assert watcher.end == end


@WAYS
def test_where_it_comes_from(way: str) -> None:
    """LocalHost and LocalPort are what the peer sees."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.3", 0))
        local = probe.getsockname()
    watcher = Watcher()
    with peer(watcher) as port:

        async def scenario() -> None:
            smtp = make(way, None)
            smtp.mail_server, smtp.mail_port = "127.0.0.1", port
            smtp.local_host = local[0]
            smtp.config(f"LocalPort={local[1]}")
            await call(smtp.connect)
            assert (smtp.local_host, smtp.config("LocalPort")) == (local[0], str(local[1]))
            await call(smtp.disconnect)

        run(way, scenario)
    assert watcher.peer == local


@contextmanager
def _both(monkeypatch: pytest.MonkeyPatch, watchers: dict[str, Watcher], first: str) -> Iterator[int]:
    """Servers on 127.0.0.1 and on ::1, on one port; "two.test" is the name of both, and the system prefers one."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, family: int = 0, *arguments: Any, **options: Any) -> Any:
        if str(host).strip("b'") != "two.test":
            return real(host, port, family, *arguments, **options)
        if (options.get("flags", 0) or (arguments[2] if len(arguments) > 2 else 0)) & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "no number")
        wanted = [host for host in (first, *watchers) if family in {0, _family(host)}]
        return [real(host, port, type=socket.SOCK_STREAM)[0] for host in dict.fromkeys(wanted)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr("trio._socket._stdlib_socket.getaddrinfo", getaddrinfo)
    port = _free_port()
    with peer(watchers["::1"], family=socket.AF_INET6, port=port), peer(watchers["127.0.0.1"], port=port):
        yield port


def _free_port() -> int:
    """A port that is free for both families."""
    while True:
        with socket.socket(socket.AF_INET6) as six, socket.socket() as four, suppress(OSError):
            six.bind(("::1", 0))
            port: int = six.getsockname()[1]
            four.bind(("127.0.0.1", port))
            return port


def _family(host: str) -> int:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _without_ipv6() -> str | None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        return f"no IPv6 on loopback: {error}"
    return None


@WAYS
@pytest.mark.parametrize(
    ("setting", "first", "seen"),
    [
        ("False", "127.0.0.1", "127.0.0.1"),
        ("False", "::1", "::1"),
        ("True", "127.0.0.1", "::1"),
        ("True", "::1", "::1"),
    ],
)
@pytest.mark.skipif(_without_ipv6() is not None, reason=str(_without_ipv6()))
def test_use_ipv6(way: str, setting: str, first: str, seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """True: only IPv6, whatever the system prefers; False: what the system prefers."""
    watchers = {"127.0.0.1": Watcher(), "::1": Watcher()}
    local: list[str] = []
    with _both(monkeypatch, watchers, first) as port:

        async def scenario() -> None:
            smtp = make(way, None)
            smtp.mail_server, smtp.mail_port = "two.test", port
            smtp.config(f"UseIPv6={setting}")
            await call(smtp.connect)
            local.append(smtp.local_host)
            await call(smtp.disconnect)

        run(way, scenario)
        other = watchers["127.0.0.1" if seen == "::1" else "::1"]
        assert other.peer is None
        assert watchers[seen].peer[0] == local[0] == seen


@WAYS
@pytest.mark.skipif(_without_ipv6() is not None, reason=str(_without_ipv6()))
def test_an_ipv6_address(way: str) -> None:
    """As MailServer, with LocalHost too; an IPv4 one is none that UseIPv6=True could use."""
    watcher = Watcher()
    with peer(watcher, family=socket.AF_INET6) as port:

        async def scenario() -> None:
            smtp = make(way, None)
            smtp.mail_server, smtp.mail_port, smtp.local_host = "::1", port, "::1"
            smtp.config("UseIPv6=True")
            await call(smtp.connect)
            await call(smtp.disconnect)
            smtp.local_host, smtp.mail_server = "", "127.0.0.1"
            with pytest.raises(ComponentError) as caught:
                await call(smtp.connect)
            assert caught.value.code == 11001

        run(way, scenario)
    assert watcher.peer[0] == "::1"
