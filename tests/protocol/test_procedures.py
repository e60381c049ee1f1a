"""Procedures, purely: what each says to which replies, and what comes of it; no channel, no loop, no socket."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from smtpkit.errors import (
    AuthenticationRefused,
    ChannelLost,
    DataRefused,
    InDoubt,
    InvalidMail,
    NotSupported,
    Outcome,
    ProtocolViolation,
    RecipientsRefused,
    Refused,
    SenderRefused,
    ServiceClosing,
    SMTPError,
    TimedOut,
)
from smtpkit.protocol.command import Verb
from smtpkit.protocol.envelope import Envelope, ForwardPath
from smtpkit.protocol.extension import NOTHING, Extensions
from smtpkit.protocol.mail_data import MailData
from smtpkit.protocol.mechanism import Identity
from smtpkit.protocol.procedures import (
    MOST_UNANSWERED,
    SMALL,
    Plan,
    authenticate,
    command,
    expand,
    greeting,
    hello,
    noop,
    plan,
    probe,
    secure,
    termination,
    transaction,
    verify,
)
from smtpkit.protocol.steps import Hear, Lost, Transfer, Transferred
from tests.driver import Answer, Talk, drive, reply

LOST = ChannelLost("cut")


def lost(*words: str, spoken: bool = True) -> Lost:
    """The end of the channel, after these last words."""
    return Lost(LOST, spoken=spoken, last_words=tuple(map(reply, words)))


def offers(*keywords: str) -> Extensions:
    """What a server that says these lines offers."""
    return Extensions.of(reply("\n".join(f"250-{line}" for line in ("mail.example", *keywords))))


def mail(
    recipients: tuple[str, ...] = ("bob@x", "cy@x"),
    *keywords: str,
    data: MailData | None = None,
    required: bool = False,
    chunked: bool = False,
    lmtp: bool = False,
) -> Plan:
    """A mail of ten octets from Ann, fitted to what the server offers."""
    return plan(
        Envelope.of("ann@x", recipients, required=required),
        data or MailData.of(b"12345678\r\n"),
        offers(*keywords, *(["CHUNKING"] if chunked else [])),
        chunked=chunked,
        lmtp=lmtp,
        message_id="<1@x>",
    )


# The greeting, and hello


def test_greeting() -> None:
    """The server speaks first; nothing is said for it."""
    talk = drive(greeting(), "220-mail.example\n220 hello")
    assert talk.of.lines == ("mail.example", "hello")
    assert talk.said == []


@pytest.mark.parametrize("last", ["221 bye", "250 x", "421 x", "500 x", lost()])
@pytest.mark.parametrize("code", [450, 554])
def test_greeting_refused(code: int, last: Answer) -> None:
    """A server that greets with a no waits for QUIT; how it answers that is of no consequence (RFC 5321 3.1)."""
    talk = drive(greeting(), f"{code} no service", last)
    assert talk.said == ["QUIT"]
    with pytest.raises(Refused) as refused:
        _ = talk.of
    assert (refused.value.reply.code, refused.value.stage) == (code, "greeting")


@pytest.mark.parametrize(("answer", "kind"), [("421 busy", ServiceClosing), ("354 x", ProtocolViolation)])
def test_no_greeting(answer: str, kind: type[SMTPError]) -> None:
    """421 ends the channel at once; a 3yz is no greeting."""
    talk = drive(greeting(), answer)
    assert type(talk.error) is kind
    assert talk.said == []


HELLOS: list[tuple[dict[str, bool], list[str], list[str], type[SMTPError] | None, str]] = [
    ({}, ["250-mail.example\n250 DSN"], ["EHLO c"], None, ""),
    ({"lmtp": True}, ["250-mail.example\n250 DSN"], ["LHLO c"], None, ""),
    ({}, ["502 what?", "250 mail.example"], ["EHLO c", "HELO c"], None, ""),
    ({}, ["550 go away", "550 go away"], ["EHLO c", "HELO c"], Refused, "HELO"),
    ({}, ["502 what?", "451 later"], ["EHLO c", "HELO c"], Refused, "HELO"),
    ({}, ["451 later"], ["EHLO c"], Refused, "EHLO"),
    ({"fall_back": False}, ["502 what?"], ["EHLO c"], Refused, "EHLO"),
    ({"lmtp": True}, ["500 what?"], ["LHLO c"], Refused, "LHLO"),
    ({}, ["421 bye"], ["EHLO c"], ServiceClosing, "EHLO"),
    ({}, ["502 what?", "421 bye"], ["EHLO c", "HELO c"], ServiceClosing, "HELO"),
    ({}, ["354 go"], ["EHLO c"], ProtocolViolation, "EHLO answered"),
    ({}, ["500 x", "354 go"], ["EHLO c", "HELO c"], ProtocolViolation, "HELO answered"),
]


@pytest.mark.parametrize(("how", "answers", "said", "kind", "stage"), HELLOS)
def test_hello(
    how: dict[str, bool], answers: list[str], said: list[str], kind: type[SMTPError] | None, stage: str
) -> None:
    """EHLO, and HELO only where EHLO is refused for good and that is allowed; never for LMTP."""
    talk = drive(hello("c", **how), *answers)
    assert talk.said == said + ["QUIT"] * (kind is Refused)
    if kind is None:
        assert talk.of == (Extensions({"DSN": ""}) if len(said) == 1 else NOTHING)
    else:
        assert type(talk.error) is kind
        assert str(talk.error).startswith(stage)


SECURES: list[tuple[str, list[str], type[SMTPError] | None]] = [
    ("220 go", ["STARTTLS", "<TLS>"], None),
    ("454 not now", ["STARTTLS"], None),
    ("502 what?", ["STARTTLS"], None),
    ("421 bye", ["STARTTLS"], ServiceClosing),
    ("250 ok", ["STARTTLS"], ProtocolViolation),
    ("221 ok", ["STARTTLS"], ProtocolViolation),
    ("354 go", ["STARTTLS"], ProtocolViolation),
]


@pytest.mark.parametrize(("answer", "said", "kind"), SECURES)
def test_secure(answer: str, said: list[str], kind: type[SMTPError] | None) -> None:
    """TLS begins after 220 and nothing else; a refusal is an answer, any other reply is a violation."""
    talk = drive(secure(), answer)
    assert talk.said == said
    if kind is None:
        assert talk.of == reply(answer)
    else:
        assert type(talk.error) is kind


# AUTH

ANN = Identity(user="ann", password="secret", token="t0k", host="h")


def b64(text: str) -> str:
    """Base64, as it stands on the wire."""
    return base64.b64encode(text.encode()).decode()


PLAIN, USER, PASSWORD = f"AUTH PLAIN {b64(chr(0) + 'ann' + chr(0) + 'secret')}", b64("ann"), b64("secret")
XOAUTH2 = "AUTH XOAUTH2 " + b64("user=ann\1auth=Bearer t0k\1\1")
OAUTHBEARER = "AUTH OAUTHBEARER " + b64("n,a=ann,\1host=h\1auth=Bearer t0k\1\1")
FAULT = '{"status":"401"}'

EXCHANGES: list[tuple[str, list[str], list[str], int | type[SMTPError] | None]] = [
    ("PLAIN", ["235 ok"], [PLAIN], None),
    ("PLAIN", ["504 no"], [PLAIN], 504),
    ("PLAIN", ["535 no"], [PLAIN], 535),
    ("PLAIN", ["454 later"], [PLAIN], 454),
    ("PLAIN", ["538 encrypt"], [PLAIN], 538),
    ("PLAIN", ["421 bye"], [PLAIN], ServiceClosing),
    ("PLAIN", ["334 ", "501 ok"], [PLAIN, "*"], ProtocolViolation),
    ("PLAIN", ["334 ", "421 bye"], [PLAIN, "*"], ServiceClosing),
    ("PLAIN", ["334 ", "235 what?"], [PLAIN, "*"], ProtocolViolation),
    ("LOGIN", ["334 VXNlcg==", "334 eA==", "235 ok"], ["AUTH LOGIN", USER, PASSWORD], None),
    ("LOGIN", ["334", "334 ", "235 ok"], ["AUTH LOGIN", USER, PASSWORD], None),
    ("LOGIN", ["334 ", "535 no"], ["AUTH LOGIN", USER], 535),
    ("LOGIN", ["334 ", "334 ", "535 no"], ["AUTH LOGIN", USER, PASSWORD], 535),
    ("LOGIN", ["504 no"], ["AUTH LOGIN"], 504),
    ("LOGIN", ["334 ", "334 ", "334 ", "501 x"], ["AUTH LOGIN", USER, PASSWORD, "*"], ProtocolViolation),
    ("LOGIN", ["334 Username:", "501 x"], ["AUTH LOGIN", "*"], ProtocolViolation),
    ("LOGIN", ["334 ", "334 eA", "501 x"], ["AUTH LOGIN", USER, "*"], ProtocolViolation),
    ("LOGIN", ["334 eA== eA==", "501 x"], ["AUTH LOGIN", "*"], ProtocolViolation),
    ("LOGIN", ["334-eA==\n334 eA==", "501 x"], ["AUTH LOGIN", "*"], ProtocolViolation),
    ("LOGIN", ["334 \udcff", "501 x"], ["AUTH LOGIN", "*"], ProtocolViolation),
    ("LOGIN", ["334 ", "421 bye"], ["AUTH LOGIN", USER], ServiceClosing),
    ("XOAUTH2", ["235 ok"], [XOAUTH2], None),
    ("XOAUTH2", [f"334 {b64(FAULT)}", "535 no"], [XOAUTH2, ""], 535),
    ("XOAUTH2", ["334 e30=", "334 e30=", "501 x"], [XOAUTH2, "", "*"], ProtocolViolation),
    ("OAUTHBEARER", ["235 ok"], [OAUTHBEARER], None),
    ("OAUTHBEARER", [f"334 {b64(FAULT)}", "535 no"], [OAUTHBEARER, "AQ=="], 535),
    ("CRAM-MD5", ["334 PHg+", "235 ok"], ["AUTH CRAM-MD5", b64("ann dadebfe81bd9c156c979f959293c5eeb")], None),
    ("CRAM-MD5", ["334 ?", "501 x"], ["AUTH CRAM-MD5", "*"], ProtocolViolation),
]


@pytest.mark.parametrize(("name", "answers", "said", "result"), EXCHANGES)
def test_authenticate(name: str, answers: list[str], said: list[str], result: int | type[SMTPError] | None) -> None:
    """Each mechanism to its end; what cannot be answered is given up with ``*``, and the session with it."""
    talk = drive(authenticate(name, ANN), *answers)
    assert talk.said == said
    assert not talk.left
    if isinstance(result, type):
        assert type(talk.error) is result
    else:
        assert (None if talk.of is None else talk.of.reply.code) == result


def test_refusal_tells_the_challenge() -> None:
    """The challenge before a refusal is there to look at: OAuth tells in it what was wrong (RFC 7628 section 3.2.2)."""
    talk = drive(authenticate("XOAUTH2", ANN), f"334 {b64(FAULT)}", "535 no")
    assert isinstance(talk.of, AuthenticationRefused)
    assert talk.of.challenge == FAULT.encode()
    talk = drive(authenticate("XOAUTH2", ANN), "535 no")
    assert isinstance(talk.of, AuthenticationRefused)
    assert talk.of.challenge is None


def test_long_initial_response() -> None:
    """An initial response that does not fit on the line follows an empty challenge (RFC 4954 section 4)."""
    token = "x" * 9300
    response = b64(f"user=ann\1auth=Bearer {token}\1\1")
    who = Identity(user="ann", token=token)
    talk = drive(authenticate("XOAUTH2", who), "334 ", f"334 {b64(FAULT)}", "535 no")
    assert talk.said == ["AUTH XOAUTH2", response, ""]
    assert drive(authenticate("XOAUTH2", who), "334 ", "235 ok").of is None


def test_endless_challenges(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mechanism with an answer to everything is asked eight times and no more."""
    from smtpkit.protocol import sasl

    def endless(who: Identity) -> Iterator[bytes]:
        while True:
            yield b"x"

    monkeypatch.setitem(sasl.MECHANISMS, "ENDLESS", sasl.Row(endless))  # type: ignore[arg-type]  # sent values are not looked at
    talk = drive(authenticate("ENDLESS", ANN), *["334 "] * 9, "501 x")
    assert talk.said == ["AUTH ENDLESS eA==", *["eA=="] * 8, "*"]
    assert type(talk.error) is ProtocolViolation
    assert drive(authenticate("ENDLESS", ANN), *["334 "] * 8, "235 ok").of is None


def test_no_secret_in_an_error() -> None:
    """No error of an exchange tells what was said in it."""
    for answers in (["535 no"], ["334 ", "501 x"], ["421 bye"]):
        talk = drive(authenticate("PLAIN", ANN), *answers)
        error = talk.error or talk.result
        assert error is not None
        assert not any(text in f"{error!r} {vars(error)}" for text in ("secret", PLAIN.rsplit(maxsplit=1)[-1]))


# Single commands

SINGLE = [(verify("ann"), "VRFY ann"), (expand("staff"), "EXPN staff"), (noop(), "NOOP"), (command("HELP x"), "HELP x")]


@pytest.mark.parametrize("answer", ["250 ok", "252 perhaps", "451 later", "550 no"])
def test_single_commands(answer: str) -> None:
    """Every reply is an answer, a refusal too."""
    for procedure in (verify("ann"), expand("ann"), noop(), command("HELP")):
        assert drive(procedure, answer).of == reply(answer)


@pytest.mark.parametrize(("answer", "kind"), [("421 bye", ServiceClosing), ("354 go", ProtocolViolation)])
def test_single_commands_that_end_the_session(answer: str, kind: type[SMTPError]) -> None:
    """421 closes, and a server that waits for more cannot be given it."""
    for procedure in (verify("ann"), expand("ann"), noop(), command("HELP")):
        assert type(drive(procedure, answer).error) is kind


def test_what_they_say() -> None:
    """Each says its one line."""
    for procedure, line in SINGLE:
        assert drive(procedure, "250 ok").said == [line]


@pytest.mark.parametrize("text", ["ann\r\nQUIT", "a\0", "x" * 3000])
def test_wrong_text_touches_no_session(text: str) -> None:
    """What cannot be said is refused before there is a procedure, so that no session is broken by it."""
    for procedure in (verify, expand, command):
        with pytest.raises(InvalidMail):
            procedure(f"a {text}")


@pytest.mark.parametrize(
    ("answers", "known"),
    [
        (["250 ok"], False),
        (["250 ok", "503 5.5.1 MAIL first"], True),
        (["250 ok", "554 5.5.1 nobody to send it to"], True),
        (["250 ok", "250 nothing stored"], True),
        (["250 ok", "500 what?"], False),
        (["250 ok", "502 not here"], False),
        (["250 ok", "504 not so"], False),
    ],
)
def test_a_probe(answers: list[str], *, known: bool) -> None:
    """RSET, and an empty BDAT where it is asked for; a server that does not know the verb says so."""
    chunking = len(answers) > 1
    talk = drive(probe(chunking=chunking), *answers)
    assert talk.of is known
    assert talk.said == ["RSET", *["BDAT 0 LAST"] * chunking, "<pass>"]


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        (["421 bye"], ServiceClosing),
        (["502 no"], Refused),
        (["250 ok", "421 bye"], ServiceClosing),
        (["250 ok", "354 go"], ProtocolViolation),
    ],
)
def test_a_probe_that_ends_the_session(answers: list[str], kind: type[SMTPError]) -> None:
    """A RSET that is refused, 421, and a BDAT that waits for more leave nothing to go on with."""
    assert type(drive(probe(chunking=True), *answers).error) is kind


@pytest.mark.parametrize("answer", ["221 bye", "421 bye", "500 what?", "354 go"])
def test_termination(answer: str) -> None:
    """QUIT, and any reply will do."""
    talk = drive(termination(), answer)
    assert talk.said == ["QUIT"]
    assert talk.of == reply(answer)


def test_lost_goes_through() -> None:
    """Where no mail is under way the end of the channel is told as it is."""
    for procedure in (hello("c"), secure(), authenticate("LOGIN", ANN), noop(), termination(), greeting()):
        talk: Talk[Any] = drive(procedure, lost("421 bye"))
        assert isinstance(talk.error, Lost)
        assert type(talk.error.verdict) is ServiceClosing


# Plans

ALL = ("PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING", "REQUIRETLS")


def parameters(envelope: Envelope, data: MailData, *keywords: str) -> list[str]:
    """The MAIL and RCPT lines."""
    planned = plan(envelope, data, offers(*keywords))
    return [str(planned.mail), *map(str, planned.recipients)]


BOB = Envelope.of("ann@x", ["bob@x"])
SEVEN, EIGHT = MailData.of(b"abc\r\n"), MailData.of(b"\xe9\r\n")
UNKNOWN = MailData(lambda: [b"x"])
MAIL_RCPT = ["MAIL FROM:<ann@x>", "RCPT TO:<bob@x>"]

PLANS: list[tuple[Envelope, MailData, tuple[str, ...], list[str]]] = [
    (BOB, SEVEN, (), MAIL_RCPT),
    (BOB, SEVEN, ALL, ["MAIL FROM:<ann@x> SIZE=5", "RCPT TO:<bob@x>"]),
    (BOB, SEVEN, ("SIZE 5",), ["MAIL FROM:<ann@x> SIZE=5", "RCPT TO:<bob@x>"]),
    (BOB, EIGHT, ("8BITMIME",), ["MAIL FROM:<ann@x> BODY=8BITMIME", "RCPT TO:<bob@x>"]),
    (BOB, UNKNOWN, ALL, ["MAIL FROM:<ann@x> BODY=8BITMIME", "RCPT TO:<bob@x>"]),
    (BOB, UNKNOWN, (), MAIL_RCPT),
    (Envelope.of("", ["bob@x"]), SEVEN, (), ["MAIL FROM:<>", "RCPT TO:<bob@x>"]),
    (replace(BOB, require_tls=True), SEVEN, ALL, ["MAIL FROM:<ann@x> SIZE=5 REQUIRETLS", "RCPT TO:<bob@x>"]),
    (
        Envelope.of("änn@x", ["böb@x"]),
        SEVEN,
        ALL,
        ["MAIL FROM:<änn@x> SIZE=5 SMTPUTF8", "RCPT TO:<böb@x>"],
    ),
    (
        Envelope("ann@x", (ForwardPath("bob@x"),), ret="HDRS", envelope_id="Q+ 1"),
        SEVEN,
        ("DSN",),
        ["MAIL FROM:<ann@x> RET=HDRS ENVID=Q+2B+201", "RCPT TO:<bob@x>"],
    ),
    (
        Envelope(
            "ann@x",
            (
                ForwardPath("bob@x", notify=("NEVER",)),
                ForwardPath("cy@x", notify=("SUCCESS", "DELAY"), original="c+y@old"),
                ForwardPath("di@x", original="dí@old"),
            ),
        ),
        SEVEN,
        ("DSN",),
        [
            "MAIL FROM:<ann@x>",
            "RCPT TO:<bob@x> NOTIFY=NEVER",
            "RCPT TO:<cy@x> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;c+2By@old",
            "RCPT TO:<di@x> ORCPT=utf-8;d\\x{ED}@old",
        ],
    ),
    (
        Envelope("ann@x", (ForwardPath("di@x", original="dí@old"),), utf8=True),
        SEVEN,
        ("DSN", "SMTPUTF8"),
        ["MAIL FROM:<ann@x> SMTPUTF8", "RCPT TO:<di@x> ORCPT=utf-8;dí@old"],
    ),
]


@pytest.mark.parametrize(("envelope", "data", "keywords", "lines"), PLANS)
def test_parameters(envelope: Envelope, data: MailData, keywords: tuple[str, ...], lines: list[str]) -> None:
    """What is known and offered is said, no more (RFC 1870, 3461, 6152, 6531, 6533)."""
    assert parameters(envelope, data, *keywords) == lines


def dsn(**asks: Any) -> Envelope:
    """An envelope whose one path asks something of DSN."""
    return Envelope("ann@x", (ForwardPath("bob@x", **asks),))


LACKING: list[tuple[Envelope, MailData, str]] = [
    (BOB, EIGHT, "8BITMIME"),
    (Envelope.of("änn@x", ["bob@x"]), SEVEN, "SMTPUTF8"),
    (Envelope("ann@x", BOB.forward_paths, ret="FULL"), SEVEN, "DSN"),
    (Envelope("ann@x", BOB.forward_paths, envelope_id="1"), SEVEN, "DSN"),
    (replace(BOB, require_tls=True), SEVEN, "REQUIRETLS"),
    (dsn(notify=("NEVER",)), SEVEN, "DSN"),
    (dsn(original="a@x"), SEVEN, "DSN"),
    (dsn(original="ä@x"), SEVEN, "DSN"),
]


@pytest.mark.parametrize(("envelope", "data", "extension"), LACKING)
def test_not_supported(envelope: Envelope, data: MailData, extension: str) -> None:
    """What a mail needs and the server lacks is known before anything is said, and named."""
    with pytest.raises(NotSupported, match=extension) as caught:
        plan(envelope, data, offers(*set(ALL) - {extension}))
    assert caught.value.extension == extension
    plan(envelope, data, offers(*ALL))


def test_too_large() -> None:
    """A mail larger than the server takes is not begun; one exactly as large is (RFC 1870 section 6.1)."""
    with pytest.raises(NotSupported) as caught:
        plan(BOB, SEVEN, offers("SIZE 4"))
    assert caught.value.extension == "SIZE"
    plan(BOB, UNKNOWN, offers("SIZE 4"))


def test_chunking_is_needed() -> None:
    """Who asks for BDAT does not get DATA instead."""
    with pytest.raises(NotSupported) as caught:
        plan(BOB, SEVEN, offers(), chunked=True)
    assert caught.value.extension == "CHUNKING"


def test_seven_bit_alternative() -> None:
    """A mail that can be told without octets over 127 is, where the server takes none; not under SMTPUTF8."""
    data = MailData(lambda: [b"\xe9\r\n"], size=3, eight_bit=True, seven_bit=lambda: SEVEN)
    assert plan(BOB, data, offers()).mail_data is SEVEN
    assert plan(BOB, data, offers("8BITMIME")).mail_data is data
    assert parameters(BOB, data, "SIZE") == ["MAIL FROM:<ann@x> SIZE=5", "RCPT TO:<bob@x>"]
    with pytest.raises(NotSupported) as caught:
        plan(Envelope("ann@x", BOB.forward_paths, utf8=True), data, offers("SMTPUTF8"))
    assert caught.value.extension == "8BITMIME"


RAW = MailData(lambda: [b"\0\r\n"], size=3, mended=True, raw=True)
BINARY = MailData(lambda: [b"AA==\r\n"], size=6, eight_bit=False, mended=True, binary=lambda: RAW)
FORMS: list[tuple[MailData, bool, tuple[str, ...], MailData, bool, str]] = [
    (BINARY, True, ("BINARYMIME", "CHUNKING", "SIZE"), RAW, True, " SIZE=3 BODY=BINARYMIME"),
    (BINARY, True, ("BINARYMIME", "CHUNKING", "8BITMIME"), RAW, True, " BODY=BINARYMIME"),
    (BINARY, True, ("BINARYMIME", "8BITMIME", "SIZE"), BINARY, False, " SIZE=6"),
    (BINARY, True, ("CHUNKING",), BINARY, False, ""),
    (BINARY, True, (), BINARY, False, ""),
    (BINARY, False, ("BINARYMIME", "CHUNKING"), BINARY, False, ""),
    (SEVEN, True, ("BINARYMIME", "CHUNKING"), SEVEN, False, ""),
    (RAW, False, ("BINARYMIME", "CHUNKING"), RAW, True, " BODY=BINARYMIME"),
]


@pytest.mark.parametrize(("data", "binary", "keywords", "chosen", "chunked", "said"), FORMS)
def test_binary_alternative(
    *, data: MailData, binary: bool, keywords: tuple[str, ...], chosen: MailData, chunked: bool, said: str
) -> None:
    """Octets go as they are where that is asked for and both extensions are offered, by BDAT; else encoded."""
    planned = plan(BOB, data, offers(*keywords), binary=binary)
    assert planned.mail_data is chosen
    assert planned.chunked == chunked
    assert str(planned.mail) == f"MAIL FROM:<ann@x>{said}"


def test_binary_fits_where_base64_does_not() -> None:
    """The size that the server is held to is that of the form that is sent."""
    planned = plan(BOB, BINARY, offers("BINARYMIME", "CHUNKING", "SIZE 4"), binary=True)
    assert planned.mail_data is RAW
    with pytest.raises(NotSupported, match="6 octets"):
        plan(BOB, BINARY, offers("CHUNKING", "SIZE 4"), binary=True)


@pytest.mark.parametrize("missing", ["BINARYMIME", "CHUNKING"])
def test_raw_octets_need_both(missing: str) -> None:
    """Octets of any kind never go by DATA, nor to a server that does not take them."""
    with pytest.raises(NotSupported) as caught:
        plan(BOB, RAW, offers(*{"BINARYMIME", "CHUNKING", "8BITMIME"} - {missing}))
    assert caught.value.extension == missing


JOINED: list[tuple[dict[str, Any], tuple[str, ...], bool]] = [
    ({}, (), False),
    ({}, ("PIPELINING",), True),
    ({"required": True}, ("PIPELINING",), False),
    ({"recipients": ("bob@x",), "required": True}, ("PIPELINING",), True),
    ({"chunked": True}, (), False),
    ({"chunked": True}, ("PIPELINING",), True),
    ({"chunked": True, "required": True}, ("PIPELINING",), False),
    ({"chunked": True, "lmtp": True}, ("PIPELINING",), False),
    ({"chunked": True, "data": MailData(list)}, ("PIPELINING",), False),
    ({"chunked": True, "data": MailData(list, size=SMALL)}, ("PIPELINING",), True),
    ({"chunked": True, "data": MailData(list, size=SMALL + 1)}, ("PIPELINING",), False),
    ({"lmtp": True}, ("PIPELINING",), True),
]


@pytest.mark.parametrize(("how", "keywords", "joined"), JOINED)
def test_joined(how: dict[str, Any], keywords: tuple[str, ...], *, joined: bool) -> None:
    """DATA or BDAT goes with the group only where nothing could need to be taken back."""
    how = {"recipients": ("bob@x", "cy@x"), **how}
    assert mail(how.pop("recipients"), *keywords, **how).joined is joined


# Transactions

M, B, C, D, R = "MAIL FROM:<ann@x> SIZE=10", "RCPT TO:<bob@x>", "RCPT TO:<cy@x>", "DATA", "RSET"
OK, NO, LATER, GO, BYE, DONE, SPAM = "250 ok", "550 no", "451 later", "354 go", "421 bye", "250 queued", "554 spam"
AS_DATA, AS_BDAT, PASS = "<DATA 10>", "<BDAT 10>", "<pass>"
EARLY = Transferred(1, whole=False, in_step=False)


def case(
    answers: Sequence[Answer],
    said: list[str],
    *,
    accepted: str = "",
    refused: dict[str, int] | None = None,
    in_doubt: str = "",
    error: type[SMTPError] | None = None,
    raised: bool = False,
    reset: bool = False,
    **how: Any,
) -> Any:
    """A transaction: how the mail is, what the server answers, what is said, and what comes of it."""
    how = {"pipelining": True, "required": False, "chunked": False, "lmtp": False, "recipients": "bob cy", **how}
    outcome = {"accepted": accepted, "refused": refused or {}, "in_doubt": in_doubt, "error": error}
    return (how, answers, said, outcome, raised, reset)


LOCK_STEP: Any = {"pipelining": False}
ONE: Any = {"recipients": "bob"}
BOTH_NO = {"bob": 550, "cy": 550}
BDAT: Any = {"chunked": True}
LMTP: Any = {"lmtp": True}
FRAMED: Any = {"chunked": True, "data": MailData(lambda: [b"x"])}
M_FRAMED = "MAIL FROM:<ann@x>"

CASES = {
    # DATA, in lock-step
    "all accepted": case([OK, OK, OK, GO, DONE], [M, B, C, D, AS_DATA, PASS], accepted="bob cy", **LOCK_STEP),
    "251 is a yes": case([OK, "251 x", "252 x", GO, DONE], [M, B, C, D, AS_DATA, PASS], accepted="bob cy", **LOCK_STEP),
    "after RSET": case(
        [OK, OK, OK, OK, GO, DONE], [R, M, B, C, D, AS_DATA, PASS], accepted="bob cy", reset=True, **LOCK_STEP
    ),
    "one refused": case(
        [OK, NO, OK, GO, DONE], [M, B, C, D, AS_DATA, PASS], accepted="cy", refused={"bob": 550}, **LOCK_STEP
    ),
    "none accepted": case(
        [OK, NO, LATER], [M, B, C], refused={"bob": 550, "cy": 451}, error=RecipientsRefused, **LOCK_STEP
    ),
    "MAIL refused": case([NO], [M], refused=BOTH_NO, error=SenderRefused, **LOCK_STEP),
    "required refused": case(
        [OK, NO], [M, B], refused={"bob": 550}, error=RecipientsRefused, required=True, **LOCK_STEP
    ),
    "second required refused": case(
        [OK, OK, NO], [M, B, C], refused={"cy": 550}, error=RecipientsRefused, required=True, **LOCK_STEP
    ),
    "DATA refused": case(
        [OK, OK, NO, SPAM], [M, B, C, D], refused={"bob": 554, "cy": 550}, error=DataRefused, **LOCK_STEP
    ),
    "250 to DATA": case([OK, OK, OK, OK], [M, B, C, D], error=ProtocolViolation, raised=True, **LOCK_STEP),
    "mail data refused": case(
        [OK, OK, NO, GO, SPAM],
        [M, B, C, D, AS_DATA, PASS],
        refused={"bob": 554, "cy": 550},
        error=DataRefused,
        **LOCK_STEP,
    ),
    "354 to MAIL": case([GO], [M], error=ProtocolViolation, raised=True, **LOCK_STEP),
    "354 to RCPT": case(
        [OK, NO, GO], [M, B, C], refused={"bob": 550}, error=ProtocolViolation, raised=True, **LOCK_STEP
    ),
    "354 to RSET": case([GO], [R], error=Refused, raised=True, reset=True, **LOCK_STEP),
    "RSET refused": case([NO], [R], error=Refused, raised=True, reset=True, **LOCK_STEP),
    "421 to RSET": case([BYE], [R], error=ServiceClosing, raised=True, reset=True, **LOCK_STEP),
    "421 to MAIL": case([BYE], [M], error=ServiceClosing, raised=True, **LOCK_STEP),
    "421 to RCPT": case([OK, BYE], [M, B], error=ServiceClosing, raised=True, **LOCK_STEP),
    "421 after a refusal": case(
        [OK, NO, BYE], [M, B, C], refused={"bob": 550}, error=ServiceClosing, raised=True, **LOCK_STEP
    ),
    "421 to DATA": case([OK, OK, OK, BYE], [M, B, C, D], error=ServiceClosing, raised=True, **LOCK_STEP),
    "421 to the mail data": case(
        [OK, NO, OK, GO, BYE],
        [M, B, C, D, AS_DATA, PASS],
        refused={"bob": 550},
        error=ServiceClosing,
        raised=True,
        **LOCK_STEP,
    ),
    # DATA, pipelined
    "all accepted, pipelined": case([OK, OK, OK, GO, DONE], [M, B, C, D, AS_DATA, PASS], accepted="bob cy"),
    "after RSET, pipelined": case([OK] * 4 + [GO, DONE], [R, M, B, C, D, AS_DATA, PASS], accepted="bob cy", reset=True),
    "one refused, pipelined": case(
        [OK, OK, NO, GO, DONE], [M, B, C, D, AS_DATA, PASS], accepted="bob", refused={"cy": 550}
    ),
    "none accepted, pipelined": case([OK, NO, NO, "503 no"], [M, B, C, D], refused=BOTH_NO, error=RecipientsRefused),
    "none accepted, 354": case(
        [OK, NO, NO, GO, SPAM], [M, B, C, D, "<DATA 0>"], refused=BOTH_NO, error=RecipientsRefused
    ),
    "none accepted, 354, then yes": case(
        [OK, NO, NO, GO, DONE], [M, B, C, D, "<DATA 0>"], refused=BOTH_NO, error=RecipientsRefused, raised=True
    ),
    "none accepted, 354, then 354": case(
        [OK, NO, NO, GO, GO], [M, B, C, D, "<DATA 0>"], refused=BOTH_NO, error=RecipientsRefused, raised=True
    ),
    "none accepted, 354, then 421": case(
        [OK, NO, NO, GO, BYE], [M, B, C, D, "<DATA 0>"], refused=BOTH_NO, error=RecipientsRefused, raised=True
    ),
    "none accepted, 354, no before the dot": case(
        [OK, NO, NO, GO, EARLY, SPAM], [M, B, C, D, "<DATA 0>"], refused=BOTH_NO, error=RecipientsRefused, raised=True
    ),
    "none accepted, 354, lost": case(
        [OK, NO, NO, GO, lost()], [M, B, C, D, "<DATA 0>"], refused=BOTH_NO, error=RecipientsRefused
    ),
    "none accepted, 250 to DATA": case(
        [OK, NO, NO, OK], [M, B, C, D], refused=BOTH_NO, error=RecipientsRefused, raised=True
    ),
    "the one required refused, 354": case(
        [OK, NO, GO, SPAM], [M, B, D, "<DATA 0>"], refused={"bob": 550}, error=RecipientsRefused, required=True, **ONE
    ),
    "required refused, pipelined": case(
        [OK, OK, NO], [M, B, C], refused={"cy": 550}, error=RecipientsRefused, required=True
    ),
    "all required accepted, pipelined": case(
        [OK, OK, OK, GO, DONE], [M, B, C, D, AS_DATA, PASS], accepted="bob cy", required=True
    ),
    "MAIL refused, pipelined": case(
        [NO, "503 x", "503 x", "503 x"], [M, B, C, D], refused=BOTH_NO, error=SenderRefused
    ),
    "MAIL refused, RCPT not, pipelined": case(
        [NO, OK, OK, "503 x"], [M, B, C, D], refused=BOTH_NO, error=SenderRefused
    ),
    "MAIL refused, 354": case(
        [NO, "503 x", "503 x", GO], [M, B, C, D], refused=BOTH_NO, error=SenderRefused, raised=True
    ),
    "MAIL refused, then 421": case([NO, BYE], [M, B, C, D], refused=BOTH_NO, error=SenderRefused, raised=True),
    "MAIL refused, then lost": case([NO, lost()], [M, B, C, D], refused=BOTH_NO, error=SenderRefused),
    "RSET refused, pipelined": case([NO], [R, M, B, C, D], error=Refused, raised=True, reset=True),
    "DATA refused, pipelined": case(
        [OK, OK, OK, SPAM], [M, B, C, D], refused={"bob": 554, "cy": 554}, error=DataRefused
    ),
    "250 to DATA, pipelined": case([OK, OK, OK, OK], [M, B, C, D], error=ProtocolViolation, raised=True),
    "421 to MAIL, pipelined": case([BYE], [M, B, C, D], error=ServiceClosing, raised=True),
    "421 to RCPT, pipelined": case(
        [OK, NO, BYE], [M, B, C, D], refused={"bob": 550}, error=ServiceClosing, raised=True
    ),
    "421 to DATA, pipelined": case([OK, OK, OK, BYE], [M, B, C, D], error=ServiceClosing, raised=True),
    # The reply to the mail data comes before its end
    "early no": case(
        [OK, OK, NO, GO, EARLY, SPAM],
        [M, B, C, D, AS_DATA],
        refused={"bob": 554, "cy": 550},
        error=DataRefused,
        raised=True,
    ),
    "early yes": case([OK, OK, OK, GO, EARLY, DONE], [M, B, C, D, AS_DATA], error=ProtocolViolation, raised=True),
    "early 354": case([OK, OK, OK, GO, EARLY, GO], [M, B, C, D, AS_DATA], error=ProtocolViolation, raised=True),
    "early 421": case([OK, OK, OK, GO, EARLY, BYE], [M, B, C, D, AS_DATA], error=ServiceClosing, raised=True),
    "early, then lost": case([OK, OK, OK, GO, EARLY, lost()], [M, B, C, D, AS_DATA], error=ChannelLost),
    "354 to the mail data": case(
        [OK, OK, NO, GO, GO],
        [M, B, C, D, AS_DATA, PASS],
        refused={"cy": 550},
        in_doubt="bob",
        error=InDoubt,
        raised=True,
    ),
    # BDAT
    "bdat": case([OK, OK, OK, DONE], [M, B, C, AS_BDAT, PASS], accepted="bob cy", **BDAT),
    "bdat, lock-step": case([OK, OK, OK, DONE], [M, B, C, AS_BDAT, PASS], accepted="bob cy", **BDAT, **LOCK_STEP),
    "bdat, one refused": case(
        [OK, OK, NO, DONE], [M, B, C, AS_BDAT, PASS], accepted="bob", refused={"cy": 550}, **BDAT
    ),
    "bdat, refused": case(
        [OK, OK, NO, SPAM], [M, B, C, AS_BDAT, PASS], refused={"bob": 554, "cy": 550}, error=DataRefused, **BDAT
    ),
    "bdat, none accepted": case(
        [OK, NO, NO, "503 x"], [M, B, C, AS_BDAT, PASS], refused=BOTH_NO, error=RecipientsRefused, **BDAT
    ),
    "bdat, none accepted, then yes": case(
        [OK, NO, NO, DONE], [M, B, C, AS_BDAT, PASS], refused=BOTH_NO, error=RecipientsRefused, **BDAT
    ),
    "bdat, none accepted, then 354": case(
        [OK, NO, NO, GO], [M, B, C, AS_BDAT, PASS], refused=BOTH_NO, error=RecipientsRefused, raised=True, **BDAT
    ),
    "bdat, none accepted, then 421": case(
        [OK, NO, NO, BYE], [M, B, C, AS_BDAT, PASS], refused=BOTH_NO, error=RecipientsRefused, raised=True, **BDAT
    ),
    "bdat, none accepted, early no": case(
        [EARLY, OK, NO, NO, SPAM], [M, B, C, AS_BDAT], refused=BOTH_NO, error=RecipientsRefused, raised=True, **BDAT
    ),
    "bdat, MAIL refused": case(
        [NO, "503 x", "503 x", "503 x"], [M, B, C, AS_BDAT, PASS], refused=BOTH_NO, error=SenderRefused, **BDAT
    ),
    "bdat, MAIL refused, then lost": case(
        [NO, lost()], [M, B, C, AS_BDAT, PASS], refused=BOTH_NO, error=SenderRefused, **BDAT
    ),
    "bdat, MAIL refused, then 421": case(
        [NO, BYE], [M, B, C, AS_BDAT, PASS], refused=BOTH_NO, error=SenderRefused, raised=True, **BDAT
    ),
    "bdat, required refused": case(
        [OK, OK, NO], [M, B, C], refused={"cy": 550}, error=RecipientsRefused, required=True, **BDAT
    ),
    "bdat, 421 to RCPT": case(
        [OK, NO, BYE], [M, B, C, AS_BDAT, PASS], refused={"bob": 550}, error=ServiceClosing, raised=True, **BDAT
    ),
    "bdat, lost at RCPT": case(
        [OK, NO, lost()], [M, B, C, AS_BDAT, PASS], refused={"bob": 550}, in_doubt="cy", error=InDoubt, **BDAT
    ),
    "bdat, cut off at RCPT": case(
        [OK, NO, lost(spoken=False)], [M, B, C, AS_BDAT, PASS], refused={"bob": 550}, error=ChannelLost, **BDAT
    ),
    "bdat, 354 to RCPT": case(
        [OK, NO, GO],
        [M, B, C, AS_BDAT, PASS],
        refused={"bob": 550},
        in_doubt="cy",
        error=InDoubt,
        raised=True,
        **BDAT,
    ),
    "bdat, RSET refused": case(
        [NO], [R, M, B, C, AS_BDAT, PASS], in_doubt="bob cy", error=InDoubt, raised=True, reset=True, **BDAT
    ),
    # BDAT in several chunks
    "framed": case([OK] * 5 + [DONE], [M_FRAMED, B, C, "<BDAT ?>", PASS], accepted="bob cy", due=3, **FRAMED),
    "framed, a chunk refused": case(
        [OK, OK, NO, OK, SPAM, "503 x"],
        [M_FRAMED, B, C, "<BDAT ?>", PASS],
        refused={"bob": 554, "cy": 550},
        error=DataRefused,
        due=3,
        **FRAMED,
    ),
    "framed, a chunk refused, then yes": case(
        [OK, OK, OK, SPAM, DONE],
        [M_FRAMED, B, C, "<BDAT ?>", PASS],
        refused={"bob": 554, "cy": 554},
        error=DataRefused,
        due=2,
        **FRAMED,
    ),
    "framed, a chunk refused, then lost": case(
        [OK, OK, OK, SPAM, lost()],
        [M_FRAMED, B, C, "<BDAT ?>", PASS],
        refused={"bob": 554, "cy": 554},
        error=DataRefused,
        due=2,
        **FRAMED,
    ),
    "framed, stopped": case(
        [OK, OK, OK, Transferred(2, whole=False), OK, SPAM],
        [M_FRAMED, B, C, "<BDAT ?>"],
        refused={"bob": 554, "cy": 554},
        error=DataRefused,
        **FRAMED,
    ),
    "framed, stopped, then 421": case(
        [OK, OK, OK, Transferred(2, whole=False), OK, BYE],
        [M_FRAMED, B, C, "<BDAT ?>"],
        error=ServiceClosing,
        raised=True,
        **FRAMED,
    ),
    "framed, stopped, then lost": case(
        [OK, OK, OK, Transferred(2, whole=False), OK, lost()],
        [M_FRAMED, B, C, "<BDAT ?>"],
        error=ChannelLost,
        **FRAMED,
    ),
    # LMTP
    "lmtp": case([OK, OK, OK, GO, DONE, DONE], [M, B, C, D, AS_DATA, PASS], accepted="bob cy", **LMTP),
    "lmtp, mixed": case(
        [OK, OK, OK, GO, "452 full", DONE],
        [M, B, C, D, AS_DATA, PASS],
        accepted="cy",
        refused={"bob": 452},
        **LMTP,
    ),
    "lmtp, the last refused": case(
        [OK, OK, OK, GO, DONE, "452 full"],
        [M, B, C, D, AS_DATA, PASS],
        accepted="bob",
        refused={"cy": 452},
        **LMTP,
    ),
    "lmtp, all refused": case(
        [OK, OK, OK, GO, "452 full", SPAM],
        [M, B, C, D, AS_DATA, PASS],
        refused={"bob": 452, "cy": 554},
        error=DataRefused,
        **LMTP,
    ),
    "lmtp, one refused before": case(
        [OK, NO, OK, GO, DONE], [M, B, C, D, AS_DATA, PASS], accepted="cy", refused={"bob": 550}, **LMTP
    ),
    "lmtp, one refused before, one after": case(
        [OK, NO, OK, GO, SPAM],
        [M, B, C, D, AS_DATA, PASS],
        refused={"bob": 550, "cy": 554},
        error=DataRefused,
        **LMTP,
    ),
    "lmtp, none accepted": case([OK, NO, NO, "503 x"], [M, B, C, D], refused=BOTH_NO, error=RecipientsRefused, **LMTP),
    "lmtp, none accepted, 354": case(
        [OK, NO, NO, GO], [M, B, C, D], refused=BOTH_NO, error=RecipientsRefused, raised=True, **LMTP
    ),
    "lmtp, lost in the middle": case(
        [OK, OK, OK, GO, DONE, lost()],
        [M, B, C, D, AS_DATA, PASS],
        accepted="bob",
        in_doubt="cy",
        error=InDoubt,
        **LMTP,
    ),
    "lmtp, 421 in the middle": case(
        [OK, OK, OK, GO, DONE, BYE],
        [M, B, C, D, AS_DATA, PASS],
        accepted="bob",
        error=ServiceClosing,
        raised=True,
        **LMTP,
    ),
    "lmtp, last word 421 in the middle": case(
        [OK, OK, OK, GO, SPAM, lost("421 bye")],
        [M, B, C, D, AS_DATA, PASS],
        refused={"bob": 554},
        error=ServiceClosing,
        **LMTP,
    ),
    "lmtp, 354 in the middle": case(
        [OK, OK, OK, GO, DONE, GO],
        [M, B, C, D, AS_DATA, PASS],
        accepted="bob",
        in_doubt="cy",
        error=InDoubt,
        raised=True,
        **LMTP,
    ),
    "lmtp, early no": case(
        [OK, OK, OK, GO, EARLY, SPAM],
        [M, B, C, D, AS_DATA],
        refused={"bob": 554, "cy": 554},
        error=DataRefused,
        raised=True,
        **LMTP,
    ),
    "lmtp, bdat": case(
        [OK, OK, OK, DONE, "452 full"],
        [M, B, C, AS_BDAT, PASS],
        accepted="bob",
        refused={"cy": 452},
        **LMTP,
        **BDAT,
    ),
    "lmtp, framed": case(
        [OK, OK, OK, OK, DONE, "452 full"],
        [M_FRAMED, B, C, "<BDAT ?>", PASS],
        accepted="bob",
        refused={"cy": 452},
        due=3,
        **LMTP,
        **FRAMED,
    ),
    "lmtp, framed, a chunk refused": case(
        [OK, OK, OK, SPAM],
        [M_FRAMED, B, C, "<BDAT ?>", PASS],
        refused={"bob": 554, "cy": 554},
        error=DataRefused,
        raised=True,
        due=3,
        **LMTP,
        **FRAMED,
    ),
}


def planned(how: dict[str, Any]) -> Plan:
    """The plan of a case."""
    return mail(
        tuple(f"{name}@x" for name in how["recipients"].split()),
        *("SIZE", *(["PIPELINING"] if how["pipelining"] else [])),
        **{name: how[name] for name in ("data", "required", "chunked", "lmtp") if name in how},
    )


def with_due(how: dict[str, Any], answers: Sequence[Answer]) -> Sequence[Answer]:
    """The answers, with what the channel says of a transfer in several chunks where the case tells its replies."""
    if "due" not in how:
        return answers
    commands = 1 + len(how["recipients"].split())
    return [*answers[:commands], Transferred(how["due"]), *answers[commands:]]


def shown(outcome: Outcome) -> dict[str, Any]:
    """An outcome, as a case has it."""
    return {
        "accepted": " ".join(path.removesuffix("@x") for path in outcome.accepted),
        "refused": {path.removesuffix("@x"): reply.code for path, reply in outcome.refused.items()},
        "in_doubt": " ".join(path.removesuffix("@x") for path in outcome.in_doubt),
        "error": outcome.error and type(outcome.error),
    }


def whole(talk: Talk[Outcome]) -> Outcome:
    """The outcome, returned or raised; it and its error name each other."""
    outcome = talk.result if talk.error is None else getattr(talk.error, "outcome", None)
    assert isinstance(outcome, Outcome)
    if outcome.error is not None:
        assert outcome.error.outcome is outcome
    assert talk.error is None or outcome.error is talk.error
    assert outcome.message_id == "<1@x>"
    return outcome


@pytest.mark.parametrize("name", CASES)
def test_transaction(name: str) -> None:
    """What is said and what comes of it; it returns in step, or raises what ends the session, with the outcome."""
    how, answers, said, outcome, raised, reset = CASES[name]
    talk = drive(transaction(planned(how), reset=reset), *with_due(how, answers))
    assert talk.said == said
    assert not talk.left
    assert shown(whole(talk)) == outcome
    assert (talk.error is not None) == raised


def test_no_error_is_its_own_cause() -> None:
    """An error that was known before is raised from the one that ended the session, and no other way round."""
    talk = drive(transaction(mail(("bob@x",), "PIPELINING", "SIZE")), NO, BYE)
    assert isinstance(talk.error, SenderRefused)
    assert isinstance(talk.error.__cause__, ServiceClosing)
    talk = drive(transaction(mail(("bob@x",))), BYE)
    assert isinstance(talk.error, ServiceClosing)
    assert talk.error.__cause__ is None


def test_replies_of_an_outcome() -> None:
    """The reply that decided is in the outcome: to the mail data, or the one that ended the transaction."""
    accepted = drive(transaction(mail(("bob@x",))), OK, OK, GO, DONE).of
    assert accepted.reply == reply(DONE)
    assert drive(transaction(mail(("bob@x",))), NO).of.reply == reply(NO)
    assert drive(transaction(mail(("bob@x",))), OK, OK, SPAM).of.reply == reply(SPAM)
    assert drive(transaction(mail(("bob@x",))), lost()).of.reply is None
    both = drive(transaction(mail(lmtp=True)), OK, OK, OK, GO, DONE, SPAM).of
    assert both.replies == {"bob@x": reply(DONE), "cy@x": reply(SPAM)}
    assert both.reply == reply(SPAM)


def test_in_doubt_names_its_cause() -> None:
    """In doubt is never tried again by itself, whatever ended the channel, and tells what did."""
    cause = TimedOut("the final limit ran out", limit="final")
    talk = drive(transaction(mail(("bob@x",))), OK, OK, GO, Lost(cause, spoken=True))
    error = talk.of.error
    assert isinstance(error, InDoubt)
    assert error.__cause__ is cause
    assert not error.transient
    assert "final limit" in str(error)


# The end of the channel, at every step

WORDS: dict[str, tuple[str, ...]] = {"none": (), "250": ("250 ok",), "421": ("421 bye",), "552": ("552 too much",)}


def told(talk: Talk[Outcome], plan: Plan, end: Lost) -> dict[str, Any]:
    """What is known when the channel ends after so much talk, worked out anew: the outcome there has to be."""
    names = [path.path.removesuffix("@x") for path in plan.recipients]
    answered = dict(zip(((c.verb, getattr(c, "path", "")) for c in talk.commands), talk.heard, strict=False))
    accepted = {n: r for n in names if (r := answered.get(("RCPT", f"{n}@x"))) is not None and r.positive}
    refused = {n: r.code for n in names if (r := answered.get(("RCPT", f"{n}@x"))) is not None and r.negative}
    final = talk.heard[len(talk.commands) :]
    mail_reply = answered.get(("MAIL", "ann@x"))
    out: dict[str, Any] = {"accepted": "", "refused": refused, "in_doubt": "", "error": ChannelLost}
    if mail_reply is not None and mail_reply.negative:
        return {**out, "refused": dict.fromkeys(names, mail_reply.code), "error": SenderRefused}
    if len(refused) == len(names) or (refused and plan.required):
        return {**out, "error": RecipientsRefused}
    if plan.lmtp:
        settled = dict(zip(accepted, final, strict=False))
        out["accepted"] = " ".join(n for n, r in settled.items() if r.positive)
        out["refused"] = refused = refused | {n: r.code for n, r in settled.items() if r.negative}
        left = [n for n in names if n not in refused and n not in settled]
    else:
        left = [n for n in names if n not in refused]
    if (word := next((w for w in end.last_words if w.negative), None)) is not None:
        if word.code == 421:
            return {**out, "error": ServiceClosing}
        return {**out, "refused": refused | dict.fromkeys(left, word.code), "error": DataRefused}
    if end.spoken and any(isinstance(step, Transfer) for step in talk.steps):
        return {**out, "in_doubt": " ".join(left), "error": InDoubt}
    return out


SWEPT = [
    *("all accepted", "one refused", "none accepted", "MAIL refused", "required refused"),
    *("all accepted, pipelined", "one refused, pipelined", "none accepted, pipelined", "MAIL refused, pipelined"),
    *("all required accepted, pipelined", "required refused, pipelined", "after RSET, pipelined"),
    *("bdat", "bdat, lock-step", "bdat, one refused", "bdat, none accepted", "bdat, MAIL refused"),
    *("lmtp", "lmtp, mixed", "lmtp, one refused before", "lmtp, bdat"),
]


@pytest.mark.parametrize("spoken", [True, False])
@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("name", SWEPT)
def test_lost_at_every_step(name: str, words: str, *, spoken: bool) -> None:
    """Wherever the channel ends, the outcome is what is known by then: no verdict is lost, none is invented."""
    how, answers, _, _, _, reset = CASES[name]
    plan = planned(how)
    steps = drive(transaction(plan, reset=reset), *answers).steps
    assert any(isinstance(step, Hear) for step in steps)
    for at in range(len(steps)):
        end = lost(*WORDS[words], spoken=spoken)
        talk = drive(transaction(plan, reset=reset), *answers, lose=(at, end))
        assert talk.error is None
        assert shown(whole(talk)) == told(talk, plan, end), at


# Very many recipients


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("many", [MOST_UNANSWERED - 2, MOST_UNANSWERED, MOST_UNANSWERED + 1, 1000])
def test_very_many_recipients(many: int, *, chunked: bool) -> None:
    """However many recipients there are, so many commands are unheard at once and no more."""
    paths = tuple(f"user{number}@x" for number in range(many))
    talk = drive(
        transaction(mail(paths, "PIPELINING", chunked=chunked), reset=True),
        *[OK] * (2 + many),
        *([] if chunked else [GO]),
        DONE,
    )
    assert talk.of.accepted == paths
    assert talk.most <= MOST_UNANSWERED
    assert talk.most == min(MOST_UNANSWERED, many + 3 - chunked)


@pytest.mark.parametrize("chunked", [False, True])
def test_very_many_are_not_said_in_vain(*, chunked: bool) -> None:
    """Once MAIL is known to be refused no more RCPT is said, nor DATA, nor the mail data."""
    paths = tuple(f"user{number}@x" for number in range(1000))
    talk = drive(transaction(mail(paths, "PIPELINING", chunked=chunked)), NO, *["503 x"] * (MOST_UNANSWERED - 1))
    assert isinstance(talk.of.error, SenderRefused)
    assert len(talk.said) == MOST_UNANSWERED
    assert len(talk.of.refused) == 1000


@pytest.mark.parametrize("verb", ["SEND", "SOML", "SAML"])
def test_terminals(verb: Verb) -> None:
    """What delivers to terminals is said where it is offered, and refused before anything is said where it is not."""
    envelope, data = Envelope.of("ann@x", ["bob@x"]), MailData.of(b"12345678\r\n")
    assert plan(envelope, data, offers(verb), verb=verb).mail.render() == f"{verb} FROM:<ann@x>\r\n".encode()
    with pytest.raises(NotSupported, match=f"does not offer {verb}") as caught:
        plan(envelope, data, offers("PIPELINING"), verb=verb)
    assert caught.value.extension == verb
