"""A server that fails at random, by a seed, and the comparison of what was said of mails with what it has recorded.

It is the scripted server with a policy: at each moment at which it decides something it may fail instead. Its log
tells of each mail in each session what had arrived of it, what was said to it, and how the session failed. A session's
failures depend on the seed, its number and what it hears, and on nothing else.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from smtpkit import InDoubt, Mail, Outcome, TimedOut
from smtpkit.testing import Action, Answer, Close, Dialogue, Received, Reset, Script, Server, Session, Stall

Kind = Literal["drop", "reset", "stall", "deaf", "421"]
FAULTS: tuple[Kind, ...] = ("drop", "drop", "reset", "reset", "stall", "deaf")  # a silence takes its time
INSTEAD: tuple[Kind, ...] = (*FAULTS, "421", "421")  # of a reply
CLOSING = "421 4.3.2 closing down"
REFUSALS = {"MAIL": "450 4.7.1 not now", "RCPT": "550 5.1.1 no such mailbox", "END": "552 5.3.4 too much"}
_UNREAD = re.compile(
    rb"MAIL FROM:<(?P<begun>s\d+@\S+)>|(?P<bdat>BDAT )|(?P<data>DATA\r)|-- end of (?P<told>s\d+@\S+)\r\n(?P<dot>\.\r)?"
)


def mails(count: int) -> list[Mail]:
    """Mails, each with a sender and two recipients of its own, told apart by their octets; every fortieth is large."""
    return [_mail(number, 2500 if number % 40 == 39 else number % 30) for number in range(count)]


def _mail(number: int, lines: int) -> Mail:
    sender = f"s{number}@example.com"
    octets = f"From: ann@example.com\r\nMessage-ID: <{number}@chaos>\r\nDate: Thu, 26 Nov 2026 18:00:00 +0000\r\n\r\n"
    octets += "..a line with dots at its beginning, as long as lines are\r\n" * lines + f"-- end of {sender}\r\n"
    return Mail(octets.encode(), sender, [f"a{number}@example.com", f"b{number}@example.com"])


@dataclass(slots=True)
class Attempt:
    """A mail in a session: what was said to it wholly, verb and code, and whether its last octet had arrived."""

    session: int
    said: list[tuple[str, str]] = field(default_factory=list)
    whole: bool = False

    @property
    def accepted(self) -> bool:
        """Was that said?"""
        return any(verb == "END" and code[0] == "2" for verb, code in self.said)

    @property
    def refused(self) -> bool:
        """Does the client know that it was not accepted, if it has heard all that was said?"""
        refused = [verb for verb, code in self.said if code[0] in "45"]
        closing = any(code == "421" for _, code in self.said)
        return closing or "MAIL" in refused or "DATA" in refused or "END" in refused or refused.count("RCPT") == 2


class Chaos(Server):
    """A server that fails with probability ``rate`` at each moment. ``failed`` maps sessions to moment and kind."""

    def __init__(self, seed: int, *, rate: float = 0.01) -> None:
        super().__init__(Script())
        self.seed = seed
        self.rate = rate
        self.failed: dict[int, tuple[str, Kind]] = {}
        self.attempts: dict[str, list[Attempt]] = defaultdict(list)
        self.dialogues: list[_Faulty] = []

    def admit(self, connection: object) -> Dialogue:
        """As the server has it, with faults."""
        dialogue = _Faulty(self, super().admit(connection).session)  # type: ignore[arg-type]
        self.dialogues.append(dialogue)
        return dialogue

    def look(self) -> None:
        """Take into the log what lay unread where a session failed. To be called once, when all has ended."""
        for dialogue in self.dialogues:
            number, chunked = dialogue.session.number, dialogue.in_chunk
            last_words = [("", "421")] if number in self.failed and self.failed[number][1] == "421" else []
            for found in _UNREAD.finditer(dialogue.unread):
                if begun := found["begun"]:
                    self.attempts[begun.decode()].append(Attempt(number, list(last_words)))
                elif told := found["told"]:
                    self.attempts[told.decode()][-1].whole = chunked or found["dot"] is not None
                else:
                    chunked = found["bdat"] is not None


class _Faulty(Dialogue):
    """A dialogue that may fail wherever it decides something."""

    def __init__(self, server: Chaos, session: Session) -> None:
        super().__init__(server.scripts[0], session=session, received=server.received)
        self._chaos = server
        self._random = Random(f"{server.seed}/{session.number}")
        self._attempt: Attempt | None = None
        self._told = bytearray()  # of the mail data that arrives
        self._break_at: int | None = None  # so many octets of it

    @property
    def in_chunk(self) -> bool:
        return self._mode == self._chunk

    @property
    def unread(self) -> bytes:
        """What has arrived of a mail that was never decided on, and all behind it."""
        return bytes(self._told + self._buffer)

    def receive(self, octets: bytes) -> list[Action]:
        if self._out.over:
            self._buffer += octets  # whoever is deaf has a kernel that takes it
            return []
        return super().receive(octets)

    def _happens(self) -> bool:
        return not (self._out.over or self._out.mute) and self._random.random() < self._chaos.rate

    def _fail(self, moment: str, kinds: Sequence[Kind]) -> Kind:
        kind = self._random.choice(kinds)
        self._chaos.failed[self.session.number] = moment, kind
        match kind:
            case "drop":
                self._out.end(Close())
            case "reset":
                self._out.end(Reset())
            case "stall":  # goes on, and nobody hears of it
                self._out.act(Stall())
                self._out.mute = True
            case "deaf":
                self._out.act(Stall())
                self._out.over = True
        return kind

    def _answer(self, verb: str, argument: str, default: Answer, mail: Received | None = None) -> Answer:
        """What the server says, unless it fails before it has decided."""
        answer = super()._answer(verb, argument, default, mail)
        if verb == "MAIL":
            self._attempt = Attempt(self.session.number)
            self._chaos.attempts[argument].append(self._attempt)
            self._told.clear()
            self._break_at = self._random.randrange(1, 1500) if self._happens() else None
            if str(answer).startswith("503"):
                self._note("MAIL within a transaction")
        if verb == "END" and self._attempt:
            self._attempt.whole = True
            self._told.clear()
        if self._happens():
            kind = self._fail(f"before {verb}", INSTEAD)
            return {"421": CLOSING, "stall": answer}.get(kind)
        if verb in REFUSALS and str(answer).startswith("2") and self._happens():
            return REFUSALS[verb]
        return answer

    def _give(self, verb: str, argument: str, answer: Answer) -> None:
        """Say it, unless it fails after it has decided: before the first octet of the reply, or within it."""
        if isinstance(answer, str) and self._happens():
            octets = answer.encode() + b"\r\n"
            self._out.say(octets[: self._random.choice((0, self._random.randrange(len(octets))))])
            self._fail(f"after {verb}", FAULTS)
        if isinstance(answer, str) and self._attempt and not (self._out.over or self._out.mute):
            self._attempt.said.append((verb, answer[:3]))
        super()._give(verb, argument, answer)
        if verb == "END":
            self._attempt = None
        if answer == CLOSING:
            self._out.end(Close())

    def _mail_piece(self, most: int) -> bytes:
        if self._break_at is not None:
            most = min(most, self._break_at - self._arrived)
        piece = super()._mail_piece(most)
        self._told += piece
        return piece

    def _passed(self, length: int) -> None:
        super()._passed(length)
        if self._break_at is not None and self._arrived >= self._break_at:
            self._break_at = None
            self._fail("within mail data", FAULTS)


def judge(server: Chaos, sent: Sequence[Mail], outcomes: Iterable[tuple[Mail, Outcome]], *, bdat: bool) -> Counter[str]:
    """Hold every outcome against the record; each mail has one, and each is true. Returns how many there were of each.

    ``bdat``: a client may send mail data before it has heard a word. A mail in doubt is counted by what is true of it:
    accepted, not accepted though it had arrived, or lost with a connection of which nobody can know; ``slow`` if the
    client gave up on a server that would have answered.
    """
    server.look()
    assert [session.errors for session in server.sessions if session.errors] == [], f"seed {server.seed}"
    recorded: dict[str, list[Received]] = defaultdict(list)
    for received in server.received:
        recorded[received.reverse_path].append(received)
    assert recorded.keys() <= {mail.sender for mail in sent}, f"seed {server.seed}"
    outcomes = list(outcomes)
    assert Counter(id(mail) for mail, _ in outcomes) == Counter(map(id, sent)), f"seed {server.seed}"
    found = Counter[str]()
    for mail, outcome in outcomes:
        assert mail.sender is not None
        attempts = server.attempts[mail.sender]
        failed = [server.failed.get(attempt.session) for attempt in attempts]
        why = f"seed {server.seed}: {outcome.error!r} {attempts} {failed}"
        found[_judged(server, mail, outcome, recorded[mail.sender], bdat=bdat, why=why)] += 1
    return found


def _judged(server: Chaos, mail: Mail, outcome: Outcome, recorded: list[Received], *, bdat: bool, why: str) -> str:
    """What is true of one mail."""
    assert len(recorded) <= 1, f"twice: {why}"
    given = [attempt for attempt in server.attempts[mail.sender or ""] if attempt.whole and not attempt.refused]
    assert len(given) <= 1, f"given twice: {why}"
    assert outcome.error is None or outcome.error.outcome is outcome, why
    for received in recorded:
        assert received.octets == mail.message, f"mixed up: {why}"
        assert set(received.paths) <= {*outcome.accepted, *outcome.in_doubt}, why
    if outcome.accepted:
        assert recorded, f"lost: {why}"
        assert recorded[0].paths == outcome.accepted, why
        assert sorted([*outcome.accepted, *outcome.refused]) == mail.recipients, why
        assert (outcome.in_doubt, outcome.error) == ((), None), why
        return "accepted"
    assert outcome.error is not None, why
    if not outcome.in_doubt:
        assert not isinstance(outcome.error, InDoubt), why
        assert not recorded, f"said to be lost: {why}"
        return "refused" if outcome.refused else "not sent"
    return _doubted(server, mail, outcome, recorded, bdat=bdat, why=why)


def _doubted(server: Chaos, mail: Mail, outcome: Outcome, recorded: list[Received], *, bdat: bool, why: str) -> str:
    """What is true of a mail that is in doubt, which it may be for a reason only."""
    assert isinstance(outcome.error, InDoubt), why
    assert not outcome.error.transient, why
    assert sorted([*outcome.in_doubt, *outcome.refused]) == mail.recipients, why
    attempts = server.attempts[mail.sender or ""]
    kinds = {attempt.session: server.failed.get(attempt.session, ("", None))[1] for attempt in attempts}
    answered = any(attempt.accepted for attempt in attempts)
    silent = not attempts or not {"stall", "deaf"}.isdisjoint(kinds.values())
    if isinstance(outcome.error.__cause__, TimedOut) and (answered or not silent):
        return "slow"
    assert not answered, f"its reply was said: {why}"
    assert not re.search(r"\b421\b", str(outcome.error)), f"the server had left: {why}"
    if recorded:
        return "in doubt, accepted"
    if any(attempt.whole and not attempt.refused for attempt in attempts):
        return "in doubt, not accepted"
    if not bdat:  # else its commands may have gone out with it, and nobody has read them
        asked = [attempt for attempt in attempts if ("DATA", "354") in attempt.said and not attempt.refused]
        assert any(kinds[attempt.session] in FAULTS for attempt in asked), f"nothing to doubt: {why}"
    return "in doubt, unread"
