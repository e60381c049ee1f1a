"""The scripted server without sockets: what it answers, what it keeps, where it lets things go wrong."""

import base64
import hashlib
import hmac
from collections.abc import Callable

import pytest

from smtpkit.testing import (
    Action,
    Close,
    Cut,
    Deaf,
    Dialogue,
    Fault,
    Occurrence,
    Received,
    Reset,
    Script,
    Send,
    Session,
    Stall,
    StartTLS,
    Wait,
)


def _said(actions: list[Action]) -> bytes:
    return b"".join(action.octets for action in actions if isinstance(action, Send))


def _codes(octets: bytes) -> list[str]:
    """The codes of the replies in the octets, one for each reply."""
    return [line[:3].decode() for line in octets.splitlines() if line[3:4] != b"-"]


class _Client:
    """Says things to a dialogue and collects what it answers."""

    def __init__(self, script: Script | None = None, *, hello: bytes = b"EHLO me.test") -> None:
        self.dialogue = Dialogue(script or Script())
        self.actions = self.dialogue.begin()
        if hello:
            self.say(hello)

    def say(self, *lines: bytes) -> list[str]:
        return _codes(self.raw(b"".join(line + b"\r\n" for line in lines)))

    def raw(self, octets: bytes) -> bytes:
        actions = self.dialogue.receive(octets)
        self.actions += actions
        return _said(actions)

    @property
    def session(self) -> Session:
        return self.dialogue.session

    @property
    def received(self) -> list[Received]:
        return self.dialogue.received

    @property
    def ends(self) -> list[Action]:
        """What is not said but done."""
        return [action for action in self.actions if not isinstance(action, Send)]


MAIL = (b"MAIL FROM:<a@x.test>", b"RCPT TO:<b@y.test>")


def test_a_mail_goes_in() -> None:
    """The plain exchange of RFC 5321 appendix D, pipelined; the mail is kept as it came, without transparency."""
    client = _Client()
    assert client.say(*MAIL, b"DATA") == ["250", "250", "354"]
    assert client.say(b"Subject: hi", b"", b"..dot", b"end", b".") == ["250"]
    assert client.say(b"QUIT") == ["221"]
    assert client.ends == [Close()]
    mail = client.received[0]
    assert mail.octets == b"Subject: hi\r\n\r\n.dot\r\nend\r\n"
    assert (mail.reverse_path, mail.paths, mail.hello, mail.chunked) == ("a@x.test", ("b@y.test",), "me.test", False)
    assert mail.message()["Subject"] == "hi"
    assert client.session.errors == []
    assert client.session.said("C")[:2] == [b"EHLO me.test", b"MAIL FROM:<a@x.test>"]


@pytest.mark.parametrize("length", [1, 2, 3, 5, 7])
def test_octets_may_be_split_anywhere(length: int) -> None:
    """However the octets come, the replies and the mail are the same."""
    octets = (
        b"EHLO me.test\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n"
        b"..\r\n.\r.\r\n...\r\n\r\n..\n.\r\nz\r\n.\r\n"
        b"MAIL FROM:<>\r\nRCPT TO:<b@y.test>\r\nBDAT 7\r\na\r\n.\r\nbBDAT 0 LAST\r\n"
    )
    client = _Client(hello=b"")
    said = b"".join(client.raw(octets[at : at + length]) for at in range(0, len(octets), length))
    assert _codes(said) == ["250", "250", "250", "354", "250", "250", "250", "250", "250"]
    assert [mail.octets for mail in client.received] == [
        b".\r\n\r.\r\n..\r\n\r\n.\n.\r\nz\r\n",
        b"a\r\n.\r\nb",
    ]


@pytest.mark.parametrize(
    ("lines", "codes"),
    [
        ((b"RCPT TO:<b@y.test>",), ["503"]),
        ((b"DATA",), ["503"]),
        ((b"MAIL FROM:<a@x.test>", b"MAIL FROM:<a@x.test>"), ["250", "503"]),
        ((b"MAIL FROM:<a@x.test>", b"DATA"), ["250", "554"]),
        ((b"MAIL FROM:<a@x.test>", b"RSET", b"RCPT TO:<b@y.test>"), ["250", "250", "503"]),
        ((b"MAIL FROM: <a@x.test>",), ["501"]),
        ((b"MAIL FROM:a@x.test",), ["501"]),
        ((b"MAIL FROM:<a@x.test> SIZE=99999999999",), ["552"]),
        ((b"MAIL FROM:<a@x.test> SIZE=1 SIZE=1",), ["501"]),
        ((b"MAIL FROM:<a@x.test> SIZE",), ["501"]),
        ((b"MAIL FROM:<a@x.test> NOTIFY=NEVER",), ["555"]),
        ((b"MAIL FROM:<a@x.test> AUTH=<>",), ["555"]),
        ((b"MAIL FROM:<a@x.test> A=B=C",), ["501"]),
        ((b"MAIL FROM:<\xc3\xa9@x.test>",), ["553"]),
        ((b"MAIL FROM:<\xe9@x.test> SMTPUTF8",), ["501"]),
        ((b"MAIL FROM:<\xc3\xa9@x.test> SMTPUTF8", b"RCPT TO:<\xc3\xa9@y.test>"), ["250", "250"]),
        ((b"MAIL FROM:<>", b"RCPT TO:<Postmaster>", b'RCPT TO:<"a >b"@y.test>'), ["250", "250", "250"]),
        ((b"MAIL FROM:<>", b"RCPT TO:<b@y.test> NOTIFY=NEVER,DELAY"), ["250", "501"]),
        ((b"MAIL FROM:<>", b"RCPT TO:<b@y.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b@y.test"), ["250", "250"]),
        ((b"MAIL FROM:<> BODY=BINARYMIME", b"RCPT TO:<b@y.test>", b"DATA"), ["250", "250", "503"]),
        ((b"NOOP",), ["250"]),
        ((b"VRFY a",), ["252"]),
        ((b"EXPN a",), ["550"]),
        ((b"HELP",), ["214"]),
        ((b"FROB",), ["500"]),
        ((b"STARTTLS",), ["502"]),
        ((b"AUTH PLAIN",), ["502"]),
        ((b"LHLO me",), ["500"]),
        ((b"EHLO",), ["501"]),
        ((b"HELO me", b"MAIL FROM:<a@x.test> BODY=8BITMIME"), ["250", "555"]),
    ],
)
def test_the_rules_of_the_dialogue(lines: tuple[bytes, ...], codes: list[str]) -> None:
    """What is out of order, ill-formed or not offered is refused as RFC 5321 and the extensions say."""
    client = _Client()
    assert [code for line in lines for code in client.say(line)] == codes


def test_nothing_goes_before_hello() -> None:
    """A transaction needs EHLO first."""
    assert _Client(hello=b"").say(b"MAIL FROM:<a@x.test>") == ["503"]


def test_parameters_are_kept() -> None:
    """The parameters of MAIL and RCPT, keywords in upper case, come with the mail."""
    client = _Client()
    client.say(b"mail from:<a@x.test> size=3 BODY=8BITMIME RET=HDRS ENVID=x+2By smtputf8")
    client.say(b"rcpt to:<b@y.test> notify=NEVER", b"RCPT TO:<c@y.test>")
    client.say(b"DATA")
    client.say(b"x", b".")
    mail = client.received[0]
    assert mail.mail_parameters == {"SIZE": "3", "BODY": "8BITMIME", "RET": "HDRS", "ENVID": "x+2By", "SMTPUTF8": None}
    assert mail.recipients == (("b@y.test", {"NOTIFY": "NEVER"}), ("c@y.test", {}))


def test_too_much_is_refused_at_the_end() -> None:
    """Mail data beyond the SIZE limit is taken in and answered 552; nothing is kept."""
    client = _Client(Script(extensions=("SIZE 10", "PIPELINING")))
    client.say(*MAIL, b"DATA")
    assert client.say(b"0123456789", b".") == ["552"]
    assert client.received == []


def test_digest_instead_of_octets() -> None:
    """With keep="digest" only size and SHA-256 stay."""
    client = _Client(Script(keep="digest"))
    client.say(*MAIL, b"DATA")
    client.say(b"..x", b".")
    mail = client.received[0]
    assert (mail.octets, mail.size, mail.sha256) == (b"", 4, hashlib.sha256(b".x\r\n").hexdigest())


def test_chunks_are_joined() -> None:
    """BDAT takes any octets; a mail over several chunks, pipelined with the next one, arrives as it was."""
    client = _Client()
    said = client.raw(
        b"MAIL FROM:<a@x.test> BODY=BINARYMIME\r\nRCPT TO:<b@y.test>\r\nBDAT 4\r\n\r\n.\0BDAT 3 LAST\r\n\xff\r\n"
        b"RSET\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<c@y.test>\r\nBDAT 3 LAST\r\nx\r\n"
    )
    assert _codes(said) == ["250"] * 8
    assert [mail.octets for mail in client.received] == [b"\r\n.\0\xff\r\n", b"x\r\n"]
    assert client.received[0].chunked
    assert client.session.errors == []


def test_chunks_of_a_refused_transaction_are_swallowed() -> None:
    """A chunk nobody wants is taken in and answered; then only RSET helps (RFC 3030 section 2)."""
    client = _Client(Script(replies={"RCPT": "550 no"}))
    said = client.raw(b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nBDAT 5\r\nQUIT\nBDAT 3 LAST\r\nx\r\n")
    assert _codes(said) == ["250", "550", "554", "503"]
    assert client.say(b"MAIL FROM:<a@x.test>") == ["503"]
    assert client.say(b"RSET") == ["250"]
    assert client.say(b"MAIL FROM:<a@x.test>") == ["250"]


@pytest.mark.parametrize("argument", [b"", b"x", b"1 FIRST", b"1 LAST x", b"-1"])
def test_bdat_needs_a_size(argument: bytes) -> None:
    """BDAT without a size that can be read is a syntax error."""
    client = _Client()
    client.say(*MAIL)
    assert client.say(b"BDAT " + argument) == ["501"]


def test_data_and_bdat_do_not_mix() -> None:
    """DATA within a transaction begun with BDAT is out of order."""
    client = _Client()
    client.say(*MAIL)
    client.raw(b"BDAT 1\r\nx")
    assert client.say(b"DATA") == ["503"]


def test_lmtp_answers_for_each_recipient() -> None:
    """LMTP gives a reply per accepted recipient; those with a positive one are the mail's recipients."""
    script = Script(lmtp=True, replies={"END:c@y.test": "452 full", "RCPT:d@y.test": "550 no"})
    client = _Client(script, hello=b"LHLO me.test")
    client.say(*MAIL, b"RCPT TO:<c@y.test>", b"RCPT TO:<d@y.test>", b"DATA")
    assert client.say(b"x", b".") == ["250", "452"]
    assert client.received[0].paths == ("b@y.test",)
    assert client.say(b"EHLO me.test") == ["500"]
    client.say(*MAIL, b"RCPT TO:<c@y.test>")
    assert _codes(client.raw(b"BDAT 3 LAST\r\nx\r\n")) == ["250", "452"]


def test_354_with_nobody_accepted() -> None:
    """A scripted 354 after every recipient was refused is followed by 554, in SMTP and in LMTP once."""
    for lmtp in (False, True):
        script = Script(lmtp=lmtp, replies={"RCPT": "550 no", "DATA": "354 go"})
        client = _Client(script, hello=b"LHLO me" if lmtp else b"EHLO me")
        assert client.say(*MAIL, b"DATA") == ["250", "550", "354"]
        assert client.say(b".") == ["554"]
        assert client.received == []


def test_starttls_forgets_everything() -> None:
    """After STARTTLS the session starts anew under TLS, and STARTTLS is not offered again."""
    client = _Client(Script(tls="starttls"))
    assert client.say(b"STARTTLS") == ["220"]
    assert client.ends == [StartTLS()]
    assert client.say(b"MAIL FROM:<a@x.test>") == ["503"]
    assert b"STARTTLS" not in client.raw(b"EHLO me\r\n")
    client.say(*MAIL, b"DATA")
    client.say(b"x", b".")
    assert client.received[0].secured
    assert client.session.octets_in_clear == b"EHLO me.test\r\nSTARTTLS\r\n"
    assert [line.secured for line in client.session.transcript if line.octets.startswith(b"EHLO")] == [False, True]


def test_octets_behind_starttls_are_dropped() -> None:
    """What is pipelined behind STARTTLS is not obeyed, and is noted."""
    client = _Client(Script(tls="starttls"))
    assert client.say(b"STARTTLS", b"EHLO me", b"NOOP") == ["220"]
    assert len(client.session.errors) == 1
    assert client.session.octets_in_clear.endswith(b"NOOP\r\n")


def test_implicit_tls_comes_first() -> None:
    """With implicit TLS the greeting is said within it."""
    client = _Client(Script(tls="implicit"))
    assert client.actions[0] == StartTLS()
    assert all(line.secured for line in client.session.transcript)


def test_require_tls() -> None:
    """Outside TLS only what leads there is allowed, and AUTH is not offered (RFC 3207 section 4)."""
    client = _Client(Script(tls="starttls", require_tls=True, users={"u": "p"}))
    assert b"AUTH" not in client.raw(b"EHLO me\r\n")
    assert client.say(b"MAIL FROM:<a@x.test>") == ["530"]
    client.say(b"STARTTLS")
    assert b"AUTH PLAIN LOGIN CRAM-MD5\r\n" in client.raw(b"EHLO me\r\n")


def _cram(challenge: bytes) -> bytes:
    return b"u " + hmac.new(b"p", challenge, "md5").hexdigest().encode()


_ANSWERS: dict[str, list[Callable[[bytes], bytes]]] = {
    "PLAIN": [lambda _: b"\0u\0p"],
    "LOGIN": [lambda _: b"u", lambda _: b"p"],
    "CRAM-MD5": [_cram],
    "XOAUTH2": [lambda _: b"user=u\x01auth=Bearer t\x01\x01"],
    "OAUTHBEARER": [lambda _: b"n,a=u,\x01host=h\x01port=1\x01auth=Bearer t\x01\x01"],
}


@pytest.mark.parametrize("name", _ANSWERS)
@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("initial", [True, False])
def test_mechanisms(*, name: str, right: bool, initial: bool) -> None:
    """Each mechanism takes the right secret and no other, with and without an initial response."""
    client = _Client(Script(users={"u": "p" if right else "q"}, tokens={"u": "t" if right else "s"}, require_auth=True))
    assert client.say(b"MAIL FROM:<>") == ["530"]
    answers = list(_ANSWERS[name])
    line = b"AUTH " + name.encode()
    if initial and name != "CRAM-MD5":
        line += b" " + base64.b64encode(answers.pop(0)(b""))
    said = client.raw(line + b"\r\n")
    for answer in answers:
        assert said.startswith(b"334 ")
        said = client.raw(base64.b64encode(answer(base64.b64decode(said[4:]))) + b"\r\n")
    if said.startswith(b"334 "):  # the bearer mechanisms tell in a challenge what was wrong
        assert not right
        said = client.raw(b"AQ==\r\n")
    assert said.startswith(b"235 " if right else b"535 ")
    assert client.say(b"MAIL FROM:<>") == (["250"] if right else ["530"])
    assert client.session.user == ("u" if right else None)


@pytest.mark.parametrize(
    ("lines", "codes"),
    [
        ((b"AUTH PLAIN", b"*"), ["334", "501"]),
        ((b"AUTH PLAIN", b"%%%"), ["334", "501"]),
        ((b"AUTH PLAIN %%%",), ["501"]),
        ((b"AUTH PLAIN =",), ["535"]),
        ((b"AUTH CRAM-MD5 =",), ["535"]),
        ((b"AUTH FROB",), ["504"]),
        ((b"AUTH",), ["501"]),
        ((b"AUTH PLAIN AHUAcA==", b"AUTH PLAIN AHUAcA=="), ["235", "503"]),
        ((b"AUTH PLAIN eAB1AHA=",), ["535"]),
        ((b"MAIL FROM:<>", b"AUTH PLAIN AHUAcA=="), ["250", "503"]),
    ],
)
def test_the_rules_of_auth(lines: tuple[bytes, ...], codes: list[str]) -> None:
    """Cancelling, bad base64, an empty initial response, AUTH at the wrong time: as RFC 4954 says."""
    client = _Client(Script(users={"u": "p"}))
    assert [code for line in lines for code in client.say(line)] == codes
    assert client.say(b"NOOP") == ["250"]


def test_scripted_challenges() -> None:
    """A script may challenge for ever, and end the exchange as it likes."""
    client = _Client(Script(users={"u": "p"}, replies={"RESPONSE": ["334 eHg=", "334 eHg=", "454 4.7.0 later"]}))
    assert [code for line in (b"AUTH LOGIN", b"eA==", b"eA==", b"eA==") for code in client.say(line)] == [
        "334",
        "334",
        "334",
        "454",
    ]
    client = _Client(Script(users={"u": "p"}, replies={"AUTH": "235 come in"}))
    client.say(b"AUTH PLAIN AHUAeA==")
    assert client.session.user == ""


def test_replies_of_the_script() -> None:
    """The longer key wins, a list gives one answer per occurrence, several lines get their codes, None is silence."""
    script = Script(
        replies={
            "RCPT": ["450 later", "250 now"],
            "RCPT:bad@y.test": "550 5.1.1 no such user",
            "VRFY": "252 one\ntwo",
            "EXPN": "250-one\n250 two",
            "NOOP": None,
            "XCLIENT": "220 as you like",
            "QUIT": None,
        }
    )
    client = _Client(script)
    assert client.say(b"MAIL FROM:<>", b"RCPT TO:<b@y.test>", b"RCPT TO:<bad@y.test>", b"RCPT TO:<b@y.test>") == [
        "250",
        "450",
        "550",
        "250",
    ]
    assert client.raw(b"VRFY x\r\n") == b"252-one\r\n252 two\r\n"
    assert client.raw(b"EXPN x\r\n") == b"250-one\r\n250 two\r\n"
    assert client.raw(b"NOOP\r\nXCLIENT a=b\r\nQUIT\r\n") == b"220 as you like\r\n"
    assert client.ends == []


def test_a_callable_decides() -> None:
    """A callable is told key, count, line, session and mail, and its answer is said."""
    seen: list[Occurrence] = []

    def decide(occurrence: Occurrence) -> str:
        seen.append(occurrence)
        return f"45{occurrence.count} no"

    client = _Client(Script(replies={"END": decide, "VRFY": decide}))
    client.say(*MAIL, b"DATA")
    assert client.say(b"x", b".") == ["451"]
    assert client.say(b"VRFY x", b"VRFY y") == ["451", "452"]
    assert [(occurrence.key, occurrence.line) for occurrence in seen[1:]] == [("VRFY", b"VRFY x"), ("VRFY", b"VRFY y")]
    mail = seen[0].mail
    assert mail is not None
    assert mail.octets == b"x\r\n"
    assert client.received == []


def test_octets_are_said_as_they_stand() -> None:
    """Bytes in a script are exact: two replies in one, plaintext injected behind the 220 of STARTTLS."""
    script = Script(tls="starttls", replies={"NOOP": b"250 a\r\n250 b\r\n", "STARTTLS": b"220 go\r\n250 injected\r\n"})
    client = _Client(script)
    assert client.raw(b"NOOP\r\n") == b"250 a\r\n250 b\r\n"
    assert client.raw(b"STARTTLS\r\n") == b"220 go\r\n250 injected\r\n"
    assert client.ends == [StartTLS()]


def test_early_replies() -> None:
    """What is early is a write of its own: with the greeting, with a verb, after so many octets of mail data."""
    script = Script(early={"greeting": "250 x", "NOOP": "421 bye", 3: "552 enough"}, delay={"early": 0.5})
    client = _Client(script, hello=b"")
    assert client.actions == [Send(script_greeting(script)), Wait(0.5), Send(b"250 x\r\n")]
    client.say(b"EHLO me", *MAIL, b"DATA")
    client.actions.clear()
    client.raw(b"ab")
    assert client.actions == []
    client.raw(b"cdef")
    assert client.actions == [Wait(0.5), Send(b"552 enough\r\n")]
    assert client.say(b"", b".") == ["250"]
    assert client.say(b"NOOP") == ["250", "421"]


def script_greeting(script: Script) -> bytes:
    """The octets of a greeting that is a plain line."""
    assert isinstance(script.greeting, str)
    return script.greeting.encode() + b"\r\n"


def test_delay_and_drip() -> None:
    """A delay comes before its reply; a drip before every octet."""
    client = _Client(Script(delay={"NOOP": 2}))
    client.actions.clear()
    client.say(b"NOOP")
    assert client.actions == [Wait(2), Send(b"250 2.0.0 OK\r\n")]
    assert Dialogue(Script(greeting="220", drip=1)).begin()[:4] == [Wait(1), Send(b"2"), Wait(1), Send(b"2")]


@pytest.mark.parametrize("moment", ["greeting", "EHLO", "MAIL", "RCPT:b@y.test", "DATA", 2, "END"])
def test_421_and_close_anywhere(moment: str | int) -> None:
    """With a reply and close_after the service ends at any moment, and nothing is obeyed afterwards."""
    if moment == "greeting":
        script = Script(greeting="421 bye", close_after=frozenset({moment}))
    elif isinstance(moment, int):
        script = Script(early={moment: "421 bye"}, close_after=frozenset({moment}))
    else:
        script = Script(replies={moment: "421 bye"}, close_after=frozenset({moment}))
    client = _Client(script)
    client.say(*MAIL, b"DATA")
    client.raw(b"x\r\n.\r\n")
    assert client.ends == [Close()]
    assert client.session.said("S")[-1] == b"421 bye"
    assert client.session.closed
    assert client.received == []
    assert client.say(b"NOOP") == []


def test_no_service() -> None:
    """After a greeting of 554 everything but QUIT is 503 (RFC 5321 section 3.1)."""
    client = _Client(Script(greeting="554 no"))
    assert client.say(b"NOOP") == ["503"]
    assert client.say(b"QUIT") == ["221"]


_WHOLE = b"EHLO me\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nBDAT 3 LAST\r\nx\r\nQUIT\r\n"


@pytest.mark.parametrize(("kind", "action"), [("close", Close), ("cut", Cut), ("reset", Reset), ("deaf", Deaf)])
def test_faults_at_every_octet_said(kind: str, action: type[Close | Cut | Reset | Deaf]) -> None:
    """The stream ends after exactly as many octets as the script says, and nothing happens after that."""
    whole = Dialogue()
    expected = _said(whole.begin()) + _said(whole.receive(_WHOLE))
    for octets in range(len(expected)):
        dialogue = Dialogue(Script(faults=(Fault(kind, after=octets),)))  # type: ignore[arg-type]  # the names above
        actions = dialogue.begin() + dialogue.receive(_WHOLE)
        assert _said(actions) == expected[:octets]
        assert actions[-1] == action()
        final = expected.index(b"250 2.0.0 accepted")
        assert len(dialogue.received) == (octets > final)  # at once, so before the reply


def test_stalled_servers_go_on_silently() -> None:
    """A stalled server still takes the mail, but nothing it says leaves, so the client cannot know."""
    dialogue = Dialogue(Script(faults=(Fault("stall", after=5),)))
    actions = dialogue.begin() + dialogue.receive(_WHOLE)
    assert actions == [Send(b"220 s"), Stall()]
    assert len(dialogue.received) == 1


def test_faults_at_every_octet_heard() -> None:
    """What was heard before the fault is obeyed, what comes after is not, however it is split."""
    for octets in range(len(_WHOLE) + 1):
        for split in (octets, octets // 2, len(_WHOLE)):
            dialogue = Dialogue(Script(faults=(Fault("reset", before=octets),)))
            actions = dialogue.begin() + dialogue.receive(_WHOLE[:split]) + dialogue.receive(_WHOLE[split:])
            assert Reset() in actions or octets > _WHOLE.index(b"QUIT")
            assert len(dialogue.received) == (octets >= _WHOLE.index(b"QUIT"))


def test_garbage_and_faults_as_answers() -> None:
    """Garbage is said in between and the dialogue goes on; a fault may stand where an answer is expected."""
    client = _Client(Script(greeting="220 hi", faults=(Fault("garbage", after=3, octets=b"?!"),)), hello=b"")
    assert _said(client.actions) == b"220?! hi\r\n"
    client = _Client(Script(replies={"MAIL": Fault("close"), "NOOP": Fault("stall"), "HELP": [Fault("garbage")]}))
    assert client.raw(b"HELP\r\n").startswith(b"\x00")
    client.say(b"MAIL FROM:<>")
    assert client.ends == [Close()]
    client = _Client(Script(replies={"NOOP": Fault("stall")}))
    assert client.say(b"NOOP", b"HELP") == []


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (b"NOOP\nRSET\r\n", "bare LF"),
        (b"NOOP a\rb\r\n", "bare CR"),
        (b"NOOP\r\nNOOP\r\n", "behind NOOP"),
        (b"MAIL FROM:<>\r\nRCPT TO:<b@y>\r\nDATA\r\nx\r\n.\r\n", "behind DATA"),
        (b"EHLO me\r\nMAIL FROM:<>\r\n", "behind EHLO"),
    ],
)
def test_improper_clients_are_noted(octets: bytes, words: str) -> None:
    """Bare line ends and pipelining behind a barrier (RFC 2920 section 3.1) are noted, unless the script is lax."""
    client = _Client()
    client.raw(octets)
    assert words in client.session.errors[0]
    lax = _Client(Script(strict=False))
    lax.raw(octets)
    assert lax.session.errors == []


@pytest.mark.parametrize("octets", [b"a\nb\r\n", b"a\rb\r\n", b"a\r\r\n", b"a\n\r\n", b"\xff\r\n"])
@pytest.mark.parametrize("step", [1, 2, 100])
@pytest.mark.parametrize("chunking", [True, False])
def test_improper_mail_data_is_noted(*, octets: bytes, step: int, chunking: bool) -> None:
    """Bare CR and LF and undeclared 8-bit octets in the mail data are noted, however they are split."""
    client = _Client()
    client.say(*MAIL)
    wire = b"BDAT %d LAST\r\n%b" % (len(octets), octets) if chunking else octets + b".\r\n"
    if not chunking:
        client.say(b"DATA")
    for at in range(0, len(wire), step):
        client.raw(wire[at : at + step])
    assert client.received[0].octets == octets
    assert len(client.session.errors) == 1


def test_pipelining_that_was_not_offered() -> None:
    """Without PIPELINING in the reply to EHLO, two commands at once are noted."""
    client = _Client(Script(extensions=()))
    client.say(b"MAIL FROM:<>", b"RCPT TO:<b@y.test>")
    assert "not offered" in client.session.errors[0]


def test_nul_and_long_lines_are_taken() -> None:
    """Octets that are odd but do no harm to the dialogue go through."""
    client = _Client()
    client.say(*MAIL, b"DATA")
    assert client.say(b"\0" + b"x" * 100_000, b".") == ["250"]
    assert client.received[0].octets == b"\0" + b"x" * 100_000 + b"\r\n"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Script(tls="yes"), "starttls"),  # type: ignore[arg-type]  # that is the point
        (lambda: Script(mechanisms=("FROB",)), "PLAIN"),
        (lambda: Script(replies={"rcpt": "550"}), "upper case"),
        (lambda: Script(replies={"greeting": "550"}), "field of its own"),
        (lambda: Script(faults=(Fault("close"),)), "after="),
    ],
)
def test_scripts_that_make_no_sense(make: Callable[[], Script], words: str) -> None:
    """A script that could never do what it says is refused with the reason."""
    with pytest.raises(ValueError, match=words):
        make()
