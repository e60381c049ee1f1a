"""The documented class, twice from one table: ``SMTP`` in the caller's thread, ``AsyncSMTP`` awaited.

Rules: one method at a time, and nobody waits for another: who comes second is told that it is busy. ``interrupt`` may
come at any time, from any thread and from a handler. Whatever goes wrong in a method is a ComponentError; what a
handler raises comes out of the method once that has ended.
"""

import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Self, TypeVar

from smtpkit.component.choices import Trust
from smtpkit.component.errors import INTERRUPTED, NAME, VALUE, ComponentError, told
from smtpkit.component.fields import Field, Row, document, spell
from smtpkit.component.reference import page
from smtpkit.component.settings import Settings
from smtpkit.component.table import Properties
from smtpkit.component.work import Work, busy
from smtpkit.errors import SMTPError
from smtpkit.observers import Events
from smtpkit.session import World
from smtpkit.sync_client import drive

if TYPE_CHECKING:
    from ssl import SSLContext

    import anyio

    from smtpkit.transport.blocking_stream import BlockingStream, Interruption
    from smtpkit.transport.connect import Target

P = ParamSpec("P")
T = TypeVar("T")


def _documented(method: Callable[P, T]) -> Callable[P, T]:
    """A documented method that waits for nothing."""
    document(method, method.__name__)
    return method


def _blocking(body: Callable[Concatenate[Work, P], Coroutine[Any, Any, T]]) -> "Callable[Concatenate[SMTP, P], T]":
    """The documented method of that body, in the caller's thread."""

    @wraps(body)
    def method(self: "SMTP", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(body(self._work, *args, **kwargs))

    document(method, body.__name__)
    return method


def _awaitable(
    body: Callable[Concatenate[Work, P], Coroutine[Any, Any, T]],
) -> "Callable[Concatenate[AsyncSMTP, P], Coroutine[Any, Any, T]]":
    """The documented method of that body, awaited."""

    @wraps(body)
    async def method(self: "AsyncSMTP", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(body(self._work, *args, **kwargs))

    document(method, body.__name__)
    return method


@contextmanager
def _second_to(error: BaseException | None) -> Iterator[None]:
    """What is wrong at the end of a block is raised, unless the block has an error of its own."""
    try:
        yield
    except ComponentError:
        if error is None:
            raise


class _Component(Properties):
    """What both have in common."""

    def __init__(
        self,
        *,
        ssl_context: "SSLContext | None" = None,
        allow_plaintext_auth: bool = False,
        in_doubt: Literal["retry", "hold"] = "retry",
    ) -> None:
        super().__init__()
        if in_doubt not in {"retry", "hold"}:
            raise ComponentError(VALUE, f"in_doubt must be retry or hold, not {in_doubt!r}")
        self._turn = threading.Lock()  # who holds it runs
        self._guard = threading.RLock()  # over whether there is something to interrupt
        self._process = os.getpid()
        world = World(self._connected, self._ran, time.monotonic)
        trust = Trust(ssl_context, allow_plaintext_auth)
        self._work = Work(self, trust=trust, in_doubt=in_doubt, world=world, disk=self._written, tick=self._tick)
        self._settings = self._work.settings

    @_documented
    def config(self, text: str) -> str:
        """Set a setting, by ``config("Name=Value")``, or return its value as a text, by ``config("Name")``.

        The first ``=`` ends the name. Names are in any case; blanks around name and value mean nothing. What is set
        returns "". Raises ComponentError for no such setting, and for a value that cannot be.
        """
        if not isinstance(text, str):
            raise ComponentError(VALUE, f'config takes a text such as "KeepQueue=True", not a {type(text).__name__}')
        name, equals, value = text.partition("=")
        wanted = name.strip(" \t").lower()
        for table in (self._settings, self):
            for row in table.rows():
                if isinstance(row, Field) and (row.setting or table is self._settings):
                    if row.documented.lower() != wanted:
                        continue
                    if not equals:
                        return row.kind.show(getattr(table, row.name))
                    setattr(table, row.name, row.said(value.strip(" \t")))
                    return ""
        raise ComponentError(NAME, f"there is no setting {name.strip()!r}; the reference lists them")

    @_documented
    def reset_headers(self) -> None:
        """Clear what makes the header and the envelope; the body, the server and the settings stay."""
        self._work.reset_headers()

    @classmethod
    def reference(cls) -> str:
        """The reference page: every property, method, event and setting, from the table itself."""
        return page(cls, Settings)

    @classmethod
    def settings(cls) -> list[Row[Any]]:
        """The rows of the settings: those of their own, and those that repeat a property."""
        return [*Settings.rows(), *(row for row in cls.rows() if isinstance(row, Field) and row.setting)]

    def __getstate__(self) -> Any:
        raise TypeError(f"a {type(self).__name__} holds a connection: it is neither copied nor pickled; make another")

    def __repr__(self) -> str:
        where = f"{self.mail_server or 'no server'}:{self.mail_port}"
        return f"<{type(self).__name__} {where}: {'connected' if self.connected else 'not connected'}>"

    # How the work waits

    async def _connected(self, target: "Target", deadline: float | None) -> Any:
        from smtpkit.transport.connect import connect

        return await connect(target, deadline)

    async def _ran(self, function: Callable[[], Any], deadline: float | None = None) -> Any:
        from smtpkit.transport.connect import run_in_worker

        return await run_in_worker(function, deadline)

    async def _written(self, function: Callable[[], Any]) -> Any:
        from smtpkit.transport.connect import run_to_its_end

        return await run_to_its_end(function)

    def _tick(self) -> None:
        """Give up here, if the method is to be interrupted and no wait would notice."""

    # How a method runs

    def _enter(self, body: Coroutine[Any, Any, Any]) -> None:
        """Begin a method, if no other is running."""
        if self._process != os.getpid():
            self._begin_anew()
        if not self._turn.acquire(blocking=False):
            body.close()
            raise busy()
        with self._guard:
            self._ready()
            self._work.begin()

    def _begin_anew(self) -> None:
        """After a fork, leave the connection to the parent, and the locks to whichever of its threads hold them."""
        self._process = os.getpid()
        self._turn, self._guard = threading.Lock(), threading.RLock()
        self._work.forget()

    def _ready(self) -> None:
        """From here on there may be something to interrupt."""

    def _leave(self) -> None:
        """A method has ended, in whatever way."""
        try:
            self._work.drop_broken()
        finally:
            with self._guard:
                self._work.idle = True
            self._turn.release()

    def _wrong(self, error: SMTPError) -> ComponentError:
        """The error of a method."""
        ours = told(error)
        if self._work.failure is not None:
            ours.add_note(f"and a handler failed: {self._work.failure!r}")
        return ours

    def _interrupted(self) -> ComponentError:
        """The error of a method that was interrupted: it says what became of the mail, where there was one."""
        outcome = self._work.outcome
        what = "interrupted"
        if outcome is not None and outcome.in_doubt:
            what = "interrupted when the mail was sent whole: it may have been accepted"
        elif outcome is not None and outcome.accepted:
            what = "interrupted after the mail was accepted"
        error = ComponentError(INTERRUPTED, what)
        error.outcome = outcome
        return self._wrong(error)

    def _raise_failure(self) -> None:
        """Raise what a handler has raised."""
        failure, self._work.failure = self._work.failure, None
        if failure is None:
            return
        outcome = self._work.outcome
        if outcome is not None and outcome.accepted:
            failure.add_note(f"a handler failed, and the mail was accepted for {', '.join(outcome.accepted)}")
        if isinstance(failure, SMTPError):
            failure.outcome = failure.outcome or outcome
        raise failure


@spell
class SMTP(_Component):
    """Sends mail by SMTP, as the documents have it: set the properties, then call ``send()``.

    Every method returns once it is done, or raises ComponentError; handlers are called in its thread before it returns.
    ``ssl_context`` replaces the system's trust. ``allow_plaintext_auth`` lets a login go without TLS. ``in_doubt`` is
    what ``process_queue`` does with a mail that a crash has left in the middle: ``retry`` or ``hold``.
    """

    _interruption: "Interruption | None" = None
    _given_up = False

    connect = _blocking(Work.connect)
    disconnect = _blocking(Work.disconnect)
    do_events = _blocking(Work.do_events)
    expand = _blocking(Work.expand)
    process_queue = _blocking(Work.process_queue)
    queue = _blocking(Work.queue)
    send = _blocking(Work.send)
    send_to_terminal_and_email = _blocking(Work.send_to_terminal_and_email)
    send_to_terminal_only = _blocking(Work.send_to_terminal_only)
    send_to_terminal_or_email = _blocking(Work.send_to_terminal_or_email)
    verify = _blocking(Work.verify)

    @_documented
    def interrupt(self) -> None:
        """Make the method that is running raise ComponentError, at its next wait; does nothing where none is.

        From any thread, and in a handler. The error says what became of the mail.
        """
        with self._guard:
            if not (self._work.idle or self._given_up or self._interruption is None):
                self._given_up = True
                self._interruption.ring()

    def set_command(self, line: str) -> None:
        """Send a line to the server and wait for the reply, which LastReply has."""
        self.command = line

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _second_to(error):
            self.disconnect()

    def _obey(self, line: str) -> None:
        self._run(self._work.command(line))

    async def _connected(self, target: "Target", deadline: float | None) -> "BlockingStream":
        from smtpkit.transport.connect import connect_blocking

        return await connect_blocking(target, deadline, interruption=self._interruption)

    async def _ran(self, function: Callable[[], Any], deadline: float | None = None) -> Any:
        from smtpkit.transport.connect import apart

        return apart(function, deadline, self._interruption)  # such as a look-up on behalf of a firewall

    async def _written(self, function: Callable[[], Any]) -> Any:
        return function()

    def _tick(self) -> None:
        from smtpkit.transport.blocking_stream import Interrupted

        if self._given_up:
            raise Interrupted

    def _run(self, body: Coroutine[Any, Any, T]) -> T:
        from smtpkit.transport.blocking_stream import Interrupted

        self._enter(body)
        try:
            result = drive(body)
        except Interrupted:
            raise self._interrupted() from None
        except SMTPError as error:
            ours = self._wrong(error)
            raise ours from ours.__cause__
        finally:
            self._leave()
        self._raise_failure()
        return result

    def _begin_anew(self) -> None:
        super()._begin_anew()
        if self._interruption is not None:
            self._interruption.close()
            self._interruption = None

    def _ready(self) -> None:
        from smtpkit.transport.blocking_stream import Interruption

        self._given_up = False
        if self._interruption is None:
            self._interruption = Interruption()
        else:
            self._interruption.hush()

    def _leave(self) -> None:
        super()._leave()
        with self._guard:
            if self._interruption is not None and self._work.idle and not self.connected:  # no stream has it any more
                self._interruption.close()
                self._interruption = None


@spell
class AsyncSMTP(_Component):
    """The same, awaited, on asyncio and trio; ``config``, ``reset_headers`` and ``interrupt`` wait for nothing.

    Handlers are plain functions, called in the loop's thread; ``events`` gives all seven events as one iterator.
    """

    _scope: "anyio.CancelScope | None" = None  # of the method that is running
    _soon: Callable[[Callable[[], None]], object]  # has something called in its loop, from any thread
    _thread = 0  # of its loop

    connect = _awaitable(Work.connect)
    disconnect = _awaitable(Work.disconnect)
    do_events = _awaitable(Work.do_events)
    expand = _awaitable(Work.expand)
    process_queue = _awaitable(Work.process_queue)
    queue = _awaitable(Work.queue)
    send = _awaitable(Work.send)
    send_to_terminal_and_email = _awaitable(Work.send_to_terminal_and_email)
    send_to_terminal_only = _awaitable(Work.send_to_terminal_only)
    send_to_terminal_or_email = _awaitable(Work.send_to_terminal_or_email)
    verify = _awaitable(Work.verify)

    @_documented
    def interrupt(self) -> None:
        """Make the method that is running raise ComponentError, at its next wait; does nothing where none is.

        From any thread, and in a handler. The error says what became of the mail.
        """
        with self._guard:
            scope = self._scope
            if scope is None:
                return
            soon, thread = self._soon, self._thread
        if thread == threading.get_ident():
            scope.cancel()  # in a handler: before the next wait
        with suppress(RuntimeError):  # the loop has ended
            soon(scope.cancel)  # it wakes the loop, out of a signal handler too

    async def set_command(self, line: str) -> None:
        """Send a line to the server and wait for the reply, which LastReply has."""
        await self._run(self._work.command(type(self).command.checked(line)))

    def events(self, buffer: int = 1024) -> AbstractAsyncContextManager[Events]:
        """``async with smtp.events() as events: async for event in events``: all seven kinds, in order."""
        return self._work.notices.events(buffer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import anyio

        try:
            with _second_to(error), anyio.move_on_after(5, shield=True):
                await self.disconnect()
        finally:
            self._work.notices.close()

    async def _run(self, body: Coroutine[Any, Any, T]) -> T:
        from anyio.lowlevel import checkpoint

        try:
            await checkpoint()
        except BaseException:
            body.close()
            raise
        self._enter(body)
        scope = self._scope
        assert scope is not None
        with scope:
            try:
                result = await body
            except SMTPError as error:
                ours = self._wrong(error)
                raise ours from ours.__cause__
            finally:
                with self._guard:
                    self._scope = None
                self._leave()
        if scope.cancelled_caught:
            raise self._interrupted()
        self._raise_failure()
        return result

    def _ready(self) -> None:
        import anyio

        from smtpkit.transport.connect import current_loop

        loop: Any = current_loop()
        self._soon = getattr(loop, "run_sync_soon", None) or loop.call_soon_threadsafe  # trio's, or asyncio's
        self._scope, self._thread = anyio.CancelScope(), threading.get_ident()
