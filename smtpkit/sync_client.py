"""The same client, driven in the caller's thread: no event loop, no second thread.

The coroutines of the core run to their end over a blocking stream, on which nothing suspends.
"""

import os
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from smtpkit.bulk import Intake, Iterated, Lane, Mail, prepared
from smtpkit.errors import Outcome, UsageError
from smtpkit.events import Event
from smtpkit.message.message import prepare
from smtpkit.observers import Observers
from smtpkit.options import OptionKeywords, Options
from smtpkit.pace import Pace
from smtpkit.pool import retired
from smtpkit.protocol import procedures
from smtpkit.protocol.reply import Reply
from smtpkit.protocol.steps import Procedure
from smtpkit.session import Known, Lease, Report, Session, World, deliver, members
from smtpkit.throttle import Throttle
from smtpkit.transport.connect import connect_blocking, run_inline
from smtpkit.turns import Turn, Turns, in_turn
from smtpkit.window import Habits

if TYPE_CHECKING:
    from smtpkit.client import Sendable
    from smtpkit.message.message import DSN

E = TypeVar("E", bound=Event)
T = TypeVar("T")


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends to its end. Raises UsageError if it does suspend."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        coroutine.close()
    raise UsageError("this needs an event loop: an async iterable or async callable works with Client only")


class SyncClient:
    """Sends mail over one session, in the caller's thread. Threads may share it: they take turns.

    ``url`` and keywords are those of ``Client``. Callbacks given to ``on`` run in the caller's thread before the method
    returns.
    """

    def __init__(self, url: str | None = None, **options: Unpack[OptionKeywords]) -> None:
        if options.get("connections", 1) != 1:
            raise UsageError("connections: a SyncClient has one session; use Client for more")
        options["connections"] = 1  # whatever a URL shared with async clients says
        self.options = Options.of(url, **options)
        self._observers = Observers()
        rate = self.options.rate
        self._throttle = Throttle(rate) if rate else None
        self._pace = Pace.of(self.options)
        self._turns = Turns(self._pace, 1) if self._pace else None
        self._lock = threading.Lock()
        self._turn: int | None = None  # the thread whose turn it is
        self._session: Session | None = None
        self._rested = 0.0  # since when it has not been used
        self._opened = 0
        self._known = Known()
        self._habits = Habits()
        self._process = os.getpid()
        self._closed = False

    def send(
        self,
        message: "Sendable",
        sender: str | None = None,
        recipients: str | Iterable[str] | None = None,
        *,
        dsn: "DSN | None" = None,
        require_tls: bool = False,
    ) -> Outcome:
        """Send one mail; return once the server has answered for it. Everything is as for ``Client.send``."""
        options, until = self.options, self._until()

        async def send() -> Outcome:
            preparing = prepare(
                message,
                sender,
                recipients,
                newlines=options.newlines,
                on_refused=options.on_refused,
                dsn=dsn,
                require_tls=require_tls,
                run=run_inline,
            )
            if self._turns is None:
                return await deliver(message, preparing, lambda: self._lease(until), self._observers, until)
            send = partial(deliver, message, observers=self._observers, until=until)
            lease = partial(self._lease, until)
            wait, now = self._wait_for_turn, time.monotonic
            return await in_turn(self._turns, preparing, lease, send, wait=wait, now=now, until=until)

        return self._drive(send())

    def send_many(self, messages: "Iterable[Sendable | Mail | tuple[Any, ...]]", *, window: int = 16) -> "SyncOutcomes":
        """Send many mails over one session: ``with client.send_many(…) as outcomes: for outcome in outcomes``.

        Everything is as for ``Client.send_many``; mails are sent while outcomes are asked for. Within the block the
        session is taken: other calls of this client open another.
        """
        if isinstance(messages, AsyncIterable):
            raise UsageError("messages: an async iterable works with Client only")
        intake = Intake(
            Iterated(messages),
            prepare=partial(prepared, options=self.options, run=run_inline),
            pace=self._pace,
            before=self._turns,
            now=time.monotonic,
            rest=self._rest,
            observers=self._observers,
        )
        lane = Lane(
            intake,
            window=window,
            options=self.options,
            habits=self._habits,
            lease=self._loan,
            observers=self._observers,
        )
        return SyncOutcomes(intake, lane, self._drive, self.options.limits.timeout)

    def check(self) -> Report:
        """Connect, say EHLO, begin TLS and log in as a mail would; return what the server showed. No mail is sent."""

        async def check() -> Report:
            session = await self._open(self._until())
            report = session.report
            await session.close()
            return report

        return self._drive(check())

    def verify(self, user: str) -> Reply:
        """Ask by VRFY whether a user exists (RFC 5321 section 3.5); every reply is an answer, also a refusal."""
        return self._perform(procedures.verify(user))

    def expand(self, mailing_list: str) -> tuple[str, ...]:
        """Ask by EXPN for the members of a list, one text each as the server gives it. Raises Refused."""
        return members(self._perform(procedures.expand(mailing_list)))

    def noop(self) -> Reply:
        """Say NOOP."""
        return self._perform(procedures.noop())

    def command(self, text: str) -> Reply:
        """Say a command of one's own, such as ``HELP`` or ``XCLIENT …``; every reply is an answer."""
        return self._perform(procedures.command(text))

    def on(self, kind: type[E], callback: Callable[[E], object]) -> Callable[[], None]:
        """Call ``callback`` at once for each event of this kind. Returns what ends it."""
        return self._observers.on(kind, callback)

    def close(self) -> None:
        """Say QUIT and close. Raises UsageError only within a callback of this client."""

        async def close() -> None:
            self._closed = True
            if self._turns is not None:
                self._turns.ring_all()
            session, self._session = self._session, None
            if session is not None:
                await session.close()

        self._drive(close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<SyncClient {self.options.shown}: {'connected' if self._session else 'not connected'}>"

    def _perform(self, procedure: Procedure[T]) -> T:
        until = self._until()

        async def perform() -> T:
            async with self._lease(until) as session:
                return await session.perform(procedure, until)

        return self._drive(perform())

    def _drive(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine when it is this thread's turn."""
        if self._process != os.getpid():
            self._begin_anew()
        if self._turn == threading.get_ident():
            coroutine.close()
            raise UsageError("busy: a callback cannot use the client whose call it is told of")
        with self._lock:
            self._turn = threading.get_ident()
            try:
                return drive(coroutine)
            finally:
                self._turn = None

    def _begin_anew(self) -> None:
        """After a fork, leave the session to the parent, and the lock to whichever of its threads holds it."""
        self._process = os.getpid()
        self._lock, self._turn = threading.Lock(), None
        self._pace = Pace.of(self.options)  # what is under way or waits is the parent's
        self._turns = Turns(self._pace, 1) if self._pace else None
        session, self._session = self._session, None
        if session is not None and not session.channel.broken:
            session.channel.stream.abort()  # of an idle stream it closes our copy of the socket, and no more

    def _until(self) -> float | None:
        total = self.options.limits.total
        return None if total is None else time.monotonic() + total

    def _lease(self, until: float | None) -> Lease:
        """The session for the time of a block: the one at hand if it is still good, else a new one."""
        return Lease(partial(self._take, until), self._give_back)

    @asynccontextmanager
    async def _loan(self) -> AsyncGenerator[Session]:
        """The session, taken out of the client for longer than a call."""
        session = await self._take(None)
        self._session = None
        try:
            yield session
        finally:
            await self._take_back(session)

    async def _take_back(self, session: Session) -> None:
        if session.broken:
            session.abort("broken")
        elif self._session is None and not self._closed:
            self._session, self._rested = session, time.monotonic()
        else:
            await session.close()

    async def _take(self, until: float | None) -> Session:
        session, options = self._session, self.options
        if session is not None:
            now = time.monotonic()
            if not retired(session, self._rested, now, lifetime=options.lifetime, idle=options.idle) and session.usable:
                return session
            self._session = None
            await session.leave()
        self._session = await self._open(until)
        return self._session

    def _give_back(self) -> None:
        self._rested = time.monotonic()
        if self._session is not None and self._session.broken:
            self._session.abort("broken")
            self._session = None

    async def _wait_for_turn(self, turn: Turn, pause: float) -> None:
        turn.bell = bell = threading.Event()
        self._let_others(lambda: bell.wait(min(pause, threading.TIMEOUT_MAX)))

    async def _rest(self, seconds: float) -> None:
        self._let_others(lambda: time.sleep(seconds))

    def _let_others(self, wait: Callable[[], object]) -> None:
        """Let other threads have the client while this one waits."""
        self._check_open()
        self._turn = None
        self._lock.release()
        try:
            wait()
        finally:
            self._lock.acquire()
            self._turn = threading.get_ident()
        self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("the client is closed; make a new one")

    async def _open(self, until: float | None) -> Session:
        self._check_open()
        self._opened += 1
        session = Session(self.options, self._opened, self._observers, self._throttle)
        return await session.open(World(connect_blocking, run_inline, time.monotonic), until, self._known)


class SyncOutcomes:
    """The outcomes of ``SyncClient.send_many``, as they come. ``unsent`` holds the items that were not sent."""

    def __init__(
        self, intake: Intake, lane: Lane, drive: Callable[[Coroutine[Any, Any, Any]], Any], limit: float
    ) -> None:
        self._intake = intake
        self._lane = lane
        self._drive = drive
        self._limit = limit  # seconds to settle what is under way
        self._entered = self._reading = False

    @property
    def unsent(self) -> list[Any]:
        """What was taken and certainly not sent, in order; and the rest of the input, where it is a list."""
        return self._intake.unsent

    @property
    def unread(self) -> list[Outcome]:
        """The outcomes that were not read before the block was left."""
        return list(self._lane.settled)

    def __enter__(self) -> Self:
        self._entered = True
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._drive(self._lane.leave(self._limit))
        finally:
            self._lane.settled += self._intake.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Outcome:
        if not self._entered:
            raise UsageError("write: with client.send_many(…) as outcomes")
        if self._reading:
            raise UsageError("busy: another thread is waiting for the next outcome")
        self._reading = True
        try:
            outcome: Outcome | None = self._drive(self._lane.next())
        finally:
            self._reading = False
        if outcome is None:
            self._intake.check()
            raise StopIteration
        return outcome
