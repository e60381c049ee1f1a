"""Being busy: one method at a time, whoever calls the second one; nothing of it is sent, and the first one goes on."""

import threading
from typing import Any

import anyio
import pytest

from smtpkit import SMTP, AsyncSMTP, ComponentError
from smtpkit.component.fields import methods
from smtpkit.testing import Occurrence, Script, Server
from tests.component.ways import WAYS, call, make, run

# Every method that waits, with arguments that would do something if they were heard.
SECOND: dict[str, tuple[str, ...]] = {
    "connect": (),
    "disconnect": (),
    "do_events": (),
    "expand": ("list",),
    "process_queue": ("/nowhere",),
    "queue": ("/nowhere",),
    "send": (),
    "send_to_terminal_and_email": (),
    "send_to_terminal_only": (),
    "send_to_terminal_or_email": (),
    "set_command": ("NOOP",),
    "verify": ("bob",),
}
AT_ONCE = {"config", "interrupt", "reset_headers"}
ONE_MAIL = [b"EHLO", b"MAIL", b"RCPT", b"DATA", b"QUIT"]


@pytest.mark.parametrize("kind", [SMTP, AsyncSMTP])
def test_the_list_is_whole(kind: type[SMTP | AsyncSMTP]) -> None:
    """These are all the documented methods, and the one that stands for the property Command."""
    assert {method.__name__ for method in methods(kind)} == {*SECOND, *AT_ONCE} - {"set_command"}


class Held:
    """A server that answers to MAIL only when it is told to go on; the first mail is on its way until then."""

    def __init__(self) -> None:
        self.arrived, self.going = threading.Event(), threading.Event()
        self.codes: dict[str, int] = {}
        self.server = Server(Script(replies={"MAIL": self._hold}))

    def _hold(self, occurrence: Occurrence) -> str:
        self.arrived.set()
        self.going.wait(50)
        return "250 ok"

    async def attempt(self, smtp: Any, name: str) -> None:
        """Call a method, and keep the number of its error."""
        try:
            await call(getattr(smtp, name), *SECOND[name])
        except ComponentError as error:
            self.codes[name] = error.code
        if len(self.codes) == len(SECOND):
            self.going.set()

    def judge(self) -> None:
        """All were busy, and the server has seen the one mail and nothing else."""
        assert self.codes == dict.fromkeys(SECOND, 166)
        (session,) = self.server.sessions
        assert [line.split()[0] for line in session.said("C")] == ONE_MAIL
        assert len(self.server.received) == 1


@WAYS
def test_from_another_thread(way: str) -> None:
    """Each method called from another thread, with a loop of its own where it is awaited."""
    held = Held()
    with held.server as server:
        smtp = make(way, server)

        async def attempts() -> None:
            for name in SECOND:
                await held.attempt(smtp, name)

        def second() -> None:
            held.arrived.wait(50)
            run(way, attempts)

        thread = threading.Thread(target=second)
        thread.start()
        run(way, lambda: call(smtp.send))
        thread.join()
        held.judge()


@pytest.mark.parametrize("way", ["asyncio", "trio"])
def test_from_another_task(way: str) -> None:
    """Each method awaited by another task of the same loop."""
    held = Held()
    with held.server as server:

        async def scenario() -> None:
            smtp = make(way, server)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(smtp.send)
                while not held.arrived.is_set():  # noqa: ASYNC110  a thread's event
                    await anyio.sleep(0.001)
                for name in SECOND:
                    tasks.start_soon(held.attempt, smtp, name)

        run(way, scenario)
        held.judge()


@pytest.mark.parametrize("way", ["asyncio", "trio"])
def test_from_a_handler_by_a_task(way: str) -> None:
    """Each method that a handler has awaited by a task, since it cannot wait itself."""
    held = Held()
    with held.server as server:

        async def scenario() -> None:
            smtp = make(way, server)
            async with anyio.create_task_group() as tasks:

                def handler(event: Any) -> None:
                    if event.message.startswith("MAIL"):
                        for name in SECOND:
                            tasks.start_soon(held.attempt, smtp, name)

                smtp.on_pi_trail = handler
                await smtp.send()

        run(way, scenario)
        held.judge()


def _set_command(smtp: SMTP) -> None:
    smtp.command = "NOOP"


@pytest.mark.parametrize("moment", ["greeting", "connection", "trail", "start", "transfer", "end", "error"])
def test_from_a_handler(moment: str) -> None:
    """Each method called in a handler of whatever event, and the property Command set there."""
    codes: dict[str, int] = {}
    calls: dict[str, Any] = {name: lambda smtp, name=name: getattr(smtp, name)(*SECOND[name]) for name in SECOND} | {
        "command": _set_command
    }
    with Server(Script(replies={"RCPT:no@example.com": "550 no"})) as server:
        smtp = make("blocking", server)
        smtp.b_cc = "no@example.com"

        def handler(event: Any) -> None:
            if moment == "greeting" and not event.message.startswith("220"):
                return
            for name, method in calls.items():
                with pytest.raises(ComponentError) as caught:
                    method(smtp)
                codes[name] = caught.value.code

        hook = {"greeting": "pi_trail", "connection": "connection_status", "trail": "pi_trail"}.get(moment)
        hook = hook or {"start": "start_transfer", "end": "end_transfer"}.get(moment, moment)
        setattr(smtp, f"on_{hook}", handler)
        smtp.send()
        assert codes == dict.fromkeys(calls, 166)
        (session,) = server.sessions
        assert [line.split()[0] for line in session.said("C")] == [*ONE_MAIL[:3], b"RCPT", b"DATA", b"QUIT"]


@WAYS
def test_what_waits_for_nothing(way: str) -> None:
    """Settings, properties and reset_headers may be used in a handler: they say what the next mail is like."""
    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server)

            def handler(event: Any) -> None:
                smtp.on_pi_trail = None
                smtp.reset_headers()
                smtp.config("SendRSET=False")
                smtp.from_, smtp.send_to = "eve@example.com", "fay@example.com"

            smtp.on_pi_trail = handler
            await call(smtp.send)
            assert smtp.config("SendRSET") == "False"
            await call(smtp.send)

        run(way, scenario)
        assert [mail.paths for mail in server.received] == [("bob@example.com",), ("fay@example.com",)]


@WAYS
def test_free_again_after_an_error(way: str) -> None:
    """A method that has failed, by the server or by a handler, is not running any more."""
    with Server(Script(replies={"MAIL": ["550 no", "250 ok"]})) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            for _ in range(2):
                smtp.from_ = ""
                with pytest.raises(ComponentError, match="From is not set"):
                    await call(smtp.send)
                smtp.from_ = "ann@example.com"
            with pytest.raises(ComponentError, match="550"):
                await call(smtp.send)
            assert smtp.idle
            await call(smtp.send)

        run(way, scenario)
        assert len(server.received) == 1
