"""The run ledger: what a run has handed out, and what became of it, so that a run that was killed goes on where it was.

Rules: a mail is written down before it is handed to the client, and its outcome before the caller gets it; both on the
disk. What is written down as handed out, without an outcome, when a ledger is opened is in doubt. What the client says
it has not sent is given back. Nothing else is ever sent a second time.

Writing is batched. The more mails go while one batch is written the larger the next one is, so that little is in doubt
after a kill where mails go slowly. What a row says is told in ``rows.py``, the file in ``store.py``.
"""

import os
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar

from smtpkit.bulk import Mail, prepared
from smtpkit.errors import InDoubt, InvalidMail, Outcome, SMTPError, UsageError
from smtpkit.ledger.items import Items
from smtpkit.ledger.rows import Change, Counts, Row, counted, handed_out, is_given_up, settled, words
from smtpkit.ledger.store import Store
from smtpkit.message.message import Message, Prepared
from smtpkit.transport.connect import run_in_worker

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

    def send_many(self, messages: AsyncIterable[Any], *, window: int) -> "Sent":
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
        self._disk: anyio.CapacityLimiter

    @property
    def counts(self) -> Counts:
        """How many forward-paths there are by outcome, domain and reply, as it is on the disk; cheap at any time."""
        if self._store is None:
            raise UsageError("a ledger is counted once it was opened: async with Run(…) as run")
        return counted(self._store.tally)

    def send_many(
        self,
        messages: "Iterable[Any] | AsyncIterable[Any]",
        *,
        window: int = 16,
        key: Callable[[Any], str] | None = None,
    ) -> "RunOutcomes":
        """Send what is not settled yet: ``async for outcome in run.send_many(…)``, or as ``Client.send_many`` has it.

        ``messages`` and ``window`` are as there. A mail is known by its position in ``messages``, or by what ``key``
        makes of it: the same in each run, and one of its own for each mail. An outcome is on the disk when it comes.
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
        self._sending = RunOutcomes(self, messages, window=window, key=key)
        return self._sending

    async def __aenter__(self) -> Self:
        import anyio

        if self._group is not None:
            raise UsageError("busy: this run is entered already")
        self._closing = anyio.Event()
        self._disk = anyio.CapacityLimiter(1)
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

        store = await self._write(partial(Store, self._path))
        try:
            async with anyio.create_task_group() as self._tasks:
                self._store = store
                task_status.started()
                await self._closing.wait()
        finally:
            await self._write(store.close)

    async def _write(self, function: Callable[[], T]) -> T:
        """Run what blocks on the disk in a worker thread, one at a time, to its end, whoever breaks in."""
        import anyio
        import anyio.to_thread

        with anyio.CancelScope(shield=True):
            result = await anyio.to_thread.run_sync(function, limiter=self._disk)
        return result  # noqa: RET504  a scope may swallow what is raised in it


@dataclass(slots=True)
class Entry(Prepared):
    """A mail that is handed out: ``item`` is what the caller gave, ``changes`` is how that was written down."""

    changes: list[Change]


class RunOutcomes:
    """The outcomes of ``Run.send_many``, as they come: each is on the disk.

    Leaving its block, or that of the run, ends it early: no more is handed out, what is under way is settled, and what
    was not sent is given back.
    """

    def __init__(self, run: Run, messages: Any, *, window: int, key: Callable[[Any], str] | None) -> None:
        self.ended = False
        self._run = run
        self._key = key
        client = run._client  # noqa: SLF001  of this module
        self._limit = client.options.limits.timeout
        self._items = Items(messages, ahead=window, limit=self._limit)
        self._outcomes = client.send_many(self._hand_out(), window=window)
        self._begun = False
        self._leaving = False
        self._scope: anyio.CancelScope | None = None
        self._number = 0  # of this run in its ledger
        self._known = -1  # the last position that the ledger knows
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
                    store = self._store
                    self._number = await self._write(store.next_run)
                    await self._write(partial(self._check_keys, store))
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
                    await self._flush()
                except Exception as fault:  # noqa: BLE001  raised where the outcomes are read
                    self._fault = self._fault or fault
                    self._ring()
                    return
            elif self._sent:
                return

    async def _flush(self) -> None:
        some, self._settled = self._settled, []
        told, changes = [], []
        for outcome in some:
            entry: Entry = outcome.item
            given_up = is_given_up(entry, outcome)
            for change in entry.changes:
                assert change.after is not None
                changes.append(Change(change.after, settled(change.after, outcome, given_up=given_up)))
            told.append(_told(outcome, entry.item))
        try:
            await self._write(partial(self._store.write, changes))
        except BaseException:
            self._settled = some + self._settled
            raise
        self._ready += told
        self._ring()

    async def _finish(self) -> None:
        """Write down what is left: outcomes that nobody has read, and what was not sent."""
        import anyio

        with anyio.CancelScope(shield=True):
            try:
                self._settled += self._outcomes.unread
                await self._flush()
                left = {id(entry): entry for entry in (*self._outcomes.unsent, *self._batch)}
                changes = [
                    Change(row, before or row._replace(state="waiting"))
                    for entry in left.values()
                    for before, row in entry.changes
                    if row is not None
                ]
                await self._write(partial(self._store.write, changes))
            except Exception as fault:  # noqa: BLE001  raised where the outcomes are read
                self._fault = self._fault or fault
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
                yield self._batch[0]
                self._batch.popleft()
            if fault is not None:
                raise fault
            gone = time.monotonic() - begun
            if gone < self._wrote:
                self._size = min(2 * self._size, MOST)
            elif gone > 4 * self._wrote:
                self._size = max(self._size // 2, FEW)

    async def _write_down(self, items: list[tuple[int, Any]]) -> Exception | None:
        """Write down that these mails are handed out; what is wrong with the first one that cannot be."""
        keyed: dict[int | str, Any] = {}
        fault: Exception | None = None
        for position, item in items:
            try:
                name = self._name(position, item)
                if name in keyed:
                    raise _twice(name)
            except Exception as error:  # noqa: BLE001  it may be the caller's
                fault = error
                break
            keyed[name] = item
        store = self._store
        known = [name for name in keyed if isinstance(name, str) or name <= self._known]
        kept = await self._write(partial(store.kept, known)) if known else {}
        batch: list[Entry] = []
        told: list[Outcome] = []
        changes: list[Change] = []
        for name, item in keyed.items():
            try:
                plan = await self._plan(name, item, kept.get(name, []))
            except UsageError as error:
                fault = error
                break
            changes += plan[1]
            if isinstance(plan[0], Entry):
                batch.append(plan[0])
            elif plan[0] is not None:
                told.append(plan[0])
        if changes:
            begun = time.monotonic()
            await self._write(partial(store.write, changes))
            self._wrote = time.monotonic() - begun
        self._batch += batch
        self._ready += told
        self._ring()
        return fault

    async def _plan(self, key: int | str, item: Any, kept: list[Row]) -> tuple[Entry | Outcome | None, list[Change]]:
        """What is to be sent of a mail, or told of it, or neither; and what changes in the ledger by that."""
        if any(row.run == self._number for row in kept):
            raise _twice(key)
        unread = [row for row in kept if not row.address]
        known = [row for row in kept if row.address]
        identity = next((row.message_id for row in known), None)
        options = self._run._client.options  # noqa: SLF001
        try:
            ours = _mail(item)
            mail = await prepared(_named(ours, identity), options=options, run=run_in_worker)
        except SMTPError as error:
            return self._unreadable(key, item, kept, error)
        if known and {row.address for row in known} != {path.address for path in mail.envelope.forward_paths}:
            raise UsageError(
                f"messages: mail {key!r} is for other recipients than this ledger says, so that the input is not the "
                "same any more; give the same, or key=, or begin another ledger"
            )
        changes = handed_out(known, mail, key=key, run=self._number, retry=self._run._retry)  # noqa: SLF001
        again = {row.address for before, row in changes if before and row and before.state == "in_doubt"}
        if again and mail.message_id != identity:
            raise UsageError(
                f"messages: mail {key!r} is in doubt and had the Message-ID {identity}, and has {mail.message_id} now: "
                'octets are sent as they are; give them the same one, or in_doubt="hold"'
            )
        if not changes:
            held = tuple(row.address for row in known if row.state == "in_doubt")
            return (_held(item, held, identity) if held else None), []
        due = {row.address for _, row in changes if row is not None}
        paths = tuple(path for path in mail.envelope.forward_paths if path.address in due)
        envelope = (
            mail.envelope
            if len(due) == len(mail.envelope.forward_paths)
            else replace(mail.envelope, forward_paths=paths)
        )
        entry = Entry(envelope, mail.mail_data, mail.message_id, item, changes)
        return entry, [*(Change(row, None) for row in unread), *changes]

    def _unreadable(
        self, key: int | str, item: Any, kept: list[Row], error: SMTPError
    ) -> tuple[Outcome | None, list[Change]]:
        """A mail that cannot be made ready is refused, for whom it was not settled."""
        left = [row for row in kept if row.state not in {"accepted", "refused"}]
        if kept and not left:
            return None, []
        refused = partial(Row._replace, state="refused", reply=words(error), run=self._number)
        changes = [Change(row, refused(row)) for row in left]
        if not kept:
            changes.append(Change(None, Row(key, "", None, "refused", words(error), self._number)))
        error.outcome = Outcome(item=item, error=error)
        return error.outcome, changes

    def _name(self, position: int, item: Any) -> int | str:
        """The key of a mail."""
        if self._key is None:
            return position
        name: object = self._key(item)
        if not (isinstance(name, str) and name and name.isprintable()):
            raise UsageError(f"key: a str of printable characters for each mail, not {name!r}")
        return name

    def _check_keys(self, store: Store) -> None:
        """Raise UsageError where the ledger knows its mails otherwise: each of them would be sent once more."""
        last = store.last_key()
        if last is not None and isinstance(last, str) != (self._key is not None):
            was = "a key" if isinstance(last, str) else "their position"
            raise UsageError(f"key: this ledger knows its mails by {was}; give the input as it was given then")
        if isinstance(last, int):
            self._known = last

    # What the tasks have in common

    @property
    def _store(self) -> Store:
        store = self._run._store  # noqa: SLF001
        assert store is not None
        return store

    async def _write(self, function: Callable[[], T]) -> T:
        return await self._run._write(function)  # noqa: SLF001

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


def _mail(item: Any) -> Mail:
    """An item for what it is."""
    if not isinstance(item, tuple):
        return Mail(item)
    if not 1 <= len(item) <= len(Mail._fields):
        raise InvalidMail(f"a tuple of {len(item)}: give (message, sender, recipients), or one message")
    return Mail(*item)


def _named(mail: Mail, identity: str | None) -> Mail:
    """A mail with the Message-ID that it had in an earlier run, where that is ours to give."""
    message = mail.message
    stdlib = sys.modules.get("email.message")  # not imported, so not the caller's either
    if identity is None:
        return mail
    if isinstance(message, Message) and message.message_id != identity:
        others = {name: text for name, text in message.headers.items() if name.lower() != "message-id"}
        return mail._replace(message=replace(message, headers=others | {"Message-ID": identity}))
    if stdlib is not None and isinstance(message, stdlib.Message) and message["Message-ID"] != identity:
        twin = copy(message)
        del twin["Message-ID"]  # which gives it a list of fields of its own
        twin["Message-ID"] = identity
        return mail._replace(message=twin)
    return mail


def _twice(key: int | str) -> UsageError:
    return UsageError(f"key: {key!r} is that of two mails of this input; make one of its own for each")


def _held(item: Any, paths: tuple[str, ...], identity: str | None) -> Outcome:
    """The outcome of a mail that an earlier run has left in doubt."""
    error = InDoubt("an earlier run handed it out, and ended before it knew its outcome; it is not sent again")
    error.outcome = Outcome(in_doubt=paths, message_id=identity, item=item, error=error)
    return error.outcome


def _told(outcome: Outcome, item: Any) -> Outcome:
    """An outcome as the caller gets it: of the item that he gave."""
    told = replace(outcome, item=item)
    if told.error is not None:
        told.error.outcome = told
    return told
