"""The run ledger: what a run has handed out, and what became of it, so that a run that was killed goes on where it was.

Rules: a mail is written down before it is handed to the client, and its outcome before the caller gets it; both on the
disk. What is written down as handed out, without an outcome, when a ledger is opened is in doubt. What the client says
it has not sent is given back. Nothing else is ever sent a second time.

Writing is batched. The more mails go while one batch is written the larger the next one is, so that little is in doubt
after a kill where mails go slowly. What a row says is told in ``rows.py``, the file in ``store.py``, what is handed
out in ``handing.py``.
"""

import os
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar

from smtpkit.errors import Outcome, UsageError
from smtpkit.ledger.handing import Entry, Handing, Plan
from smtpkit.ledger.items import Items
from smtpkit.ledger.rows import Counts, counted, given_back, settled
from smtpkit.ledger.store import Store
from smtpkit.transport.connect import run_to_its_end

if TYPE_CHECKING:
    import anyio
    import anyio.abc

    from smtpkit.options import Options

T = TypeVar("T")

FEW = 8  # in a batch, where as many are there
MOST = 64  # mails in a batch
UNREAD = 128  # outcomes that nobody has read
PATIENCE = 0.002  # seconds that an outcome waits for others, to be written down with them


class Sender(Protocol):
    """What a run needs of a ``Client``."""

    options: "Options"

    def send_many(self, messages: AsyncIterable[Any], *, window: int, sessions: int | None) -> "Sent":
        """As ``Client.send_many``."""


class Sent(Protocol):
    """What a run needs of its outcomes."""

    @property
    def unsent(self) -> list[Any]:
        """What was certainly not sent."""

    @property
    def unread(self) -> list[Outcome]:
        """What nobody has read."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None: ...

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> Outcome: ...


class Run:
    """A run of many mails that is kept in a file: ``async with Run("run.db", client) as run``.

    A run that was broken off, by whatever, goes on with the same input and the same file: who was served or refused
    for good is not sent to again; who certainly was not is. What was handed out and not settled is in doubt: with
    ``in_doubt="hold"`` it is told of and left alone; with "retry" it is sent again, with the Message-ID it had.

    The file is made with mode 0600; the addresses, the Message-IDs and the replies stand in it. Entering raises
    UsageError where it is no ledger or another run has it open, and SpoolError where it cannot be used.
    """

    def __init__(
        self, path: str | os.PathLike[str], client: Sender, *, in_doubt: Literal["hold", "retry"] = "hold"
    ) -> None:
        if in_doubt not in {"hold", "retry"}:
            raise UsageError(f"in_doubt {in_doubt!r}: retry or hold")
        if not hasattr(client, "aclose"):
            raise UsageError(f"client: an async smtpkit.Client, not {type(client).__name__}")
        self._path = path
        self._client = client
        self._retry = in_doubt == "retry"
        self._store: Store | None = None
        self._sending: RunOutcomes | None = None
        self._group: anyio.abc.TaskGroup | None = None
        self._tasks: anyio.abc.TaskGroup
        self._closing: anyio.Event
        self._disk = threading.Lock()

    @property
    def counts(self) -> Counts:
        """How many forward-paths there are by outcome, domain and reply, as it is on the disk; cheap at any time."""
        if self._store is None:
            raise UsageError("a ledger is counted once it was opened: async with Run(…) as run")
        return counted(dict(self._store.tally))  # at once: another thread writes

    def send_many(
        self,
        messages: "Iterable[Any] | AsyncIterable[Any]",
        *,
        window: int = 16,
        sessions: int | None = None,
        key: Callable[[Any], str] | None = None,
    ) -> "RunOutcomes":
        """Send what is not settled yet: ``async for outcome in run.send_many(…)``, or as ``Client.send_many`` has it.

        ``messages``, ``window`` and ``sessions`` are as there. A mail is known by its position in ``messages``, or by
        what ``key`` makes of it: the same in each run, and one of its own for each mail. An outcome is on the disk when
        it comes.
        Mails that an earlier run has settled are passed over, but for those in doubt that are left alone: each is an
        outcome. ``smtpkit.Message`` and ``email.message`` get their former Message-ID where they are sent again. What
        the client's events name is the mail as it was handed out; ``.item`` of that is the caller's.

        Raises UsageError for a mail that is for others than the ledger says; SpoolError where the ledger cannot be
        written; and what ``messages`` raises. Nothing more is handed out then.
        """
        if self._group is None:
            raise UsageError("write: async with Run(…) as run")
        if self._sending is not None and not self._sending.ended:
            raise UsageError("busy: this run sends already")
        self._sending = RunOutcomes(self, messages, window=window, sessions=sessions, key=key)
        return self._sending

    async def __aenter__(self) -> Self:
        import anyio

        if self._group is not None:
            raise UsageError("busy: this run is entered already")
        self._closing = anyio.Event()
        group = anyio.create_task_group()
        await group.__aenter__()
        try:
            await group.start(self._keep)
        except BaseException:
            group.cancel_scope.cancel()
            await group.__aexit__(None, None, None)
            raise
        self._group = group
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        group, self._group = self._group, None
        assert group is not None
        self._closing.set()
        if self._sending is not None:
            self._sending.leave()
        await group.__aexit__(None, None, None)
        if self._sending is not None and kind is None:
            self._sending.raise_fault()

    def __repr__(self) -> str:
        return f"<Run {os.fspath(self._path)!r}>"

    async def _keep(self, *, task_status: "anyio.abc.TaskStatus[None]") -> None:
        """Have the ledger open while anything may be sent. Whoever breaks in, this task closes it last."""
        import anyio

        try:
            await self._on_disk(self._open)
            async with anyio.create_task_group() as self._tasks:
                task_status.started()
                await self._closing.wait()
        finally:
            if self._store is not None:
                await self._on_disk(self._store.close)

    def _open(self) -> None:
        self._store = Store(self._path)

    async def _on_disk(self, function: Callable[[], T]) -> T:
        """Run what blocks on the disk in a worker thread, one at a time, to its end, whoever breaks in.

        Where asyncio breaks in, that is raised when the function has ended: what it did, it has to keep itself.
        """

        def alone() -> T:
            with self._disk:
                return function()

        return await run_to_its_end(alone)


class RunOutcomes:
    """The outcomes of ``Run.send_many``, as they come: each is on the disk.

    Leaving its block, or that of the run, ends it early: no more is handed out, what is under way is settled, and what
    was not sent is given back.
    """

    def __init__(
        self, run: Run, messages: Any, *, window: int, sessions: int | None, key: Callable[[Any], str] | None
    ) -> None:
        self.ended = False
        self._run = run
        client = run._client  # noqa: SLF001  of this module
        self._handing = Handing(client.options, key=key, retry=run._retry)  # noqa: SLF001
        self._limit = client.options.limits.timeout
        self._items = Items(messages, ahead=window, limit=self._limit)
        self._outcomes = client.send_many(self._hand_out(), window=window, sessions=sessions)
        self._begun = False
        self._leaving = False
        self._scope: anyio.CancelScope | None = None
        self._size = FEW  # of a batch
        self._wrote = 0.0  # seconds that the last one took to be written
        self._batch: deque[Entry] = deque()  # written down, and not given to the client
        self._settled: list[Outcome] = []  # and not written down
        self._ready: deque[Outcome] = deque()  # and not asked for
        self._fault: Exception | None = None  # raised when everything before it was
        self._sent = False
        self._waiting: list[tuple[Callable[[], bool], anyio.Event]] = []

    async def __aenter__(self) -> Self:
        self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()
        await self._until(lambda: self.ended)
        if kind is None:
            self.raise_fault()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome:
        self._begin()
        await self._until(lambda: bool(self._ready) or self.ended)
        if self._ready:
            outcome = self._ready.popleft()
            self._ring()
            return outcome
        self.raise_fault()
        raise StopAsyncIteration

    def leave(self) -> None:
        """Hand out no more; what is under way has its time to be settled."""
        import anyio

        self._leaving = True
        self._items.stop()
        if not self._begun:
            self._begun = self.ended = True
        if self._scope is not None and not self.ended:
            self._scope.deadline = min(self._scope.deadline, anyio.current_time() + self._limit)
        self._ring()

    def raise_fault(self) -> None:
        """Raise what ended it before its time, once."""
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault

    # The tasks

    def _begin(self) -> None:
        if not self._begun:
            if self._run._group is None:  # noqa: SLF001
                raise UsageError("the run is over")
            self._begun = True
            self._run._tasks.start_soon(self._work)  # noqa: SLF001

    async def _work(self) -> None:
        import anyio

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._record)
                try:
                    await self._on_disk(partial(self._handing.begin, self._store))
                    self._items.begin(tasks)
                    if not self._leaving:
                        await self._send()
                except Exception as fault:  # noqa: BLE001  raised where the outcomes are read
                    self._fault = self._fault or fault
                finally:
                    self._sent = True
                    self._ring()
                    self._items.close()
        finally:
            await self._finish()

    async def _send(self) -> None:
        import anyio

        with anyio.CancelScope() as self._scope:
            async with self._outcomes as outcomes:
                async for outcome in outcomes:
                    self._settled.append(outcome)
                    self._ring()
                    await self._until(self._has_room)
                    if self._leaving or self._fault is not None:
                        break

    async def _record(self) -> None:
        """Write outcomes down, as they come, and hand them to the caller."""
        import anyio

        while True:
            await self._until(lambda: bool(self._settled) or self._sent)
            with anyio.move_on_after(PATIENCE):
                await self._until(lambda: len(self._settled) >= FEW or self._sent)
            if self._settled:
                try:
                    await self._on_disk(self._flush)
                    self._ring()
                except Exception as fault:  # noqa: BLE001  raised where the outcomes are read
                    self._fault = self._fault or fault
                    self._ring()
                    return
            elif self._sent:
                return

    def _flush(self) -> None:
        """Write down the outcomes that have come, in a thread; more may come meanwhile."""
        some = list(self._settled)
        self._store.write([change for told in some for change in settled(told.item, told.item.changes, told)])
        self._ready += [_told(outcome) for outcome in some]
        del self._settled[: len(some)]

    async def _finish(self) -> None:
        """Write down what is left: outcomes that nobody has read, and what was not sent."""
        self._settled += self._outcomes.unread
        left: list[Entry] = [*self._outcomes.unsent, *self._batch]

        def write() -> None:
            self._flush()
            self._store.write([change for entry in left for change in given_back(entry.changes)])

        try:
            await self._on_disk(write)
        except Exception as fault:  # noqa: BLE001  raised where the outcomes are read
            self._fault = self._fault or fault
        finally:
            self.ended = True
            self._ring()

    # The input

    async def _hand_out(self) -> AsyncGenerator[Entry]:
        """The mails to be sent, each written down before."""
        while not self._leaving and self._fault is None:
            await self._until(self._has_room)
            items = await self._items.take(self._size)
            if not items:
                return
            fault = await self._write_down(items)
            begun = time.monotonic()
            while self._batch and not self._leaving:
                yield self._batch.popleft()
            if fault is not None:
                raise fault
            gone = time.monotonic() - begun
            if gone < self._wrote:
                self._size = min(2 * self._size, MOST)
            elif gone > 4 * self._wrote:
                self._size = max(self._size // 2, FEW)

    async def _write_down(self, items: list[tuple[int, Any]]) -> Exception | None:
        """Write down that these mails are handed out; what is wrong with the first one that cannot be."""
        keyed, fault = self._handing.named(items)
        store = self._store
        known = [name for name in keyed if self._handing.may_know(name)]
        kept = await self._on_disk(partial(store.kept, known)) if known else {}
        plans: list[Plan] = []
        try:
            for name, item in keyed.items():
                plans.append(await self._handing.plan(name, item, kept.get(name, [])))
        except UsageError as error:
            fault = error

        def write() -> None:
            store.write([change for plan in plans for change in plan.changes])
            self._batch += [plan.entry for plan in plans if plan.entry is not None]
            self._ready += [plan.told for plan in plans if plan.told is not None]

        if plans:
            begun = time.monotonic()
            await self._on_disk(write)
            self._wrote = time.monotonic() - begun
        self._ring()
        return fault

    # What the tasks have in common

    @property
    def _store(self) -> Store:
        store = self._run._store  # noqa: SLF001
        assert store is not None
        return store

    async def _on_disk(self, function: Callable[[], T]) -> T:
        return await self._run._on_disk(function)  # noqa: SLF001

    def _has_room(self) -> bool:
        """May more be settled, though the caller reads slowly?"""
        return self._leaving or self._fault is not None or len(self._ready) + len(self._settled) < UNREAD

    async def _until(self, true: Callable[[], bool]) -> None:
        """Wait until something is true, as far as whoever changes it rings."""
        import anyio

        while not true():
            waiting = (true, anyio.Event())
            self._waiting.append(waiting)
            try:
                await waiting[1].wait()
            finally:
                self._waiting.remove(waiting)

    def _ring(self) -> None:
        """Wake those for whom it has become true."""
        for true, bell in self._waiting:
            if true():
                bell.set()


def _told(outcome: Outcome) -> Outcome:
    """An outcome as the caller gets it: of the item that he gave."""
    told = replace(outcome, item=outcome.item.item)
    if told.error is not None:
        told.error.outcome = told
    return told
