"""Real logins at real servers, by each mechanism in each TLS mode: each is followed by a real mail that arrives.

The table of them stands at the end of the output.
"""

import asyncio
import ssl
from typing import Any
from uuid import uuid4

import pytest

from smtpkit import Authenticated, AuthenticationRefused, Client, Connected, SyncClient, UsageError
from smtpkit.options import OptionKeywords
from tests.servers import dovecot, kdc, postfix
from tests.servers.conftest import AT_POSTFIX, BY_PASSWORD, Servers, need
from tests.servers.kdc import KDC

MAIL = b"From: ann@example.test\r\nTo: bob@example.test\r\nSubject: a login\r\n\r\nhello\r\n"
MODES = ("none", "starttls", "implicit")
AT_DOVECOT = (*BY_PASSWORD, "OAUTHBEARER", "XOAUTH2", "GSSAPI", "EXTERNAL")
CELLS = [
    (server, mechanism, mode)
    for server, mechanisms in (("postfix", AT_POSTFIX), ("dovecot", AT_DOVECOT))
    for mechanism in mechanisms
    for mode in MODES
    if not (mechanism == "EXTERNAL" and mode == "none")  # it is TLS that shows the certificate
]


class Table:
    """What came of each cell, shown at the end of the run."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str, str], list[str]] = {}

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the table: a cell holds the faces through which a mail arrived."""
        terminalreporter.section("logins, each followed by a mail that arrived")
        terminalreporter.write_line(f"{'server':9}{'mechanism':15}" + "".join(f"{mode:20}" for mode in MODES))
        for server, mechanism in dict.fromkeys(cell[:2] for cell in self.cells):
            row = (" ".join(self.cells.get((server, mechanism, mode), ["-"])) for mode in MODES)
            terminalreporter.write_line(f"{server:9}{mechanism:15}" + "".join(f"{faces:20}" for faces in row))


@pytest.fixture(scope="session")
def table(request: pytest.FixtureRequest) -> Table:
    """The table, told to pytest."""
    table = Table()
    request.config.pluginmanager.register(table)
    return table


def _login(server: str, mechanism: str) -> OptionKeywords:
    """The user and secret for a mechanism."""
    match mechanism:
        case "GSSAPI" | "EXTERNAL":
            return {"mechanism": mechanism}
        case "ANONYMOUS":
            return {"mechanism": mechanism, "user": "a trace"}
        case "OAUTHBEARER" | "XOAUTH2":
            return {"mechanism": mechanism, "user": dovecot.USER, "token": dovecot.token}
    user = postfix.USER if server == "postfix" else dovecot.USER
    return {"mechanism": mechanism, "user": user, "password": postfix.PASSWORD}


def _where(servers: Servers, server: str, mechanism: str, mode: str) -> tuple[str, OptionKeywords]:
    """The URL and the TLS options."""
    which = servers.postfix if server == "postfix" else servers.dovecot
    if mode == "none":
        return f"smtp://localhost:{which.port}", {"tls": "none", "allow_plaintext_auth": True}
    context = ssl.create_default_context(cafile=which.certificate)
    if mechanism == "EXTERNAL":
        context.load_cert_chain(servers.dovecot.client_certificate)
    scheme, port = ("smtps", which.tls_port) if mode == "implicit" else ("submission", which.port)
    return f"{scheme}://localhost:{port}", {"ssl_context": context}


def _send(face: str, url: str, options: OptionKeywords, recipient: str) -> list[str]:
    """Log in and send by this face; returns the mechanisms that logged in."""
    told: list[Authenticated] = []
    if face == "sync":
        with SyncClient(url, **options) as blocking:
            blocking.on(Authenticated, told.append)
            blocking.send(MAIL, sender="ann@example.test", recipients=[recipient])
    else:

        async def main() -> None:
            async with Client(url, **options) as client:
                client.on(Authenticated, told.append)
                await client.send(MAIL, sender="ann@example.test", recipients=[recipient])

        asyncio.run(main())
    return [event.mechanism for event in told]


@pytest.mark.servers
@pytest.mark.parametrize("face", ["async", "sync"])
@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_login(
    servers: Servers, table: Table, monkeypatch: pytest.MonkeyPatch, cell: tuple[str, str, str], face: str
) -> None:
    """The server takes us in by this mechanism, knows who we are, and the mail arrives."""
    server, mechanism, mode = cell
    if mechanism == "GSSAPI":
        pytest.importorskip("gssapi", reason="the extra kerberos is not installed", exc_type=ImportError)
        need(kdc.why_not(), "a KDC")
        assert servers.kdc is not None
        for name, value in servers.kdc.client.items():
            monkeypatch.setenv(name, value)
    recipient, before = f"{uuid4().hex}@example.test", len(servers.dovecot.log)
    url, options = _where(servers, server, mechanism, mode)
    assert _send(face, url, {**options, **_login(server, mechanism)}, recipient) == [mechanism]
    (mail,) = servers.postfix.mail(recipient)
    assert mail.endswith(b"\n\nhello\n")
    if server == "postfix":
        who = "anonymous" if mechanism == "ANONYMOUS" else "tester"
        assert f"(Authenticated sender: {who}".encode() in mail
    else:
        user = "tester@example.test" if mechanism == "GSSAPI" else "tester"
        assert f"Login: user=<{user}>, method={mechanism}," in servers.dovecot.log[before:]
    table.cells.setdefault(cell, []).append(face)


@pytest.mark.servers
@pytest.mark.parametrize(
    ("server", "mechanism"),
    [
        *(("postfix", mechanism) for mechanism in (*BY_PASSWORD, "SCRAM-SHA-512", "NTLM")),
        *(("dovecot", mechanism) for mechanism in (*BY_PASSWORD, "OAUTHBEARER", "XOAUTH2")),
    ],
)
def test_wrong_secret(servers: Servers, server: str, mechanism: str) -> None:
    """Each mechanism is refused with the wrong secret, once, and the mail is not sent."""
    url, options = _where(servers, server, mechanism, "starttls")
    login = _login(server, mechanism)
    wrong: OptionKeywords = {"token": dovecot.token(lasts=-60)} if "token" in login else {"password": "wrong"}
    with pytest.raises(AuthenticationRefused) as caught:
        _send("sync", url, {**options, **login, **wrong}, "nobody@example.test")
    assert caught.value.reply.code == 535
    if "token" in login:
        assert b"status" in (caught.value.challenge or b"")


@pytest.mark.servers
@pytest.mark.parametrize(("server", "best"), [("postfix", "SCRAM-SHA-512"), ("dovecot", "SCRAM-SHA-256")])
def test_best(servers: Servers, server: str, best: str) -> None:
    """Without a name, the best that the server offers is used."""
    url, options = _where(servers, server, best, "starttls")
    login = _login(server, best)
    del login["mechanism"]
    assert _send("sync", url, {**options, **login}, "best@example.test") == [best]


@pytest.fixture
def kerberos(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> KDC:
    """The KDC, known to this process, which has no ticket and no key."""
    pytest.importorskip("gssapi", reason="the extra kerberos is not installed", exc_type=ImportError)
    need(kdc.why_not(), "a KDC")
    assert servers.kdc is not None
    for name, value in {**servers.kdc.config, "KRB5CCNAME": "MEMORY:none", "KRB5_CLIENT_KTNAME": "FILE:/none"}.items():
        monkeypatch.setenv(name, value)
    return servers.kdc


@pytest.mark.servers
@pytest.mark.parametrize("server", ["postfix", "dovecot"])
def test_kerberos_by_password(servers: Servers, kerberos: KDC, server: str) -> None:
    """Without a ticket, one is got by user and password."""
    url, options = _where(servers, server, "GSSAPI", "starttls")
    recipient = f"{uuid4().hex}@example.test"
    options = {**options, "mechanism": "GSSAPI", "user": kdc.USER, "password": kdc.PASSWORD}
    assert _send("async", url, options, recipient) == ["GSSAPI"]
    assert servers.postfix.mail(recipient)


@pytest.mark.servers
@pytest.mark.parametrize("login", [{}, {"user": kdc.USER, "password": "wrong pa55word"}])
def test_no_ticket(servers: Servers, kerberos: KDC, login: OptionKeywords) -> None:
    """Without a ticket, or with the wrong password for one, the error is the caller's and shows no password."""
    url, options = _where(servers, "postfix", "GSSAPI", "starttls")
    with pytest.raises(UsageError) as caught:
        _send("sync", url, {**options, **login, "mechanism": "GSSAPI"}, "nobody@example.test")
    assert "pa55word" not in f"{caught.value} {caught.value.__cause__!r}"


@pytest.mark.servers
def test_fresh_token(servers: Servers) -> None:
    """A token that has run out is asked for once more, and the login goes on in the same session."""
    tokens = [dovecot.token(lasts=-60), dovecot.token()]
    url, options = _where(servers, "dovecot", "OAUTHBEARER", "starttls")
    recipient = f"{uuid4().hex}@example.test"
    options = {**options, "user": dovecot.USER, "token": lambda: tokens.pop(0)}
    assert _send("async", url, options, recipient) == ["OAUTHBEARER"]
    assert not tokens
    assert servers.postfix.mail(recipient)


@pytest.mark.servers
def test_lmtp(servers: Servers) -> None:
    """Dovecot takes mail by LMTP too."""
    with SyncClient(f"lmtp://127.0.0.1:{servers.dovecot.lmtp_port}", tls="none") as client:
        assert client.send(MAIL, sender="ann@example.test", recipients=["eve@example.test"]).accepted
    assert servers.dovecot.mail("eve")


@pytest.mark.servers
@pytest.mark.parametrize("mode", ["starttls", "implicit"])
@pytest.mark.parametrize(("server", "mechanism"), [("postfix", "PLAIN"), ("dovecot", "PLAIN"), ("dovecot", "EXTERNAL")])
def test_resumed(servers: Servers, server: str, mechanism: str, mode: str) -> None:
    """A client's later sessions resume TLS, or do without; the login succeeds either way, also by a certificate."""
    url, options = _where(servers, server, mechanism, mode)
    connected: list[Connected] = []
    with SyncClient(url, **(options | _login(server, mechanism))) as client:
        client.on(Connected, connected.append)
        reports = [client.check() for _ in range(3)]
    assert [(report.mechanism, report.verified) for report in reports] == [(mechanism, True)] * 3
    # Each connection of Dovecot's is served by a process of its own, which knows no other's tickets.
    assert [report.resumed for report in reports] == ([False, True, True] if server == "postfix" else [False] * 3)
    assert len(connected) == 3  # a ticket that is refused costs nothing
