"""Logins through whole sessions: bound to TLS, by a fresh token, without a password, and what they never show."""

import base64
import hashlib
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from scramp import ScramException, ScramMechanism
from scramp.core import CbName

from smtpkit import Authenticated, Client, SyncClient
from smtpkit.errors import (
    AuthenticationRefused,
    ChannelLost,
    NotSupported,
    ProtocolViolation,
    ServiceClosing,
    SMTPError,
    UsageError,
)
from smtpkit.events import Event
from smtpkit.options import Credentials, OptionKeywords, Options
from smtpkit.testing import Occurrence, Script, Server
from tests.hostile import found
from tests.keylog import bindings, needs_exporter
from tests.memory import Talk
from tests.player import CERTIFICATE

CLEAR: OptionKeywords = {"tls": "none", "allow_plaintext_auth": True, "hello": "client.example", "timeout": 0.5}
SECRET = "hunter2 & 100% secret/+="
OFFER = "AUTH SCRAM-SHA-256 SCRAM-SHA-256-PLUS SCRAM-SHA-512 PLAIN"


class Judge:
    """A server's half of SCRAM, by scramp, as answers of a script. ``said`` is what the client began with.

    ``bindings`` are the types it knows, and how it learns their octets.
    """

    def __init__(self, password: str = SECRET, **bindings: Callable[[], bytes]) -> None:
        self.said: list[bytes] = []
        self._password = password
        self._bindings = {kind.replace("_", "-"): octets for kind, octets in bindings.items()}
        self._server: Any = None

    def begin(self, occurrence: Occurrence) -> str:
        """The reply to AUTH."""
        _, name, initial = occurrence.line.decode().split(" ")
        octets = base64.b64decode(initial)
        self.said.append(name.encode() + b" " + octets)
        known = ScramMechanism(name.removesuffix("-PLUS")).make_auth_info(self._password, iteration_count=4096)
        kind = octets.decode().partition(",")[0].removeprefix("p=")
        binding = (kind, self._bindings[kind]()) if kind in self._bindings else None
        try:
            self._server = ScramMechanism(name).make_server(lambda _: known, channel_binding=binding)
            self._server.set_client_first(octets.decode())
            return self._challenge(self._server.get_server_first())
        except ScramException:
            return "535 5.7.8 no"

    def go_on(self, occurrence: Occurrence) -> str:
        """The reply to a response."""
        octets = base64.b64decode(occurrence.line)
        if not octets:
            return "235 2.7.0 welcome"
        with suppress(ScramException):
            self._server.set_client_final(octets.decode())
        return self._challenge(self._server.get_server_final()) if self._server.error is None else "535 5.7.8 no"

    @staticmethod
    def _challenge(text: str) -> str:
        return f"334 {base64.b64encode(text.encode()).decode()}"


def end_point() -> bytes:
    """What a login at the scripted server is bound to."""
    pem, end, _ = CERTIFICATE.read_text().partition("-----END CERTIFICATE-----")
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem[pem.index("-----BEGIN") :] + end)).digest()


@pytest.fixture
def _scramp_knows_the_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scramp refuses the name of "tls-exporter"; all the rest it can."""
    monkeypatch.setattr(CbName, "SUPPORTED_TYPES", CbName.SUPPORTED_TYPES | {"tls-exporter"})
    monkeypatch.setattr(CbName, "UNSUPPORTED_TYPES", frozenset())


@contextmanager
def scram_server(
    judge: Judge, offer: str = OFFER, *, log: Path | None = None, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> Iterator[Server]:
    """A scripted server with STARTTLS whose logins a judge decides, and which writes its secrets down."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, CERTIFICATE.with_name("key.pem"))
    context.maximum_version = newest
    if log is not None:
        context.keylog_filename = str(log)
    script = Script(tls="starttls", extensions=(offer,), replies={"AUTH": judge.begin, "RESPONSE": judge.go_on})
    with Server(script, ssl_context=context) as server:
        yield server
    context.keylog_filename = None  # type: ignore[assignment]  # which closes the file, and may be None


def log_in(server: Server, world: str = "blocking", **options: Any) -> list[Event]:
    """Log in over TLS; all that was told."""
    told: list[Event] = []
    context = ssl.create_default_context(cafile=str(CERTIFICATE))
    url = f"submission://localhost:{server.port}"
    options = {"ssl_context": context, "user": "ann", "password": SECRET, **options}

    async def main() -> None:
        async with Client(url, **options) as client:
            client.on(Event, told.append)
            await client.noop()

    if world == "blocking":
        with SyncClient(url, **options) as client:
            client.on(Event, told.append)
            client.noop()
    else:
        anyio.run(main, backend=world)
    return told


def mechanisms(told: list[Event]) -> list[str]:
    """Those that logged in."""
    return [event.mechanism for event in told if isinstance(event, Authenticated)]


@needs_exporter
@pytest.mark.usefixtures("_scramp_knows_the_exporter")
@pytest.mark.parametrize("world", ["blocking", "asyncio", "trio"])
def test_bound_by_the_exporter(world: str, tmp_path: Path) -> None:
    """SCRAM-PLUS comes first under TLS, and is bound to this very TLS in 1.3; nothing that is told shows the value."""
    log = tmp_path / "log"
    judge = Judge(tls_exporter=lambda: [*bindings(log).values()][-1])
    with scram_server(judge, log=log) as server:
        told = log_in(server, world) + log_in(server, world)
    assert mechanisms(told) == ["SCRAM-SHA-256-PLUS"] * 2
    assert [said.partition(b"n=")[0] for said in judge.said] == [b"SCRAM-SHA-256-PLUS p=tls-exporter,,"] * 2
    assert len(bindings(log)) == 2
    for octets in bindings(log).values():
        texts = [repr(event) for event in told]
        assert not [text for text in texts if octets.hex() in text or repr(octets)[2:-1] in text]


@needs_exporter
@pytest.mark.usefixtures("_scramp_knows_the_exporter")
def test_bound_to_another_tls(tmp_path: Path) -> None:
    """Who has the server's certificate and key, and passes a login on to it, has another TLS: it is refused."""
    log = tmp_path / "log"
    judge = Judge(tls_exporter=lambda: next(iter(bindings(log).values())))
    with scram_server(judge, log=log) as server:
        log_in(server)
        with pytest.raises(AuthenticationRefused):
            log_in(server)
    assert len(judge.said) == 2


@pytest.mark.parametrize("reason", ["TLS 1.2", "Python"])
def test_bound_to_the_certificate(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the exporter cannot be had, a login is bound to the server's certificate."""
    newest = ssl.TLSVersion.TLSv1_2 if reason == "TLS 1.2" else ssl.TLSVersion.TLSv1_3
    if reason == "Python":
        monkeypatch.setattr("smtpkit.transport.exporter.PROVEN", set())
    judge = Judge(tls_server_end_point=end_point)
    with scram_server(judge, newest=newest) as server:
        assert mechanisms(log_in(server)) == ["SCRAM-SHA-256-PLUS"]
    assert judge.said[0].startswith(b"SCRAM-SHA-256-PLUS p=tls-server-end-point,,n=ann,r=")


def test_somebody_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the server sees another certificate than the client, the login fails, and nothing else is tried."""
    monkeypatch.setattr("smtpkit.transport.exporter.PROVEN", set())
    judge = Judge(tls_server_end_point=lambda: bytes(32))
    with scram_server(judge) as server, pytest.raises(AuthenticationRefused):
        log_in(server)
    assert len(judge.said) == 1


def test_nothing_asked_of_the_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks for the exporter where the server does not offer to bind."""
    monkeypatch.setattr("smtpkit.transport.tls.exporter", lambda _: pytest.fail("it was looked for"))
    with scram_server(Judge(), "AUTH SCRAM-SHA-256 PLAIN") as server:
        assert mechanisms(log_in(server)) == ["SCRAM-SHA-256"]


def test_offer_removed() -> None:
    """Where nobody offers to bind, the client says that it could: a server that had offered it refuses (RFC 5802 6)."""
    judge = Judge()
    with scram_server(judge, "AUTH SCRAM-SHA-256") as server:
        assert mechanisms(log_in(server)) == ["SCRAM-SHA-256"]
    assert judge.said[0].startswith(b"SCRAM-SHA-256 y,,n=ann,r=")


def test_named_without_binding() -> None:
    """Who names a mechanism that does not bind does not accuse the server that offers one that does."""
    judge = Judge()
    with scram_server(judge) as server:
        assert mechanisms(log_in(server, mechanism="scram-sha-256")) == ["SCRAM-SHA-256"]
    assert judge.said[0].startswith(b"SCRAM-SHA-256 n,,n=ann,r=")


def test_nonces_differ() -> None:
    """Each exchange has a nonce of its own, of 18 random octets at least."""
    judge = Judge()
    with scram_server(judge, "AUTH SCRAM-SHA-256") as server:
        log_in(server)
        log_in(server)
    one, other = (said.partition(b",r=")[2] for said in judge.said)
    assert one != other
    assert min(len(one), len(other)) >= 24


def test_binding_without_tls() -> None:
    """Without TLS there is nothing to bind to: a named PLUS does not fit, and nothing is said."""
    talk = Talk(Script(extensions=(OFFER,)), {**CLEAR, "user": "a", "password": "p", "mechanism": "SCRAM-SHA-256-PLUS"})
    with pytest.raises(NotSupported, match="SCRAM-SHA-256-PLUS"):
        talk.open()
    assert b"AUTH" not in talk.stream.sent


# Tokens


def given(*tokens: str) -> tuple[Callable[[], str], list[str]]:
    """A function that gives these tokens in turn, and what is left of them."""
    left = list(tokens)
    return lambda: left.pop(0), left


@pytest.mark.parametrize("mechanism", ["OAUTHBEARER", "XOAUTH2"])
def test_fresh_token(mechanism: str) -> None:
    """A refused token is asked for once more, and the login goes on in the same session."""
    function, left = given("old", "new")
    talk = Talk(Script(tokens={"ann": "new"}), {**CLEAR, "user": "ann", "token": function, "mechanism": mechanism})
    assert talk.open().mechanism == mechanism
    assert not left
    assert talk.stream.sent.count(b"AUTH ") == 2
    assert talk.stream.sent.count(b"EHLO ") == 1


def test_fresh_token_awaited() -> None:
    """So it is where the function is asynchronous."""
    left = ["old", "new"]

    async def token() -> str:
        return left.pop(0)

    talk = Talk(Script(tokens={"ann": "new"}), {**CLEAR, "user": "ann", "token": token})
    assert talk.open().mechanism == "OAUTHBEARER"


@pytest.mark.parametrize(("tokens", "times"), [(("old", "older", "x"), 2), (("old", "old", "x"), 1)])
def test_tokens_refused_for_good(tokens: tuple[str, ...], times: int) -> None:
    """A second token is tried once, and not at all if it is the first again; the server's reason is there to read."""
    function, left = given(*tokens)
    talk = Talk(Script(tokens={"ann": "new"}), {**CLEAR, "user": "ann", "token": function})
    with pytest.raises(AuthenticationRefused) as caught:
        talk.open()
    assert b"invalid_token" in (caught.value.challenge or b"")
    assert len(left) == 1
    assert talk.stream.sent.count(b"AUTH ") == times


@pytest.mark.parametrize(
    "leaving",
    [{"close_after": frozenset({"AUTH"})}, {"replies": {"AUTH": ["535 5.7.8 no", "421 4.7.0 bye"]}}],
    ids=["closes", "421"],
)
def test_fresh_token_at_another_session(leaving: dict[str, Any]) -> None:
    """Where the server leaves after it has refused the first token, the second is tried over a new connection, once."""
    gone, good = Script(tokens={"ann": "new"}, replies={"AUTH": "535 5.7.8 no"}), Script(tokens={"ann": "new"})
    gone = replace(gone, **leaving)
    function, left = given("old", "new", "newer")
    told: list[Authenticated] = []
    options: OptionKeywords = {**CLEAR, "user": "ann", "token": function}
    with Server(gone, good) as server, SyncClient(server.url, **options) as client:
        client.on(Authenticated, told.append)
        client.noop()
    assert len(server.sessions) == 2
    assert len(told) == len(left) == 1
    left[:] = ["old", "new", "newer"]
    refused = pytest.raises((ServiceClosing, ChannelLost, AuthenticationRefused))
    with Server(gone, gone, gone) as server, SyncClient(server.url, **options) as client, refused:
        client.noop()
    assert len(server.sessions) == 2
    assert len(left) == 1


@pytest.mark.parametrize(("reply", "asked"), [("454 4.7.0 later", 1), ("538 5.7.11 encrypt", 1), ("535 5.7.8 no", 2)])
def test_when_a_fresh_token_is_asked_for(reply: str, asked: int) -> None:
    """Only a refusal of the credentials asks for a fresh one; a token that is a text cannot be asked."""
    function, left = given("one", "two", "three")
    talk = Talk(Script(tokens={"ann": "x"}, replies={"AUTH": reply}), {**CLEAR, "user": "ann", "token": function})
    with pytest.raises(AuthenticationRefused):
        talk.open()
    assert len(left) == 3 - asked
    talk = Talk(Script(tokens={"ann": "x"}, replies={"AUTH": reply}), {**CLEAR, "user": "ann", "token": "one"})
    with pytest.raises(AuthenticationRefused):
        talk.open()
    assert talk.stream.sent.count(b"AUTH ") == 1


# Who needs no password


@pytest.mark.parametrize("mechanism", ["EXTERNAL", "anonymous", "GSSAPI"])
def test_no_password_needed(mechanism: str) -> None:
    """These mechanisms need neither user nor password, and TLS is required as for any login."""
    options = Options.of("smtp://mail.example", mechanism=mechanism)
    assert options.tls == "required"
    assert options.credentials == Credentials(mechanism=mechanism)
    assert "***" not in repr(options.credentials)


@pytest.mark.parametrize("mechanism", [None, "PLAIN", "NTLM", "SCRAM-SHA-256", "DIGEST-MD5"])
def test_password_needed(mechanism: str | None) -> None:
    """All others need one, or a token."""
    with pytest.raises(UsageError, match="needs a password or a token"):
        Credentials(user="ann", mechanism=mechanism)


def test_apop() -> None:
    """APOP belongs to POP3; the error says so, and what to do."""
    with pytest.raises(UsageError, match="POP3"):
        Client("submission://ann:secret@mail.example", mechanism="apop")


@pytest.mark.parametrize("mechanism", ["EXTERNAL", "ANONYMOUS"])
def test_logged_in_without_password(mechanism: str) -> None:
    """EXTERNAL and ANONYMOUS log in by their name."""
    script = Script(extensions=(f"AUTH {mechanism}",), replies={"AUTH": "235 2.7.0 ok"})
    talk = Talk(script, {**CLEAR, "mechanism": mechanism})
    assert talk.open().mechanism == mechanism
    assert b"\r\nAUTH " + mechanism.encode() + b" =\r\n" in talk.stream.sent


# No weaker mechanism, no secret

STRONG = ("SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512", "DIGEST-MD5", "NTLM")
FIRST = base64.b64encode(b"r=%s,s=c2FsdHNhbHQ=,i=4096")
DIGEST = base64.b64encode(b'nonce="n",algorithm=md5-sess,charset=utf-8').decode()


def first(occurrence: Occurrence) -> str:
    """A server's first message that would be right."""
    if b"SCRAM" not in occurrence.line:
        return f"334 {DIGEST}"
    nonce = base64.b64decode(occurrence.line.split()[-1]).partition(b"r=")[2]
    return "334 " + base64.b64encode(b"r=" + nonce + b"x,s=c2FsdHNhbHQ=,i=4096").decode()


ENDS: dict[str, dict[str, Any]] = {
    "535": {"AUTH": "535 5.7.8 no"},
    "535 at the end": {"AUTH": first, "RESPONSE": "535 5.7.8 no"},
    "235 at once": {"AUTH": "235 2.7.0 ok"},
    "235 at the end": {"AUTH": first, "RESPONSE": "235 2.7.0 ok"},
    "nonsense at the end": {"AUTH": first, "RESPONSE": ["334 dj1BQUFB", "501 x"]},
    "nonsense": {"AUTH": "334 eA==", "RESPONSE": "501 x"},
    "no base64": {"AUTH": "334 ~", "RESPONSE": "501 x"},
    "endless": {"AUTH": first, "RESPONSE": "334 eA=="},
    "421": {"AUTH": first, "RESPONSE": "421 bye"},
    "silence": {"AUTH": first, "RESPONSE": None},
    "an echo": {
        "AUTH": lambda occurrence: f"334 {occurrence.line.split()[-1].decode()}",
        "RESPONSE": lambda occurrence: f"334 {occurrence.line.decode()}",
    },
}


@pytest.mark.parametrize("mechanism", STRONG)
@pytest.mark.parametrize("end", ENDS)
def test_secrets_are_nowhere(mechanism: str, end: str) -> None:
    """However such a login ends: the password was not said, and no event or error shows it or an exchange's octets."""
    texts: list[str] = []
    script = Script(extensions=(f"AUTH {mechanism} PLAIN LOGIN CRAM-MD5",), replies=ENDS[end])
    talk = Talk(script, {**CLEAR, "user": "ann", "password": SECRET, "mechanism": mechanism})
    talk.observers.on(Event, lambda event: texts.append(repr(event)))
    error: BaseException | None = None
    try:
        talk.open()
    except SMTPError as caught:
        error = caught
    assert (error is None) == (mechanism == "NTLM" and end == "235 at once")
    if end.startswith("235") and error is not None:
        assert isinstance(error, ProtocolViolation)
    assert talk.stream.sent.count(b"AUTH ") == 1
    said = bytes(talk.stream.sent).decode()
    assert not found(SECRET, said.split("\r\n"))
    while error is not None:
        texts += [str(error), repr(error), repr(error.args)]
        error = error.__cause__ or error.__context__
    assert not found(SECRET, texts)
    responses = [line for line in said.split("\r\n") if len(line) > 12 and not line.startswith(("AUTH", "EHLO"))]
    assert not [line for line in responses for text in texts if line in text]
