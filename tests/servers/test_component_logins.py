"""Real logins through the documented component, by each AuthMechanism, each followed by a real mail that arrives."""

import ssl
from typing import Any
from uuid import uuid4

import pytest

from smtpkit import ComponentError
from tests.component.ways import WAYS, call, make, run
from tests.servers import dovecot, kdc, postfix
from tests.servers.conftest import Servers, need

# What AuthMechanism says, and by what mechanism the server then lets us in.
CELLS = [
    ("postfix", 0, "SCRAM-SHA-512"),
    ("postfix", 1, "CRAM-MD5"),
    ("postfix", 2, "NTLM"),
    ("postfix", 4, "PLAIN"),
    ("postfix", 5, "DIGEST-MD5"),
    ("postfix", 6, "GSSAPI"),
    ("dovecot", 0, "SCRAM-SHA-256"),
    ("dovecot", 1, "CRAM-MD5"),
    ("dovecot", 4, "PLAIN"),
    ("dovecot", 5, "DIGEST-MD5"),
    ("dovecot", 6, "GSSAPI"),
    ("dovecot", 7, "XOAUTH2"),
]


def _component(way: str, servers: Servers, server: str, number: int, recipient: str = "nobody@example.test") -> Any:
    """One that logs in by STARTTLS with a verified certificate."""
    which = servers.postfix if server == "postfix" else servers.dovecot
    smtp = make(way, None, ssl_context=ssl.create_default_context(cafile=str(which.certificate)))
    smtp.mail_server, smtp.mail_port = "localhost", which.port
    smtp.from_, smtp.send_to = "ann@example.test", recipient
    smtp.auth_mechanism = number
    if number == 7:
        smtp.user = dovecot.USER
        smtp.config(f"AuthorizationIdentity=Bearer {dovecot.token()}")
    elif number == 6:
        smtp.user = kdc.USER
    else:
        smtp.user = postfix.USER if server == "postfix" else dovecot.USER
        smtp.password = postfix.PASSWORD
    return smtp


def _kerberos(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process have a ticket."""
    pytest.importorskip("gssapi", reason="the extra kerberos is not installed", exc_type=ImportError)
    need(kdc.why_not(), "a KDC")
    assert servers.kdc is not None
    for name, value in servers.kdc.client.items():
        monkeypatch.setenv(name, value)


@pytest.mark.servers
@WAYS
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell[0]}-{cell[1]}-{cell[2]}")
def test_login(way: str, cell: tuple[str, int, str], servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server takes us in, knows who we are, and the mail arrives; the trail says how and shows no secret."""
    server, number, mechanism = cell
    if number == 6:
        _kerberos(servers, monkeypatch)
    recipient, before = f"{uuid4().hex}@example.test", len(servers.dovecot.log)
    trail: list[str] = []

    async def scenario() -> None:
        smtp = _component(way, servers, server, number, recipient)
        smtp.on_pi_trail = lambda e: trail.append(e.message)
        await call(smtp.send)
        assert not smtp.connected

    run(way, scenario)
    assert f"logged in by {mechanism}" in trail
    assert not any(postfix.PASSWORD in line for line in trail)
    (mail,) = servers.postfix.mail(recipient)
    assert mail.endswith(b"\n\nHello\n")
    if server == "postfix":
        assert b"(Authenticated sender: tester" in mail
    else:
        user = "tester@example.test" if mechanism == "GSSAPI" else "tester"
        assert f"Login: user=<{user}>, method={mechanism}," in servers.dovecot.log[before:]


@pytest.mark.servers
@WAYS
@pytest.mark.parametrize("server", ["postfix", "dovecot"])
def test_implicit_tls(way: str, server: str, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same under TLS from the first octet on, which is what the port for it means."""
    which = servers.postfix if server == "postfix" else servers.dovecot
    monkeypatch.setattr("smtpkit.component.choices.IMPLICIT_TLS", which.tls_port)
    recipient = f"{uuid4().hex}@example.test"
    told: list[str] = []

    async def scenario() -> None:
        smtp = _component(way, servers, server, 0, recipient)
        smtp.mail_port = which.tls_port
        smtp.on_pi_trail = lambda e: told.append(e.message)
        await call(smtp.send)

    run(way, scenario)
    assert not any("STARTTLS" in line for line in told)
    assert servers.postfix.mail(recipient)


@pytest.mark.servers
@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell[1] != 6], ids=lambda cell: f"{cell[0]}-{cell[1]}")
def test_wrong_secret(cell: tuple[str, int, str], servers: Servers) -> None:
    """The wrong secret is refused, once: error 161 with the reply; it is not shown, and no mail is sent."""
    smtp = _component("blocking", servers, *cell[:2])
    smtp.password = "wr0ng pa55word"
    if cell[1] == 7:
        smtp.config(f"AuthorizationIdentity={dovecot.token(lasts=-60)}")
    trail: list[str] = []
    smtp.on_pi_trail = lambda e: trail.append(e.message)
    with pytest.raises(ComponentError) as caught:
        smtp.send()
    assert caught.value.code == 161
    assert caught.value.reply is not None
    assert caught.value.reply.code == 535
    assert sum(line.startswith("AUTH ") for line in trail) == 1
    assert not any(line.startswith("MAIL") for line in trail)
    assert "wr0ng" not in f"{caught.value}{trail}"


@pytest.mark.servers
@WAYS
@pytest.mark.parametrize("server", ["postfix", "dovecot"])
def test_kerberos_by_password(way: str, server: str, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a ticket one is got by User and Password; with the wrong one the error shows none of it."""
    _kerberos(servers, monkeypatch)
    monkeypatch.setenv("KRB5CCNAME", "MEMORY:none")
    monkeypatch.setenv("KRB5_CLIENT_KTNAME", "FILE:/none")
    recipient = f"{uuid4().hex}@example.test"

    async def scenario() -> None:
        smtp = _component(way, servers, server, 6, recipient)
        smtp.password = "wr0ng pa55word"
        with pytest.raises(ComponentError) as caught:
            await call(smtp.send)
        assert caught.value.code == 168
        assert "wr0ng" not in str(caught.value)
        smtp.password = kdc.PASSWORD
        await call(smtp.send)

    run(way, scenario)
    assert servers.postfix.mail(recipient)


@pytest.mark.servers
def test_what_a_server_does_not_have(servers: Servers) -> None:
    """A mechanism that is not offered is error 167, which names what is; no weaker one is tried."""
    smtp = _component("blocking", servers, "dovecot", 4)
    smtp.auth_mechanism = 2
    with pytest.raises(ComponentError, match=r"no mechanism fits NTLM; the server offers .*PLAIN") as caught:
        smtp.connect()
    assert caught.value.code == 167
