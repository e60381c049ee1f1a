"""Queue and ProcessQueue given up in their middle, by interrupt() or by cancellation: the directory says what is so."""

import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from smtpkit import ComponentError
from smtpkit.testing import Script, Server
from tests.component.ways import WAYS, call, make, run
from tests.test_cancellation import steps

MAILS = ("<a@x>", "<b@x>", "<c@x>")
REFUSED = "<b@x>"
HOOKS = ("connection_status", "start_transfer", "transfer", "end_transfer", "error", "pi_trail")


def script() -> Script:
    """One of the three is refused."""
    return Script(replies={"RCPT:b@example.com": "550 5.1.1 no"})


def filled(directory: Path) -> dict[str, str]:
    """Queue the mails; by the name of each file, the Message-ID of the mail in it."""
    directory.mkdir(mode=0o700)
    smtp = make("blocking", None)
    for message_id in MAILS:
        smtp.message_id, smtp.send_to = message_id, f"{message_id[1]}@example.com"
        smtp.queue(str(directory))
    return dict(zip(sorted(file.stem for file in directory.iterdir()), MAILS, strict=True))


def waiting(directory: Path) -> list[Path]:
    """The files that are queued."""
    return list(directory.glob("*.queued"))


def received(server: Server) -> Counter[str]:
    """How often the server has got each mail."""
    return Counter(mail.message()["Message-ID"] for mail in server.received)


def judge(directory: Path, names: dict[str, str], got: Counter[str]) -> set[str]:
    """Does each file say what became of its mail, and does the next run send what is left? Returns the states."""
    states = {names[file.stem]: file.suffix for file in directory.iterdir()}
    for message_id in MAILS:
        match states.get(message_id):
            case None:
                assert got[message_id] == 1
            case ".queued":
                assert got[message_id] == 0
            case ".failed":
                assert message_id == REFUSED
            case state:
                assert state == ".sending"
    assert Counter(states.values())[".sending"] <= 1
    with Server(script()) as server, suppress(ComponentError):  # the refused one
        make("blocking", server).process_queue(str(directory))
    total = got + received(server)
    assert {names[file.stem]: file.suffix for file in directory.iterdir()} == {REFUSED: ".failed"}
    assert total.keys() == {"<a@x>", "<c@x>"}
    assert all(total[message_id] == 1 or states[message_id] == ".sending" for message_id in total)
    return set(states.values())


@WAYS
@pytest.mark.timeout(120)
def test_interrupted_at_every_event(way: str, memory_path: Path) -> None:
    """The run stops with 301 at whatever event; the mail in the air is in doubt or queued again, as is so."""
    seen: set[str] = set()
    events, nth = 1, 0
    while nth < events:
        nth += 1
        directory = memory_path / str(nth)
        names = filled(directory)
        with Server(script()) as server:
            smtp = make(way, server)
            events = 0

            def heard(_: object, smtp: Any = smtp, nth: int = nth) -> None:
                nonlocal events
                events += 1
                if events == nth:
                    smtp.interrupt()

            for hook in HOOKS:
                setattr(smtp, f"on_{hook}", heard)

            async def scenario(smtp: Any = smtp, directory: Path = directory) -> None:
                with pytest.raises(ComponentError) as caught:
                    await call(smtp.process_queue, str(directory))
                assert caught.value.code in {301, 161}
                assert caught.value.code == 301 or not waiting(directory)
                assert smtp.idle
                assert not smtp.connected

            run(way, scenario)
        seen |= judge(directory, names, received(server))
    assert nth > 30
    assert {".queued", ".failed"} <= seen


@WAYS
def test_interrupted_while_the_verdict_is_awaited(way: str, memory_path: Path) -> None:
    """What was sent whole and not answered is in doubt, and the error says so; what comes after it is queued."""
    directory = memory_path / "queue"
    names = filled(directory)
    with Server(Script(delay={"END": 30})) as server:

        async def scenario() -> None:
            smtp = make(way, server)

            def interrupt() -> None:
                server.wait_for(1)
                smtp.interrupt()

            other = threading.Thread(target=interrupt)
            other.start()
            with pytest.raises(ComponentError, match="may have been accepted") as caught:
                await call(smtp.process_queue, str(directory))
            other.join()
            assert caught.value.code == 301
            assert caught.value.outcome is not None
            assert caught.value.outcome.in_doubt == ("a@example.com",)

        run(way, scenario)
    assert {names[file.stem]: file.suffix for file in directory.iterdir()} == {
        "<a@x>": ".sending",
        "<b@x>": ".queued",
        "<c@x>": ".queued",
    }
    judge(directory, names, received(server))


CANCELLED = pytest.mark.parametrize(("way", "native"), [("asyncio", False), ("asyncio", True), ("trio", False)])


@CANCELLED
@pytest.mark.timeout(120)
def test_cancelled_at_every_await(way: str, native: bool, memory_path: Path) -> None:  # noqa: FBT001
    """No mail is taken by who is gone: what was not begun is queued again, what was accepted is gone from there."""
    ended, nth = False, 0
    seen: set[str] = set()
    while not ended:
        nth += 1
        directory = memory_path / str(nth)
        names = filled(directory)
        with Server(script()) as server:

            async def scenario(directory: Path = directory, server: Server = server, nth: int = nth) -> None:
                nonlocal ended
                smtp = make(way, server)
                with suppress(ComponentError):  # the refused one
                    cancelled = steps(nth, native=native)
                    await cancelled.run(smtp.process_queue(str(directory)))
                ended = cancelled.count < nth
                assert smtp.idle
                assert not smtp.connected

            run(way, scenario)
        seen |= judge(directory, names, received(server))
    assert nth > 20
    assert seen >= {".queued", ".failed"}  # and in doubt, where it was cancelled between the last octet and its reply


@CANCELLED
def test_queue_cancelled_at_every_await(way: str, native: bool, memory_path: Path) -> None:  # noqa: FBT001
    """The mail is queued whole or not at all, and nobody is at its file any more; what was returned is there."""
    ended, nth = False, 0
    while not ended:
        nth += 1
        directory = memory_path / str(nth)
        directory.mkdir(mode=0o700)
        paths: list[str] = []

        async def scenario(directory: Path = directory, paths: list[str] = paths, nth: int = nth) -> None:
            nonlocal ended

            async def queue() -> None:
                paths.append(await smtp.queue(str(directory)))

            smtp = make(way, None)
            cancelled = steps(nth, native=native)
            await cancelled.run(queue())
            ended = cancelled.count < nth

        run(way, scenario)
        files = sorted(map(str, directory.iterdir()))
        assert files[: len(paths)] == paths
        assert all(file.endswith(".queued") for file in files)
        with Server() as server:
            make("blocking", server).process_queue(str(directory))
        assert len(server.received) == len(files) <= 1
    assert nth > 1
    assert paths
