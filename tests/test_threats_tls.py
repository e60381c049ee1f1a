"""Threats to TLS, row by row (T1-T12): what was said in clear is looked at, and no login, mail or secret is in it."""

import datetime as dt
import re
import select
import socket
import ssl
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import trustme

from smtpkit import Client, Proxy, Secured, SecurityMissing, SyncClient
from smtpkit.errors import (
    ChannelLost,
    InDoubt,
    NotSupported,
    Outcome,
    ProtocolViolation,
    Refused,
    SMTPError,
    TimedOut,
    TLSError,
    UsageError,
)
from smtpkit.options import OptionKeywords, TLSMode
from smtpkit.testing import Fault, Script, Server
from smtpkit.testing import Session as Seen
from smtpkit.transport.tls import SecureStream, default_context, secure
from tests.hostile import forms
from tests.memory import Talk
from tests.peers import Behaviour, peer, silence
from tests.relay import Relay
from tests.streams import MemoryStream, run

MAIL = b"From: ann@example.com\r\nTo: bob@example.com\r\n\r\nhello\r\n"
SECRET = "correct horse/battery+staple"
LOGIN: OptionKeywords = {
    "user": "ann",
    "password": SECRET,
    "tls": "required",
    "timeout": 5.0,
    "hello": "client.example",
}
USERS = {"ann": SECRET}
AUTHORITY = trustme.CA()


def by_loop(backend: str) -> Callable[..., Outcome]:
    """Send in an event loop."""

    def send(url: str, options: OptionKeywords) -> Outcome:
        async def main() -> Outcome:
            async with Client(url, **options) as client:
                return await client.send(MAIL)

        return anyio.run(main, backend=backend)

    return send


def blocking(url: str, options: OptionKeywords) -> Outcome:
    """Send in the caller's thread."""
    with SyncClient(url, **options) as client:
        return client.send(MAIL)


every_world = pytest.mark.parametrize(
    "send", [by_loop("asyncio"), by_loop("trio"), blocking], ids=["asyncio", "trio", "blocking"]
)


def nothing_told(sessions: list[Seen]) -> None:
    """In clear the client said its name, STARTTLS and QUIT, and nothing else."""
    assert sessions
    for session in sessions:
        clear = bytes(session.octets_in_clear).decode("latin-1")
        assert not any(form in clear for form in forms(SECRET))
        verbs = {line.split(" ")[0].upper() for line in clear.split("\r\n") if line and line.isprintable()}
        assert verbs <= {"EHLO", "STARTTLS", "QUIT", "LHLO"}, clear


INJECTED = [
    b"250-evil.example\r\n250 AUTH PLAIN LOGIN\r\n",
    b"235 2.7.0 welcome\r\n",
    b"250 ok\r\n250 ok\r\n354 go\r\n250 queued\r\n",
    b"\r\n",
]


@every_world
@pytest.mark.parametrize("injected", INJECTED, ids=["ehlo", "auth", "all", "blank"])
def test_t1_replies_injected_behind_starttls(send: Any, injected: bytes) -> None:
    """A reply in clear behind the 220 ends the session before TLS: it is not taken for one from within."""
    script = Script(tls="starttls", users=USERS, replies={"STARTTLS": b"220 go\r\n" + injected})
    with Server(script) as server, pytest.raises(ProtocolViolation):
        send(server.url, {**LOGIN, "ssl_context": server.client_context()})
    nothing_told(server.sessions)
    assert not server.received


def test_t1_what_was_offered_in_clear_is_forgotten() -> None:
    """Only what EHLO offers within TLS holds: a mechanism or extension offered in clear is not used."""

    def hello(occurrence: Any) -> str:
        return "250 here\nAUTH LOGIN" if occurrence.session.secured else "250 here\nSTARTTLS\nAUTH PLAIN\nPIPELINING"

    script = Script(tls="starttls", users=USERS, replies={"EHLO": hello})
    with Server(script) as server:
        blocking(server.url, {**LOGIN, "ssl_context": server.client_context()})
    said = [line.octets for line in server.sessions[0].transcript if line.direction == "C"]
    assert [line.split(b" ")[0] for line in said].count(b"EHLO") == 2
    assert b"AUTH LOGIN" in said
    nothing_told(server.sessions)


@every_world
@pytest.mark.parametrize("fragment", [b"2", b"250-half a li", b"\x00", b"\r"])
def test_t2_fragment_behind_starttls(send: Any, fragment: bytes) -> None:
    """Octets behind the 220 that make no line yet end the session too."""
    script = Script(tls="starttls", users=USERS, replies={"STARTTLS": b"220 go\r\n" + fragment})
    with Server(script) as server, pytest.raises(ProtocolViolation):
        send(server.url, {**LOGIN, "ssl_context": server.client_context()})
    nothing_told(server.sessions)


STRIPPED = {
    "not offered": Script(users=USERS),
    "ehlo 500": Script(tls="starttls", users=USERS, replies={"EHLO": "500 what"}),
    "ehlo 502": Script(tls="starttls", users=USERS, replies={"EHLO": "502 no"}),
    "ehlo 550": Script(tls="starttls", users=USERS, replies={"EHLO": "550 no"}),
    "offered in the greeting's line": Script(users=USERS, replies={"EHLO": "250 STARTTLS\nAUTH PLAIN"}),
    "offered in an argument": Script(users=USERS, replies={"EHLO": "250 here\nX STARTTLS\nAUTH PLAIN"}),
} | {
    f"starttls {reply[:8]!r}": Script(tls="starttls", users=USERS, replies={"STARTTLS": reply})
    for reply in (
        "454 4.7.0 not now",
        "502 5.5.1 never",
        "354 go",
        "250 ok",
        "221 bye",
        "235 you are in",
        "334 ",
        "421 closing",
        b"220\r",
        b"220-go\r\n250 go\r\n",
        b" 220 go\r\n",
        b"2200 go\r\n",
    )
}


@pytest.mark.parametrize("way", STRIPPED)
@pytest.mark.parametrize("login", [True, False])
def test_t3_stripping(way: str, *, login: bool) -> None:
    """Where TLS is required nothing but 220 leads on: no HELO, no login, no mail in clear."""
    options: OptionKeywords = {"tls": "required", "timeout": 0.3, "hello": "client.example"}
    options = {**LOGIN, **options} if login else options
    with Server(STRIPPED[way]) as server, pytest.raises(SMTPError) as caught:
        blocking(server.url, {**options, "ssl_context": server.client_context()})
    assert isinstance(caught.value, TLSError | ProtocolViolation | Refused | TimeoutError)
    if way[len("starttls ") :].startswith(("'2", "'3")):
        assert isinstance(caught.value, ProtocolViolation)  # and not from within a handshake
    nothing_told(server.sessions)
    assert not server.received


def test_t3_no_helo_with_a_login() -> None:
    """EHLO refused is the end where there is a login, even one that may go in clear: HELO offers no AUTH."""
    talk = Talk(Script(replies={"EHLO": "500 what"}), {"user": "ann", "password": SECRET, "allow_plaintext_auth": True})
    with pytest.raises(Refused):
        talk.open()
    assert b"HELO" not in talk.stream.sent


@pytest.mark.parametrize("pipelined", [b"220 go\r\n", b"220-go\r\n220 go\r\n"])
def test_t4_go_ahead_for_a_command_that_was_not_sent(pipelined: bytes) -> None:
    """A 220 that was there before STARTTLS was said begins no TLS, and no login either."""
    ehlo = b"250-here\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n"
    options: OptionKeywords = {"user": "ann", "password": SECRET, "tls": "required"}
    for script in (
        Script(replies={"EHLO": ehlo + pipelined}),
        Script(replies={"EHLO": ehlo}, early={"EHLO": pipelined}),
    ):
        talk = Talk(script, options)
        with pytest.raises(ProtocolViolation):
            talk.open()
        assert bytes(talk.stream.sent) == b"EHLO client.example\r\n"
        assert not talk.stream.secured


def test_t4_no_login_unless_the_stream_is_secured() -> None:
    """The server's 220 alone does not make a login safe: a handshake that fails is the end."""
    script = Script(tls="none", extensions=("STARTTLS", "AUTH PLAIN"), replies={"STARTTLS": "250 ok"})
    talk = Talk(script, {"user": "ann", "password": SECRET, "tls": "required"})
    with pytest.raises(ProtocolViolation):
        talk.open()
    assert b"AUTH" not in talk.stream.sent


@pytest.mark.parametrize(
    "url", ["smtp://mail.example.com", "smtp://127.0.0.1", "lmtp://[::1]", "lmtp+unix:///run/lmtp"]
)
@pytest.mark.parametrize("tls", ["none", "opportunistic"])
def test_t5_login_where_tls_is_not_sure(url: str, tls: Any) -> None:
    """A login with TLS off or left to chance is refused when the client is made, on loopback too, by name."""
    options: OptionKeywords = {"user": "ann", "password": SECRET, "tls": tls}
    if tls != "none":
        options["tls_name"] = "localhost"
    for make in (Client, SyncClient):
        with pytest.raises(UsageError, match="allow_plaintext_auth") as caught:
            make(url, **options)
        assert SECRET not in str(caught.value)


def test_t5_a_login_makes_tls_required() -> None:
    """smtp:// with credentials is not opportunistic: a server without TLS gets nothing."""
    with Server(Script(users=USERS)) as server, pytest.raises(TLSError):
        blocking(server.url.replace("//", "//ann:pa%20ss@"), {})
    nothing_told(server.sessions)


def test_t5_plaintext_login_by_its_loud_name_only() -> None:
    """With allow_plaintext_auth=True, and only then, a login goes in clear."""
    with Server(Script(users=USERS)) as server:
        blocking(server.url, {**LOGIN, "tls": "none", "allow_plaintext_auth": True})
    assert server.received[0].user == "ann"
    assert b"AUTH" in server.sessions[0].octets_in_clear


CLOSING = Script(tls="starttls", close_after=frozenset({"END"}))


@pytest.mark.parametrize(
    "second",
    [
        Script(),
        Script(replies={"EHLO": "502 no"}),
        Script(tls="starttls", replies={"STARTTLS": "454 not now"}),
    ],
    ids=["not offered", "ehlo refused", "refused"],
)
def test_t6_a_host_that_no_longer_offers_starttls(second: Script) -> None:
    """In opportunistic mode the mail goes in clear as before it might have, and an event says that TLS has vanished."""
    missing: list[SecurityMissing] = []
    secured: list[Secured] = []
    with Server(CLOSING, second) as server, SyncClient(server.url) as client:
        client.on(SecurityMissing, missing.append)
        client.on(Secured, secured.append)
        client.send(MAIL)
        assert not missing
        client.send(MAIL)
    assert [mail.secured for mail in server.received] == [True, False]
    assert len(secured) == 1
    assert not secured[0].verified
    assert [event.server for event in missing] == [client.options.shown]


@pytest.mark.parametrize("second", [Script(users=USERS), Script(tls="starttls", replies={"STARTTLS": "454 not now"})])
def test_t6_required_tls_that_vanishes(second: Script) -> None:
    """In required mode the same is an event and an error, and nothing was said in clear."""
    missing: list[SecurityMissing] = []
    first = Script(tls="starttls", users=USERS, close_after=frozenset({"END"}))
    with Server(first, second) as server:
        options: OptionKeywords = {**LOGIN, "ssl_context": server.client_context()}
        with SyncClient(server.url, **options) as client:
            client.on(SecurityMissing, missing.append)
            client.send(MAIL)
            with pytest.raises(TLSError, match="required"):
                client.send(MAIL)
    assert len(missing) == 1
    nothing_told(server.sessions)


def test_t6_a_host_that_never_offered_it() -> None:
    """A server that never had TLS is no news."""
    missing: list[SecurityMissing] = []
    with Server(Script(close_after=frozenset({"END"}))) as server, SyncClient(server.url) as client:
        client.on(SecurityMissing, missing.append)
        client.send(MAIL)
        client.send(MAIL)
    assert not missing


def certified(*names: str, issuer: trustme.CA = AUTHORITY, **how: Any) -> ssl.SSLContext:
    """A server's context with a certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issuer.issue_cert(*names, **how).configure_cert(context)
    return context


@pytest.fixture(scope="module")
def trusting() -> ssl.SSLContext:
    """A client's context that trusts the authority of these tests."""
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


BAD: dict[str, tuple[ssl.SSLContext, str]] = {
    "another host": (certified("mail.example.org"), "localhost"),
    "the host's domain only": (certified("example.com"), "localhost"),
    "a name for an address": (certified("localhost"), "127.0.0.1"),
    "an address for a name": (certified("127.0.0.1"), "localhost"),
    "the name in the common name only": (certified("mail.example.org", common_name="localhost"), "localhost"),
    "unknown authority": (certified("localhost", issuer=trustme.CA()), "localhost"),
    "expired": (certified("localhost", not_after=dt.datetime(2020, 1, 1, tzinfo=dt.UTC)), "localhost"),
}


@pytest.mark.parametrize("way", BAD)
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_t7_bad_certificates(way: str, tls: Any, trusting: ssl.SSLContext) -> None:
    """A certificate that is not the host's, or not to be trusted, ends it before a login, by STARTTLS and implicit."""
    context, host = BAD[way]
    mode: TLSMode = "required" if tls == "starttls" else "implicit"
    with Server(Script(tls=tls, users=USERS), ssl_context=context) as server, pytest.raises(TLSError) as caught:
        blocking(f"smtp://{host}:{server.port}", {**LOGIN, "tls": mode, "ssl_context": trusting})
    assert not caught.value.transient
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
    nothing_told_but_handshakes(server.sessions)


def nothing_told_but_handshakes(sessions: list[Seen]) -> None:
    """Neither in clear nor within TLS was there a login or a mail."""
    for session in sessions:
        assert b"AUTH" not in session.octets_in
        assert b"MAIL" not in session.octets_in
        assert session.user is None


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_t7_the_system_does_not_know_the_authority(tls: Any) -> None:
    """Without a context of the caller's own the system's trust decides, and the test certificate is not in it."""
    mode: TLSMode = "required" if tls == "starttls" else "implicit"
    with Server(Script(tls=tls, users=USERS)) as server, pytest.raises(TLSError, match="cannot be trusted"):
        blocking(f"smtp://localhost:{server.port}", {**LOGIN, "tls": mode})
    nothing_told_but_handshakes(server.sessions)


@pytest.mark.parametrize(("host", "tls_name"), [("localhost", None), ("127.0.0.1", "localhost"), ("localhost.", None)])
def test_t7_the_reference_is_what_the_caller_gave(host: str, tls_name: str | None, trusting: ssl.SSLContext) -> None:
    """The certificate must be for the host of the URL, without its trailing dot, or for tls_name."""
    with Server(Script(tls="starttls", users=USERS), ssl_context=certified("localhost")) as server:
        blocking(f"smtp://{host}:{server.port}", {**LOGIN, "ssl_context": trusting, "tls_name": tls_name})
    assert server.received[0].secured
    nothing_told(server.sessions)


def test_t7_old_versions_are_not_spoken() -> None:
    """A server that knows nothing newer than TLS 1.1 gets no login."""
    old = certified("localhost")
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with Server(Script(tls="starttls", users=USERS), ssl_context=old) as server, pytest.raises(TLSError):
        blocking(f"smtp://localhost:{server.port}", LOGIN)
    nothing_told_but_handshakes(server.sessions)


def test_t7_an_unverified_peer_is_told() -> None:
    """Opportunistic TLS takes any certificate, and the event and the report say that it was not verified."""
    secured: list[Secured] = []
    server = Server(Script(tls="starttls"), ssl_context=certified("mail.example.org"))
    with server, SyncClient(server.url) as client:
        client.on(Secured, secured.append)
        client.send(MAIL)
        assert not client.check().verified
    assert [event.verified for event in secured] == [False, False]


@every_world
def test_t8_no_octet_before_the_handshake(send: Any) -> None:
    """With implicit TLS the first octet on the wire is a handshake's, whatever a plain server says first."""
    heard = bytearray()

    def plain(connection: socket.socket) -> None:
        connection.sendall(b"220 here\r\n250-here\r\n250 AUTH PLAIN\r\n")
        while octets := connection.recv(65536):
            heard.extend(octets)

    with peer(plain) as port, pytest.raises(TLSError):
        send(f"smtps://localhost:{port}", {"user": "ann", "password": SECRET, "timeout": 5.0, "connect": 5.0})
    assert heard[:1] == b"\x16"
    assert not any(word in heard for word in (b"EHLO", b"AUTH", b"MAIL", b"QUIT", SECRET.encode()))


def test_t8_tls_with_a_proxy_is_none_with_the_server(trusting: ssl.SSLContext) -> None:
    """Through an https proxy, without TLS to the server: the report tells of none, and REQUIRETLS is refused."""
    script = Script(extensions=("REQUIRETLS",))
    with Server(script) as server, Relay("https", server.port, context=certified("localhost")) as relay:
        proxy = Proxy.of(relay.url, ssl_context=trusting)
        with SyncClient(f"smtp://localhost:{server.port}", tls="none", proxy=proxy) as client:
            with pytest.raises(NotSupported, match="here there is none"):
                client.send(MAIL, require_tls=True)
            report = client.check()
    assert (report.tls_version, report.cipher, report.verified, report.certificate) == (None, None, False, None)
    assert report.pins == ()
    assert not server.received


def said(script: Script, until: bytes) -> int:
    """How many octets the server has said once it has said the line that begins so."""
    with Server(script) as server:
        blocking(server.url, {"ssl_context": server.client_context(), "timeout": 5.0, "hello": "client.example"})
    total = 0
    for line in server.sessions[0].transcript:
        if line.direction == "S":
            total += len(line.octets) + 2
            if line.octets.startswith(until):
                return total
    raise AssertionError(until)


IMPLICIT = Script(tls="implicit", replies={"END": "250 2.0.0 ok"})


def test_t9_cut_within_the_final_reply() -> None:
    """TLS cut off without close_notify at each octet of the final reply: in doubt, though it began with 250."""
    end = said(IMPLICIT, b"250 2.0.0 ok")
    for after in range(end - len("250 2.0.0 ok\r\n") + 1, end):
        script = Script(tls="implicit", replies=IMPLICIT.replies, faults=(Fault("cut", after=after),))
        with Server(script) as server, pytest.raises(InDoubt) as caught:
            blocking(server.url, {"ssl_context": server.client_context(), "timeout": 5.0, "hello": "client.example"})
        assert caught.value.outcome is not None
        assert caught.value.outcome.in_doubt == ("bob@example.com",)
        assert len(server.received) == 1


def test_t9_cut_within_a_reply_of_many_lines() -> None:
    """A cut EHLO reply is not taken for a server with fewer extensions."""
    first = said(IMPLICIT, b"250-smtpkit.test")
    end = said(IMPLICIT, b"250 ENHANCEDSTATUSCODES")
    for after in (first - 3, first, first + 5, end - 2, end - 1):
        script = Script(tls="implicit", faults=(Fault("cut", after=after),))
        with Server(script) as server, pytest.raises(ChannelLost):
            blocking(server.url, {"ssl_context": server.client_context(), "timeout": 5.0, "hello": "client.example"})
        assert b"MAIL" not in server.sessions[0].octets_in


@every_world
@pytest.mark.parametrize("kind", ["cut", "close"])
def test_t9_end_behind_a_whole_reply(send: Any, kind: Any) -> None:
    """An end behind the whole final reply, in order or not, takes nothing from it."""
    end = said(IMPLICIT, b"250 2.0.0 ok")
    script = Script(tls="implicit", replies=IMPLICIT.replies, faults=(Fault(kind, after=end),))
    with Server(script) as server:
        outcome = send(server.url, {"ssl_context": server.client_context(), "timeout": 5.0, "hello": "client.example"})
    assert outcome.accepted == ("bob@example.com",)


def hello_of_client(octets: bytes) -> tuple[bytes, dict[int, bytes]]:
    """The compression methods and the extensions of a ClientHello (RFC 8446 section 4.1.2)."""
    assert octets[0] == 0x16, "a handshake record"
    assert octets[5] == 1, "a ClientHello"
    at = 5 + 4 + 2 + 32
    at += 1 + octets[at]  # the session
    at += 2 + int.from_bytes(octets[at : at + 2])  # the cipher suites
    methods = octets[at + 1 : at + 1 + octets[at]]
    at += 1 + octets[at] + 2
    extensions: dict[int, bytes] = {}
    while at < 5 + int.from_bytes(octets[3:5]):
        kind, size = int.from_bytes(octets[at : at + 2]), int.from_bytes(octets[at + 2 : at + 4])
        extensions[kind] = octets[at + 4 : at + 4 + size]
        at += 4 + size
    return methods, extensions


EARLY_DATA, PRE_SHARED_KEY = 42, 41
NULL = b"\0"


@pytest.mark.parametrize("verify", [True, False])
def test_t10_neither_renegotiation_nor_compression_nor_early_data(*, verify: bool) -> None:
    """Our contexts rule out compression and renegotiation, and what the client says first offers neither, nor 0-RTT."""
    context = default_context(verify, None)
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION
    stream = MemoryStream(lambda octets: b"")
    stream.deadline = stream.clock + 1
    with pytest.raises(TimeoutError):
        run(secure(stream, context, "localhost"))
    methods, extensions = hello_of_client(bytes(stream.sent))
    assert methods == NULL
    assert EARLY_DATA not in extensions
    assert extensions[0].endswith(b"localhost")  # so that what was looked at are the extensions


def test_t10_resumption_without_early_data() -> None:
    """TLS that is resumed by a ticket says so, and sends nothing before the server has answered (0-RTT)."""
    server, client = certified("localhost"), ssl.create_default_context()
    AUTHORITY.configure_trust(client)

    def talk(ticket: ssl.SSLSession | None) -> tuple[SecureStream, dict[int, bytes]]:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = server.wrap_bio(incoming, outgoing, server_side=True)
        shaken = False

        def answer(octets: bytes) -> bytes:
            nonlocal shaken
            incoming.write(octets)
            try:
                if not shaken:
                    tls.do_handshake()
                    tls.write(b"220 here")
                    shaken = True
            except ssl.SSLWantReadError:
                pass
            return outgoing.read()

        plain = MemoryStream(answer)
        stream = run(secure(plain, client, "localhost", ticket=ticket))
        assert run(stream.receive()) == b"220 here"
        return stream, hello_of_client(bytes(plain.sent))[1]

    first, said = talk(None)
    assert (first.resumed, PRE_SHARED_KEY in said) == (False, False)
    assert first.ticket is not None
    second, said = talk(first.ticket)
    assert (second.resumed, PRE_SHARED_KEY in said) == (True, True)
    assert EARLY_DATA not in said


def requiring(world: str, url: str, options: OptionKeywords) -> Outcome:
    """Send the mail in that world, over nothing but TLS."""

    async def main() -> Outcome:
        async with Client(url, **options) as client:
            return await client.send(MAIL, require_tls=True)

    if world != "blocking":
        return anyio.run(main, backend=world)
    with SyncClient(url, **options) as client:
        return client.send(MAIL, require_tls=True)


worlds = pytest.mark.parametrize("world", ["asyncio", "trio", "blocking"])


@worlds
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_t11_requiretls(world: str, tls: Any) -> None:
    """Over verified TLS, where the server offers it, MAIL says REQUIRETLS; and another mail does not."""
    mode: TLSMode = "required" if tls == "starttls" else "implicit"
    with Server(Script(tls=tls, extensions=("REQUIRETLS", "SIZE"))) as server:
        options: OptionKeywords = {"tls": mode, "ssl_context": server.client_context()}
        assert requiring(world, server.url, options).accepted
        blocking(server.url, options)
    assert ["REQUIRETLS" in mail.mail_parameters for mail in server.received] == [True, False]
    assert all(not session.errors for session in server.sessions)


def offered_in_clear_only(occurrence: Any) -> str:
    """EHLO's reply of a server that has REQUIRETLS outside TLS alone: somebody on the way said it."""
    return "250 here\nSIZE" if occurrence.session.secured else "250 here\nSTARTTLS\nREQUIRETLS"


LACKING: dict[str, tuple[Script, OptionKeywords, str]] = {
    "not offered": (Script(tls="starttls"), {"tls": "required"}, "does not offer REQUIRETLS"),
    "offered in clear": (
        Script(tls="starttls", replies={"EHLO": offered_in_clear_only}),
        {"tls": "required"},
        "does not offer REQUIRETLS",
    ),
    "not verified": (
        Script(tls="starttls", extensions=("REQUIRETLS",)),
        {"tls": "opportunistic"},
        "none that is verified",
    ),
    "no TLS": (Script(extensions=("REQUIRETLS",)), {"tls": "none"}, "here there is none;"),
    "TLS is not offered": (Script(extensions=("REQUIRETLS",)), {"tls": "opportunistic"}, "here there is none;"),
}


@worlds
@pytest.mark.parametrize("way", LACKING)
def test_t11_requiretls_is_not_dropped(way: str, world: str) -> None:
    """Without verified TLS, or where EHLO within TLS does not offer it, the mail is refused before MAIL."""
    script, options, words = LACKING[way]
    with Server(script) as server:
        if options["tls"] == "required":
            options = {**options, "ssl_context": server.client_context()}
        with pytest.raises(NotSupported, match=words) as caught:
            requiring(world, server.url, options)
    assert caught.value.extension == "REQUIRETLS"
    assert caught.value.outcome is not None
    assert not caught.value.outcome.accepted
    assert [b"MAIL" in session.octets_in for session in server.sessions] == [False]


def test_t11_the_session_is_in_step() -> None:
    """After such a refusal the session takes the next mail, which does not ask for it."""
    with Server(Script(tls="starttls")) as server:
        with SyncClient(server.url, tls="required", ssl_context=server.client_context()) as client:
            with pytest.raises(NotSupported):
                client.send(MAIL, require_tls=True)
            assert client.send(MAIL).accepted
        assert len(server.sessions) == 1


def drip(connection: socket.socket) -> None:
    """A handshake record that never ends, an octet at a time."""
    connection.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
    while not select.select([connection], [], [], 0.02)[0] or connection.recv(65536):
        connection.sendall(b"\0")


@every_world
@pytest.mark.parametrize("mode", ["required", "implicit"])
@pytest.mark.parametrize("behaviour", [silence, drip], ids=["hangs", "drips"])
def test_t12_handshake_that_does_not_end(send: Any, behaviour: Behaviour, mode: TLSMode) -> None:
    """A handshake that hangs, or drips and so never is silent, ends with the connect limit, nothing told."""
    heard = bytearray()

    def serve(connection: socket.socket) -> None:
        if mode == "required":
            for said in (b"220 here\r\n", b"250-here\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n", b"220 go\r\n"):
                connection.sendall(said)
                heard.extend(connection.recv(65536))
        behaviour(connection)

    options: OptionKeywords = {**LOGIN, "tls": mode, "connect": 0.3}
    with peer(serve) as port, pytest.raises(TimedOut) as caught:
        send(f"smtp://localhost:{port}", options)
    assert caught.value.limit == "connect"
    clear = bytes(heard)
    assert not any(word in clear for word in (b"AUTH", b"MAIL", SECRET.encode()))
    assert (b"STARTTLS" in clear) == (mode == "required")


def test_every_threat_has_its_test() -> None:
    """Each row of the table of threats to TLS, T1 to T12, has a test that is named after it."""
    rows = {found[1] for name in globals() if (found := re.match(r"test_t(\d+)_", name))}
    assert rows == {str(number) for number in range(1, 13)}
