"""The async client: many tasks, a few sessions.

A client holds no task between calls. It works with ``async with`` or with ``aclose()``; its sessions belong to the
event loop that opened them. On asyncio and on trio.
"""

import asyncio
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypeAlias, TypeVar, Unpack

from smtpkit.bulk import Intake, Lane, feed_of, prepared
from smtpkit.bulk.outcomes import Outcomes
from smtpkit.errors import Outcome, TimedOut, UsageError
from smtpkit.events import Event
from smtpkit.message.message import prepare
from smtpkit.observers import Events, Observers
from smtpkit.options import OptionKeywords, Options
from smtpkit.pace import Pace
from smtpkit.pool import Pool, Request
from smtpkit.protocol import procedures
from smtpkit.protocol.reply import Reply
from smtpkit.protocol.steps import Procedure
from smtpkit.session import Known, Lease, Report, Session, World, deliver, members
from smtpkit.throttle import Throttle
from smtpkit.transport.connect import connect, run_in_worker
from smtpkit.turns import LeaseMaker, Turn, Turns, in_turn
from smtpkit.window import Habits

if TYPE_CHECKING:
    import os
    from email.message import Message as StdlibMessage

    from smtpkit.message.message import DSN, Message, Prepared
    from smtpkit.retry import Retry
    from smtpkit.worker import Worker

    Sendable: TypeAlias = (
        StdlibMessage
        | Message
        | bytes
        | bytearray
        | memoryview
        | os.PathLike[str]
        | BinaryIO
        | Iterable[bytes]
        | AsyncIterable[bytes]
    )

E = TypeVar("E", bound=Event)
T = TypeVar("T")


class Client:
    """Sends mail over at most ``connections`` sessions, opened when first needed and kept for the next mail.

    ``url`` is ``smtp://``, ``submission://``, ``smtps://``, ``lmtp://`` or ``lmtp+unix://`` (default: SMTPKIT_URL of
    the environment); every parameter of it is a keyword too, and a keyword wins. Raises UsageError for what cannot be.

    A session is not used again once it is as old as ``lifetime`` or has rested for ``idle`` seconds, nor beyond the
    server's own limits, nor after MAIL was refused on it twice in a row. It is said QUIT by the next call, which does
    not wait for what the server says to that, or by ``aclose``.
    """

    def __init__(self, url: str | None = None, **options: Unpack[OptionKeywords]) -> None:
        self.options = Options.of(url, **options)
        self._key = self.options.key
        self._observers = Observers()
        rate = self.options.rate
        self._throttle = Throttle(rate) if rate else None
        self._pace = Pace.of(self.options)
        self._turns = Turns(self._pace, self.options.connections) if self._pace else None
        self._pool: Pool[Session] = Pool(
            self.options.connections, lifetime=self.options.lifetime, idle=self.options.idle
        )
        self._leaving: list[Session] = []  # sessions at rest that are not used again; the next call says QUIT to them
        self._opened = 0
        self._known = Known()
        self._habits = Habits()
        self._home: object = None  # the event loop our sessions belong to
        self._closed = False

    async def send(
        self,
        message: "Sendable",
        sender: str | None = None,
        recipients: str | Iterable[str] | None = None,
        *,
        dsn: "DSN | None" = None,
        require_tls: bool = False,
    ) -> Outcome:
        """Send one mail; return once the server has answered for it.

        ``sender`` and ``recipients`` are taken from the header where they are not given; Bcc never goes on the wire.
        Where some recipients are refused the mail goes to the others, and ``outcome.refused`` says which and why.
        Where the options ask for a pace (``mail_rate``, ``domain_rate``, ``domain_connections``) it waits for its turn.
        ``require_tls``: over verified TLS at this hop and, by REQUIRETLS (RFC 8689), at all that follow, or not at all.

        Raises InvalidMail before anything is sent; NotSupported before MAIL; SenderRefused, RecipientsRefused and
        DataRefused where nobody is served; InDoubt where it is not known; TransportError where it certainly was not.
        Every error has ``.outcome``.
        """
        options = self.options
        preparing = prepare(
            message,
            sender,
            recipients,
            newlines=options.newlines,
            on_refused=options.on_refused,
            dsn=dsn,
            require_tls=require_tls,
            run=run_in_worker,
        )
        until = self._until()
        return await self._deliver(message, preparing, lambda: self._session(until), until)

    def send_many(
        self, messages: "Iterable[Any] | AsyncIterable[Any]", *, window: int = 16, sessions: int | None = None
    ) -> "Outcomes":
        """Send many mails: ``async with client.send_many(…) as outcomes: async for outcome in outcomes``.

        Each of ``messages`` is a message, a ``Mail`` or a tuple like it; they are taken as they can be sent. At most
        ``window`` mails are under way on a session without a reply, as far as its server bears it. There are as many
        ``sessions`` as pay, up to that number (default: ``connections``); with 1 the mails go in their order. Failures
        are outcomes, in the order of settling, with their ``item``; only what ``messages`` itself raises is raised,
        after all that came before. Mails are sent while outcomes are read, and at most ``window`` outcomes ahead.
        Leaving the block early settles what is under way; ``outcomes.unsent`` lists what was not sent. Where the block
        is cancelled, it is settled by what is known.
        """
        import anyio

        self._check_open()
        most = self.options.connections
        if sessions is not None and not 1 <= sessions <= most:
            raise UsageError(f"sessions: 1 to {most}, which is connections of this client; not {sessions!r}")
        limit = self.options.limits.timeout
        feed = feed_of(messages, ahead=window, limit=limit)
        intake = Intake(
            feed,
            prepare=partial(prepared, options=self.options, run=run_in_worker),
            pace=self._pace,
            before=self._turns,
            now=time.monotonic,
            rest=anyio.sleep,
            observers=self._observers,
        )
        lane = partial(
            Lane,
            intake,
            window=window,
            options=self.options,
            habits=self._habits,
            lease=lambda: self._session(None),
            observers=self._observers,
            crowded=lambda: self._pool.crowded,
        )
        return Outcomes(
            intake,
            lane,
            most=sessions or most,
            window=window,
            limit=limit,
            free=lambda: self._pool.free,
        )

    def worker(
        self, directory: "str | os.PathLike[str]", *, retry: "Retry | None" = None, keep: bool = False
    ) -> "Worker":
        """A worker that sends what waits in a spool's directory, over up to ``connections`` sessions of this client.

        ``await client.worker(directory).run()``. ``retry`` says what is tried again and when; with ``keep`` a file of
        a mail that was sent is kept as ``.sent``. ``client.on(Attempted, …)`` tells of each attempt. ``enqueue`` puts
        mails there.
        """
        from smtpkit.retry import Retry
        from smtpkit.worker import Worker

        self._check_open()
        return Worker(
            directory,
            retry=retry or Retry(),
            keep=keep,
            options=self.options,
            lease=self._session,
            deliver=self._deliver,
            observers=self._observers,
        )

    async def check(self) -> Report:
        """Connect, say EHLO, begin TLS and log in as a mail would; return what the server showed. No mail is sent."""
        until = self._until()
        async with self._session(until, fresh=True) as session:
            report = session.report
            await session.close()
        return report

    async def verify(self, user: str) -> Reply:
        """Ask by VRFY whether a user exists (RFC 5321 section 3.5); every reply is an answer, also a refusal."""
        return await self._perform(procedures.verify(user))

    async def expand(self, mailing_list: str) -> tuple[str, ...]:
        """Ask by EXPN for the members of a list, one text each as the server gives it. Raises Refused."""
        return members(await self._perform(procedures.expand(mailing_list)))

    async def noop(self) -> Reply:
        """Say NOOP."""
        return await self._perform(procedures.noop())

    async def command(self, text: str) -> Reply:
        """Say a command of one's own, such as ``HELP`` or ``XCLIENT …``; every reply is an answer."""
        return await self._perform(procedures.command(text))

    def on(self, kind: type[E], callback: Callable[[E], object]) -> Callable[[], None]:
        """Call ``callback`` at once for each event of this kind. Returns what ends it."""
        return self._observers.on(kind, callback)

    def events(self, buffer: int = 1024) -> AbstractAsyncContextManager[Events]:
        """``async with client.events() as events: async for event in events``; leaving the block ends it."""
        self._check_open()
        return self._observers.events(buffer)

    async def aclose(self) -> None:
        """Say QUIT on idle sessions and close all; what is still under way is lost. Never raises."""
        import anyio

        self._closed = True
        if self._turns is not None:
            self._turns.ring_all()
        idle, busy = self._pool.empty()
        idle += self._leaving
        self._leaving.clear()
        for session in busy:
            session.abort("the client was closed")
        try:
            with anyio.move_on_after(2 * self.options.limits.farewell, shield=True):
                async with anyio.create_task_group() as tasks:
                    for session in idle:
                        tasks.start_soon(session.close)
        finally:
            for session in idle:  # a task that is cancelled before it begins has closed nothing
                session.abort("the client was closed")
            self._observers.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<Client {self.options.shown}: {self._pool}>"

    async def _perform(self, procedure: Procedure[T]) -> T:
        until = self._until()
        async with self._session(until) as session:
            return await session.perform(procedure, until)

    def _deliver(
        self, item: object, preparing: "Awaitable[Prepared]", lease: LeaseMaker, until: float | None
    ) -> Coroutine[Any, Any, Outcome]:
        """Send one mail by a session of ``lease``, when its turn has come; ``item`` is what is told of."""
        if self._turns is None:
            return deliver(item, preparing, lease, self._observers, until)
        send = partial(deliver, item, observers=self._observers, until=until)
        wait, now = self._wait_for_turn, time.monotonic
        return in_turn(self._turns, preparing, lease, send, wait=wait, now=now, until=until)

    def _until(self) -> float | None:
        total = self.options.limits.total
        return None if total is None else time.monotonic() + total

    def _session(self, until: float | None, *, fresh: bool = False) -> Lease:
        """A session for the time of a block: the one used last, or a new one, or the next that is given back."""
        request: Request[Session] = Request(object() if fresh else self._key)
        return Lease(partial(self._take, request, until), partial(self._give_back, request))

    async def _take(self, request: Request[Session], until: float | None) -> Session:
        self._settle_in()
        try:
            if close := self._pool.ask(request, time.monotonic()):
                self._part_with(close)
            if not request.granted:
                await self._wait(request, until)
            while self._leaving:
                await self._leaving.pop().leave()
            session = request.session
            if session is None:
                session = await self._open(until)
                self._pool.opened(request, session)
        except BaseException:
            self._give_back(request)
            raise
        return session

    def _give_back(self, request: Request[Session]) -> None:
        if close := self._pool.give_back(request, time.monotonic()):
            self._part_with(close)

    def _part_with(self, sessions: list[Session]) -> None:
        """Close what is broken; what is at rest can be left in order, and is by the next who may wait a moment."""
        for session in sessions:
            if session.broken or self._closed:
                session.abort("broken" if session.broken else "the client was closed")
            else:
                self._leaving.append(session)

    async def _wait(self, request: Request[Session], until: float | None) -> None:
        """Wait for the turn of a request."""
        import anyio

        limit, name = time.monotonic() + self.options.limits.connect, "connect"
        if until is not None and until < limit:
            limit, name = until, "total"
        request.bell = anyio.Event()
        with anyio.move_on_after(limit - time.monotonic()):
            await request.bell.wait()
        if not request.granted:
            raise TimedOut(f"no session became free: {self!r}; the {name} limit ran out", limit=name)

    async def _wait_for_turn(self, turn: Turn, pause: float) -> None:
        import anyio

        self._settle_in()
        turn.bell = anyio.Event()
        with anyio.move_on_after(pause):
            await turn.bell.wait()
        self._check_open()

    async def _open(self, until: float | None) -> Session:
        self._check_open()  # whoever waited may come to open one after aclose()
        self._opened += 1
        session = Session(self.options, self._opened, self._observers, self._throttle)
        await session.open(World(connect, run_in_worker, time.monotonic), until, self._known)
        if self._closed:  # meanwhile; aclose() knows nothing of a session that is being opened
            session.abort("the client was closed")
            self._check_open()
        return session

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("the client is closed; make a new one")

    def _settle_in(self) -> None:
        """Sessions live in one event loop; a client without sessions may move to another."""
        self._check_open()
        home: object
        try:
            home = asyncio.get_running_loop()
        except RuntimeError:
            from anyio.lowlevel import current_token

            home = current_token()
        if home != self._home:
            if self._home is not None and (self._leaving or not self._pool.is_empty):
                raise UsageError(
                    "this client has sessions in another event loop; use one client for each loop (each asyncio.run is "
                    "one), or aclose() it before its loop ends"
                )
            self._home = home


async def send(
    message: "Sendable",
    sender: str | None = None,
    recipients: str | Iterable[str] | None = None,
    *,
    url: str | None = None,
    dsn: "DSN | None" = None,
    require_tls: bool = False,
    **options: Unpack[OptionKeywords],
) -> Outcome:
    """Send one mail over a session of its own. Everything is as for ``Client`` and ``Client.send``."""
    async with Client(url, **options) as client:
        return await client.send(message, sender, recipients, dsn=dsn, require_tls=require_tls)
