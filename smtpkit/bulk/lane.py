"""One session at work: mail after mail, overlapping as far as its server bears it, for either client.

Rules: each mail is settled once. What cannot have been accepted when a session dies is sent again over another; what
may have been is reported as in doubt. A mail that goes down with two sessions, as the one they were busy with, is
reported and not tried again. Failures are outcomes. The memory is that of the window.
"""

from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Protocol

from smtpkit.bulk.intake import Entry, Intake
from smtpkit.channel import Started
from smtpkit.errors import (
    ChannelLost,
    Outcome,
    ProtocolViolation,
    ServiceClosing,
    SMTPError,
    TimedOut,
    TransportError,
    UsageError,
)
from smtpkit.message.message import Prepared
from smtpkit.observers import Observers
from smtpkit.options import Options
from smtpkit.protocol import procedures
from smtpkit.protocol.recipients import merged, rest, taken
from smtpkit.session import NOTHING_YET, Session, announce, outcome_of, settled, unheard
from smtpkit.window import MOST, Habits, Window

MOST_ATTEMPTS = 2
SLOW = 0.001  # seconds; what the input takes longer for than that is waited for with nothing unsaid
TURN = 0.25  # seconds that a session is kept although others wait for one
_DEATHS = (TransportError, ServiceClosing, ProtocolViolation)  # of a session, and no verdict on a mail


class Done(Protocol):
    """Whom a lane asks whether it may end."""

    def __call__(self, *, idle: bool) -> bool:
        """For lack of mails (``idle``) or of a session, since others go on? Then it is counted out."""


class Lane:
    """Works off an intake over one session at a time. ``next`` gives outcomes until there are no more.

    ``surplus``: is it one too many? ``crowded``: does anybody wait for a session?
    """

    def __init__(
        self,
        intake: Intake,
        *,
        window: int,
        options: Options,
        habits: Habits,
        lease: Callable[[], AbstractAsyncContextManager[Session]],
        observers: Observers,
        done: Done = lambda *, idle: False,  # noqa: ARG005
        surplus: Callable[[], bool] = lambda: False,
        crowded: Callable[[], bool] = lambda: False,
    ) -> None:
        if not 1 <= window <= MOST:
            raise UsageError(f"window: 1 to {MOST} mails, not {window!r}")
        self.settled: deque[Outcome] = deque()  # and not asked for yet
        self._intake = intake
        self._most = window
        self._options = options
        self._habits = habits
        self._lease = lease
        self._observers = observers
        self._done = done
        self._surplus = surplus
        self._crowded = crowded
        self._ended = False
        self._flying: deque[Entry] = deque()
        self._probe: Started[bool] | None = None
        self._session: Session | None = None
        self._held: AbstractAsyncContextManager[Session] | None = None
        self._since = 0.0  # when the session was taken
        self._reused = False
        self._window: Window
        self._octets = 0  # of mail data in flight
        self._slow = False  # the input took its time

    async def open(self) -> None:
        """Take a session before there is a mail for it. Raises SMTPError where none is to be had."""
        await self._enter()

    async def next(self) -> Outcome | None:
        """The next outcome, in the order of settling; None where this lane has no more."""
        while not self.settled:
            if not self._surplus():
                await self._fill(wait=False)
            if self._flying:
                await self._settle()
            elif not self.settled:
                await self._release()  # whoever waits for the input needs no session
                if self._ended or self._done(idle=True) or self._intake.over:
                    return None
                await self._fill(wait=True)
        return self.settled.popleft()

    async def leave(self, limit: float | None = None) -> None:
        """Begin no more; settle what is in flight, for so many seconds; what was not sent is put back."""
        self._intake.stop()
        if limit is not None and self._session is not None and self._flying:
            self._session.channel.outer = (self._session.channel.stream.now() + limit, "timeout")
        await self.pause()

    async def give_up(self) -> None:
        """Somebody breaks in from outside (cancellation): settle, without waiting, what is in flight."""
        if self._session is not None:
            self._session.abort("given up")
            await self._bury(blame=False)

    async def pause(self) -> None:
        """Settle what is in flight, and leave the session to others: nobody asks for outcomes for a while."""
        while self._flying:
            await self._settle()
        await self._release()

    async def _fill(self, *, wait: bool) -> None:
        """Begin mails as long as the window has room and some are there; ``wait`` for the first."""
        while self._has_room():
            entry = await self._take(wait=wait and not self._flying)
            if entry is None:
                return
            try:
                await self._begin(entry)
            except SMTPError as error:
                if self._session is None and self._done(idle=False):
                    self._ended = True
                    self._intake.put_back([entry])
                    return
                self._tell(outcome_of(error, entry.mail, entry.item), entry)

    def _has_room(self) -> bool:
        if self._session is None or not self._flying:
            return True
        if self._flying[0].started.ended or self._probe is not None:
            return False  # what is settled is handed out first
        return self._window.has_room(len(self._flying), self._octets) and not self._is_over(self._session)

    def _is_over(self, session: Session) -> bool:
        """Is the session to be given back, as it is used up, or old, or has been here for long and others wait?"""
        now = session.channel.stream.now()
        old = now - session.began > self._options.lifetime
        return session.spent or old or (now - self._since > TURN and self._crowded())

    async def _take(self, *, wait: bool) -> Entry | None:
        """The next mail that can be sent, or None where there is none now."""
        while not self.settled:
            if self._slow and self._session is not None:
                await self._session.channel.flush()  # the input may keep us, and must not keep what is said already
            asked = self._now()
            taken = await self._intake.take(wait=wait)
            self._slow = self._now() - asked > SLOW
            if not isinstance(taken, Outcome):
                return taken
            self._tell(taken)
        return None

    async def _begin(self, entry: Entry) -> None:
        """Say a mail behind those that are in flight. Raises SMTPError where there is no session for it."""
        try:
            session = self._session
            if session is not None and not self._flying and (self._is_over(session) or not session.usable):
                await self._release()  # or it ended while nothing was under way
            session = self._session or await self._enter()
        except BaseException as error:
            if not isinstance(error, SMTPError):
                self._intake.put_back([entry])
            raise
        part = session.part(entry.mail, entry.most)
        if part is None:
            self._intake.put_back([entry])
            return
        if not self._intake.begins(entry):
            return
        entry.part = part
        chunked = self._is_chunked(session, part)
        entry.overlaps = bool(self._flying)
        reset = session.left_open or entry.overlaps
        entry.started = session.transaction(part, entry.item, chunked=chunked, reset=reset)
        entry.begun = self._now()
        self._flying.append(entry)
        self._octets += part.mail_data.size or 0
        try:
            await session.channel.start(entry.started)
            if self._window.untried and not entry.overlaps:
                unsure = self._habits.chunking is None and "CHUNKING" in session.offered
                self._probe = Started(procedures.probe(chunking=unsure and self._options.chunking == "auto"), None)
                await session.channel.start(self._probe)
        except BaseException:
            await self.give_up()
            raise

    def _is_chunked(self, session: Session, mail: Prepared) -> bool:
        if self._options.chunking != "auto":
            return self._options.chunking == "always"
        known = self._habits.chunking is True and "CHUNKING" in session.offered
        return known and mail.mail_data.size is not None

    async def _settle(self) -> None:
        """Settle the oldest in flight, and with it whatever a session that died has left."""
        session, entry = self._session, self._flying[0]
        assert session is not None
        try:
            outcome = await session.settle(entry.started, entry.part)
            self._window.settled(self._now() - entry.begun)
            if self._probe is not None and not session.channel.over:
                await self._hear_probe(session, self._probe)
        except BaseException:
            await self.give_up()
            raise
        if session.channel.over:
            await self._bury()
            return
        self._flying.popleft()
        self._octets -= entry.mail.mail_data.size or 0
        self._reused = True
        self._go_on(entry, outcome)

    def _go_on(self, entry: Entry, outcome: Outcome) -> None:
        """Tell of a mail, or put it back for the recipients that are left: it is the next."""
        if entry.part is entry.mail and not outcome.refused:
            self._tell(outcome, entry)
            return
        whole, part, one_shot = entry.mail.envelope, entry.part.envelope, entry.mail.mail_data.one_shot
        left = rest(whole, part, outcome, one_shot=one_shot)
        if left is None:
            self._tell(outcome, entry)
            return
        entry.before = merged(whole, entry.before, outcome)
        entry.most = min(entry.most, taken(part, outcome))
        entry.mail = replace(entry.mail, envelope=left)
        self._intake.put_back([entry])

    async def _hear_probe(self, session: Session, probe: Started[bool]) -> None:
        """Learn from the reply to a probe, or from its lack, behind a mail that was settled."""
        channel, before = session.channel, session.channel.outer
        limit = channel.stream.now() + self._window.patience
        if before is None or limit < before[0]:
            channel.outer = (limit, "probe")
        try:
            knows_bdat = await channel.finish(probe)
        except TimedOut:
            self._habits.silent(heard=probe.heard > 0)
        except SMTPError:
            self._habits.lost()
        else:
            session.left_open = False
            self._window.proven()
            if self._options.chunking == "auto" and "CHUNKING" in session.offered:
                self._habits.chunking = self._habits.chunking or knows_bdat
        finally:
            self._probe = None
            channel.outer = before

    async def _bury(self, *, blame: bool = True) -> None:
        """The session died: tell what is known of each mail in flight, and put back what is to be sent again.

        ``blame``: the mail that it was busy with may be why.
        """
        again: list[Entry] = []
        doubts = 0
        busy = blame  # it was busy with the first of them that is not settled
        for entry in self._flying:
            outcome = settled(entry.started, entry.part)
            error = outcome.error
            doubts += outcome.in_doubt != ()
            if outcome.in_doubt or not isinstance(error, _DEATHS):
                busy = busy and error is None
                self._go_on(entry, outcome)
                continue
            silent = unheard(entry.started, outcome)
            blamed = busy and not (silent and (entry.overlaps or self._reused))
            if busy and silent and entry.overlaps:
                self._learn(error)
            busy = False
            entry.attempts += blamed
            final = blamed and not isinstance(error, ChannelLost | ServiceClosing)
            told = entry.mail.mail_data.one_shot and entry.started.step is not None  # or may have been
            if final or entry.attempts == MOST_ATTEMPTS or told:
                self._tell(outcome, entry)
            else:
                again.append(entry)
        if blame and doubts > 1:
            self._habits.doubtful(len(self._flying))
        self._flying.clear()
        self._octets = 0
        self._intake.put_back(again)
        await self._release()

    def _learn(self, error: SMTPError) -> None:
        if isinstance(error, TimedOut):
            self._habits.silent(heard=False)
        else:
            self._habits.lost()

    async def _enter(self) -> Session:
        held = self._lease()
        session = await held.__aenter__()
        self._held, self._session, self._reused = held, session, session.uses > 0
        session.channel.outer = None
        self._since = session.channel.stream.now()
        self._window = Window(self._most, self._habits, pipelining="PIPELINING" in session.offered)
        return session

    async def _release(self) -> None:
        held, self._held, self._session, self._probe = self._held, None, None, None
        if held is not None:
            await held.__aexit__(None, None, None)

    def _now(self) -> float:
        return self._session.channel.stream.now() if self._session is not None else 0.0

    def _tell(self, outcome: Outcome, entry: Entry | None = None) -> None:
        if entry is not None:
            if entry.before is not NOTHING_YET:
                outcome = merged(entry.mail.envelope, entry.before, outcome)
            self._intake.settled(entry, outcome)
        if self._observers.heard:
            number = self._session.number if self._session is not None else 0
            announce(self._observers, outcome, session=number, at=self._now())
        self.settled.append(outcome)
