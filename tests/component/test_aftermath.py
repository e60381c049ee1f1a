"""What is left behind, whatever went wrong: nothing open, nothing running, and a component that can be used again."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import smtpkit
from smtpkit import SMTP, AsyncSMTP, ComponentError
from smtpkit.component.fields import Hook
from smtpkit.testing import Fault, Occurrence, Script, Server
from tests.component.ways import WAYS, call, make, run
from tests.test_cancellation import Steps

HOOKS = [row.name for row in SMTP.rows() if isinstance(row, Hook)]
REPLIES = {"RCPT:no@example.com": "550 5.1.1 no", "EXPN": "250-<ann@example.com>\n250 <bob@example.com>"}


class MineError(Exception):
    """What the handler raises."""


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that refuses one recipient and knows one list."""
    with Server(Script(replies=REPLIES)) as server:
        yield server


def descriptors() -> int:
    """How many files and sockets this process has open."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def told(smtp: Any, hook: str) -> Any:
    """Do something that this event tells of."""
    if hook == "on_expand":
        return call(smtp.expand, "list")
    return call(smtp.disconnect if hook == "on_connection_status" and smtp.connected else smtp.send)


@WAYS
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("failure", [MineError, ComponentError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("first", [False, True], ids=["unconnected", "connected"])
@pytest.mark.filterwarnings("error")
def test_a_handler_that_raises(way: str, hook: str, failure: Any, first: bool, server: Server) -> None:  # noqa: FBT001
    """Out of each event whatever it raises comes out of the method; the next mail goes at once, nothing stays open."""

    async def scenario() -> None:
        smtp = make(way, server)
        smtp.b_cc = "no@example.com"
        if first:
            await call(smtp.connect)

        def handler(event: object) -> None:
            raise failure(1, "mine") if failure is ComponentError else failure("mine")

        setattr(smtp, hook, handler)
        with pytest.raises(failure, match="mine"):
            await told(smtp, hook)
        assert smtp.idle
        setattr(smtp, hook, None)
        outcome = await call(smtp.send)
        assert outcome.accepted == ("bob@example.com",)
        await call(smtp.disconnect)
        assert not smtp.connected

    run(way, scenario)


@WAYS
@pytest.mark.parametrize("failure", [MineError, ComponentError])
def test_a_handler_does_not_hide_the_verdict(way: str, failure: Any, server: Server) -> None:
    """Who sees a handler's error learns from it that the mail was accepted, and for whom."""

    async def scenario() -> None:
        smtp = make(way, server)

        def handler(event: object) -> None:
            raise failure(166, "mine")

        smtp.on_end_transfer = handler
        with pytest.raises(failure) as caught:
            await call(smtp.send)
        assert caught.value.__notes__ == ["a handler failed, and the mail was accepted for bob@example.com"]
        if isinstance(caught.value, ComponentError):
            assert caught.value.outcome is not None
            assert caught.value.outcome.accepted == ("bob@example.com",)
        smtp.on_end_transfer, smtp.on_connection_status = None, handler
        with pytest.raises(failure) as caught:
            await call(smtp.connect)
        assert not hasattr(caught.value, "__notes__")
        smtp.on_connection_status = None
        await call(smtp.disconnect)

    run(way, scenario)


@pytest.mark.parametrize("way", ["asyncio", "trio"])
@pytest.mark.parametrize("first", [False, True], ids=["unconnected", "connected"])
def test_a_send_cancelled_at_every_await(way: str, first: bool) -> None:  # noqa: FBT001
    """Wherever it is given up the component is idle, nothing stays open, and the next mail goes at once."""
    ended, nth = False, 0
    while not ended:
        nth += 1
        with Server() as server:

            async def scenario(server: Server = server, nth: int = nth) -> None:
                nonlocal ended
                smtp = make(way, server)
                if first:
                    await smtp.connect()
                ended = await Steps(nth).run(smtp.send())
                assert smtp.idle
                assert (await smtp.send()).accepted
                await smtp.disconnect()

            run(way, scenario)
        assert len(server.received) in {1, 2}
    assert nth > 2


@pytest.mark.parametrize("way", ["asyncio", "trio"])
def test_a_send_cancelled_behind_its_last_octet(way: str) -> None:
    """No error can say that the mail is in doubt: the trail says it, and for whom."""
    arrived = threading.Event()

    def hold(occurrence: Occurrence) -> Fault:
        arrived.set()
        return Fault("stall")

    with Server(Script(replies={"END": hold})) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            remarks: list[str] = []
            smtp.on_pi_trail = lambda e: remarks.append(e.message) if e.direction == 2 else None
            async with anyio.create_task_group() as group:
                group.start_soon(smtp.send)
                await anyio.to_thread.run_sync(arrived.wait, 10)
                group.cancel_scope.cancel()
            assert remarks == ["in doubt, it may have been accepted: bob@example.com"]
            assert smtp.idle

        run(way, scenario)


@WAYS
def test_two_hundred_uses(way: str, server: Server) -> None:
    """By itself, over a connection, refused, and with no server: no descriptor and no thread is left."""

    async def scenario() -> None:
        smtp = make(way, server)
        await call(smtp.send)
        before, threads = descriptors(), threading.active_count()
        for number in range(200):
            match number % 4:
                case 0:
                    await call(smtp.send)
                case 1:
                    await call(smtp.connect)
                    await call(smtp.send)
                    await call(smtp.disconnect)
                case 2:
                    smtp.send_to = "no@example.com"
                    with pytest.raises(ComponentError):
                        await call(smtp.send)
                    smtp.send_to = "bob@example.com"
                case _:
                    smtp.mail_port = 1
                    with pytest.raises(ComponentError):
                        await call(smtp.connect)
                    smtp.mail_port = server.port
        assert descriptors() <= before + 3  # the server's ends of the last connections
        assert threading.active_count() <= threads + 1

    run(way, scenario)


@WAYS
def test_one_that_is_never_closed(way: str, server: Server) -> None:
    """It is collected, its socket is closed, and Python warns of it, as of a file that nobody closed."""

    async def scenario() -> None:
        smtp = make(way, server)
        await call(smtp.connect)
        del smtp
        gc.collect()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(way, scenario)
        gc.collect()
    assert {each.category for each in caught} == {ResourceWarning}


@WAYS
@pytest.mark.parametrize("moment", ["EHLO", "MAIL", "RCPT", "DATA", "END", "QUIT"])
@pytest.mark.parametrize("fault", ["reset", "close"])
@pytest.mark.filterwarnings("error")
def test_a_block_that_raises(way: str, moment: str, fault: Any) -> None:
    """The block's own error is the one that is seen, also where the connection ends; there is none afterwards."""
    with Server(Script(replies={moment: Fault(fault)}), Script()) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            with pytest.raises(MineError):
                await _block(smtp)
            assert not smtp.connected
            assert smtp.idle
            await call(smtp.send)

        run(way, scenario)
        assert len(server.received) >= 1


async def _block(smtp: Any) -> None:
    async with AsyncExitStack() as stack:
        if isinstance(smtp, SMTP):
            stack.enter_context(smtp)
        else:
            await stack.enter_async_context(smtp)
        try:
            await call(smtp.connect)
            await call(smtp.send)
        except ComponentError as error:
            assert error.code in {162, 1120}  # noqa: PT017  it may raise or not
        raise MineError


@pytest.mark.asyncio
async def test_a_block_that_raises_while_a_task_sends() -> None:
    """The block's error is not hidden by "busy"; without one it is told."""
    arrived, going = threading.Event(), threading.Event()

    def hold(occurrence: Occurrence) -> str:
        arrived.set()
        going.wait(10)
        return "250 ok"

    async with Server(Script(replies={"MAIL": hold})) as server:
        smtp = make("asyncio", server)
        sending = []

        async def block(*, fails: bool) -> None:
            async with smtp:
                sending.append(asyncio.create_task(smtp.send()))
                await asyncio.to_thread(arrived.wait, 10)
                if fails:
                    raise MineError

        with pytest.raises(MineError):
            await block(fails=True)
        going.set()
        assert (await sending[0]).accepted
        arrived.clear()
        going.clear()
        with pytest.raises(ComponentError, match="busy"):
            await block(fails=False)
        going.set()
        assert (await sending[1]).accepted


def test_a_block_that_raises_while_a_thread_sends() -> None:
    """The same for threads."""
    arrived, going = threading.Event(), threading.Event()

    def hold(occurrence: Occurrence) -> str:
        arrived.set()
        going.wait(10)
        return "250 ok"

    with Server(Script(replies={"MAIL": hold})) as server:
        smtp = make("blocking", server)
        thread = threading.Thread(target=smtp.send)

        def block() -> None:
            with smtp:
                thread.start()
                arrived.wait(10)
                raise MineError

        with pytest.raises(MineError):
            block()
        going.set()
        thread.join(10)
        assert len(server.received) == 1


def test_threads_by_turns(server: Server) -> None:
    """Threads that wait for each other use one SMTP over one connection."""
    smtp = make("blocking", server)
    turn = threading.Lock()
    failures: list[BaseException] = []

    def send() -> None:
        try:
            for _ in range(10):
                with turn:
                    smtp.send()
        except BaseException as failure:  # noqa: BLE001  a thread's end is the test's failure
            failures.append(failure)

    with smtp:
        smtp.connect()
        threads = [threading.Thread(target=send) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert failures == []
    assert len(server.received) == 50
    assert len(server.sessions) == 1


def test_one_loop_after_another(server: Server) -> None:
    """An AsyncSMTP goes on in the next loop; a connection of the loop before is a clear error, once."""

    async def send() -> None:
        await smtp.send()

    async def connect() -> None:
        await smtp.connect()

    smtp: AsyncSMTP = make("asyncio", server)
    asyncio.run(send())
    asyncio.run(send())
    asyncio.run(connect())
    with pytest.raises(ComponentError, match="event loop") as caught:
        asyncio.run(send())
    assert caught.value.code == 168
    assert not smtp.connected
    asyncio.run(send())
    assert len(server.received) == 3


FORKING = """
import os
from smtpkit import SMTP

smtp = SMTP()
smtp.mail_server, smtp.mail_port = %(host)r, %(port)r
smtp.from_, smtp.send_to = "ann@example.com", "bob@example.com"
with smtp:
    smtp.connect()
    assert smtp._turn.acquire(blocking=False)  # as if another thread were in the middle of a method
    child = os.fork()
    if child:
        smtp._turn.release()
    smtp.subject = "parent" if child else "child"
    smtp.send()
    if child:
        assert os.waitpid(child, 0)[1] == 0
        smtp.send()
"""


def test_after_a_fork_the_connection_is_the_parents(server: Server) -> None:
    """The child opens one of its own, whatever the parent's threads hold, and leaves the parent's alone."""
    ran = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", FORKING % {"host": server.host, "port": server.port}],
        env={**os.environ, "PYTHONPATH": str(Path(smtpkit.__file__).parents[1])},
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert (ran.returncode, ran.stderr) == (0, b"")
    by = sorted((mail.message()["Subject"], mail.session) for mail in server.received)
    parent, child = server.sessions
    assert by == [("child", child.number), ("parent", parent.number), ("parent", parent.number)]
    assert [session.said("C").count(b"QUIT") for session in server.sessions] == [1, 1]
