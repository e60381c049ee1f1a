"""Threats to a login, row by row (A4-A8): hostile exchanges, and secrets where nobody may read them."""

import asyncio
import base64
import logging
import pickle
import re
import traceback
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from smtpkit import Client, SyncClient
from smtpkit.errors import AuthenticationRefused, ProtocolViolation, Refused, ServiceClosing, SMTPError, UsageError
from smtpkit.events import CommandSent, Event
from smtpkit.message.message import prepare
from smtpkit.options import OptionKeywords, Options, Secret
from smtpkit.pool import Pool, Request
from smtpkit.protocol.mechanism import Identity, Mechanism
from smtpkit.protocol.procedures import MOST_CHALLENGES
from smtpkit.protocol.sasl import MECHANISMS, Row
from smtpkit.spool import Spool
from smtpkit.sync_client import drive
from smtpkit.testing import Fault, Script, Server
from smtpkit.transport.connect import run_inline
from tests.hostile import forms, found
from tests.memory import Talk
from tests.streams import MemoryStream

MAIL = b"From: ann@example.com\r\nTo: bob@example.com\r\n\r\nhello\r\n"
SECRET = "hunter2 & 100% secret/+="
CLEAR: OptionKeywords = {"tls": "none", "allow_plaintext_auth": True, "hello": "client.example", "timeout": 0.3}
BY_PASSWORD = ("PLAIN", "LOGIN", "CRAM-MD5")
BY_TOKEN = ("XOAUTH2", "OAUTHBEARER")


def login(mechanism: str, secret: str = SECRET) -> OptionKeywords:
    """The options of a login by one mechanism, in clear."""
    if mechanism in BY_TOKEN:
        return {**CLEAR, "user": "ann", "token": secret, "mechanism": mechanism}
    return {**CLEAR, "user": "ann", "password": secret, "mechanism": mechanism}


def users(mechanism: str, secret: str = SECRET) -> dict[str, Any]:
    """The script's side of it."""
    return {"tokens" if mechanism in BY_TOKEN else "users": {"ann": secret}}


every_mechanism = pytest.mark.parametrize("mechanism", [*BY_PASSWORD, *BY_TOKEN])


def refused(script: Script, options: OptionKeywords) -> tuple[Talk, SMTPError]:
    """Open in memory, and fail."""
    talk = Talk(script, options)
    with pytest.raises(SMTPError) as caught:
        talk.open()
    assert talk.stream.closed
    assert b"MAIL" not in talk.stream.sent
    return talk, caught.value


@every_mechanism
def test_a4_endless_challenges(mechanism: str) -> None:
    """A server that challenges without end is given up with ``*`` after eight challenges at most."""
    answer = f"334 {base64.b64encode(b'more').decode()}"
    script = Script(**users(mechanism), replies={"AUTH": answer, "RESPONSE": answer})
    talk, error = refused(script, login(mechanism))
    assert isinstance(error, ProtocolViolation)
    lines = bytes(talk.stream.sent).split(b"\r\n")
    assert lines.count(b"*") == 1
    assert lines[-2] == b"*"
    assert len(lines) <= MOST_CHALLENGES + 5


def test_a4_a_mechanism_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where mechanism and server would go on for ever the eighth response is the last."""

    def talkative(who: Identity) -> Mechanism:
        yield None
        while True:
            yield b"and another thing"

    monkeypatch.setitem(MECHANISMS, "PLAIN", Row(talkative, "password"))
    script = Script(**users("PLAIN"), replies={"AUTH": "334 YQ==", "RESPONSE": "334 YQ=="})
    talk, error = refused(script, login("PLAIN"))
    assert isinstance(error, ProtocolViolation)
    assert talk.stream.sent.count(base64.b64encode(b"and another thing")) == 8
    assert talk.stream.sent.endswith(b"\r\n*\r\n")


@every_mechanism
@pytest.mark.parametrize("text", ["x", "=", "YQ", "YQ==YQ==", "Y Q==", "Y\u00e9==", "YQ==\x00", "****"])
def test_a4_bad_base64(mechanism: str, text: str) -> None:
    """A challenge that is no base64 is not answered by a response: ``*``, and the session ends."""
    script = Script(**users(mechanism), replies={"AUTH": f"334 {text}"})
    talk, error = refused(script, login(mechanism))
    assert isinstance(error, ProtocolViolation)
    assert talk.stream.sent.endswith(b"\r\n*\r\n")
    assert not found(SECRET, [str(error), repr(error)])


@every_mechanism
def test_a4_challenge_in_many_lines(mechanism: str) -> None:
    """A challenge has one line; more of them are no base64."""
    script = Script(**users(mechanism), replies={"AUTH": b"334-YQ==\r\n334 YQ==\r\n"})
    talk, error = refused(script, login(mechanism))
    assert isinstance(error, ProtocolViolation)
    assert talk.stream.sent.endswith(b"\r\n*\r\n")


@every_mechanism
@pytest.mark.parametrize("size", [12_290, 20_000_000])
def test_a4_base64_bomb(mechanism: str, size: int) -> None:
    """A challenge longer than 12 288 octets is not even read to its end."""
    script = Script(**users(mechanism), replies={"AUTH": f"334 {'A' * size}"})
    _, error = refused(script, login(mechanism))
    assert isinstance(error, ProtocolViolation)
    assert len(str(error)) < 500


def test_a4_a_large_challenge_is_answered() -> None:
    """A challenge of 12 288 octets is within the limit."""
    challenge = "A" * 12_288
    script = Script(**users("CRAM-MD5"), replies={"AUTH": f"334 {challenge}", "RESPONSE": "235 ok"})
    talk = Talk(script, login("CRAM-MD5"))
    talk.open()
    assert talk.session.mechanism == "CRAM-MD5"


def test_a4_success_in_the_middle() -> None:
    """235 before the password was asked for: it is not said any more."""
    talk = Talk(Script(**users("LOGIN"), replies={"RESPONSE": "235 2.7.0 welcome"}), login("LOGIN"))
    talk.open()
    sent = bytes(talk.stream.sent)
    assert base64.b64encode(b"ann") in sent
    assert base64.b64encode(SECRET.encode()) not in sent


def test_a4_challenge_after_the_last_step() -> None:
    """A mechanism that has no more to say does not say its last word again."""
    script = Script(**users("PLAIN"), replies={"AUTH": "334 ", "RESPONSE": "334 "})
    talk, _ = refused(script, login("PLAIN"))
    assert len(found(SECRET, bytes(talk.stream.sent).decode().split("\r\n"))) == 1


@pytest.mark.parametrize(("mechanism", "last"), [("XOAUTH2", b"\r\n\r\n"), ("OAUTHBEARER", b"\r\nAQ==\r\n")])
def test_a5_error_challenge(mechanism: str, last: bytes) -> None:
    """The challenge that explains a refused token is answered, once, and handed to the caller."""
    talk, error = refused(Script(tokens={"ann": "another"}), login(mechanism))
    assert isinstance(error, AuthenticationRefused)
    assert error.reply.code == 535
    assert b"status" in (error.challenge or b"")
    assert talk.stream.sent.removesuffix(b"QUIT\r\n").endswith(last)
    assert talk.stream.sent.count(b"AUTH ") == 1


def test_a5_no_other_mechanism_with_the_same_secret() -> None:
    """After a credential failure no other mechanism is tried, in neither family."""
    for options in ({"user": "ann", "token": SECRET}, {"user": "ann", "password": SECRET}):
        script = Script(users={"ann": "another"}, tokens={"ann": "another"})
        talk, error = refused(script, {**CLEAR, **options})  # type: ignore[typeddict-item]  # one of two TypedDicts
        assert isinstance(error, AuthenticationRefused)
        assert talk.stream.sent.count(b"AUTH ") == 1


# --- A6: secrets ------------------------------------------------------------------------------------------------------

ENDS: dict[str, dict[str, Any]] = {
    "accepted": {},
    "535": {"AUTH": "535 5.7.8 no", "RESPONSE": "535 5.7.8 no"},
    "535 at the end": {"RESPONSE": ["334 VXNlcg==", "334 UGFzcw==", "535 5.7.8 no"]},
    "454": {"AUTH": "454 4.7.0 later", "RESPONSE": "454 4.7.0 later"},
    "504": {"AUTH": "504 5.5.4 no such"},
    "421": {"AUTH": "421 bye", "RESPONSE": "421 bye"},
    "endless": {"AUTH": "334 YQ==", "RESPONSE": "334 YQ=="},
    "bad base64": {"AUTH": "334 ~", "RESPONSE": "334 ~"},
    "mixed codes": {"AUTH": b"235-no\r\n535 yes\r\n", "RESPONSE": b"235-no\r\n535 yes\r\n"},
    "garbage": {"AUTH": b"\xff\x00\r\n", "RESPONSE": b"\xff\x00\r\n"},
    "silence": {"RESPONSE": None},
    "close": {"AUTH": Fault("close"), "RESPONSE": Fault("close")},
    "reset": {"AUTH": Fault("reset"), "RESPONSE": Fault("reset")},
    "354": {"AUTH": "354 go", "RESPONSE": "354 go"},
    "mail refused later": {"MAIL": "550 5.7.1 no"},
}
for _echo in ("AUTH", "RESPONSE"):  # a challenge may hold what was said before
    ENDS[f"echo of {_echo}"] = {
        _echo: lambda occurrence: b"334 " + (occurrence.line.split(b" ")[-1] or b"=") + b"\r\n",
        **({"RESPONSE": "535 no"} if _echo == "AUTH" else {}),
    }


def said_in_secret(server: Server) -> Iterator[str]:
    """What the client said in its exchanges beside the names of mechanisms: none of it may be shown."""
    for session in server.sessions:
        for line in session.said("C"):
            text = line.decode()
            if text.startswith("AUTH "):
                text = [*text.split(" "), "", ""][2]
            elif re.match(r"(EHLO|MAIL|RCPT|DATA|QUIT|RSET|\*)", text):
                continue
            if len(text) > 4:
                yield text


def shown(error: BaseException | None) -> Iterator[str]:
    """All that an exception shows, its causes too; a challenge is the server's own words, and may be an echo."""
    while error is not None:
        yield from (str(error), repr(error), repr(error.args))
        yield "".join(traceback.format_exception(error))
        if isinstance(error, SMTPError) and not getattr(error, "challenge", None):
            yield repr(vars(error))
            yield pickle.dumps(error).decode("latin-1")
        error = error.__cause__ or error.__context__


def queued(folder: Path, options: Options) -> str:
    """A file of the spool, with the mail that could not be sent by these options."""
    mail = drive(prepare(MAIL, newlines=options.newlines, on_refused=options.on_refused, run=run_inline))
    folder.chmod(0o700)
    with Spool(folder) as spool:
        text = Path(spool.add(mail.envelope, mail.mail_data, message_id=mail.message_id)).read_bytes().decode("latin-1")
    assert "hello" in text
    return text


async def in_loop(client: Client) -> None:
    """Send by the async client."""
    async with client:
        await client.send(MAIL)


@every_mechanism
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("world", ["blocking", "asyncio"])
def test_a6_secrets_are_nowhere(
    mechanism: str, end: str, world: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """However a login ends: no secret, in no encoding, in logs, events, reprs, errors, tracebacks, pickles, spools."""
    caplog.set_level(logging.DEBUG)
    texts: list[str] = []
    error: SMTPError | None = None
    with Server(Script(**users(mechanism), replies=ENDS[end])) as server:
        client = (SyncClient if world == "blocking" else Client)(server.url, **login(mechanism))
        client.on(Event, lambda event: texts.append(repr(event) + str(getattr(event, "text", ""))))
        client.on(CommandSent, lambda event: logging.getLogger("mail").info("%s", event))
        try:
            if isinstance(client, SyncClient):
                with client:
                    client.send(MAIL)
            else:
                asyncio.run(in_loop(client), debug=True)
        except SMTPError as caught:
            error = caught
        else:
            assert not {"AUTH", "MAIL"} & ENDS[end].keys()
        texts += [repr(client), repr(client.options), client.options.shown, repr(client.options.credentials)]
        secrets = list(said_in_secret(server))
    texts += [caplog.text, *shown(error), queued(tmp_path, client.options)]
    assert any("AUTH" in text for text in texts)
    assert (
        secrets
        or end in {"504", "421", "mixed codes", "garbage", "close", "reset", "354", "535"}
        or mechanism != "PLAIN"
    )
    assert not found(SECRET, texts)
    for secret in secrets:
        if secret != base64.b64encode(b"ann").decode():
            assert not [text for text in texts if secret in text]


@every_mechanism
def test_a6_login_that_is_too_long(mechanism: str, caplog: pytest.LogCaptureFixture) -> None:
    """A token of 20 000 octets is said after an empty challenge, or not at all, and shown nowhere."""
    secret = "s3cret" * 3500
    texts: list[str] = []
    talk = Talk(Script(**users(mechanism, secret)), login(mechanism, secret))
    talk.observers.on(Event, lambda event: texts.append(repr(event)))
    error: BaseException | None = None
    try:
        talk.open()
    except SMTPError as caught:
        error = caught
    texts += [caplog.text, *shown(error), repr(talk.options)]
    assert not [text for text in texts if "s3cret" in text or base64.b64encode(b"s3crets3crets3cret").decode() in text]


def _url_errors(secret: str) -> Iterator[tuple[str, OptionKeywords]]:
    yield f"smtp://ann:{secret}@mail.example.com:99999", {}
    yield f"smtp://ann:{secret}@mail.example.com?nothing=1", {}
    yield f"smtp://ann:{secret}@mail.example.com?tls=never", {}
    yield f"smtp://ann:{secret}/@mail.example.com", {}
    yield f"smtp://ann:{secret}#@mail.example.com", {}
    yield f"smtp://ann:{secret}?@mail.example.com", {}
    yield f"smtp://ann:{secret}%zz@mail.example.com", {}
    yield f"smtp://ann:{secret}%ff@mail.example.com", {}
    yield f"smtp://ann:{secret} @mail.example.com", {}
    yield f"http://ann:{secret}@mail.example.com", {}
    yield f"ann:{secret}@mail.example.com", {}
    yield f"smtp://:{secret}@mail.example.com", {}
    for bad in ("\r\n", "\0", "\ud800", "\x7f"):
        yield "smtp://mail.example.com", {"user": "ann", "password": secret + bad}
        yield "smtp://mail.example.com", {"user": "ann", "token": secret + bad}
    yield "smtp://mail.example.com", {"password": secret}
    yield "smtp://mail.example.com", {"user": "ann", "password": secret, "token": secret}
    yield "smtp://mail.example.com", {"user": "ann", "password": secret, "tls": "none"}
    yield "smtp://mail.example.com", {"user": "ann", "password": secret.encode()}  # type: ignore[typeddict-item]
    yield "smtp://mail.example.com", {"user": "ann", "password": [secret]}  # type: ignore[typeddict-item]


@pytest.mark.parametrize(("url", "keywords"), list(_url_errors("hunter2hunter2")), ids=lambda value: repr(value)[:60])
def test_a6_bad_options(url: str, keywords: OptionKeywords) -> None:
    """An error about the options shows no piece of a password, in a URL or a keyword."""
    with pytest.raises(UsageError) as caught:
        Client(url, **keywords)
    assert not found("hunter2hunter2", shown(caught.value))


async def _later() -> str:
    return "hunter2\ud800hunter2"


@pytest.mark.parametrize(
    "token",
    [
        lambda: "hunter2\ud800hunter2",
        lambda: "hunter2\r\nhunter2",
        lambda: b"hunter2",
        lambda: None,
        lambda: "",
        _later,
    ],
    ids=["surrogate", "line end", "bytes", "none", "empty", "async"],
)
def test_a6_token_function_that_gives_nonsense(token: Callable[[], str | Awaitable[str]]) -> None:
    """What a function gives as a token is checked like any: UsageError without it, and nothing is said."""
    talk, error = refused(Script(tokens={"ann": "x"}), {**CLEAR, "user": "ann", "token": token})
    assert isinstance(error, UsageError)
    assert "token" in str(error)
    assert not found("hunter2", shown(error))
    assert b"AUTH" not in talk.stream.sent


# --- A7: whose session ------------------------------------------------------------------------------------------------

BASE: OptionKeywords = {"user": "ann", "password": "one", "tls": "required"}


def _others() -> Iterator[Options]:
    import ssl

    url = "submission://mail.example.com"
    yield Options.of("submission://mail.example.org", **BASE)
    yield Options.of("submission://mail.example.com:2587", **BASE)
    yield Options.of("lmtp://mail.example.com:587", **BASE)
    yield Options.of(url, tls="required")
    others: tuple[OptionKeywords, ...] = (
        {"user": "bob"},
        {"password": "two"},
        {"authzid": "bob"},
        {"mechanism": "LOGIN"},
        {"tls": "implicit"},
        {"tls": "opportunistic", "allow_plaintext_auth": True},
        {"allow_plaintext_auth": True},
        {"tls_name": "mx.example.com"},
        {"ssl_context": ssl.create_default_context()},
        {"hello": "client.example"},
        {"local_address": "127.0.0.1"},
        {"local_port": 2525},
    )
    for other in others:
        options: OptionKeywords = {**BASE, **other}
        yield Options.of(url, **options)
    yield Options.of(url, user="ann", token="one", tls="required")


class Resting:
    """A session at rest."""

    usable = True
    broken = spent = False
    began = 0.0


@pytest.mark.parametrize("other", list(_others()), ids=lambda other: other.shown)
def test_a7_sessions_are_not_shared(other: Options) -> None:
    """A session opened for one server, login, TLS or address is never handed to who asks for another."""
    mine = Options.of("submission://mail.example.com", **BASE)
    assert mine.key == Options.of("submission://mail.example.com", **BASE).key
    assert mine.key != other.key
    pool: Pool[Resting] = Pool(2)
    first: Request[Resting] = Request(mine.key)
    pool.ask(first, 0.0)
    pool.opened(first, Resting())
    pool.give_back(first, 0.0)
    second: Request[Resting] = Request(other.key)
    pool.ask(second, 0.0)
    assert second.granted
    assert second.session is None
    third: Request[Resting] = Request(mine.key)
    pool.ask(third, 0.0)
    assert third.session is not None


def test_a7_a_reply_does_not_redirect_a_login() -> None:
    """What a 421 says about another server changes nothing: no other is connected to."""
    reply = "421 4.3.0 use smtp://evil.example.com instead"
    with Server(Script(users={"ann": SECRET}, replies={"AUTH": reply})) as server:
        with SyncClient(server.url, **login("PLAIN")) as client, pytest.raises(ServiceClosing):
            client.send(MAIL)
        assert len(server.sessions) == 1


# --- A8: what ends a group --------------------------------------------------------------------------------------------


class Writes(MemoryStream):
    """Keeps what was written, write by write."""

    writes: list[bytes]

    async def send(self, octets: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(octets))
        await super().send(octets)


LAST = (b"EHLO", b"HELO", b"LHLO", b"AUTH", b"STARTTLS", b"DATA", b"QUIT", b"NOOP", b"VRFY", b"EXPN")


@every_mechanism
@pytest.mark.parametrize("chunking", ["never", "always"])
def test_a8_nothing_behind_a_command_that_ends_a_group(mechanism: str, chunking: Any) -> None:
    """Behind EHLO, AUTH, its responses, DATA, NOOP and QUIT nothing is written before their reply."""
    talk = Talk(Script(**users(mechanism)), {**login(mechanism), "chunking": chunking})
    talk.stream.__class__ = Writes
    writes: list[bytes] = []
    talk.stream.writes = writes  # type: ignore[attr-defined]
    talk.open()
    assert talk.send().accepted
    assert talk.send().accepted
    from smtpkit.protocol import procedures
    from tests.streams import run

    for procedure in (procedures.noop(), procedures.verify("ann"), procedures.expand("all")):
        run(talk.session.perform(procedure))
    run(talk.session.close())
    assert not talk.dialogue.session.errors
    seen = set()
    for write in writes:
        lines = write.split(b"\r\n")
        for number, line in enumerate(lines):
            verb = line.split(b" ")[0]
            if verb in LAST:
                seen.add(verb)
                assert lines[number + 1 :] == [b""]
    assert {b"EHLO", b"AUTH", b"QUIT", b"NOOP"} <= seen
    assert (b"DATA" in seen) == (chunking == "never")


def test_a8_nothing_behind_starttls() -> None:
    """The server drops octets sent behind STARTTLS and notes them: there are none."""
    with Server(Script(tls="starttls", users={"ann": SECRET})) as server:
        options: OptionKeywords = {"user": "ann", "password": SECRET, "ssl_context": server.client_context()}
        with SyncClient(server.url, **options) as client:
            client.send(MAIL)
    assert [session.errors for session in server.sessions] == [[]]
    assert server.received[0].user == "ann"


def test_a8_one_login_a_session() -> None:
    """A session logs in once, however many mails go over it."""
    with Server(Script(users={"ann": SECRET})) as server, SyncClient(server.url, **login("PLAIN")) as client:
        for _ in range(3):
            client.send(MAIL)
    assert len(server.sessions) == 1
    assert sum(line.startswith(b"AUTH") for line in server.sessions[0].said("C")) == 1
    assert not server.sessions[0].errors


def test_a6_search_finds_what_is_there() -> None:
    """The search itself would find a secret in each of its forms."""
    plain = base64.b64encode(f"\0ann\0{SECRET}".encode()).decode()
    texts = [f"x{SECRET}y", plain, repr(Secret(SECRET).reveal()), SECRET.encode().hex()]
    assert len(found(SECRET, texts)) == len(texts)
    assert all(len(form) > 10 for form in forms(SECRET))
    assert issubclass(AuthenticationRefused, Refused)
