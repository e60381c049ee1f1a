"""The async face of ``send_many``: lanes in a task group, as many as pay, and their outcomes in one stream."""

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from smtpkit.bulk.growth import Growth
from smtpkit.bulk.intake import Intake
from smtpkit.bulk.lane import Lane
from smtpkit.errors import Outcome, SMTPError, UsageError

if TYPE_CHECKING:
    import anyio
    import anyio.abc


class Outcomes:
    """The outcomes of ``Client.send_many``, as they come. ``unsent`` holds the items that were not sent.

    ``unread`` holds the outcomes that were not read before the block was left. ``sessions`` is how many there are now.
    """

    def __init__(
        self,
        intake: Intake,
        lane: Callable[..., Lane],
        *,
        most: int,
        window: int,
        limit: float,
        free: Callable[[], int],
    ) -> None:
        self._intake = intake
        self._lane = partial(lane, done=self._is_done, surplus=self._is_surplus)
        self._growth = Growth(most)
        self._first = self._lane()
        self._window = window  # outcomes that wait to be read at most, before the lanes do
        self._limit = limit  # seconds to settle what is under way
        self._free = free  # how many sessions are to be had without waiting for others
        self._settled: deque[Outcome] = deque()
        self._lanes = 0
        self._joining: set[anyio.CancelScope] = set()  # one for each of them that has no session yet
        self._reading = self._leaving = False
        self._tasks: anyio.abc.TaskGroup | None = None
        self._news: anyio.Event  # there is an outcome, or there will be no more
        self._room: anyio.Event  # outcomes were read

    @property
    def unsent(self) -> list[Any]:
        """What was taken and certainly not sent, in order; and the rest of the input, where it is a list."""
        return self._intake.unsent

    @property
    def unread(self) -> list[Outcome]:
        """The outcomes that were not read before the block was left."""
        return list(self._settled)

    @property
    def sessions(self) -> int:
        """Over how many sessions mails go now."""
        return self._lanes - len(self._joining)

    async def __aenter__(self) -> Self:
        import anyio

        self._news, self._room = anyio.Event(), anyio.Event()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._intake.begin(self._tasks)
        self._lanes = 1
        self._tasks.start_soon(self._work, self._first, None)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        import anyio

        assert self._tasks is not None
        self._leaving = True
        self._intake.stop()
        self._room.set()
        self._recall()
        try:
            if kind is None or issubclass(kind, Exception):
                with anyio.move_on_after(self._limit, shield=True):
                    while self._lanes:
                        await self._wait()
        finally:
            self._tasks.cancel_scope.cancel()
            try:
                await self._tasks.__aexit__(None, None, None)
            finally:
                self._settled += self._intake.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome:
        if self._tasks is None:
            raise UsageError("write: async with client.send_many(…) as outcomes")
        if self._reading:
            raise UsageError("busy: another task is waiting for the next outcome")
        self._reading = True
        try:
            while not self._settled:
                if not self._lanes:
                    self._intake.check()
                    raise StopAsyncIteration
                await self._wait()
        finally:
            self._reading = False
        outcome = self._settled.popleft()
        if len(self._settled) < self._window:
            self._room.set()
        return outcome

    async def _wait(self) -> None:
        """Wait for an outcome, or for the end of a lane."""
        import anyio

        self._news = anyio.Event()
        await self._news.wait()

    async def _work(self, lane: Lane, joining: "anyio.CancelScope | None") -> None:
        """Work in one lane until it ends. One that is ``joining`` others is of no use where it has no session."""
        try:
            if joining is not None and not await self._join(lane, joining):
                return
            while (outcome := await lane.next()) is not None:
                await self._publish(outcome, lane)
        except BaseException:
            self._lanes -= 1
            await lane.give_up()
            self._settled += lane.settled
            raise
        finally:
            self._recall()
            self._news.set()

    async def _join(self, lane: Lane, joining: "anyio.CancelScope") -> bool:
        """Take a session for one more lane. False: it is counted out, as there is none, or no mail for it."""
        try:
            with joining:
                await lane.open()
        except SMTPError:
            self._growth.refused()
            return not self._is_done(idle=False)
        finally:
            self._joining.discard(joining)
        return not (joining.cancelled_caught and self._is_done(idle=True))

    def _recall(self) -> None:
        """Let those who are joining not wait for sessions any longer, when there are no more mails."""
        if self._intake.over and self._lanes == len(self._joining):
            for joining in self._joining:
                joining.cancel()

    def _is_surplus(self) -> bool:
        return self._lanes > self._growth.size

    def _is_done(self, *, idle: bool) -> bool:
        """May a lane end, for lack of mails or of a session? Then it is counted out."""
        spare = self._lanes > (self._growth.size if idle and self._intake.paced else 1)
        if spare or (idle and self._intake.over):
            self._lanes -= 1
            return True
        return False

    async def _publish(self, outcome: Outcome, lane: Lane) -> None:
        """Hand out an outcome; wait where too many have not been read."""
        import anyio

        self._settled.append(outcome)
        self._news.set()
        growth, ahead = self._growth, self._intake.ahead
        growth.settled(time.monotonic(), sessions=self.sessions, ahead=ahead)
        while ahead and self._lanes < growth.size and self._free() > len(self._joining):
            assert self._tasks is not None
            joining = anyio.CancelScope()
            self._joining.add(joining)
            self._lanes += 1
            self._tasks.start_soon(self._work, self._lane(), joining)
        if len(self._settled) > self._window and not self._leaving:
            await lane.pause()
        while len(self._settled) > self._window and not self._leaving:
            if self._room.is_set():
                self._room = anyio.Event()
            await self._room.wait()
