"""The scripted server on sockets, judged by smtplib, aiosmtplib and plain sockets."""

import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from pathlib import Path
from typing import Self

import aiosmtplib
import pytest

from smtpkit.testing import Fault, Script, Server
from smtpkit.testing.pytest_plugin import Outbox

LOGIN = {"tester": "secret"}
DATA = b"Subject: hi\r\n\r\n.dot\r\n..\r\nend\r\n"


@contextmanager
def _smtplib(server: Server) -> Iterator[smtplib.SMTP]:
    """A client of the standard library, under TLS where the script has it."""
    tls = server.scripts[0].tls
    client: smtplib.SMTP
    if tls == "implicit":
        client = smtplib.SMTP_SSL("localhost", server.port, context=server.client_context(), local_hostname="me.test")
    else:
        client = smtplib.SMTP(server.host, server.port, local_hostname="me.test")
    with client:
        if tls == "starttls":
            client.starttls(context=server.client_context())
        yield client


class _Wire:
    """A plain socket that reads replies."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection((server.host, server.port), timeout=5)
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def hear(self, replies: int) -> list[str]:
        """The codes of the next replies."""
        codes: list[str] = []
        while len(codes) < replies:
            line = self.file.readline()
            if line[3:4] != b"-":
                codes.append(line[:3].decode())
        return codes

    def say(self, octets: bytes) -> None:
        self.socket.sendall(octets)


@pytest.mark.parametrize("tls", ["none", "starttls", "implicit"])
def test_smtplib(tls: str) -> None:
    """The standard library logs in and sends, in the clear and under both kinds of TLS, verifying the certificate."""
    with Server(Script(tls=tls, users=LOGIN)) as server:  # type: ignore[arg-type]  # the three names above
        with _smtplib(server) as client:
            client.login("tester", "secret")
            assert client.sendmail("a@x.test", ["b@y.test", "c@y.test"], DATA) == {}
            assert client.verify("b@y.test")[0] == 252
        mail = server.received[0]
        assert mail.octets == DATA
        assert mail.paths == ("b@y.test", "c@y.test")
        assert (mail.user, mail.secured, mail.session) == ("tester", tls != "none", 1)
        assert server.sessions[0].errors == []
        assert server.url.startswith("smtps://localhost:" if tls == "implicit" else "smtp://127.0.0.1:")
        assert (b"secret" in server.sessions[0].octets_in_clear) is False


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("initial", [True, False])
def test_smtplib_mechanisms(*, mechanism: str, initial: bool) -> None:
    """Each mechanism that smtplib knows logs in, and a wrong password does not."""
    with Server(Script(users=LOGIN, mechanisms=(mechanism,))) as server:
        with _smtplib(server) as client:
            client.login("tester", "secret", initial_response_ok=initial)
        with _smtplib(server) as client, pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("tester", "wrong", initial_response_ok=initial)
        assert [session.user for session in server.sessions] == ["tester", None]


def test_smtplib_refusals() -> None:
    """Refused recipients are told one by one; a refusal after the mail data keeps nothing."""
    script = Script(replies={"RCPT:bad@y.test": "550 5.1.1 no such user", "END": ["250 ok", "554 5.7.1 spam"]})
    with Server(script) as server, _smtplib(server) as client:
        refused = client.sendmail("a@x.test", ["b@y.test", "bad@y.test"], DATA)
        assert refused == {"bad@y.test": (550, b"5.1.1 no such user")}
        with pytest.raises(smtplib.SMTPDataError):
            client.sendmail("a@x.test", ["b@y.test"], DATA)
        assert [mail.paths for mail in server.received] == [("b@y.test",)]


def test_smtplib_with_smtputf8() -> None:
    """An address that is not ASCII arrives with SMTPUTF8, and is refused without."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "é@x.test", "ü@y.test", "ö"
    message.set_content("ä")
    with Server() as server, _smtplib(server) as client:
        client.send_message(message)
        mail = server.received[0]
        assert (mail.reverse_path, mail.paths) == ("é@x.test", ("ü@y.test",))
        assert "SMTPUTF8" in mail.mail_parameters
        assert mail.message()["Subject"] == "ö"
        client.ehlo()
        assert client.docmd("MAIL", "FROM:<\\c3@x.test>")[0] == 501


def test_smtplib_over_lmtp(tmp_path: Path) -> None:
    """smtplib.LMTP reads one reply; over TCP and over a socket in the file system."""
    with Server(Script(lmtp=True)) as server:
        assert server.url == f"lmtp://127.0.0.1:{server.port}"
        with smtplib.LMTP(server.host, server.port, local_hostname="me.test") as client:
            client.sendmail("a@x.test", ["b@y.test"], DATA)
        assert server.received[0].octets == DATA
    path = str(tmp_path / "lmtp")
    with Server(Script(lmtp=True), unix_path=path) as server:
        assert server.url == f"lmtp+unix://{path}"
        with smtplib.LMTP(path, local_hostname="me.test") as client:
            client.sendmail("a@x.test", ["b@y.test"], DATA)
        assert server.received[0].octets == DATA
    assert not Path(path).exists()


@pytest.mark.asyncio
@pytest.mark.parametrize("tls", ["none", "starttls", "implicit"])
async def test_aiosmtplib(tls: str) -> None:
    """aiosmtplib, which knows XOAUTH2 too, sends several mails in one session."""
    script = Script(tls=tls, users=LOGIN, tokens={"tester": "token"})  # type: ignore[arg-type]  # the names above
    async with Server(script) as server:
        client = aiosmtplib.SMTP(
            hostname="localhost",
            port=server.port,
            use_tls=tls == "implicit",
            start_tls=tls == "starttls",
            tls_context=server.client_context() if tls != "none" else None,
            local_hostname="me.test",
        )
        async with client:
            await client.ehlo()
            if tls == "none":
                await client.auth_crammd5("tester", "secret")
            elif tls == "starttls":
                await client.auth_plain("tester", "secret")
            else:
                await client.auth_login("tester", "secret")
            for _ in range(3):
                await client.sendmail("a@x.test", ["b@y.test"], DATA)
        await server.wait_for_async(3)
        assert [mail.octets for mail in server.received] == [DATA] * 3
        assert [session.errors for session in server.sessions] == [[]]


def test_big_mail() -> None:
    """A mail of 25 MiB arrives octet for octet, through TLS."""
    data = b"Subject: big\r\n\r\n" + (b"." + b"x" * 75 + b"\r\n") * (25 * 1024 * 1024 // 78)
    with Server(Script(tls="starttls")) as server:
        with _smtplib(server) as client:
            client.sendmail("a@x.test", ["b@y.test"], data)
        assert server.received[0].octets == data


def test_pipelining_and_chunks_in_one_write() -> None:
    """Two transactions by BDAT with binary octets, all in one write, get their replies in order."""
    with Server() as server, _Wire(server) as wire:
        assert wire.hear(1) == ["220"]
        wire.say(b"EHLO me.test\r\n")
        assert wire.hear(1) == ["250"]
        wire.say(
            b"MAIL FROM:<> BODY=BINARYMIME\r\nRCPT TO:<b@y.test>\r\nBDAT 4 LAST\r\n\0\r\n.RSET\r\n"
            b"MAIL FROM:<>\r\nRCPT TO:<b@y.test>\r\nRCPT TO:nobody\r\nBDAT 3 LAST\r\nx\r\nQUIT\r\n"
        )
        assert wire.hear(9) == ["250"] * 6 + ["501", "250", "221"]
        assert wire.socket.recv(1) == b""
        assert [mail.octets for mail in server.received] == [b"\0\r\n.", b"x\r\n"]
        assert server.sessions[0].errors == []


@pytest.mark.parametrize("tls", ["none", "implicit"])
@pytest.mark.parametrize("kind", ["close", "cut", "reset"])
def test_faults_on_the_wire(tls: str, kind: str) -> None:
    """After the octets that were to leave, the end is seen as such: in order, without close_notify, or as a reset."""
    greeting = b"220 smtpkit.test ESMTP smtpkit.testing\r\n"  # behind it, since a reset at once may meet connect()
    script = Script(tls=tls, faults=(Fault(kind, after=len(greeting) + 4),))  # type: ignore[arg-type]  # the names above
    with Server(script) as server:
        raw = socket.create_connection((server.host, server.port), timeout=5)
        context = server.client_context()
        with (
            context.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False)
            if tls != "none"
            else raw as wire
        ):
            assert wire.recv(100) == greeting
            wire.sendall(b"NOOP\r\n")
            assert wire.recv(4) == b"250 "
            if kind == "reset":
                with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):  # which one is the ssl module's mood
                    wire.recv(1)
            elif kind == "cut" and tls != "none":
                with pytest.raises(ssl.SSLEOFError):
                    wire.recv(1)
            else:
                assert wire.recv(1) == b""


@pytest.mark.parametrize("kind", ["stall", "deaf"])
def test_silence_on_the_wire(kind: str) -> None:
    """A stalled or deaf server says nothing more and keeps the connection; a deaf one does not read either."""
    with Server(Script(faults=(Fault(kind, before=1),))) as server, _Wire(server) as wire:  # type: ignore[arg-type]
        assert wire.hear(1) == ["220"]
        wire.say(b"NOOP\r\n")
        wire.socket.settimeout(0.05)
        with pytest.raises(TimeoutError):
            wire.socket.recv(1)
        wire.socket.settimeout(0.5)
        if kind == "deaf":
            with pytest.raises(TimeoutError):
                wire.say(b"x" * 50_000_000)
        else:
            wire.say(b"x" * 1_000_000)


def test_early_replies_on_the_wire() -> None:
    """A reply in the middle of the mail data arrives before the mail data is complete."""
    script = Script(early={4: "552 5.3.4 enough"}, close_after=frozenset({4}))
    with Server(script) as server, _Wire(server) as wire:
        wire.say(b"EHLO me\r\n")
        wire.hear(2)
        wire.say(b"MAIL FROM:<>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n")
        assert wire.hear(3) == ["250", "250", "354"]
        wire.say(b"abcd")
        assert wire.hear(1) == ["552"]
        assert wire.file.read() == b""
        assert server.received == []


def test_waits_keep_the_order() -> None:
    """A delayed reply comes late and in order, and what was said meanwhile is answered after it."""
    with Server(Script(delay={"RSET": 0.05, "greeting": 0.01}, drip=0.0001)) as server, _Wire(server) as wire:
        wire.say(b"RSET\r\nVRFY x\r\n")
        begun = time.monotonic()
        assert wire.hear(3) == ["220", "250", "252"]
        assert time.monotonic() - begun >= 0.05


def test_plaintext_instead_of_a_handshake() -> None:
    """A client that goes on in the clear after 220 is disconnected, and the server says why."""
    with Server(Script(tls="starttls")) as server, _Wire(server) as wire:
        wire.say(b"EHLO me\r\n")
        wire.hear(2)
        wire.say(b"STARTTLS\r\n")
        assert wire.hear(1) == ["220"]
        wire.say(b"NOOP\r\n")
        wire.socket.recv(100)
    assert "TLS did not begin" in server.sessions[0].errors[0]


def test_each_connection_has_its_script() -> None:
    """With several scripts each connection gets the next; the last goes on. Lists count over all connections."""
    with Server(Script(greeting="421 later"), Script(greeting=["220 one", "220 two"])) as server:
        for expected in (b"421 later", b"220 one", b"220 two", b"220 two"):
            with _Wire(server) as wire:
                assert wire.file.readline() == expected + b"\r\n"
        server.clear()
        server.scripts = (Script(greeting="220 new"),)
        with _Wire(server) as wire:
            assert wire.file.readline() == b"220 new\r\n"
        assert [session.number for session in server.sessions] == [1]


def test_waiting_for_mail() -> None:
    """wait_for returns when the mails are there and says how many came when they are not."""
    with Server() as server:
        with pytest.raises(TimeoutError, match="0 of 1 mails"):
            server.wait_for(1, timeout=0.01)

        def send() -> None:
            with _smtplib(server) as client:
                client.sendmail("a@x.test", ["b@y.test"], DATA)

        sender = threading.Thread(target=send)
        sender.start()
        server.wait_for(1)
        sender.join()
        assert len(server.received) == 1


@pytest.mark.anyio
async def test_both_loops() -> None:
    """``async with`` and ``wait_for_async`` work on asyncio and on trio."""
    async with Server() as server:
        with pytest.raises(TimeoutError):
            await server.wait_for_async(1, timeout=0.01)


def test_stopping_ends_open_connections() -> None:
    """A server that stops leaves no connection, may be stopped twice and started again."""
    server = Server(Script(tls="starttls"))
    server.stop()
    with server, _Wire(server) as wire:
        wire.hear(1)
        with pytest.raises(RuntimeError):
            server.start()
        server.stop()
        with suppress(ConnectionResetError):
            assert wire.socket.recv(1) == b""
    assert server.sessions[0].closed
    with server, _Wire(server) as wire:
        assert wire.hear(1) == ["220"]


def test_many_connections_at_once() -> None:
    """Fifty clients at the same time are all served."""
    with Server() as server:
        wires = [_Wire(server) for _ in range(50)]
        for wire in wires:
            wire.say(b"EHLO me\r\n")
        for wire in wires:
            assert wire.hear(2) == ["220", "250"]
        for wire in wires:
            wire.__exit__()
        assert len(server.sessions) == 50


def test_outbox_looks_at_what_came() -> None:
    """An outbox is a sequence of what its server has received so far."""
    with Server() as server, _smtplib(server) as client:
        outbox = Outbox(server)
        assert len(outbox) == 0
        client.sendmail("a@x.test", ["b@y.test"], DATA)
        assert outbox[0] is server.received[0]
        assert outbox[:] == server.received
        assert outbox.url == server.url
        assert "1 mails" in repr(outbox)
