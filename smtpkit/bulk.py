"""Mail after mail over one session, overlapping as far as its server bears it, for either client.

Rules: each mail is settled once. What cannot have been accepted when a session dies is sent again over another; what
may have been is reported as in doubt. A mail that goes down with two sessions, as the one they were busy with, is
reported and not tried again. Failures are outcomes. The memory is that of the window.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import Any, NamedTuple, Protocol

from smtpkit.channel import Started
from smtpkit.errors import (
    ChannelLost,
    InvalidMail,
    Outcome,
    ProtocolViolation,
    ServiceClosing,
    SMTPError,
    TimedOut,
    TransportError,
    UsageError,
)
from smtpkit.message.message import Prepared, Runner, prepare
from smtpkit.observers import Observers
from smtpkit.options import Options
from smtpkit.protocol import procedures
from smtpkit.session import Session, announce, outcome_of, settled, unheard
from smtpkit.window import MOST, Habits, Window

MOST_ATTEMPTS = 2
SLOW = 0.001  # seconds; what the input takes longer for than that is waited for with nothing unsaid
_DEATHS = (TransportError, ServiceClosing, ProtocolViolation)  # of a session, and no verdict on a mail


class Mail(NamedTuple):
    """A mail for ``send_many``: the message, and the envelope where it is not that of the header."""

    message: Any
    sender: str | None = None
    recipients: Any = None


def _mail(item: Any) -> Mail:
    """An item for what it is."""
    if not isinstance(item, tuple):
        return Mail(item)
    if not 1 <= len(item) <= len(Mail._fields):
        raise InvalidMail(f"a tuple of {len(item)}: give (message, sender, recipients), or one message")
    return Mail(*item)


class Nothing(Enum):
    """What a feed gives where it has no item."""

    YET = "none has come yet"
    MORE = "none will come"


class Feed(Protocol):
    """Where the items come from."""

    async def take(self, *, wait: bool) -> Any:
        """The next item, Nothing.MORE at the end; Nothing.YET if that had to be waited for and is not to be."""

    def rest(self) -> list[Any]:
        """The items at hand that nobody has taken; none are taken after that."""


class Iterated:
    """A feed from an iterable, which is read where the caller is."""

    def __init__(self, messages: Iterable[Any]) -> None:
        if isinstance(messages, str | bytes | bytearray | memoryview):
            raise UsageError(f"messages: an iterable of messages, not {type(messages).__name__}")
        self._iterator = iter(messages)
        self._listed = isinstance(messages, list | tuple)

    async def take(self, *, wait: bool) -> Any:  # noqa: ARG002  reading may keep us, whatever is asked
        """As ``Feed`` has it."""
        return next(self._iterator, Nothing.MORE)

    def rest(self) -> list[Any]:
        """The rest of a list; another input stays where it is."""
        return list(self._iterator) if self._listed else []


def prepared(mail: Mail, *, options: Options, run: Runner) -> Coroutine[Any, Any, Prepared]:
    """Make a mail ready to be sent, when it is awaited. Raises InvalidMail."""
    return prepare(
        mail.message,
        mail.sender,
        mail.recipients,
        newlines=options.newlines,
        on_refused=options.on_refused,
        run=run,
    )


class Entry:
    """A mail on its way: how often it was what a session was busy with when it died, and its transaction."""

    __slots__ = ("attempts", "begun", "item", "mail", "overlaps", "started")

    def __init__(self, item: Any, mail: Prepared) -> None:
        self.item = item
        self.mail = mail
        self.attempts = 0
        self.begun = 0.0
        self.overlaps = False
        self.started: Started[Outcome]


class Bulk:
    """The mails of one ``send_many``. ``next`` gives outcomes until there are no more; ``leave`` ends it in order."""

    def __init__(
        self,
        feed: Feed,
        *,
        window: int,
        options: Options,
        habits: Habits,
        prepare: Callable[[Mail], Awaitable[Prepared]],
        lease: Callable[[], AbstractAsyncContextManager[Session]],
        observers: Observers,
    ) -> None:
        if not 1 <= window <= MOST:
            raise UsageError(f"window: 1 to {MOST} mails, not {window!r}")
        self.unsent: list[Any] = []
        self.settled: deque[Outcome] = deque()  # and not asked for yet
        self._feed = feed
        self._most = window
        self._options = options
        self._habits = habits
        self._prepare = prepare
        self._lease = lease
        self._observers = observers
        self._dry = False
        self._fault: Exception | None = None  # of the feed; raised when everything before it is settled
        self._again: deque[Entry] = deque()  # in the order in which they came
        self._flying: deque[Entry] = deque()
        self._probe: Started[bool] | None = None
        self._session: Session | None = None
        self._held: AbstractAsyncContextManager[Session] | None = None
        self._reused = False
        self._window: Window
        self._octets = 0  # of mail data in flight
        self._busy = False
        self._slow = False  # the input took its time

    async def next(self) -> Outcome | None:
        """The next outcome, in the order of settling; None after the last. Raises what the input raised."""
        if self._busy:
            raise UsageError("busy: another task is waiting for the next outcome")
        self._busy = True
        try:
            return await self._next()
        finally:
            self._busy = False

    async def _next(self) -> Outcome | None:
        while not self.settled:
            await self._fill()
            if self._flying:
                await self._settle()
            elif not self.settled and self._dry:
                await self._release()
                if self._fault is not None:
                    fault, self._fault = self._fault, None
                    raise fault
                return None
        return self.settled.popleft()

    async def leave(self, limit: float) -> None:
        """Take no more; settle what is in flight, for so many seconds; what was not sent is in ``unsent``."""
        self._dry = True
        if self._session is not None and self._flying:
            self._session.channel.outer = (self._session.channel.stream.now() + limit, "timeout")
        try:
            while self._flying:
                await self._settle()
        finally:
            self.unsent += [entry.item for entry in self._again]
            self._again.clear()
            self.unsent += self._feed.rest()
        await self._release()

    async def _fill(self) -> None:
        """Begin mails as long as the window has room and some are there."""
        while self._has_room():
            entry = self._again.popleft() if self._again else await self._take()
            if entry is None:
                return
            try:
                await self._begin(entry)
            except SMTPError as error:
                self._tell(outcome_of(error, entry.mail, entry.item))

    def _has_room(self) -> bool:
        if self._session is None or not self._flying:
            return True
        if self._flying[0].started.ended or self._probe is not None:
            return False  # what is settled is handed out first
        return self._window.has_room(len(self._flying), self._octets)

    async def _take(self) -> Entry | None:
        """The next mail of the feed that can be sent, or None where there is none now."""
        while not self._dry and not self.settled:
            if self._slow and self._session is not None:
                await self._session.channel.flush()  # the input may keep us, and must not keep what is said already
            asked = self._now()
            try:
                item = await self._feed.take(wait=not self._flying)
            except Exception as fault:  # noqa: BLE001  the input's own, raised in its turn
                self._fault = fault
                item = Nothing.MORE
            self._slow = self._now() - asked > SLOW
            if item is Nothing.YET:
                return None
            if item is Nothing.MORE:
                self._dry = True
                return None
            try:
                mail = _mail(item)
                return Entry(item, await self._prepare(mail))
            except SMTPError as error:
                self._tell(outcome_of(error, None, item))
            except BaseException:
                self.unsent.append(item)
                raise
        return None

    async def _begin(self, entry: Entry) -> None:
        """Say a mail behind those that are in flight. Raises SMTPError where there is no session for it."""
        try:
            if self._session is not None and not self._flying and not self._session.usable:
                await self._release()  # it ended while nothing was under way
            session = self._session or await self._enter()
        except BaseException as error:
            if not isinstance(error, SMTPError):
                self._again.appendleft(entry)
            raise
        chunked = self._is_chunked(session, entry.mail)
        entry.overlaps = bool(self._flying)
        reset = session.left_open or entry.overlaps
        entry.started = session.transaction(entry.mail, entry.item, chunked=chunked, reset=reset)
        entry.begun = self._now()
        self._flying.append(entry)
        self._octets += entry.mail.mail_data.size or 0
        try:
            await session.channel.start(entry.started)
            if self._window.untried and not entry.overlaps:
                unsure = self._habits.chunking is None and "CHUNKING" in session.offered
                self._probe = Started(procedures.probe(chunking=unsure and self._options.chunking == "auto"), None)
                await session.channel.start(self._probe)
        except BaseException:
            await self._give_up(session)
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
            outcome = await session.settle(entry.started, entry.mail)
            self._window.settled(self._now() - entry.begun)
            if self._probe is not None and not session.channel.over:
                await self._hear_probe(session, self._probe)
        except BaseException:
            await self._give_up(session)
            raise
        if session.channel.over:
            await self._bury()
            return
        self._flying.popleft()
        self._octets -= entry.mail.mail_data.size or 0
        self._reused = True
        self._tell(outcome)

    async def _give_up(self, session: Session) -> None:
        """Somebody breaks in from outside (cancellation): tell what is known by then."""
        session.abort("given up")
        for entry in self._flying:
            self._tell(settled(entry.started, entry.mail))
        self._flying.clear()
        self._octets = 0
        await self._release()

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

    async def _bury(self) -> None:
        """The session died: tell what is known of each mail in flight, and keep what is to be sent again."""
        again: list[Entry] = []
        busy = True  # it was busy with the first of them that is not settled
        for entry in self._flying:
            outcome = settled(entry.started, entry.mail)
            error = outcome.error
            if outcome.in_doubt or not isinstance(error, _DEATHS):
                busy = busy and error is None
                self._tell(outcome)
                continue
            silent = unheard(entry.started, outcome)
            blamed = busy and not (silent and (entry.overlaps or self._reused))
            if busy and silent and entry.overlaps:
                self._learn(error)
            busy = False
            entry.attempts += blamed
            final = blamed and not isinstance(error, ChannelLost | ServiceClosing)
            if final or entry.attempts == MOST_ATTEMPTS or entry.mail.mail_data.one_shot:
                self._tell(outcome)
            else:
                again.append(entry)
        self._flying.clear()
        self._octets = 0
        self._again.extendleft(reversed(again))
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
        self._window = Window(self._most, self._habits, pipelining="PIPELINING" in session.offered)
        return session

    async def _release(self) -> None:
        held, self._held, self._session, self._probe = self._held, None, None, None
        if held is not None:
            await held.__aexit__(None, None, None)

    def _now(self) -> float:
        return self._session.channel.stream.now() if self._session is not None else 0.0

    def _tell(self, outcome: Outcome) -> None:
        if self._observers.heard:
            number = self._session.number if self._session is not None else 0
            announce(self._observers, outcome, session=number, at=self._now())
        self.settled.append(outcome)
