"""The queue worker: sends what waits in a spool, several mails at once, and tries again what was refused for now.

Rules: a file is settled by what is known, also when the worker is broken into: accepted for all is sent; certainly not
sent is queued again, with the time of its next attempt; what may have been accepted stays as it is, or is repeated,
as the policy says. Who has the mail is taken off its envelope first. An error that befalls before a mail is begun says
nothing about that mail: no attempt is counted. Where others have a session by then, the server bears no more of them,
and fewer mails go at once; where nobody has, nothing else is tried until the outage is over.

How a file is settled is told in ``settling.py``.
"""

import os
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from smtpkit.errors import InvalidMail, Outcome, SMTPError, SpoolError, UsageError
from smtpkit.events import Attempted, Settled
from smtpkit.message.message import prepare
from smtpkit.observers import Observers
from smtpkit.options import Options
from smtpkit.retry import Retry
from smtpkit.session import Session
from smtpkit.spool import Entry, Spool, Unfit
from smtpkit.transport.connect import run_in_worker, run_to_its_end
from smtpkit.worker.settling import Plan, attempts_of, carry_out, forget, planned, prepared, put_back, unrefused

if TYPE_CHECKING:
    import anyio
    import anyio.abc

    from smtpkit.message.message import DSN

BRIEFLY = 0.05  # seconds between two looks for what is due, at least
RARELY = 60.0  # and at most: a mail may have come meanwhile, or the clock been set
GRACE = 30.0  # seconds for what is in flight when the worker is stopped
SOON = 5.0  # seconds until a server that cannot be had is tried again; twice as long each time, up to a first pause


class Worker:
    """Sends what waits in the directory of a spool; made by ``Client.worker``. Any number may share a directory.

    ``run`` or ``watch`` once at a time. What was refused for good, for anybody, ends as ``.failed``: its envelope is
    for those who did not get it, and its notes say why. So does what is no mail. ``now`` is the time of day (seconds
    since 1970) and ``chance`` a random number from 0 to 1.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        retry: Retry,
        keep: bool,
        options: Options,
        lease: Callable[[float | None], AbstractAsyncContextManager[Session]],
        deliver: Callable[..., Awaitable[Outcome]],
        observers: Observers,
        now: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._directory = directory
        self._retry = retry
        self._keep = keep
        self._options = options
        self._lease = lease
        self._deliver = deliver
        self._observers = observers
        self._now = now
        self._chance = chance
        self._stopping = False
        self._fault: SMTPError | None = None  # what ends the work
        self._down: SMTPError | None = None  # no session can be had
        self._outages = 0  # in a row
        self._known: set[str] = set()  # files that cannot be settled, and were told of
        self._taken: dict[Entry, Outcome] = {}  # what is not settled yet, and what is known of it
        self._at_once = 0  # how many are in flight, at most
        self._returned = 0  # how often a session was given back
        self._scope: anyio.CancelScope | None = None
        self._bell: anyio.Event
        self._landed: anyio.Event
        self._spool: Spool

    async def run(self, *, wait: bool = False) -> None:
        """Work until nothing is due; with ``wait`` until nothing is queued any more, whenever it is due.

        Raises what ended it early: that no session could be had (with ``wait`` only what time does not mend, as a
        refused login), or SpoolError. What was not sent is queued then.
        """
        async with self._open() as tasks:
            while await self._go_on(patient=wait):
                if not await self._round(tasks):
                    await self._land()
                    if not (self._down or self._crowded or (wait and await self._rest_until_due())):
                        break

    async def watch(self, *, interval: float = 5.0) -> None:
        """Work until ``stop``; look for new files every ``interval`` seconds. Raises as ``run(wait=True)`` does."""
        if not interval > 0:
            raise UsageError(f"interval {interval!r}: seconds, more than 0")
        async with self._open() as tasks:
            while await self._go_on(patient=True):
                await self._round(tasks)
                await self._rest(interval)

    def stop(self, *, within: float = GRACE) -> None:
        """Take no more; what is in flight has so many seconds to be settled, then it is given back or in doubt.

        To be called in the event loop of ``run`` or ``watch``, which return then.
        """
        import anyio

        self._stopping = True
        if self._scope is not None:
            self._scope.deadline = min(self._scope.deadline, anyio.current_time() + within)
            self._bell.set()

    # The work

    @asynccontextmanager
    async def _open(self) -> "AsyncGenerator[anyio.abc.TaskGroup]":
        import anyio

        if self._scope is not None:
            raise UsageError("busy: this worker works already")
        self._fault = self._down = None
        self._outages = 0
        self._bell, self._landed = anyio.Event(), anyio.Event()
        with ExitStack() as ends, anyio.CancelScope() as self._scope:
            ends.callback(self._end_of_work)
            ends.callback(self._observers.on(Settled, self._hear))
            directory = ExitStack()
            try:
                await run_to_its_end(partial(directory.enter_context, self._opened()))
                async with anyio.create_task_group() as tasks:
                    yield tasks
            finally:
                await run_to_its_end(directory.close)
        if self._fault is not None:
            raise self._fault

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """The directory is open, for the time of a block; what was taken by its end and not begun is put back."""
        with Spool(self._directory) as self._spool, ExitStack() as left:
            try:
                yield
            finally:
                while self._taken:
                    entry = left.enter_context(self._taken.popitem()[0])
                    left.callback(put_back, entry)

    def _end_of_work(self) -> None:
        self._scope, self._stopping = None, False

    async def _go_on(self, *, patient: bool) -> bool:
        """Is there more to do? Waits where an outage has to be waited for."""
        if self._down is not None:
            await self._land()
            error, self._down = self._down, None
            if not patient or not self._retry.mends(error):
                self._end(error)
            else:
                first = self._retry.pause(1, self._chance())
                await self._rest(min(SOON * 2.0 ** min(self._outages, 30), first))
                self._outages += 1
        return not self._stopping

    def _end(self, error: SMTPError) -> None:
        self._fault = self._fault or error
        self._stopping = True
        self._bell.set()

    async def _rest(self, seconds: float) -> None:
        import anyio

        with anyio.move_on_after(seconds):
            await self._bell.wait()

    async def _land(self) -> None:
        """Wait until nothing is in flight."""
        while self._taken:
            await self._wait_for_a_landing()

    async def _wait_for_a_landing(self) -> None:
        import anyio

        self._landed = anyio.Event()
        await self._landed.wait()

    async def _rest_until_due(self) -> bool:
        """Wait until the first of what is put off may be due, or for a stop; False if nothing is queued."""
        try:
            files = await run_to_its_end(self._spool.files)
        except SpoolError as error:
            self._end(error)
            return False
        queued = [file for file in files if file.state == "queued" and file.path not in self._known]
        if queued:
            first = min(file.until or 0.0 for file in queued) - self._now()
            await self._rest(min(max(first, BRIEFLY), RARELY))
        return queued != []

    async def _round(self, tasks: "anyio.abc.TaskGroup") -> bool:
        """Take what is due, and begin to send it. Was there anything?"""
        some = False
        claimed = self._claims()
        self._at_once = self._options.connections
        while True:
            while len(self._taken) >= self._at_once:
                await self._wait_for_a_landing()
            taken = await self._take(claimed)
            if taken is None:
                return some
            if isinstance(taken, Entry):
                some = True
                tasks.start_soon(self._attempt, taken)
            else:
                some = self._tell_unfit(taken) or some

    def _claims(self) -> Iterator[Entry | Unfit]:
        """What is due, taken one after the other. Raises SpoolError."""
        self._spool.check_place()
        yield from self._spool.claim(in_doubt=self._retry.in_doubt, now=self._now)

    @property
    def _crowded(self) -> bool:
        """Were mails put back in this round for whom there was no session?"""
        return self._at_once < self._options.connections

    @property
    def _halted(self) -> bool:
        """Is nothing to be taken now?"""
        return self._stopping or self._down is not None

    async def _take(self, claimed: Iterator[Entry | Unfit]) -> Entry | Unfit | None:
        """The next file, unless there is none, or a reason to stop."""

        def claim() -> Entry | Unfit | None:
            taken = next(claimed, None)
            if isinstance(taken, Entry):
                self._taken[taken] = Outcome()
            return taken

        while not self._halted:
            try:
                taken = await run_to_its_end(claim)
                if not isinstance(taken, Entry) or await self._is_to_be_tried(taken):
                    return taken
            except SpoolError as error:
                self._end(error)
        return None

    async def _is_to_be_tried(self, entry: Entry) -> bool:
        """Is a file that was taken to be sent now? Otherwise it is settled. Raises SpoolError."""
        ready = unrefused(entry) != () and not (self._halted or self._is_over(entry))
        try:
            if self._halted:  # meanwhile
                await run_to_its_end(partial(put_back, entry))
            elif not entry.in_doubt and not ready:  # it had failed, and somebody has queued it again
                await run_to_its_end(partial(forget, entry))
                ready = True
            elif not unrefused(entry):  # a crash came between writing that down and what follows from it
                said = SMTPError(str(entry.notes.get("said")))
                await self._carry_out(entry, Plan("failed", (), entry.notes), Outcome(item=entry.path, error=said))
        finally:
            if not ready:
                self._let_go(entry)
        return ready

    def _let_go(self, entry: Entry) -> None:
        """Have done with an entry, settled or in doubt."""
        del self._taken[entry]
        entry.leave()
        self._landed.set()

    def _is_over(self, entry: Entry) -> bool:
        """Is it in doubt after its last attempt? Then it stays so, for a human."""
        attempts = attempts_of(entry.notes)
        return entry.in_doubt and attempts > 0 and self._retry.used_up(attempts, self._age(entry))

    def _age(self, entry: Entry) -> float:
        return 0.0 if entry.since is None else max(self._now() - entry.since, 0.0)

    # One mail

    async def _attempt(self, entry: Entry) -> None:
        """Send a mail, and settle its file."""
        path, begun, returned = entry.path, False, self._returned

        @asynccontextmanager
        async def lease() -> AsyncGenerator[Session]:
            nonlocal begun, returned
            begun = False  # where a session that was used before turns out to be dead, it goes by another
            async with self._lease(until) as session:
                begun = True
                try:
                    yield session
                finally:
                    self._returned, returned = self._returned + 1, returned + 1

        try:
            total = self._options.limits.total
            until = None if total is None else time.monotonic() + total
            try:
                outcome = await self._deliver(path, prepared(entry), lease, until)
            except SMTPError as error:
                outcome = error.outcome or Outcome(item=path, error=error)
            except BaseException:
                await self._break_off(entry, self._taken[entry])
                raise
            begun = begun or bool(outcome.accepted or outcome.refused)  # by a session before the last
            others = self._returned > returned or any(known.error is None for known in list(self._taken.values()))
            if begun:
                self._outages = 0
            elif not (others and self._retry.mends(outcome.error)):
                self._down = outcome.error
            await self._settle(entry, outcome, begun=begun)
            if not begun:
                self._at_once = max(len(self._taken) - 1, 1)
        except SpoolError as error:
            self._end(error)
        finally:
            self._let_go(entry)

    def _hear(self, event: Settled) -> None:
        for entry in list(self._taken):
            if isinstance(event.item, str) and event.item == entry.path:  # others may send by this client too
                self._taken[entry] = event.outcome

    async def _break_off(self, entry: Entry, outcome: Outcome) -> None:
        """Settle a mail in whose sending somebody broke in: by what is known; no attempt is counted."""
        if outcome.accepted or outcome.in_doubt:
            await self._settle(entry, outcome, begun=True)
        else:
            await run_to_its_end(partial(put_back, entry))

    async def _settle(self, entry: Entry, outcome: Outcome, *, begun: bool) -> None:
        """Settle the file of a mail, and tell of it. Raises SpoolError."""
        if begun or (self._down is not None and self._age(entry) >= self._retry.maximum_age):
            age, now, chance = self._age(entry), self._now(), self._chance()
            plan = planned(entry, outcome, retry=self._retry, age=age, now=now, chance=chance)
        else:
            plan = Plan("sending" if entry.in_doubt else "queued", (), entry.notes)
        await self._carry_out(entry, plan, outcome)

    async def _carry_out(self, entry: Entry, plan: Plan, outcome: Outcome) -> None:
        """Settle a file as planned, and tell of it. Raises SpoolError."""
        state: Any = None

        def settle() -> None:
            nonlocal state
            carry_out(entry, plan, keep=self._keep)
            state = plan.state

        try:
            await run_to_its_end(settle)
        finally:
            self._tell(entry.path, state or entry.path.rpartition(".")[2], outcome, plan)

    def _tell(self, path: str, state: Any, outcome: Outcome, plan: Plan | None = None) -> None:
        attempts = attempts_of(plan.notes) if plan is not None else 0
        until = plan.until if plan is not None and state == "queued" else None
        at = time.monotonic()
        self._observers.emit(
            Attempted(
                at=at, session=0, item=path, path=path, state=state, outcome=outcome, attempts=attempts, until=until
            )
        )

    def _tell_unfit(self, unfit: Unfit) -> bool:
        """Tell of a file that cannot be sent; False if that was told before."""
        if unfit.path in self._known:
            return False
        self._known.add(unfit.path)
        state = "failed" if isinstance(unfit.error, InvalidMail) else unfit.path.rpartition(".")[2]
        self._tell(unfit.path, state, Outcome(item=unfit.path, error=unfit.error))
        return True


async def enqueue(
    directory: str | os.PathLike[str],
    message: Any,
    sender: str | None = None,
    recipients: str | Iterable[str] | None = None,
    *,
    dsn: "DSN | None" = None,
    require_tls: bool = False,
) -> str:
    """Put a mail into the directory of a spool, for a worker; return the path of its file.

    Everything is as for ``Client.send``. The mail is on the disk then, and survives a power cut. The directory is
    there already, and belongs to this user. Raises InvalidMail, UsageError and SpoolError: nothing is queued then.
    """
    mail = await prepare(message, sender, recipients, dsn=dsn, require_tls=require_tls, run=run_in_worker)

    def add() -> str:
        with Spool(directory) as spool:
            return spool.add(mail.envelope, mail.mail_data, message_id=mail.message_id)

    return await run_to_its_end(add)
