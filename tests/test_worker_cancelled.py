"""A worker whose task is cancelled as asyncio does it, from which no scope shields: its files say what is so."""

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import smtpkit
from smtpkit.spool import Entry
from smtpkit.spool.directory import Directory
from smtpkit.testing import Script, Server
from tests.test_cancellation import Steps, steps

MAILS = 3
HOLD = smtpkit.Retry(first=0.01, most=0.01, greylisted=0.01, in_doubt="hold")
DISK = ("names", "lock", "rename", "sync", "unlink", "close")  # what a worker does on the disk

# of the task of a mail that is cancelled before it begins, whenever it is collected
NEVER_BEGUN = pytest.mark.filterwarnings("ignore:coroutine 'Worker._attempt' was never awaited:RuntimeWarning")


class Run:
    """A worker on a few mails, one of which has a recipient who is put off, and what it told of each."""

    def __init__(self, folder: Path, server: Server) -> None:
        folder.mkdir(mode=0o700)
        self.folder = folder
        self.server = server
        self.perhaps: set[str] = set()  # the mails that may have been accepted, by name of file
        for number in range(MAILS):
            people = [f"user{number}@example.org", "eve@example.org"][: 1 + (number == 1)]
            mail = b"Message-ID: <%d@x>\r\n\r\nHi.\r\n" % number
            asyncio.run(smtpkit.enqueue(folder, mail, "ann@example.com", people))

    async def work(self, make: Any = None) -> None:
        """Work until nothing is queued; ``make`` is the task factory by then."""
        async with smtpkit.Client(self.server.url, connections=2) as client:
            client.on(smtpkit.Settled, self._hear)
            loop = asyncio.get_running_loop()
            loop.set_task_factory(make)
            try:
                await client.worker(self.folder, retry=HOLD).run(wait=True)
            finally:
                loop.set_task_factory(None)

    def _hear(self, event: smtpkit.Settled) -> None:
        if event.outcome.accepted or event.outcome.in_doubt:
            self.perhaps.add(Path(str(event.item)).stem)

    def judge(self) -> None:
        """Is nothing in doubt that was certainly not sent, has nobody a lock, and does the next run send the rest?"""
        files = {file.stem: file.suffix for file in self.folder.iterdir()}
        assert set(files.values()) <= {".queued", ".sending"}
        doubt = {name for name, state in files.items() if state == ".sending"}
        assert doubt <= self.perhaps
        with smtpkit.Spool(self.folder) as spool:
            assert sorted(_taken(entry) for entry in spool.claim()) == sorted(files)
        asyncio.run(self.work())
        assert {file.stem for file in self.folder.iterdir()} == doubt
        served = [path for mail in self.server.received for path in mail.paths]
        assert len(served) == len(set(served))
        assert MAILS + 1 - 2 * len(doubt) <= len(served)


def _taken(entry: Any) -> str:
    assert isinstance(entry, Entry)
    if entry.in_doubt:
        entry.leave()
    else:
        entry.give_back()
    return Path(entry.path).stem


def _script() -> Script:
    return Script(replies={"RCPT:eve@example.org": ["450 4.2.0 greylisted", "250 ok"]})


@pytest.mark.timeout(120)
def test_cancelled_at_every_await(memory_path: Path) -> None:
    """At whichever wait of its own the task is cancelled: CancelledError, and the files say what became of them."""
    ended, nth = False, 0
    while not ended:
        nth += 1
        with Server(_script()) as server:
            run = Run(memory_path / str(nth), server)

            async def scenario(run: Run = run, nth: int = nth) -> bool:
                cancelled: Steps = steps(nth, native=True)
                async with asyncio.timeout(20):
                    await cancelled.run(run.work())
                return cancelled.count < nth

            ended = asyncio.run(scenario())
            run.judge()
    assert nth > 20


class Moment:
    """The nth call of these methods, which lasts until the loop has heard ``ring`` and done what comes of it."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, nth: int, disk: type = Directory, names: Iterable[str] = DISK
    ) -> None:
        self.count = 0
        self._nth = nth
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ring: Callable[[], object]
        self._guard = threading.Lock()
        for name in names:
            monkeypatch.setattr(disk, name, self._counted(getattr(disk, name)))

    def begin(self, ring: Callable[[], object]) -> None:
        """Count from now on."""
        self._loop, self._ring = asyncio.get_running_loop(), ring

    def _counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            if self._loop is not None:
                with self._guard:
                    self.count += 1
                    rings = self.count == self._nth
                if rings:
                    self._let_it_ring(self._loop)
            return method(*arguments)

        return counted

    def _let_it_ring(self, loop: asyncio.AbstractEventLoop) -> None:
        heard = threading.Event()

        def later(turns: int) -> None:
            if turns:
                loop.call_soon(later, turns - 1)
            else:
                heard.set()

        loop.call_soon_threadsafe(self._ring)
        loop.call_soon_threadsafe(later, 10)
        assert heard.wait(10)


async def _cancelled(run: Run, moment: Moment) -> None:
    task = asyncio.create_task(run.work())
    moment.begin(task.cancel)
    await task


async def _timed_out(run: Run, moment: Moment) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(None) as limit:
            moment.begin(lambda: limit.reschedule(0))
            await run.work()
    await asyncio.sleep(0)  # of a cancellation nothing is left
    if limit.expired():
        raise asyncio.CancelledError


async def _left_behind(run: Run, moment: Moment) -> None:
    """The main task ends, and asyncio.run cancels all others."""
    over = asyncio.Event()
    task = asyncio.create_task(run.work())
    task.add_done_callback(lambda _: over.set())
    moment.begin(over.set)
    await over.wait()
    if not task.done():
        raise asyncio.CancelledError


@NEVER_BEGUN
@pytest.mark.timeout(120)
@pytest.mark.parametrize("way", [_cancelled, _timed_out, _left_behind])
def test_cancelled_at_every_call_to_the_disk(
    way: Callable[[Run, Moment], Coroutine[Any, Any, None]], memory_path: Path
) -> None:
    """While whichever thread is at the disk: it comes to its end first, and what it took or settled is not lost."""
    ended, nth = False, 0
    while not ended:
        nth += 1
        with Server(_script()) as server, pytest.MonkeyPatch.context() as patch:
            run, moment = Run(memory_path / str(nth), server), Moment(patch, nth)
            try:
                asyncio.run(way(run, moment))
                ended = True
            except asyncio.CancelledError:
                assert moment.count >= nth
            patch.undo()
            run.judge()
    assert moment.count < nth
    assert nth > 20
    gc.collect()


@NEVER_BEGUN
@pytest.mark.parametrize("nth", range(1, MAILS + 1))
def test_cancelled_before_it_begins(memory_path: Path, nth: int) -> None:
    """All tasks are cancelled as that of a mail is made, which never begins then: the mail is put back."""
    count = 0

    def make(loop: asyncio.AbstractEventLoop, what: Any, **options: Any) -> asyncio.Task[Any]:
        nonlocal count
        count += 1
        made = asyncio.Task(what, loop=loop, **options)
        if count == nth:
            for task in asyncio.all_tasks():
                task.cancel()
        return made

    with Server(_script()) as server:
        run = Run(memory_path / "spool", server)
        with suppress(asyncio.CancelledError):
            asyncio.run(run.work(make))
        assert count == nth
        run.judge()
    gc.collect()


def test_enqueue_cancelled_at_every_await(memory_path: Path) -> None:
    """A mail is queued whole or not at all, and nobody is at its file any more."""
    ended, nth = False, 0
    while not ended:
        nth += 1
        folder = memory_path / str(nth)
        folder.mkdir(mode=0o700)

        async def scenario(folder: Path = folder, nth: int = nth) -> bool:
            return await steps(nth, native=True).run(smtpkit.enqueue(folder, b"a: b\r\n\r\n", "ann@x.org", "bob@x.org"))

        ended = asyncio.run(scenario())
        with smtpkit.Spool(folder) as spool:
            queued = [_taken(entry) for entry in spool.claim()]
        assert [file.name for file in folder.iterdir()] == [f"{name}.queued" for name in queued]
        assert ended <= len(queued) <= 1
    assert nth > 1
