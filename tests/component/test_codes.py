"""The numbers of errors: what goes wrong with the network, the server and the firewall, in the three ways."""

import socket
from typing import Any

import pytest

from smtpkit import ComponentError
from smtpkit.testing import Fault, Script, Server
from tests.component.ways import WAYS, call, make, run
from tests.relay import Relay


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that knows no name below "invalid", and asks nobody."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if str(host).strip("b'").endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr("trio._socket._stdlib_socket.getaddrinfo", getaddrinfo)


@WAYS
@pytest.mark.parametrize(
    ("server", "firewall", "error"),
    [
        ("mail.invalid", None, (11001, "host name of mail.invalid")),
        ("bücher.invalid", None, (11001, "host name of bücher.invalid")),
        ("127.0.0.1", None, (10061, "cannot be reached")),
        ("mail.invalid", (3, "127.0.0.1"), (11001, "host name of mail.invalid")),  # it is resolved here
        ("mail.invalid", (2, "127.0.0.1"), (11001, "host name of mail.invalid")),
        ("*mail.invalid", (3, "127.0.0.1"), (118, "proxy socks5h://127.0.0.1")),  # there, and there is no firewall
        ("127.0.0.1", (1, "127.0.0.1"), (118, "proxy http://127.0.0.1")),
        ("127.0.0.1", (3, "wall.invalid"), (118, "wall.invalid")),
        ("not..a name", None, (168, "a host name")),
        ("", None, (163, "MailServer is not set")),
    ],
)
def test_no_connection(
    way: str, server: str, firewall: tuple[int, str] | None, error: tuple[int, str], nowhere: None
) -> None:
    """A name that is not known, a port where nobody listens, and a firewall that is not there have their numbers."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        port = nobody.getsockname()[1]

        async def scenario() -> None:
            smtp = make(way, None)
            smtp.mail_server, smtp.mail_port = server, port
            if firewall is not None:
                smtp.firewall_type, smtp.firewall_host = firewall
                smtp.firewall_port = port
            for method in (smtp.connect, smtp.send):
                with pytest.raises(ComponentError, match=error[1]) as caught:
                    await call(method)
                assert caught.value.code == caught.value.args[0] == error[0]
            assert smtp.idle

        run(way, scenario)


MOMENTS = ("greeting", "EHLO", "MAIL", "RCPT", "DATA", "END", "QUIT")


@WAYS
@pytest.mark.parametrize("kind", ["close", "cut", "reset"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_dropped(way: str, moment: str, kind: Any) -> None:
    """A connection that the server ends is 1120; behind the last octet the mail is in doubt; at QUIT it is accepted."""
    first = Script(greeting=Fault(kind)) if moment == "greeting" else Script(replies={moment: Fault(kind)})
    with Server(first, Script()) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            if moment == "QUIT":
                assert (await call(smtp.send)).accepted
            else:
                with pytest.raises(ComponentError) as caught:
                    await call(smtp.send)
                assert caught.value.code == (162 if moment == "END" else 1120)
                outcome = caught.value.outcome
                assert (outcome.in_doubt if outcome is not None else ()) == (
                    ("bob@example.com",) if moment == "END" else ()
                )
            assert not smtp.connected
            assert (await call(smtp.send)).accepted

        run(way, scenario)


@WAYS
def test_dropped_in_the_mail_data(way: str) -> None:
    """Dropped before the last octet, the mail is not in doubt."""
    with Server(Script(faults=(Fault("reset", before=100_000),)), Script()) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            smtp.message_text = ("x" * 78 + "\r\n") * 100_000
            with pytest.raises(ComponentError) as caught:
                await call(smtp.send)
            assert caught.value.code == 1120
            assert caught.value.outcome is not None
            assert not caught.value.outcome.in_doubt

        run(way, scenario)


@WAYS
def test_dropped_while_nothing_was_said(way: str) -> None:
    """A session that has ended at rest is no connection any more: connect again, or send by another."""
    with Server(Script(close_after=frozenset({"NOOP"})), Script()) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            await call(smtp.connect)
            await call(smtp.set_command, "NOOP")
            while smtp.connected:
                await call(smtp.do_events)
            assert (await call(smtp.send)).accepted

        run(way, scenario)


@WAYS
@pytest.mark.parametrize(
    ("script", "code", "reply"),
    [
        (Script(greeting="554 5.7.1 not you"), 161, 554),
        (Script(greeting="421 4.3.2 later"), 161, 421),
        (Script(greeting=b"HTTP/1.1 400 no\r\n\r\n"), 162, None),
        (Script(replies={"EHLO": "550 no", "HELO": "550 no"}), 161, 550),
        (Script(replies={"MAIL": "421 4.3.2 bye"}), 161, 421),
        (Script(replies={"DATA": "451 4.3.0 later"}), 161, 451),
        (Script(replies={"END": "552 5.3.4 too much"}), 161, 552),
        (Script(replies={"MAIL": b"250 ok\r\n999 what?\r\n"}), 162, None),
        (Script(tls="starttls", replies={"STARTTLS": b"220 go\r\nno TLS here, I am afraid\r\n"}), 162, None),
    ],
)
def test_what_the_server_says(way: str, script: Script, code: int, reply: int | None) -> None:
    """A no is 161 and has the reply; what is no SMTP is 162."""
    with Server(script) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            with pytest.raises(ComponentError) as caught:
                await call(smtp.send)
            assert caught.value.code == code
            assert (caught.value.reply.code if caught.value.reply is not None else None) == reply
            assert not smtp.connected

        run(way, scenario)
        assert not server.received


@WAYS
def test_a_firewall_that_refuses(way: str) -> None:
    """A firewall that wants a login is 118."""
    with Server() as server, Relay("socks5", server.port, login=("ann", "s3cret")) as relay:

        async def scenario() -> None:
            smtp = make(way, server)
            smtp.firewall_type, smtp.firewall_host, smtp.firewall_port = 3, "127.0.0.1", relay.port
            with pytest.raises(ComponentError) as caught:
                await call(smtp.send)
            assert caught.value.code == 118

        run(way, scenario)
