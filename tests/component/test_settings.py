"""What the settings do on the wire and on the socket, on all three streams."""

import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from smtpkit import ComponentError
from smtpkit.component import compose
from smtpkit.message.address import identity
from smtpkit.testing import Script, Server
from smtpkit.transport.blocking_stream import BlockingStream
from tests.component.ways import WAYS, call, make, run
from tests.relay import Relay

LEVEL, TCP = socket.SOL_SOCKET, socket.IPPROTO_TCP


def _asked(smtp: Any) -> Any:
    """The live socket."""
    raw = smtp._work.session.channel.stream.raw_socket
    assert raw is not None
    return raw


def _linger(raw: Any) -> tuple[int, int]:
    on, seconds = struct.unpack("ii", raw.getsockopt(LEVEL, socket.SO_LINGER, 8))
    return on, seconds


@WAYS
@pytest.mark.parametrize(
    ("setting", "look", "wanted"),
    [
        ("TcpNoDelay=True", lambda raw: raw.getsockopt(TCP, socket.TCP_NODELAY) != 0, True),
        ("TcpNoDelay=False", lambda raw: raw.getsockopt(TCP, socket.TCP_NODELAY) != 0, False),
        ("TCPKeepAlive=True", lambda raw: raw.getsockopt(LEVEL, socket.SO_KEEPALIVE) != 0, True),
        ("TCPKeepAlive=False", lambda raw: raw.getsockopt(LEVEL, socket.SO_KEEPALIVE) != 0, False),
        ("KeepAliveTime=61500", lambda raw: raw.getsockopt(TCP, socket.TCP_KEEPIDLE), 62),
        ("KeepAliveTime=1", lambda raw: raw.getsockopt(LEVEL, socket.SO_KEEPALIVE) != 0, True),
        ("KeepAliveTime=1", lambda raw: raw.getsockopt(TCP, socket.TCP_KEEPIDLE), 1),
        ("KeepAliveInterval=7000", lambda raw: raw.getsockopt(TCP, socket.TCP_KEEPINTVL), 7),
        ("KeepAliveInterval=7001", lambda raw: raw.getsockopt(TCP, socket.TCP_KEEPINTVL), 8),
        ("KeepAliveInterval=1", lambda raw: raw.getsockopt(LEVEL, socket.SO_KEEPALIVE) != 0, True),
        ("Linger=False", _linger, (1, 0)),
        ("Linger=True", _linger, (0, 0)),
        ("LingerTime=3", _linger, (1, 3)),
        ("LingerTime=0", _linger, (0, 0)),
        ("LocalHost=127.0.0.2", lambda raw: raw.getsockname()[0], "127.0.0.2"),
    ],
)
def test_on_the_socket(way: str, setting: str, look: Callable[[Any], Any], wanted: object) -> None:
    """The socket, while connected, is as the setting says."""
    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server)
            smtp.config(setting)
            await call(smtp.connect)
            assert look(_asked(smtp)) == wanted
            await call(smtp.disconnect)

        run(way, scenario)


@WAYS
@pytest.mark.parametrize(("setting", "option"), [("InBufferSize", "SO_RCVBUF"), ("OutBufferSize", "SO_SNDBUF")])
def test_buffer_sizes(way: str, setting: str, option: str) -> None:
    """The socket has a buffer of that size, and the real size is read back (Linux doubles it)."""
    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server)
            smtp.config(f"{setting}=32768")
            assert smtp.config(setting) == "32768"
            await call(smtp.connect)
            real = _asked(smtp).getsockopt(LEVEL, getattr(socket, option))
            assert real in {32768, 65536}
            assert smtp.config(setting) == str(real)
            await call(smtp.disconnect)

        run(way, scenario)


@WAYS
def test_local_port_and_host(way: str) -> None:
    """Connections come from LocalPort; while connected LocalPort and LocalHost read as the ones in use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server)
            assert smtp.local_host == socket.gethostname()
            smtp.config(f"LocalPort={port}")
            await call(smtp.connect)
            assert _asked(smtp).getsockname() == ("127.0.0.1", port)
            assert (smtp.local_host, smtp.config("LocalPort")) == ("127.0.0.1", str(port))
            await call(smtp.disconnect)
            smtp.config("LocalPort=0")
            await call(smtp.connect)
            assert smtp.config("LocalPort") not in {"0", str(port)}
            await call(smtp.disconnect)
            with pytest.raises(ComponentError, match="LocalHost must be"):
                smtp.local_host = "not.an.address"

        run(way, scenario)


@WAYS
def test_use_ipv6(way: str) -> None:
    """Only IPv6: a server of IPv4 alone is not reached."""
    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server)
            smtp.config("UseIPv6=2")
            assert smtp.config("UseIPv6") == "True"
            with pytest.raises(ComponentError) as caught:
                await call(smtp.send)
            assert caught.value.code in {10061, 11001}
            smtp.config("UseIPv6=False")
            await call(smtp.send)

        run(way, scenario)


@WAYS
def test_max_line_length(way: str) -> None:
    """A line of a reply may have that many octets, and no more."""
    with Server(Script(replies={"NOOP": ["250 " + "x" * 251, "250 " + "x" * 252]})) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            smtp.config("MaxLineLength=256")
            await call(smtp.connect)
            await call(smtp.set_command, "NOOP")
            with pytest.raises(ComponentError) as caught:
                await call(smtp.set_command, "NOOP")
            assert caught.value.code == 162
            assert not smtp.connected

        run(way, scenario)


@pytest.mark.parametrize(("length", "longest"), [("80", 78), ("40", 38), ("0", 998), ("5000", 998)])
def test_max_header_length(length: str, longest: int) -> None:
    """Header lines are folded where they would be longer, the line end counted; unfolded they say the same."""
    smtp = make("blocking", None)
    smtp.config(f"MaxHeaderLength={length}")
    smtp.send_to = ", ".join(f"somebody{number}@example.com" for number in range(30))
    lines = smtp.message_headers_string.split("\r\n")
    addresses = [line for line in lines if "somebody" in line]
    assert longest - 400 < max(map(len, addresses)) <= longest
    assert (len(lines) > 10) == (longest < 100)
    assert smtp.message_header_value[list(smtp.message_header_field).index("To")] == smtp.send_to


def test_charset() -> None:
    """Encoded words are in that charset, by its name; what it has not is refused; a charset that is none too."""
    smtp = make("blocking", None)
    smtp.subject = "Grüße"
    assert "=?utf-8?" in smtp.message_headers_string
    smtp.config("Charset=ISO-8859-1")
    assert "=?ISO-8859-1?b?R3L832U=?=" in smtp.message_headers_string
    smtp.subject = "日本"
    with pytest.raises(ComponentError, match="cannot be written in the charset"):
        _ = smtp.message_headers_string
    for wrong in ("nothing-like-it", "utf-16", "utf-8?b?x", "rot13"):
        with pytest.raises(ComponentError, match="Charset must be"):
            smtp.config(f"Charset={wrong}")


@pytest.mark.parametrize(("page", "octets"), [("65001", b"\xc3\xbc"), ("1252", b"\xfc"), ("28591", b"\xfc")])
def test_code_page(page: str, octets: bytes) -> None:
    """The body is in the code page, and MIME fields say so; what it has not is an error of its own."""
    with Server() as server:
        smtp = make("blocking", server)
        smtp.message_text = "ü\r\n"
        smtp.config(f"CodePage={page}")
        smtp.send()
        head, _, body = server.received[0].octets.partition(b"\r\n\r\n")
        assert body == octets + b"\r\n"
        assert b"Content-Transfer-Encoding: 8bit" in head
        assert server.received[0].message().get_content() == "ü\r\n"
        smtp.config("CodePage=20127")
        with pytest.raises(ComponentError) as caught:
            smtp.send()
        assert caught.value.code == 434
        smtp.config("CodePage=65001")
        smtp.other_headers = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
        smtp.send()
        assert server.received[1].octets.count(b"Content-Type") == 1
        with pytest.raises(ComponentError, match="CodePage must be"):
            smtp.config("CodePage=1")


def test_send_rset() -> None:
    """RSET leads the second mail of a session, unless SendRSET is False; never the first."""
    for setting, count in (("True", 1), ("False", 0)):
        with Server() as server:
            smtp = make("blocking", server)
            smtp.config(f"SendRSET={setting}")
            smtp.connect()
            smtp.send()
            assert b"RSET" not in server.sessions[0].said("C")
            smtp.send()
            smtp.disconnect()
            assert server.sessions[0].said("C").count(b"RSET") == count
            assert len(server.received) == 2


def test_allow_empty_to() -> None:
    """Without a To the mail is refused, unless AllowEmptyTo; without anybody it is refused all the same."""
    with Server() as server:
        smtp = make("blocking", server)
        smtp.send_to, smtp.b_cc = "", "dee@example.com"
        for allowed in ("False", "True"):
            smtp.config(f"AllowEmptyTo={allowed}")
            if allowed == "True":
                smtp.send()
                smtp.b_cc = ""
            with pytest.raises(ComponentError, match="SendTo is not set") as caught:
                smtp.send()
            assert caught.value.code == 165
        assert server.received[0].paths == ("dee@example.com",)


def test_return_path() -> None:
    """It is the envelope's sender and no field; ``<>`` is none."""
    with Server() as server:
        smtp = make("blocking", server)
        smtp.config("ReturnPath=bounce@example.com")
        smtp.send()
        smtp.return_path = "<>"
        smtp.send()
        assert [mail.reverse_path for mail in server.received] == ["bounce@example.com", ""]
        assert all(mail.message()["From"] == "Ann <ann@example.com>" for mail in server.received)
        assert b"Return-Path" not in server.received[0].octets


def test_record_length_is_kept() -> None:
    """It is stored and does nothing."""
    with Server() as server:
        smtp = make("blocking", server)
        smtp.config("RecordLength=7")
        smtp.send()
        assert smtp.config("RecordLength") == "7"
        assert len(server.received) == 1


@WAYS
@pytest.mark.parametrize(
    ("kind", "number", "host", "asked"),
    [
        ("http", 1, "127.0.0.1", "127.0.0.1"),
        ("socks4", 2, "127.0.0.1", "127.0.0.1"),
        ("socks4", 2, "*mail.invalid", "mail.invalid"),
        ("socks5", 3, "127.0.0.1", "127.0.0.1"),
        ("socks5", 3, "*mail.invalid", "mail.invalid"),
        ("socks4a", 10, "mail.invalid", "mail.invalid"),
    ],
)
def test_firewalls(way: str, kind: str, number: int, host: str, asked: str) -> None:
    """Each type carries a mail; a name behind ``*`` is resolved by the firewall; the events tell of it."""
    with Server() as server, Relay(kind, server.port) as relay:

        async def scenario() -> None:
            smtp = make(way, server)
            smtp.mail_server = host
            smtp.firewall_type = number
            assert smtp.firewall_port == (80 if number == 1 else 1080)
            smtp.firewall_host, smtp.firewall_port = "127.0.0.1", relay.port
            told: list[str] = []
            smtp.on_connection_status = lambda e: told.append(e.connection_event)
            await call(smtp.send)
            assert told == [
                "Firewall connected",
                "Remote host connected",
                "Remote host disconnected",
                "Firewall disconnected",
            ]

        run(way, scenario)
        assert relay.asked == [(asked, server.port)]
        assert len(server.received) == 1


def test_firewall_login_and_data() -> None:
    """User, password and FirewallData reach the tunnel; a wrong password is error 118, which does not show it."""
    with Server() as server, Relay("http", server.port, login=("ann", "s3cret")) as relay:
        smtp = make("blocking", server)
        smtp.config("FirewallType=1")
        smtp.config("FirewallHost=127.0.0.1")
        smtp.config(f"FirewallPort={relay.port}")
        smtp.config("FirewallUser=ann")
        smtp.config("FirewallPassword=s3cret")
        smtp.config("FirewallData=X-One: 1\r\nX-Two: 2\r\n")
        smtp.send()
        assert b"X-One: 1\r\nX-Two: 2\r\n" in relay.requests[0] + b"\r\n"
        smtp.firewall_password = "wr0ng"
        with pytest.raises(ComponentError) as caught:
            smtp.send()
        assert caught.value.code == 118
        assert "wr0ng" not in str(caught.value)
        smtp.config("FirewallData=X-One: 1\r\n\r\nno header")
        with pytest.raises(ComponentError) as caught:
            smtp.send()
        assert caught.value.code == 168


def test_firewall_auto_detect(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy that the environment names is gone through."""
    with Server() as server, Relay("socks5", server.port) as relay:
        for name in ("no_proxy", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("all_proxy", f"socks5h://127.0.0.1:{relay.port}")
        smtp = make("blocking", server)
        smtp.mail_server = "mail.invalid"
        smtp.firewall_auto_detect = True
        smtp.send()
        assert relay.asked == [("mail.invalid", server.port)]


def test_events_are_on_the_clock_of_the_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """When something was is told by the clock by which the streams wait."""
    monkeypatch.setattr(BlockingStream, "now", lambda stream: 1e9)
    with Server() as server:
        smtp = make("blocking", server)
        times: list[float] = []
        smtp.on_pi_trail = lambda e: times.append(e.at)
        smtp.send()
        assert set(times) == {1e9}


@WAYS
@pytest.mark.parametrize("text", ["1_000", "+5", "\n12", "١٢٣", "1e3", "0x10", "9" * 11])
@pytest.mark.parametrize("name", ["MaxTransferRate", "CodePage", "KeepAliveTime"])
def test_a_number_is_digits(way: str, name: str, text: str) -> None:
    """What Python would take for a number besides is none."""
    smtp = make(way, None)
    with pytest.raises(ComponentError, match=name):
        smtp.config(f"{name}={text}")


@WAYS
def test_keep_alive_that_no_system_takes(way: str) -> None:
    """More than the system's limit of 32,767 s is refused when it is set, and not when it is used."""
    smtp = make(way, None)
    smtp.config("KeepAliveTime=32767000")
    for name in ("KeepAliveTime", "KeepAliveInterval"):
        with pytest.raises(ComponentError, match=name):
            smtp.config(f"{name}=32767001")


def test_work_grows_with_the_number_of_recipients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each recipient is looked up, and not all are looked through for each."""
    count = 0

    def counted(address: str) -> tuple[str, str]:
        nonlocal count
        count += 1
        return identity(address)

    monkeypatch.setattr(compose, "identity", counted)
    with Server() as server:
        smtp = make("blocking", server)
        smtp.from_, smtp.send_to = "ann@example.com", ", ".join(f"r{number}@example.org" for number in range(300))
        smtp.send()
        assert len(server.received[0].paths) == 300
    assert count <= 3 * 300
