"""Many mails over one session: each is settled once, none is lost, sent twice or sent under another's envelope."""

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from smtpkit.bulk import Intake, Iterated, Lane, Mail, prepared
from smtpkit.bulk.intake import MOST_WAITING
from smtpkit.errors import (
    ChannelLost,
    ConnectError,
    DataRefused,
    InvalidMail,
    Outcome,
    RecipientsRefused,
    SenderRefused,
    ServiceClosing,
    UsageError,
)
from smtpkit.events import Settled
from smtpkit.options import OptionKeywords
from smtpkit.pace import Pace
from smtpkit.session import Session
from smtpkit.testing import Answer, Fault, Script
from smtpkit.transport.connect import run_inline
from smtpkit.window import Habits
from tests.memory import Talk
from tests.streams import run

PROVEN = {"overlap": True, "chunking": True}


def mail(number: int, *, to: str = "bob@example.com", size: int = 0) -> Mail:
    """A mail that only its own sender sends."""
    octets = b"From: ann@example.com\r\nSubject: %d\r\n\r\n.%d\r\n" % (number, number) + b"x\r\n" * (size // 3)
    return Mail(octets, f"s{number}@example.com", [to, f"r{number}@example.com"])


class Host:
    """A server of one script after another, one for each session, the last for all that follow."""

    def __init__(self, *scripts: Script, options: OptionKeywords | None = None, **stream: Any) -> None:
        self.scripts = scripts or (Script(),)
        self.options = options
        self.stream = stream  # of the first session
        self.talks: list[Talk] = []
        self.session: Session | None = None
        self.told: list[Settled] = []
        self.refuse: Callable[[], None] = lambda: None
        self.clock = 0.0  # the pace's

    async def rest(self, seconds: float) -> None:
        """Let time pass."""
        self.clock += max(seconds, 0.001)

    def bulk(
        self, items: Iterable[Any], *, window: int = 16, habits: Habits | None = None, pace: Pace | None = None
    ) -> Lane:
        """A lane over sessions with this host."""
        options = Talk(self.scripts[0], self.options).options
        talk = Talk(self.scripts[0], self.options)
        talk.observers.on(Settled, self.told.append)
        self.intake = Intake(
            Iterated(items),
            prepare=lambda mail: prepared(mail, options=options, run=run_inline),
            pace=pace or Pace(mail_rate=None, domain_rate=None, domain_connections=None),
            now=lambda: self.clock,
            rest=self.rest,
            observers=talk.observers,
        )
        return Lane(
            self.intake,
            window=window,
            options=options,
            habits=habits or Habits(),
            lease=self.lease,
            observers=talk.observers,
        )

    @asynccontextmanager
    async def lease(self) -> AsyncGenerator[Session]:
        """The session there is, or a new one."""
        self.refuse()
        if self.session is None or not self.session.usable or self.session.spent:
            script = self.scripts[min(len(self.talks), len(self.scripts) - 1)]
            self.talks.append(Talk(script, self.options, **({} if self.talks else self.stream)))
            self.session = self.talks[-1].open()
        try:
            yield self.session
        finally:
            if self.session.broken:
                self.session.abort("broken")

    def said(self, talk: int = 0) -> list[str]:
        """The client's commands in a session, less EHLO."""
        return [line.decode() for line in self.talks[talk].dialogue.session.said("C")][1:]

    @property
    def received(self) -> list[str]:
        """The senders of the mails that were accepted, in order."""
        return [mail.reverse_path for talk in self.talks for mail in talk.received]


def outcomes(bulk: Lane) -> list[Outcome]:
    """All of them."""
    found = []
    while (outcome := run(bulk.next())) is not None:
        found.append(outcome)
    return found


def agree(host: Host, items: Sequence[Mail], found: Sequence[Outcome]) -> None:
    """Nothing that was said of the mails is untrue, and nothing is missing."""
    assert Counter(id(outcome.item) for outcome in found) == Counter(map(id, items))
    arrived = Counter(host.received)
    for outcome in found:
        count = arrived[outcome.item.sender]
        if outcome.accepted:
            assert count == 1
            assert outcome.error is None or outcome.in_doubt  # LMTP: each recipient has a verdict of its own
        elif outcome.in_doubt:
            assert count <= 1
        else:
            assert outcome.error is not None
            assert count == 0
        assert outcome.error is None or outcome.error.outcome is outcome
    for talk in host.talks:
        for received in talk.received:
            number = received.reverse_path[1:].partition("@")[0]
            assert f"r{number}@example.com" in received.paths
            assert set(received.paths) <= {f"r{number}@example.com", "bob@example.com", "cy@example.com"}
            assert b"Subject: %s\r\n" % number.encode() in received.octets
        assert not talk.dialogue.session.errors


@pytest.mark.parametrize("chunking", ["auto", "never", "always"])
@pytest.mark.parametrize("window", [1, 2, 16])
def test_all_arrive_in_order(chunking: Any, window: int) -> None:
    """Forty mails go over one session, by DATA and by BDAT; outcomes come in the order of the mails."""
    items = [mail(number) for number in range(40)]
    host = Host(options={"chunking": chunking})
    found = outcomes(host.bulk(items, window=window))
    agree(host, items, found)
    assert [outcome.item for outcome in found] == items
    assert host.received == [item.sender for item in items]
    assert len(host.talks) == 1


def test_what_is_said_first() -> None:
    """Behind the first mail goes a lone RSET with an empty BDAT; overlapping groups begin with RSET."""
    host = Host()
    outcomes(host.bulk([mail(number) for number in range(3)]))
    rcpt = "RCPT TO:<bob@example.com>"

    def group(number: int, last: str) -> list[str]:
        return [f"MAIL FROM:<s{number}@example.com> SIZE=41", rcpt, f"RCPT TO:<r{number}@example.com>", last]

    assert host.said() == [
        *group(0, "DATA"),
        "RSET",
        "BDAT 0 LAST",
        *group(1, "BDAT 41 LAST"),
        "RSET",
        *group(2, "BDAT 41 LAST"),
    ]


@pytest.mark.parametrize("chunking", ["auto", "never"])
def test_writes_are_shared(chunking: Any) -> None:
    """Once the window is open, BDAT takes one write for many mails; DATA, which needs a 354 for each, one a mail."""
    host = Host(options={"chunking": chunking})
    bulk = host.bulk([mail(number) for number in range(200)], habits=Habits(**PROVEN))
    assert run(bulk.next()) is not None
    stream, writes = host.talks[0].stream, 0
    send = stream.send

    async def counted(octets: Any) -> None:
        nonlocal writes
        writes += 1
        await send(octets)

    stream.send = counted  # type: ignore[method-assign]
    outcomes(bulk)
    assert len(host.received) == 200
    assert writes <= (200 / 12 if chunking == "auto" else 200 + 2)


@pytest.mark.parametrize(("chunking", "ahead"), [("auto", 16), ("never", 2)])
def test_an_outcome_is_given_as_soon_as_it_is_known(chunking: Any, ahead: int) -> None:
    """Once a mail is settled no more are begun before its outcome is out: by DATA, one is under way behind it."""
    host = Host(options={"chunking": chunking})
    bulk = host.bulk([mail(number) for number in range(60)], habits=Habits(**PROVEN))
    for number in range(60):
        assert run(bulk.next()) is not None
        assert len(host.received) <= number + ahead


def test_refusals_touch_only_their_own_mail() -> None:
    """A refused sender, refused recipients, a full mailbox and refused mail data within a window."""
    refusals = {
        "MAIL:s3@example.com": "550 5.7.1 not you",
        "RCPT:cy@example.com": "452 4.2.2 full",
        "RCPT:r7@example.com": "550 5.1.1 no such user",
        "END": ["250 2.0.0 ok"] * 9 + ["554 5.7.1 spam"] + ["250 2.0.0 ok"],
    }
    for chunking in ("never", "always"):
        host = Host(Script(replies=refusals), options={"chunking": chunking})
        items = [mail(number, to="cy@example.com" if number in (5, 7) else "bob@example.com") for number in range(20)]
        found = outcomes(host.bulk(items, habits=Habits(**PROVEN)))
        agree(host, items, found)
        kinds = {outcome.item.sender: type(outcome.error) for outcome in found if outcome.error}
        spam = kinds.keys() - {"s3@example.com", "s7@example.com"}
        assert kinds["s3@example.com"] is SenderRefused
        assert kinds["s7@example.com"] is RecipientsRefused
        assert [kinds[one] for one in spam] == [DataRefused]
        assert found[5].accepted == ("r5@example.com",)
        assert list(found[5].refused) == ["cy@example.com"]
        assert len(host.talks) == 1


def test_a_server_that_forgets_what_follows_mail_data() -> None:
    """The probe is not answered: no mail is in doubt, all arrive over a plain session, and the habit is kept."""
    items = [mail(number) for number in range(9)]
    host, habits = Host(Script(forgets=True)), Habits()
    found = outcomes(host.bulk(items, habits=habits))
    agree(host, items, found)
    assert all(outcome.accepted for outcome in found)
    assert len(host.talks) == 2
    assert habits == Habits(overlap=False)
    again = Host(Script(forgets=True))
    outcomes(again.bulk(items, habits=habits))
    assert len(again.talks) == 1
    assert "RSET" not in again.said()


def test_a_server_that_hangs_at_bdat() -> None:
    """The empty BDAT of the probe is not answered: mails go by DATA, overlapping, and the habit is kept."""
    items = [mail(number) for number in range(9)]
    host, habits = Host(Script(replies={"BDAT": Fault("stall")}), Script(replies={"BDAT": None})), Habits()
    found = outcomes(host.bulk(items, habits=habits))
    agree(host, items, found)
    assert all(outcome.accepted for outcome in found)
    assert habits == Habits(overlap=True, chunking=False)
    assert [line for line in host.said(1) if line.startswith("BDAT")] == []
    assert "RSET" in host.said(1)


def test_a_server_that_knows_no_bdat() -> None:
    """502 to the empty BDAT: the session goes on with DATA, and no mail data is taken for commands."""
    items = [mail(number) for number in range(9)]
    host, habits = Host(Script(replies={"BDAT": "502 5.5.1 what?"})), Habits()
    found = outcomes(host.bulk(items, habits=habits))
    agree(host, items, found)
    assert all(outcome.accepted for outcome in found)
    assert habits == Habits(overlap=True, chunking=False)
    assert len(host.talks) == 1


def test_a_transaction_that_stays_open_after_a_failed_bdat() -> None:
    """RSET leads the next group, so that a refused mail leaves nothing to the next."""
    items = [mail(number) for number in range(9)]
    host = Host(Script(replies={"END": ["250 2.0.0 ok", "552 5.3.4 too much", "250 2.0.0 ok"]}))
    found = outcomes(host.bulk(items, habits=Habits(**PROVEN)))
    agree(host, items, found)
    assert [type(outcome.error) for outcome in found] == [type(None), DataRefused, *[type(None)] * 7]


@pytest.mark.parametrize("chunking", ["auto", "never"])
def test_a_server_that_closes_after_every_mail(chunking: Any) -> None:
    """Each mail takes a session of its own, nothing is in doubt by DATA, and the habit is kept."""
    items = [mail(number) for number in range(9)]
    host, habits = Host(Script(close_after=frozenset({"END"})), options={"chunking": chunking}), Habits()
    found = outcomes(host.bulk(items, habits=habits))
    agree(host, items, found)
    assert all(outcome.accepted for outcome in found)
    assert habits.overlap is False
    assert len(host.talks) == 9


@pytest.mark.parametrize("chunking", ["always", "never"])
@pytest.mark.parametrize("attempts", [1, 2])
def test_421_within_a_window(chunking: Any, attempts: int) -> None:
    """The mail that is answered by 421 is tried once more, and reported if that is the answer again; others go on."""
    bye = Script(replies={"END": ["250 2.0.0 ok"] * 3 + ["421 4.3.2 bye"]})
    late = Script(replies={"END": "421 4.3.2 bye"})
    items = [mail(number) for number in range(9)]
    host = Host(bye, *[late] * (attempts - 1), Script(), options={"chunking": chunking})
    found = outcomes(host.bulk(items, habits=Habits(**PROVEN)))
    agree(host, items, found)
    assert [type(outcome.error) for outcome in found if outcome.error] == [ServiceClosing] * (attempts - 1)


@pytest.mark.parametrize("chunking", ["always", "never"])
@pytest.mark.parametrize("code", ["421", "354"])
def test_a_server_that_goes_on_after_its_last_word(chunking: Any, code: str) -> None:
    """421 to one mail's MAIL, and the server answers the others all the same: what has arrived is each one's own.

    After a reply that cannot be, what follows is no verdict: what may have been accepted is in doubt.
    """
    script = Script(replies={"MAIL:s3@example.com": [f"{code} moving", "250 ok"]})
    items = [mail(number) for number in range(9)]
    host = Host(script, Script(), options={"chunking": chunking})
    found = outcomes(host.bulk(items, habits=Habits(**PROVEN), window=4))
    agree(host, items, found)
    doubtful = [outcome.item for outcome in found if outcome.in_doubt]
    assert doubtful == (items[3:6] if (chunking, code) == ("always", "354") else [])
    assert sum(outcome.error is not None for outcome in found) == len(doubtful) + ((chunking, code) == ("never", "354"))


@pytest.mark.parametrize("chunking", ["always", "never"])
@pytest.mark.parametrize("ending", ["close", "reset"])
def test_a_server_that_says_421_and_closes(chunking: Any, ending: Any) -> None:
    """What follows 421 was not taken, since the server left as it said: those mails go again, and none is in doubt."""
    replies = {"MAIL:s3@example.com": "421 4.7.0 too fast"}
    faults = (Fault(ending, after=len(_until_421(chunking))),)
    host = Host(Script(replies=replies, faults=faults), Script(), options={"chunking": chunking})
    items = [mail(number) for number in range(9)]
    found = outcomes(host.bulk(items, habits=Habits(**PROVEN), window=4))
    agree(host, items, found)
    assert all(outcome.accepted for outcome in found)
    assert len(host.talks) == 2


def _until_421(chunking: Any) -> bytes:
    """What the server says up to and with its 421."""
    host = Host(Script(replies={"MAIL:s3@example.com": "421 4.7.0 too fast"}), options={"chunking": chunking})
    outcomes(host.bulk([mail(number) for number in range(4)], habits=Habits(**PROVEN), window=4))
    said = b"".join(octets + b"\r\n" for octets in host.talks[0].dialogue.session.said("S"))
    return said[: said.index(b"too fast") + 10]


@pytest.mark.parametrize("before", [{}, {"MAIL:s3@example.com": "450 4.7.1 not you"}], ids=["", "refused"])
@pytest.mark.parametrize("moment", ["MAIL:s3@example.com", "RCPT:r3@example.com"])
def test_421_leaves_nothing_behind_it_in_doubt(moment: str, before: dict[str, Answer]) -> None:
    """A server answers in order: what was said whole behind the command at which it left was not accepted."""
    bye = Script(replies={**before, moment: "421 4.3.2 too many mails"}, close_after=frozenset({moment}))
    items = [mail(number) for number in range(9)]
    host = Host(bye, Script())
    found = outcomes(host.bulk(items, habits=Habits(**PROVEN)))
    agree(host, items, found)
    assert bytes(host.talks[0].stream.sent).count(b"BDAT") > 4  # of those that followed some were said whole
    refused = [outcome.item for outcome in found if not outcome.accepted]
    assert refused == ([items[3]] if before and moment.startswith("RCPT") else [])
    assert len(host.talks) == 2


@pytest.mark.parametrize("fail", ["reset", "stall"])
def test_421_that_is_read_after_a_write_has_failed(fail: Any) -> None:
    """Nor is anything in doubt where the server has left, and its words are found when a write breaks off."""
    moment = "RCPT:r3@example.com"
    bye = Script(replies={moment: "421 4.3.2 too many mails"}, close_after=frozenset({moment}))
    items = [mail(number) for number in range(12)]
    whole = Host(bye, Script())
    outcomes(whole.bulk(items, habits=Habits(**PROVEN)))
    sent = bytes(whole.talks[0].stream.sent)
    for after in range(sent.index(b"<r3@") + 20, len(sent), 7):
        host = Host(bye, Script(), fail_after=after, fail=fail)
        found = outcomes(host.bulk(items, habits=Habits(**PROVEN)))
        agree(host, items, found)
        left = any(line.startswith(b"421") for line in host.talks[0].dialogue.session.said("S"))
        assert left or fail == "stall"
        assert not any(outcome.in_doubt for outcome in found if left), after


def test_one_reply_too_many() -> None:
    """By DATA it is noticed at once; nothing that did not arrive is told as accepted."""
    items = [mail(number) for number in range(9)]
    host = Host(Script(early={"END": "250 2.0.0 and again"}), Script(), options={"chunking": "never"})
    found = outcomes(host.bulk(items, habits=Habits(**PROVEN)))
    agree(host, items, found)
    assert len(host.talks) > 1


FORMS: dict[str, tuple[Script, OptionKeywords, dict[str, Any]]] = {
    "data": (Script(), {"chunking": "never"}, PROVEN),
    "data, probed": (Script(), {"chunking": "never"}, {}),
    "auto": (Script(), {}, {}),
    "bdat": (Script(), {}, PROVEN),
    "bdat, some refused": (Script(replies={"RCPT:bob@example.com": ["250 ok", "550 no"]}), {}, PROVEN),
    "lmtp": (Script(lmtp=True), {}, PROVEN),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cut", ["end", "reset", "stall"])
def test_cut_at_every_octet_received(form: str, cut: Any) -> None:
    """Wherever a session ends, each mail is settled once and truly, and in doubt only if all of it was said."""
    script, options, habits = FORMS[form]
    items = [mail(number) for number in range(6)]
    whole = Host(script, options=options)
    outcomes(whole.bulk(items, window=4, habits=Habits(**habits)))
    for after in range(whole.talks[0].stream.received):
        host = Host(script, options=options, cut_after=after, cut=cut)
        if after < 250:  # the greeting and EHLO: opening fails, as for a single mail
            continue
        found = outcomes(host.bulk(items, window=4, habits=Habits(**habits)))
        agree(host, items, found)
        assert len(host.talks) <= 3
        assert sum(bool(outcome.in_doubt) for outcome in found) <= (4 if "auto" in form or "bdat" in form else 1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fail", ["reset", "stall"])
def test_fails_at_every_octet_sent(form: str, fail: Any) -> None:
    """Wherever a write breaks off, each mail is settled once and truly; what was not said whole is sent again."""
    script, options, habits = FORMS[form]
    items = [mail(number) for number in range(6)]
    whole = Host(script, options=options)
    outcomes(whole.bulk(items, window=4, habits=Habits(**habits)))
    for after in range(30, len(whole.talks[0].stream.sent)):
        host = Host(script, options=options, fail_after=after, fail=fail)
        found = outcomes(host.bulk(items, window=4, habits=Habits(**habits)))
        agree(host, items, found)


def test_a_mail_that_kills_its_sessions() -> None:
    """A mail at which the server leaves each time is reported after two; the others arrive."""
    items = [mail(number) for number in range(6)]
    host = Host(Script(replies={"MAIL:s2@example.com": Fault("close")}), options={"chunking": "never"})
    found = outcomes(host.bulk(items, habits=Habits(**PROVEN)))
    agree(host, items, found)
    assert [outcome.item.sender for outcome in found if outcome.error] == ["s2@example.com"]


def test_no_session_to_be_had() -> None:
    """Where no connection comes about each mail has that error for its outcome."""
    items = [mail(number) for number in range(3)]
    host = Host()

    def refuse() -> None:
        raise ConnectError("nobody there")

    host.refuse = refuse
    found = outcomes(host.bulk(items))
    agree(host, items, found)
    assert all(isinstance(outcome.error, ConnectError) for outcome in found)


def test_invalid_mails_are_outcomes() -> None:
    """A mail that cannot be sent is settled without a word to the server; the others go."""
    items = [mail(0), "text", mail(1), (), (1, 2, 3, 4), Mail(b"no header"), mail(2), Mail(b"x\0", "a@b.c", ["d@e.f"])]
    host = Host()
    found = outcomes(host.bulk(items))
    assert Counter(type(outcome.error) for outcome in found) == {type(None): 3, InvalidMail: 5}
    assert host.received == ["s0@example.com", "s1@example.com", "s2@example.com"]
    assert len(found) == len(items)
    assert len(host.told) == len(items)


def test_a_message_the_server_has_no_extension_for() -> None:
    """NotSupported is the outcome of the mail that needs it, and of no other."""
    raw = Mail("Subject: ä\r\n\r\nä\r\n".encode(), "s9@example.com", ["r9@example.com"])
    items = [mail(0), raw, mail(1)]
    host = Host(Script(extensions=("PIPELINING",)))
    found = outcomes(host.bulk(items))
    agree(host, items, found)
    assert [outcome.item for outcome in found if outcome.error] == [raw]


def test_a_source_that_fails_ends_its_session_only() -> None:
    """A one-shot mail whose source fails is reported; it is not sent again, and those around it arrive."""

    def source() -> Iterable[bytes]:
        yield b"Subject: x\r\n\r\n"
        raise OSError("a bad disk")

    items = [mail(0), Mail(source(), "s9@example.com", ["r9@example.com"]), *map(mail, range(1, 6))]
    host = Host()
    found = outcomes(host.bulk(items, habits=Habits(**PROVEN)))
    agree(host, items, found)
    assert [type(outcome.error) for outcome in found if outcome.error] == [InvalidMail]


def test_a_source_that_was_not_begun_is_sent_by_the_next_session() -> None:
    """A one-shot mail of which nothing was said when another's source failed is as good as new."""

    def source(fails: bool) -> Iterable[bytes]:  # noqa: FBT001
        yield b"Subject: 0\r\n\r\n"
        if fails:
            raise OSError("a bad disk")

    items = [Mail(source(number == 1), f"s{number}@example.com", ["bob@example.com"]) for number in range(5)]
    found = outcomes(Host().bulk(items, habits=Habits(**PROVEN)))
    assert [(outcome.item, type(outcome.error)) for outcome in found if outcome.error] == [(items[1], InvalidMail)]
    assert len(found) == 5


def test_what_the_input_raises_comes_last() -> None:
    """The mails that were taken before are settled; then the input's own error is raised, once."""

    def items() -> Iterable[Mail]:
        yield from map(mail, range(5))
        raise LookupError("no more rows")

    host = Host()
    bulk = host.bulk(items())
    for _ in range(5):
        outcome = run(bulk.next())
        assert outcome is not None
        assert outcome.accepted
    assert run(bulk.next()) is None
    with pytest.raises(LookupError, match="rows"):
        host.intake.check()
    host.intake.check()
    assert run(bulk.next()) is None


def test_left_early() -> None:
    """What is under way is settled, what was not taken is listed, and no more is taken of an iterator."""
    items = [mail(number) for number in range(40)]
    host = Host()
    bulk = host.bulk(items, habits=Habits(**PROVEN))
    found = [run(bulk.next()) for _ in range(9)]
    run(bulk.leave(5.0))
    host.intake.close()
    settled = [*found, *bulk.settled]
    assert [outcome.item for outcome in settled if outcome] + host.intake.unsent == items
    assert [outcome.item.sender for outcome in settled if outcome and outcome.accepted] == host.received
    assert host.session is not None
    assert host.session.usable
    iterator = iter(items)
    host = Host()
    bulk = host.bulk(iterator, habits=Habits(**PROVEN))
    first = run(bulk.next())
    assert first is not None
    run(bulk.leave(5.0))
    host.intake.close()
    assert not host.intake.unsent
    assert next(iterator) in items


def test_left_while_the_server_is_silent() -> None:
    """Leaving waits as long as it is told and no longer; what cannot have been accepted is listed as unsent."""
    items = [mail(number) for number in range(9)]
    host = Host(Script(replies={"END": ["250 2.0.0 ok", Fault("stall")]}), options={"chunking": "never"})
    bulk = host.bulk(items, habits=Habits(**PROVEN))
    assert run(bulk.next()) is not None
    before = host.talks[0].stream.clock
    run(bulk.leave(5.0))
    assert host.talks[0].stream.clock <= before + 5.0
    host.intake.close()
    doubtful = [outcome.item for outcome in bulk.settled if outcome.in_doubt]
    assert doubtful == [items[1]]
    assert host.intake.unsent == items[2:]


@pytest.mark.parametrize("window", [0, 513, -1])
def test_a_window_that_cannot_be(window: int) -> None:
    """The window is 1 to 512 mails."""
    with pytest.raises(UsageError, match="window: 1 to 512"):
        Host().bulk([], window=window)


def test_octets_are_no_list_of_messages() -> None:
    """One message where many are asked for is a UsageError."""
    with pytest.raises(UsageError, match="messages: an iterable"):
        Host().bulk(b"From: x")


def test_memory_is_that_of_the_window() -> None:
    """Of an endless input no more is taken than the window holds."""
    taken = 0

    def endless() -> Iterable[Mail]:
        nonlocal taken
        while True:
            taken += 1
            yield mail(taken)

    bulk = Host().bulk(endless(), window=8, habits=Habits(**PROVEN))
    for number in range(1, 50):
        assert run(bulk.next()) is not None
        assert taken <= number + 8


def test_octets_of_the_window() -> None:
    """Large mails overlap by no more than a mebibyte."""
    items = [mail(number, size=400_000) for number in range(6)]
    host = Host()
    bulk = host.bulk(items, window=16, habits=Habits(**PROVEN))
    while run(bulk.next()) is not None:
        assert sum(entry.mail.mail_data.size or 0 for entry in bulk._flying) <= 3 * 400_100
    assert len(host.received) == 6


def test_a_session_that_had_ended_meanwhile() -> None:
    """A session used before, and ended unnoticed, costs no mail an attempt."""
    host = Host()
    outcomes(host.bulk([mail(0)]))
    talk = host.talks[0]
    talk.stream.at_hand = lambda: None  # type: ignore[method-assign]
    talk.stream._ending, talk.stream._fail_after = "reset", len(talk.stream.sent)
    items = [mail(number) for number in range(1, 4)]
    found = outcomes(host.bulk(items))
    assert all(outcome.accepted for outcome in found)
    assert len(host.talks) == 2


def test_an_error_of_its_own_for_each() -> None:
    """Mails that go down with one session do not share an error, whose outcome would be another's."""

    def once(number: int) -> Mail:
        return Mail(iter([b"Subject: %d\r\n\r\nx\r\n" % number]), f"s{number}@example.com", [f"r{number}@example.com"])

    items = [mail(0), once(1), once(2)]
    host = Host(Script(replies={"MAIL:s1@example.com": Fault("close")}))
    found = outcomes(host.bulk(items, habits=Habits(**PROVEN)))
    agree(host, items, found)
    assert any(isinstance(outcome.error, ChannelLost) for outcome in found)


def test_a_session_that_ends_while_the_input_waits() -> None:
    """What arrived meanwhile is looked at before the next mail: it goes over another session at once."""
    host = Host()
    items = [mail(number) for number in range(4)]

    def given() -> Iterable[Mail]:
        yield items[0]
        talk = host.talks[0]
        talk.stream._arriving.append((talk.stream.clock, b"421 4.4.2 idle for too long\r\n"))
        yield from items[1:]

    found = outcomes(host.bulk(given()))
    agree(host, items, found)
    assert all(outcome.accepted for outcome in found)
    assert len(host.talks) == 2
    assert "MAIL" not in host.said(0)[-1]


def test_a_mail_that_times_out_teaches_nothing_about_overlap() -> None:
    """Where the first mail's own reply does not come, its probe says nothing of the host."""
    habits = Habits()
    host = Host(Script(replies={"END": Fault("stall")}), Script())
    items = [mail(number) for number in range(3)]
    found = outcomes(host.bulk(items, habits=habits))
    agree(host, items, found)
    assert [bool(outcome.in_doubt) for outcome in found] == [True, False, False]
    assert habits.overlap is True


def test_a_slow_domain_holds_up_no_other() -> None:
    """Two mails a second to one domain, and those to others go at once; all arrive, the slow ones in their order."""
    items = [mail(number, to=f"bob@{'slow' if number % 2 else f'host{number}'}.example") for number in range(20)]
    items = [Mail(item.message, item.sender, item.recipients[:1]) for item in items]
    host = Host()
    pace = Pace(mail_rate=None, domain_rate=2, domain_connections=None)
    bulk, when = host.bulk(items, pace=pace, habits=Habits(**PROVEN)), {}
    while (outcome := run(bulk.next())) is not None:
        assert outcome.accepted
        when[outcome.item.sender] = host.clock
    assert [when[item.sender] for item in items[::2]] == [0.0] * 10
    slow = [when[item.sender] for item in items[1::2]]
    assert slow == sorted(slow)
    assert slow[-1] == pytest.approx(4.5, abs=0.1)
    assert not pace._domains["slow.example"].under_way


def test_no_more_at_once_to_a_domain_than_may_be() -> None:
    """``domain_connections`` counts the mails of all windows; each turn is given back, whatever became of the mail."""
    items = [mail(number) for number in range(12)]
    host = Host(Script(replies={"MAIL:s5@example.com": Fault("close"), "MAIL:s3@example.com": "550 no"}), Script())
    pace = Pace(mail_rate=None, domain_rate=None, domain_connections=3)
    bulk = host.bulk(items, pace=pace, habits=Habits(**PROVEN))
    found = []
    while (outcome := run(bulk.next())) is not None:
        found.append(outcome)
        assert len(bulk._flying) <= 3
    agree(host, items, found)
    assert pace._domains["example.com"].under_way == 0


def test_mails_that_wait_for_their_turn_are_bounded_and_listed() -> None:
    """Of an endless input no more is taken than may wait; what waits when it is left is unsent, in order."""
    taken: list[Mail] = []

    def endless() -> Iterable[Mail]:
        while True:
            taken.append(Mail(mail(len(taken)).message, f"s{len(taken)}@example.com", ["bob@example.com"]))
            yield taken[-1]

    host = Host()
    bulk = host.bulk(endless(), pace=Pace(mail_rate=None, domain_rate=1, domain_connections=None))
    first = run(bulk.next())
    assert first is not None
    assert len(taken) <= 2 + MOST_WAITING
    run(bulk.leave(5.0))
    host.intake.close()
    assert [first.item, *(outcome.item for outcome in bulk.settled), *host.intake.unsent] == taken


MANY = [f"r{number}@example.com" for number in range(7)]


def to_many(number: int) -> Mail:
    """A mail to seven."""
    return Mail(mail(number).message, f"s{number}@example.com", MANY)


@pytest.mark.parametrize("chunking", ["always", "never"])
@pytest.mark.parametrize(
    "script",
    [
        Script(extensions=("PIPELINING", "CHUNKING", "LIMITS RCPTMAX=3")),
        Script(replies={"RCPT": ["250 ok"] * 3 + ["452 4.5.3 too many"] * 4 + ["250 ok"] * 90}),
    ],
    ids=["announced", "shown"],
)
def test_more_recipients_than_the_server_takes(script: Script, chunking: Any) -> None:
    """They go in further transactions of the same session, before the next mail, and the mail has one outcome."""
    items = [to_many(number) for number in range(3)]
    host = Host(script, options={"chunking": chunking})
    found = outcomes(host.bulk(items, habits=Habits(**PROVEN)))
    assert sorted(outcome.item.sender for outcome in found) == ["s0@example.com", "s1@example.com", "s2@example.com"]
    assert all(sorted(outcome.accepted) == MANY and not outcome.refused for outcome in found)
    assert [event.outcome for event in host.told] == found
    assert len(host.talks) == 1
    for item in items:
        paths = [path for one in host.talks[0].received if one.reverse_path == item.sender for path in one.paths]
        assert sorted(paths) == MANY


@pytest.mark.parametrize(
    ("death", "window"),
    [
        ({"RCPT:r4@example.com": Fault("close")}, 16),
        ({"RSET": Fault("close")}, 16),  # the probe's
        ({"RSET": "421 closing"}, 16),
        ({"MAIL": ["250 ok", "421 too many mails"]}, 16),
        ({"MAIL": ["250 ok", "421 too many mails"]}, 1),
        ({"MAIL": ["250 ok", "250 ok", Fault("reset")]}, 2),
    ],
)
@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("habits", [{}, PROVEN])
def test_a_session_that_dies_between_two_transactions_of_a_mail(
    death: Any,
    window: int,
    shown: bool,  # noqa: FBT001
    habits: Any,
) -> None:
    """Who has the mail does not get it again: the others do, over the next session, whenever the first one dies."""
    extensions = ("PIPELINING", "CHUNKING") if shown else ("PIPELINING", "CHUNKING", "LIMITS RCPTMAX=3")
    replies = {"RCPT": ["250 ok"] * 3 + ["452 4.5.3 too many"] * 4 + ["250 ok"] * 90} if shown else {}
    dies = Script(extensions=extensions, replies=replies | death)
    host = Host(dies, Script(extensions=extensions), options={"chunking": "never"})
    items = [to_many(number) for number in range(3)]
    found = outcomes(host.bulk(items, window=window, habits=Habits(**habits)))
    assert sorted(outcome.item.sender for outcome in found) == [item.sender for item in items]
    assert [sorted(outcome.accepted) for outcome in found] == [MANY] * 3
    for item in items:
        arrived = [one for talk in host.talks for one in talk.received if one.reverse_path == item.sender]
        assert sorted(path for one in arrived for path in one.paths) == MANY


def test_left_between_two_transactions_of_a_mail() -> None:
    """A mail that some have is not unsent: its outcome says who has it, and the error why the others do not."""
    host = Host(Script(extensions=("PIPELINING", "LIMITS RCPTMAX=3")))
    bulk = host.bulk([to_many(0), to_many(1)])
    settle = bulk._settle

    async def stopping() -> None:
        await settle()
        host.intake.stop()

    bulk._settle = stopping  # type: ignore[method-assign]
    assert run(bulk.next()) is None
    (outcome,) = host.intake.close()
    assert outcome.accepted == tuple(MANY[:3])
    assert isinstance(outcome.error, ChannelLost)
    assert [event.outcome for event in host.told] == [outcome]
    assert host.intake.unsent[-1].sender == "s1@example.com"


def test_a_session_takes_no_more_mails_than_the_server_allows() -> None:
    """MAILMAX (RFC 9422): the next mail goes over another session, also within a window."""
    items = [mail(number) for number in range(10)]
    host = Host(Script(extensions=("PIPELINING", "CHUNKING", "LIMITS MAILMAX=4")))
    found = outcomes(host.bulk(items, habits=Habits(**PROVEN), window=8))
    agree(host, items, found)
    assert [len(talk.received) for talk in host.talks] == [4, 4, 2]
