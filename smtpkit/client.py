"""The async client: many tasks, a few sessions.

A client holds no task between calls. It works with ``async with`` or with ``aclose()``; its sessions belong to the
event loop that opened them. On asyncio and on trio.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypeAlias, TypeVar, Unpack

from smtpkit.bulk import Bulk, Iterated, Nothing, prepared
from smtpkit.errors import Outcome, TimedOut, UsageError
from smtpkit.events import Event
from smtpkit.message.message import prepare
from smtpkit.observers import Events, Observers
from smtpkit.options import OptionKeywords, Options
from smtpkit.pool import Pool, Request
from smtpkit.protocol import procedures
from smtpkit.protocol.reply import Reply
from smtpkit.protocol.steps import Procedure
from smtpkit.session import Known, Lease, Report, Session, World, deliver, members
from smtpkit.throttle import Throttle
from smtpkit.transport.connect import connect, run_in_worker
from smtpkit.window import Habits

if TYPE_CHECKING:
    import os
    from email.message import Message as StdlibMessage

    import anyio.abc

    from smtpkit.message.message import DSN, Message
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
        return await deliver(message, preparing, lambda: self._session(until), self._observers, until)

    def send_many(self, messages: "Iterable[Any] | AsyncIterable[Any]", *, window: int = 16) -> "Outcomes":
        """Send many mails over one session: ``async with client.send_many(…) as outcomes: async for outcome in …``.

        Each of ``messages`` is a message, a ``Mail`` or a tuple like it; they are taken as they can be sent. At most
        ``window`` mails are under way without a reply, as far as the server bears it. Failures are outcomes, in the
        order of settling, with their ``item``; only what ``messages`` itself raises is raised, after all that came
        before. Leaving the block early settles what is under way; ``outcomes.unsent`` lists what was not sent.
        """
        self._check_open()
        limit = self.options.limits.timeout
        feed = _Buffer(messages, window, limit) if isinstance(messages, AsyncIterable) else Iterated(messages)
        bulk = Bulk(
            feed,
            window=window,
            options=self.options,
            habits=self._habits,
            prepare=partial(prepared, options=self.options, run=run_in_worker),
            lease=lambda: self._session(None),
            observers=self._observers,
        )
        return Outcomes(bulk, feed if isinstance(feed, _Buffer) else None, limit)

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
        idle, busy = self._pool.empty()
        idle += self._leaving
        self._leaving.clear()
        for session in busy:
            session.abort("the client was closed")
        with anyio.move_on_after(2 * self.options.limits.farewell, shield=True):
            async with anyio.create_task_group() as tasks:
                for session in idle:
                    tasks.start_soon(session.close)
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


class Outcomes:
    """The outcomes of ``Client.send_many``, as they come. ``unsent`` holds the items that were not sent."""

    def __init__(self, bulk: Bulk, buffer: "_Buffer | None", limit: float) -> None:
        self._bulk = bulk
        self._buffer = buffer
        self._limit = limit  # seconds to settle what is under way
        self._tasks: anyio.abc.TaskGroup | None = None
        self._entered = False

    @property
    def unsent(self) -> list[Any]:
        """What was taken and certainly not sent, in order; and the rest of the input, where it is a list."""
        return self._bulk.unsent

    @property
    def unread(self) -> list[Outcome]:
        """The outcomes that were not read before the block was left."""
        return list(self._bulk.settled)

    async def __aenter__(self) -> Self:
        self._entered = True
        if self._buffer is not None:
            import anyio

            self._buffer.begin()
            self._tasks = anyio.create_task_group()
            await self._tasks.__aenter__()
            self._tasks.start_soon(self._buffer.fill)
        return self

    async def __aexit__(self, *_: object) -> None:
        import anyio

        with anyio.move_on_after(2 * self._limit, shield=True):
            await self._bulk.leave(self._limit)
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()
            await self._tasks.__aexit__(None, None, None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome:
        if not self._entered:
            raise UsageError("write: async with client.send_many(…) as outcomes")
        outcome = await self._bulk.next()
        if outcome is None:
            raise StopAsyncIteration
        return outcome


class _Buffer:
    """A feed that a task fills from an async iterable, as far as ``size`` ahead."""

    def __init__(self, messages: AsyncIterable[Any], size: int, limit: float) -> None:
        self._limit = limit
        self._size = size
        self._messages = messages
        self._fault: Exception | None = None

    def begin(self) -> None:
        """Make room for the items."""
        import anyio

        self._sending, self._receiving = anyio.create_memory_object_stream[Any](self._size)

    async def fill(self) -> None:
        """Take items from the input until there are no more; a generator that is left before its end is closed."""
        import anyio

        with self._sending:
            try:
                async for item in self._messages:
                    await self._sending.send(item)
            except Exception as fault:  # noqa: BLE001  raised where the items are taken
                self._fault = fault
            finally:
                if isinstance(self._messages, AsyncGenerator):
                    with anyio.move_on_after(self._limit, shield=True), suppress(Exception):
                        await self._messages.aclose()

    async def take(self, *, wait: bool) -> Any:
        """As ``Feed`` has it."""
        import anyio

        try:
            return await self._receiving.receive() if wait else self._receiving.receive_nowait()
        except anyio.WouldBlock:
            return Nothing.YET
        except anyio.EndOfStream:
            if self._fault is not None:
                fault, self._fault = self._fault, None
                raise fault from None
            return Nothing.MORE

    def rest(self) -> list[Any]:
        """The items that nobody has taken."""
        import anyio

        items = []
        with self._receiving, suppress(anyio.WouldBlock, anyio.EndOfStream):
            while True:
                items.append(self._receiving.receive_nowait())
        return items


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
