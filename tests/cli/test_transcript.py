"""The transcript: each event as lines, marked and escaped, and the time that passed before it."""

import io

import pytest

from smtpkit import (
    Attempted,
    Authenticated,
    CommandSent,
    Connected,
    DataRefused,
    Event,
    EventsMissed,
    Outcome,
    RecipientRefused,
    Reply,
    ReplyReceived,
    Secured,
    SecurityMissing,
    SessionClosed,
    Settled,
    TransferEnded,
    TransferProgress,
    TransferStarted,
)
from smtpkit.cli.screen import Screen
from smtpkit.cli.transcript import Line, Transcript, lines

NO = Reply(550, ("5.1.1 no such mailbox",))
MANY = tuple(f"user{number}@x.org" for number in range(5))

TABLE: list[tuple[Event, list[tuple[str, str, str]]]] = [
    (
        Connected(server="smtp://x", address="192.0.2.1:25", at=1, session=1),
        [("==", "connected to 192.0.2.1:25", "note")],
    ),
    (CommandSent(text="EHLO x", secured=False, at=1, session=1), [("->", "EHLO x", "said")]),
    (CommandSent(text="AUTH PLAIN ***", secured=True, at=1, session=1), [("~>", "AUTH PLAIN ***", "said")]),
    (
        ReplyReceived(reply=Reply(250, ("x", "SIZE")), secured=False, at=1, session=1),
        [("<-", "250-x", "heard"), ("<-", "250 SIZE", "heard")],
    ),
    (ReplyReceived(reply=Reply(354, ("go",)), secured=True, at=1, session=1), [("<~", "354 go", "heard")]),
    (ReplyReceived(reply=NO, secured=False, at=1, session=1), [("<**", "550 5.1.1 no such mailbox", "refusal")]),
    (
        ReplyReceived(reply=Reply(451, ("\x1b[2J\r", "\u202eb")), secured=True, at=1, session=1),
        [("<~*", "451-\\x1b[2J\\r", "refusal"), ("<~*", "451 \\u202eb", "refusal")],
    ),
    (
        Secured(version="TLSv1.3", cipher="AES", verified=True, at=1, session=1),
        [("==", "TLSv1.3, AES, certificate verified", "note")],
    ),
    (
        Secured(version="TLSv1.3", cipher="AES", verified=False, at=1, session=1),
        [("**", "TLSv1.3, AES, certificate not verified: anybody may be listening", "warning")],
    ),
    (
        SecurityMissing(server="smtp://x", at=1, session=1),
        [("**", "smtp://x offered STARTTLS before, and no longer does", "warning")],
    ),
    (Authenticated(mechanism="PLAIN", at=1, session=1), [("==", "logged in by PLAIN", "note")]),
    (TransferStarted(size=1234, at=1, session=1), [("==", "mail data, 1,234 octets", "note")]),
    (TransferStarted(size=None, at=1, session=1), [("==", "mail data", "note")]),
    (TransferProgress(done=1, size=2, rate=3.0, at=1, session=1), []),
    (TransferEnded(done=9, took=0.001, at=1, session=1), [("==", "mail data sent: 9 octets in 1.00 ms", "note")]),
    (
        TransferEnded(done=4_000_000, took=2.0, at=1, session=1),
        [("==", "mail data sent: 4,000,000 octets in 2.00 s, 2.0 MB/s", "note")],
    ),
    (
        RecipientRefused(path="b@x.org", reply=NO, at=1, session=1),
        [("**", "refused: b@x.org: 550 5.1.1 no such mailbox", "bad")],
    ),
    (Settled(outcome=Outcome(accepted=("b@x.org",)), at=1, session=1), [("==", "accepted for b@x.org", "good")]),
    (
        Settled(outcome=Outcome(accepted=MANY), at=1, session=1),
        [("==", "accepted for user0@x.org, user1@x.org, user2@x.org and 2 more", "good")],
    ),
    (
        Settled(outcome=Outcome(in_doubt=("b@x.org",)), at=1, session=1),
        [("**", "in doubt for b@x.org: it may have been accepted", "warning")],
    ),
    (
        Settled(outcome=Outcome(error=DataRefused(NO, "DATA")), at=1, session=1),
        [("**", "DATA: 550 5.1.1 no such mailbox", "bad")],
    ),
    (
        Attempted(path="letters/\n1.queued", state="queued", outcome=Outcome(), at=1, session=0),
        [("==", "queued: letters/\\n1.queued", "note")],
    ),
    (SessionClosed(reason=None, at=1, session=1), [("==", "closed", "note")]),
    (SessionClosed(reason="broken\n", at=1, session=1), [("==", "closed: broken\\n", "note")]),
    (EventsMissed(count=7, at=1, session=0), [("**", "7 events were missed here", "warning")]),
]


@pytest.mark.parametrize(("event", "shown"), TABLE, ids=lambda value: type(value).__name__)
def test_lines(event: Event, shown: list[tuple[str, str, str]]) -> None:
    """Each kind of event has its lines; what others have said is escaped."""
    assert list(lines(event)) == [Line(*line) for line in shown]  # type: ignore[arg-type]  # a table of texts


def test_every_event_is_in_the_table() -> None:
    """No kind of event was forgotten."""
    kinds = {kind.__name__ for kind in Event.__subclasses__() if kind.__module__ == Event.__module__}
    assert {type(event).__name__ for event, _ in TABLE} == kinds


def test_times_are_those_between_events() -> None:
    """The first event of a session has no time, each other what passed since the one before it, of its session."""
    file = io.StringIO()
    transcript = Transcript(Screen(file))
    transcript(CommandSent(text="NOOP", secured=False, at=1.0, session=1))
    transcript(CommandSent(text="NOOP", secured=False, at=1.1, session=2))
    transcript(TransferProgress(done=1, size=None, rate=0.0, at=1.2, session=1))
    transcript(ReplyReceived(reply=Reply(250, ("a", "b")), secured=False, at=1.25, session=1))
    transcript(SessionClosed(reason=None, at=0.0, session=1))
    assert file.getvalue().splitlines() == [
        "             ->  NOOP",
        "             ->  NOOP",
        "   250.0 ms  <-  250-a",
        "             <-  250 b",
        "     0.0 ms  ==  closed",
    ]
