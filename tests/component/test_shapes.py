"""The shapes around the component: help, errors that travel, an event loop that is never blocked, many at once."""

import pickle
import pydoc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import smtpkit
from smtpkit import SMTP, AsyncSMTP, ComponentError, Refused, Reply
from smtpkit.component.errors import CODES, told
from smtpkit.component.fields import methods
from smtpkit.testing import Server
from tests.component.ways import make


@pytest.mark.parametrize("kind", [SMTP, AsyncSMTP])
def test_help(kind: Any) -> None:
    """``help`` shows each row and each method, with what it means."""
    shown = pydoc.plain(pydoc.render_doc(kind))
    flat = " ".join(shown.replace("|", " ").split())
    for row in kind.rows():
        assert f"{row.documented}: {' '.join(row.meaning.split())}" in flat
    for method in methods(kind):
        assert (method.__doc__ or "").split("\n")[0] in flat


def test_an_error_travels() -> None:
    """It is pickled and comes back with its code, its message and the reply; its text has both."""
    error = told(Refused(Reply(550, ("5.1.1 no",)), "RCPT"))
    back = pickle.loads(pickle.dumps(error))
    assert (back.code, back.message, back.reply) == (161, "RCPT: 550 5.1.1 no", Reply(550, ("5.1.1 no",)))
    assert str(back) == "RCPT: 550 5.1.1 no [161]"
    assert isinstance(back, smtpkit.SMTPError)


def test_every_error_of_the_library_has_a_code() -> None:
    """The table of codes fits each class of error, the special before the general."""

    def below(kind: type[Any]) -> set[type[Any]]:
        return {kind}.union(*(below(sub) for sub in kind.__subclasses__()))

    for kind in below(smtpkit.SMTPError) - {smtpkit.SMTPError, smtpkit.TransportError, ComponentError}:
        assert any(issubclass(kind, known) for known, _ in CODES), kind
    for index, (kind, _) in enumerate(CODES):
        assert not any(issubclass(kind, earlier) for earlier, _ in CODES[:index])


@pytest.mark.asyncio
async def test_the_loop_is_not_blocked(tmp_path: Path) -> None:
    """Connecting, sending, queueing and processing a queue do nothing in the loop that blocks it."""
    await anyio.Path(tmp_path).chmod(0o700)
    async with Server() as server:
        smtp = make("asyncio", server)
        smtp.message_text = ("x" * 78 + "\r\n") * 5000
        await smtp.send()
        for _ in range(3):
            await smtp.queue(str(tmp_path))
        await smtp.process_queue(str(tmp_path))
        assert len(server.received) == 4


@pytest.mark.asyncio
async def test_components_side_by_side() -> None:
    """Many components send at once in one loop, each its own mail."""
    async with Server() as server:

        async def one(number: int) -> None:
            smtp = make("asyncio", server)
            smtp.send_to = f"user{number}@example.com"
            await smtp.send()

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(one, number)
        assert {mail.paths[0] for mail in server.received} == {f"user{number}@example.com" for number in range(20)}


def _process(directory: Path, server: Server, failures: list[BaseException]) -> Callable[[], None]:
    def process() -> None:
        try:
            make("blocking", server).process_queue(str(directory))
        except BaseException as failure:  # noqa: BLE001  a thread's end is the test's failure
            failures.append(failure)

    return process


def test_two_processors_at_once(tmp_path: Path) -> None:
    """Two components empty one queue of a hundred mails, and each mail is delivered once."""
    tmp_path.chmod(0o700)
    with Server() as server:
        smtp = make("blocking", server)
        for number in range(100):
            smtp.send_to = f"user{number}@example.com"
            smtp.queue(str(tmp_path))
        failures: list[BaseException] = []
        threads = [threading.Thread(target=_process(tmp_path, server, failures)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(50)
        assert failures == []
        assert sorted(mail.paths[0] for mail in server.received) == sorted(
            f"user{number}@example.com" for number in range(100)
        )
        assert list(tmp_path.iterdir()) == []
