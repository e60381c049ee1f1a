"""The same mails through servers by other hands, Postfix and aiosmtpd, by each way of sending: what arrives equals what
was sent, octet for octet, and the servers have nothing to complain about.
"""

import re
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar
from uuid import uuid4

import anyio
import pytest

from smtpkit import (
    DSN,
    AuthenticationRefused,
    Client,
    CommandSent,
    Connected,
    InvalidMail,
    NotSupported,
    RecipientsRefused,
    Reply,
    Secured,
    SyncClient,
)
from smtpkit.options import OptionKeywords
from smtpkit.sync_client import drive
from tests.servers import aiosmtpd_server as aiosmtpd
from tests.servers import postfix as real
from tests.servers.aiosmtpd_server import AiosmtpdServer

T = TypeVar("T")

SENDER = "ann@example.test"
# All that Postfix would add to a mail from its own machine is there, so it adds nothing but its trace.
HEADER = (
    b"From: Ann <ann@example.test>\r\n"
    b"To: bob@example.test\r\n"
    b"Date: Tue, 24 Nov 2026 09:00:00 +0000\r\n"
    b"Message-ID: <interop@example.test>\r\n"
    b"Subject: Interoperability\r\n"
)
MAILS = {
    "text": HEADER + b"\r\nOne line.\r\nAnother.\r\n",
    "eight bits": HEADER + b"\r\n" + "Grüße, 日本語\r\n".encode() + bytes(range(128, 256)) + b"\r\n",
    "dots": HEADER + b"\r\n.\r\n..\r\n...\r\n.dot\r\n\r\n.\r\nQUIT\r\n.\r\n",
    "a dot first of all": b".: no field\r\n" + HEADER,
    "no final line end": HEADER + b"\r\nit just stops",
    "no final line end, a dot": HEADER + b"\r\n.",
    "line feeds alone": (HEADER + b"\r\none\r\n.\r\ntwo\r\n").replace(b"\r\n", b"\n"),
    "empty body": HEADER + b"\r\n",
    "empty lines": HEADER + b"\r\n\r\n\r\n\r\n",
    "longest lines": HEADER + b"\r\n" + b"x" * 998 + b"\r\n." + b"y" * 997 + b"\r\n" + b"." * 998 + b"\r\n",
    "no PIPELINING in the mail": HEADER + b"\r\nRSET\r\nMAIL FROM:<eve@example.test>\r\n",
    "more than a piece": HEADER + b"\r\n" + b".a line that begins with a dot, and ends as it has to\r\n" * 4000,
}
# SEC Consult 2023, and the two that are their halves: what stands between "before" and the smuggled transaction.
SMUGGLING = (
    b"\n.\n",
    b"\n.\r",
    b"\r.\n",
    b"\r.\r",
    b"\n.\r\n",
    b"\r.\r\n",
    b"\r\n.\n",
    b"\r\n.\r",
    b"\r\n.\r\r\n",
    b"\r\r\n.\r\r\n",
)
SMUGGLED = "smuggled@example.test"
OURS = "127.0.0.2"  # where our sessions with Postfix come from, so that its log tells them from all others
COMPLAINTS = re.compile(  # where a login is refused the session is dropped without QUIT
    r"improper command pipelining|bare (?:newline|<LF>)|lost connection (?!after AUTH)|timeout after|SSL_accept error"
)


class Awaited:
    """A SyncClient whose methods are awaited, so that one script serves both clients."""

    def __init__(self, client: SyncClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        async def awaited(*arguments: Any, **keywords: Any) -> Any:
            return method(*arguments, **keywords)

        return method if name == "on" else awaited


def talk(way: str, url: str, script: Callable[[Any], Awaitable[T]], options: OptionKeywords) -> T:
    """Run a script with a client of this way."""

    async def within() -> T:
        async with Client(url, **options) as client:
            return await script(client)

    if way != "blocking":
        return anyio.run(within, backend=way)
    with SyncClient(url, **options) as client:

        async def script_of_it() -> T:
            return await script(Awaited(client))

        return drive(script_of_it())


class AtPostfix:
    """Postfix as a place to send to."""

    bdat = dsn = True
    mechanisms = ("PLAIN", "LOGIN", "CRAM-MD5")
    user, password = real.USER, real.PASSWORD

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.server: real.Postfix = request.getfixturevalue("postfix")
        self.url = f"smtp://127.0.0.1:{self.server.port}?local_address={OURS}"
        self.tls_url = f"smtps://127.0.0.1:{self.server.tls_port}?local_address={OURS}"
        self.context = ssl.create_default_context(cafile=self.server.certificate)

    def arrived(self, recipient: str) -> list[bytes]:
        """What was delivered, at least one mail, as it was handed over; the trace fields are as they should be."""
        return [self._without_trace(mail) for mail in self.server.mail(recipient)]

    def _without_trace(self, mail: bytes) -> bytes:
        trace = re.match(rb"(?:(?:Return-Path|X-Original-To|Delivered-To|Received):.*\n(?:[ \t].*\n)*)*", mail)
        assert trace is not None
        names = re.findall(rb"^([\w-]+):", trace[0], re.MULTILINE)
        assert sorted(names) in ([b"Delivered-To", b"Received", b"Return-Path"], [
            b"Delivered-To", b"Received", b"Return-Path", b"X-Original-To",
        ])  # fmt: skip
        assert b"\r" not in mail
        return mail[trace.end() :].replace(b"\n", b"\r\n")

    def knows(self, recipient: str) -> bool:
        """Was a mail for this one ever accepted?"""
        return f"to=<{recipient}" in self.server.log


class AtAiosmtpd:
    """aiosmtpd as a place to send to."""

    bdat = dsn = False
    mechanisms = ("PLAIN", "LOGIN")
    user, password = aiosmtpd.USER, aiosmtpd.PASSWORD

    def __init__(self, request: pytest.FixtureRequest) -> None:
        servers: list[AiosmtpdServer] = [
            request.getfixturevalue(name) for name in ("aiosmtpd_server", "aiosmtpd_tls_server")
        ]
        self.servers = servers
        self.url = f"smtp://127.0.0.1:{servers[0].port}"
        self.tls_url = f"smtps://127.0.0.1:{servers[1].port}"
        self.context = ssl.create_default_context(cafile=servers[0].certificate)
        self.context.load_verify_locations(servers[1].certificate)

    def _received(self, recipient: str) -> list[aiosmtpd.Received]:
        return [mail for server in self.servers for mail in server.received if recipient in mail.rcpt_tos]

    def arrived(self, recipient: str) -> list[bytes]:
        """What was taken for a recipient."""
        return [mail.content for mail in self._received(recipient)]

    def knows(self, recipient: str) -> bool:
        """Was a mail for this one ever accepted?"""
        return bool(self._received(recipient))


@pytest.fixture(params=["asyncio", "trio", "blocking"])
def way(request: pytest.FixtureRequest) -> str:
    """The way of sending."""
    chosen: str = request.param
    return chosen


@pytest.fixture(params=[pytest.param(AtPostfix, marks=pytest.mark.servers), AtAiosmtpd])
def place(request: pytest.FixtureRequest) -> AtPostfix | AtAiosmtpd:
    """Where mail is sent to."""
    chosen: AtPostfix | AtAiosmtpd = request.param(request)
    return chosen


@pytest.fixture
def at_postfix(request: pytest.FixtureRequest) -> AtPostfix:
    """Postfix, where only it can show something."""
    return AtPostfix(request)


@pytest.fixture(autouse=True)
def _without_complaint(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test whose sessions Postfix complains of."""
    if request.node.get_closest_marker("servers") is None:
        yield
        return
    server: real.Postfix = request.getfixturevalue("postfix")
    start = len(server.log)
    yield
    until = time.monotonic() + 5
    client = f"connect from unknown[{OURS}]"
    while (log := server.log[start:]).count(f": {client}") > log.count(f": dis{client}"):
        assert time.monotonic() < until, f"a session did not end\n{log}"
        time.sleep(0.01)
    assert f": {client}" in log
    assert not [line for line in log.splitlines() if f"[{OURS}]" in line and COMPLAINTS.search(line)]


def new_recipient(prefix: str = "to") -> str:
    return f"{prefix}-{uuid4().hex}@example.test"


def mended(octets: bytes) -> bytes:
    """The octets with each line end as it has to be, by other means than the library's."""
    octets = re.sub(rb"\r\n|\r|\n", b"\r\n", octets)
    return octets if octets.endswith(b"\r\n") else octets + b"\r\n"


def roads(place: AtPostfix | AtAiosmtpd) -> dict[str, tuple[str, OptionKeywords]]:
    """All ways to a server: its URL and the options."""
    login: OptionKeywords = {"user": place.user, "password": place.password}
    found: dict[str, tuple[str, OptionKeywords]] = {
        "plain": (place.url, {"tls": "none"}),
        "starttls": (place.url, {"tls": "required", "ssl_context": place.context}),
        "implicit tls": (place.tls_url, {"ssl_context": place.context}),
        "starttls and login": (place.url, {"ssl_context": place.context, **login}),
        "implicit tls and login": (place.tls_url, {"ssl_context": place.context, **login}),
    }
    if place.bdat:
        found["bdat"] = (place.url, {"tls": "none", "chunking": "always"})
        found["starttls and bdat"] = (
            place.url,
            {"tls": "required", "ssl_context": place.context, "chunking": "always"},
        )
    return found


def test_what_arrives_equals_what_was_sent(place: AtPostfix | AtAiosmtpd, way: str) -> None:
    """Every mail, by every road, all of a road in one session: whole and as it was, line ends mended, nothing else."""
    for road, (url, options) in roads(place).items():
        sessions, commands = send_all(way, url, options, sent := {name: new_recipient() for name in MAILS})
        for name, recipient in sent.items():
            assert place.arrived(recipient) == [mended(MAILS[name])], (road, name)
        assert len(sessions) == 1
        assert any(command.text.startswith("BDAT") for command in commands) == ("bdat" in road)
        after_hello = [command for command in commands if command.text.startswith(("AUTH", "MAIL"))]
        assert {command.secured for command in after_hello} == {"tls" in road}
        assert place.password not in "".join(command.text for command in commands)


def send_all(
    way: str, url: str, options: OptionKeywords, recipients: dict[str, str]
) -> tuple[list[Connected], list[CommandSent]]:
    """Send each of the mails to its recipient. Returns what was told of it."""
    sessions: list[Connected] = []
    commands: list[CommandSent] = []

    async def script(client: Any) -> None:
        client.on(Connected, sessions.append)
        client.on(CommandSent, commands.append)
        for name, recipient in recipients.items():
            outcome = await client.send(MAILS[name], SENDER, recipient)
            assert outcome.accepted == (recipient,), name

    talk(way, url, script, options)
    return sessions, commands


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_login(place: AtPostfix | AtAiosmtpd, way: str, mechanism: str) -> None:
    """Each mechanism that is named logs in, a wrong password is refused, and what the server lacks is said so."""
    recipient = new_recipient()
    options: OptionKeywords = {"ssl_context": place.context, "mechanism": mechanism, "user": place.user}

    async def script(client: Any) -> str:
        report = await client.check()
        await client.send(MAILS["text"], SENDER, recipient)
        return str(report.mechanism)

    if mechanism not in place.mechanisms:
        with pytest.raises(NotSupported, match=mechanism):
            talk(way, place.url, script, {**options, "password": place.password})
        return
    with pytest.raises(AuthenticationRefused) as caught:
        talk(way, place.url, script, {**options, "password": "wrong"})
    assert caught.value.reply.code == 535
    assert talk(way, place.url, script, {**options, "password": place.password}) == mechanism
    assert place.arrived(recipient) == [MAILS["text"]]
    if isinstance(place, AtPostfix):
        assert f"(Authenticated sender: {place.user})".encode() in place.server.mail(recipient)[0]
    else:
        assert [mail.user for mail in place.servers[0].received] == [place.user]


def test_check(place: AtPostfix | AtAiosmtpd, way: str) -> None:
    """What the server shows is reported: TLS, its certificate, the extensions, the mechanisms."""

    async def script(client: Any) -> Any:
        secured: list[Secured] = []
        client.on(Secured, secured.append)
        report = await client.check()
        assert [event.verified for event in secured] == [True]
        return report

    report = talk(way, place.url, script, {"tls": "required", "ssl_context": place.context})
    assert report.tls_version == "TLSv1.3"
    assert report.verified
    assert report.certificate["subjectAltName"]
    assert {"SMTPUTF8", "8BITMIME", "SIZE"} <= set(report.extensions)
    assert set(place.mechanisms) <= set(report.mechanisms)
    assert set(report.times) == {"connect", "greeting", "hello", "tls"}


def test_addresses_in_utf8(place: AtPostfix | AtAiosmtpd, way: str) -> None:
    """Mailboxes outside ASCII go out under SMTPUTF8, the domain as A-labels, the header field as it is."""
    recipient = new_recipient("bücher")
    mail = "From: jürgen@example.test\r\n".encode() + MAILS["text"].partition(b"\r\n")[2]

    async def script(client: Any) -> None:
        commands: list[CommandSent] = []
        client.on(CommandSent, commands.append)
        outcome = await client.send(mail, "jürgen@example.test", [recipient])
        assert outcome.accepted == (recipient,)
        assert any(command.text.startswith("MAIL") and "SMTPUTF8" in command.text for command in commands)

    talk(way, place.url, script, {"tls": "none"})
    assert place.arrived(recipient) == [mail]


@pytest.mark.servers
def test_domain_as_a_label(at_postfix: AtPostfix, way: str) -> None:
    """A domain outside ASCII is said in A-labels, without SMTPUTF8, and the mail is delivered there."""
    local = uuid4().hex

    async def script(client: Any) -> None:
        outcome = await client.send(MAILS["text"], SENDER, [f"{local}@bücher.example"])
        assert outcome.accepted == (f"{local}@xn--bcher-kva.example",)

    talk(way, at_postfix.url, script, {"tls": "none"})
    assert at_postfix.arrived(f"{local}@xn--bcher-kva.example") == [MAILS["text"]]


def smuggling(sequence: bytes) -> bytes:
    return (
        HEADER + b"\r\nbefore" + sequence + b"MAIL FROM:<eve@example.test>\r\nRCPT TO:<" + SMUGGLED.encode() + b">\r\n"
        b"DATA\r\nSubject: smuggled\r\n\r\nboo\r\n.\r\n"
    )


@pytest.mark.parametrize("pieces", ["whole", "octets"])
def test_smuggling_mended(place: AtPostfix | AtAiosmtpd, way: str, pieces: str) -> None:
    """Each smuggling sequence arrives as ONE mail whose octets are the mended ones, also cut between any two octets."""
    sent = {sequence: new_recipient() for sequence in SMUGGLING}

    async def script(client: Any) -> None:
        for sequence, recipient in sent.items():
            octets = smuggling(sequence)
            mail = octets if pieces == "whole" else iter([octets[at : at + 1] for at in range(len(octets))])
            outcome = await client.send(mail, SENDER, recipient)
            assert outcome.accepted == (recipient,)

    for chunking in ("auto", "always") if place.bdat else ("auto",):
        talk(way, place.url, script, {"tls": "none", "chunking": chunking})
    for sequence, recipient in sent.items():
        expected = mended(smuggling(sequence))
        assert expected.count(b"\r") == expected.count(b"\n") == expected.count(b"\r\n")
        assert set(place.arrived(recipient)) == {expected}, sequence
    assert not place.knows(SMUGGLED)


def test_smuggling_refused(place: AtPostfix | AtAiosmtpd, way: str) -> None:
    """``newlines="strict"`` refuses each sequence; NUL is refused whatever is chosen; nothing arrives."""
    recipient, later = new_recipient(), new_recipient()

    async def script(client: Any) -> None:
        for sequence in SMUGGLING:
            with pytest.raises(InvalidMail, match="bare CR") as caught:
                await client.send(smuggling(sequence), SENDER, recipient)
            outcome = caught.value.outcome
            assert outcome is not None
            assert outcome.accepted == outcome.in_doubt == ()
        await refuse_nul(client)

    async def refuse_nul(client: Any) -> None:
        with pytest.raises(InvalidMail, match="NUL"):
            await client.send(smuggling(b"\r\n\0.\r\n"), SENDER, recipient)
        await client.send(MAILS["text"], SENDER, later)

    talk(way, place.url, script, {"tls": "none", "newlines": "strict"})
    talk(way, place.url, refuse_nul, {"tls": "none"})
    assert MAILS["text"] in place.arrived(later)
    assert not place.knows(recipient)
    assert not place.knows(SMUGGLED)


def test_refusals_in_one_session(place: AtPostfix | AtAiosmtpd, way: str) -> None:
    """Some refused, all refused, one required: then RSET, and the next mail in the same session has none of it."""
    good, later, never = new_recipient(), new_recipient(), new_recipient()
    bad, worse = new_recipient("reject"), new_recipient("reject")
    sessions: list[Connected] = []
    commands: list[CommandSent] = []

    async def script(client: Any) -> None:
        client.on(Connected, sessions.append)
        client.on(CommandSent, commands.append)
        outcome = await client.send(MAILS["text"], SENDER, [good, bad])
        assert outcome.accepted == (good,)
        assert {path: reply.code for path, reply in outcome.refused.items()} == {bad: 550}
        with pytest.raises(RecipientsRefused) as caught:
            await client.send(MAILS["text"], SENDER, [bad, worse])
        assert set(caught.value.refused) == {bad, worse}
        assert not caught.value.transient
        outcome = await client.send(MAILS["dots"], "eve@example.test", [later])
        assert outcome.accepted == (later,)

    async def all_or_none(client: Any) -> None:
        with pytest.raises(RecipientsRefused) as caught:
            await client.send(MAILS["text"], SENDER, [never, bad])
        assert set(caught.value.refused) == {bad}
        await client.send(MAILS["text"], SENDER, later)

    talk(way, place.url, script, {"tls": "none"})
    assert len(sessions) == 1
    assert [command.text for command in commands].count("RSET") == 1
    assert place.arrived(good) == [MAILS["text"]]
    assert place.arrived(later) == [MAILS["dots"]]
    talk(way, place.url, all_or_none, {"tls": "none", "on_refused": "stop"})
    assert set(place.arrived(later)) <= {MAILS["dots"], MAILS["text"]}
    assert not place.knows(never)


@pytest.mark.servers
def test_refused_for_now(at_postfix: AtPostfix, way: str) -> None:
    """A 451 is transient, and says so."""

    async def script(client: Any) -> None:
        with pytest.raises(RecipientsRefused) as caught:
            await client.send(MAILS["text"], SENDER, new_recipient("defer"))
        assert caught.value.transient
        assert str(caught.value.reply.enhanced) == "4.2.1"

    talk(way, at_postfix.url, script, {"tls": "none"})


def test_commands(place: AtPostfix | AtAiosmtpd, way: str) -> None:
    """VRFY, EXPN, NOOP and HELP are answered, each by its own reply, and a mail goes out in the same session."""
    recipient = new_recipient()

    async def script(client: Any) -> list[Reply]:
        sessions: list[Connected] = []
        client.on(Connected, sessions.append)
        replies = [await client.command(text) for text in ("NOOP", "HELP", "EXPN list", f"VRFY {recipient}", "noop")]
        replies += [await client.noop(), await client.verify(recipient)]
        await client.send(MAILS["text"], SENDER, recipient)
        assert len(sessions) == 1
        return replies

    replies = talk(way, place.url, script, {"tls": "none"})
    noop, help_, expand, verify, *others = replies
    assert (noop.code, verify.code) == (250, 252)
    assert (help_.negative, expand.negative) == (isinstance(place, AtPostfix), True)
    assert [reply.code for reply in others] == [250, 250, 252]
    assert place.arrived(recipient) == [MAILS["text"]]


@pytest.mark.servers
def test_notification(at_postfix: AtPostfix, way: str) -> None:
    """DSN's parameters are understood: the notification that comes back names the envelope and the original path."""
    sender, recipient = new_recipient("from"), new_recipient()
    dsn = DSN(notify=("SUCCESS", "FAILURE"), ret="HDRS", envelope_id="order+1=42")

    async def script(client: Any) -> None:
        outcome = await client.send(MAILS["text"], sender, recipient, dsn=dsn)
        assert outcome.accepted == (recipient,)

    talk(way, at_postfix.url, script, {"tls": "none"})
    assert at_postfix.arrived(recipient) == [MAILS["text"]]
    (notification,) = at_postfix.server.mail(sender)
    assert b"Original-Envelope-Id: order+1=42\n" in notification
    assert b"Action: delivered\n" in notification


def test_notification_not_offered(aiosmtpd_server: AiosmtpdServer, way: str) -> None:
    """Where DSN is not offered, what asks for it is refused before MAIL."""

    async def script(client: Any) -> None:
        with pytest.raises(NotSupported) as caught:
            await client.send(MAILS["text"], SENDER, new_recipient(), dsn=DSN(notify=("NEVER",)))
        assert caught.value.extension == "DSN"

    talk(way, f"smtp://127.0.0.1:{aiosmtpd_server.port}", script, {"tls": "none"})
    assert not aiosmtpd_server.received
