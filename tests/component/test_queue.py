"""Queue and ProcessQueue: what becomes of each file, and of the others, when something goes wrong."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from smtpkit import ComponentError
from smtpkit.testing import Fault, Script, Server
from tests.component.ways import WAYS, call, make, run

Answer = Any


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory that nobody else may write."""
    tmp_path.chmod(0o700)
    return tmp_path


def suffixes(directory: Path) -> list[str]:
    """The states of the files."""
    return sorted(path.suffix for path in directory.iterdir())


def names(directory: Path) -> list[str]:
    """The names of the files."""
    return sorted(path.name for path in directory.iterdir())


def read(path: str) -> bytes:
    """What is in a file."""
    return Path(path).read_bytes()


async def queue(smtp: Any, directory: Path, *users: str) -> None:
    """Queue a mail to each."""
    for name in users:
        smtp.send_to = f"{name}@example.com"
        await call(smtp.queue, str(directory))


@pytest.fixture
def silent() -> Server:
    """A server that is stopped: nobody listens at its port."""
    with Server() as server:
        return server


@WAYS
def test_one_connection_for_all(way: str, directory: Path) -> None:
    """All mails go over one connection, opened at the first and closed at the end; a connection of before stays."""
    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server)
            await queue(smtp, directory, "a", "b", "c")
            await call(smtp.process_queue, str(directory))
            assert len(server.sessions) == 1
            assert not smtp.connected
            await call(smtp.connect)
            await queue(smtp, directory, "d")
            await call(smtp.process_queue, str(directory))
            assert smtp.connected
            await call(smtp.disconnect)

        run(way, scenario)
        assert {mail.paths[0] for mail in server.received} == {f"{name}@example.com" for name in "abcd"}
        assert server.sessions[0].errors == []
        assert suffixes(directory) == []


@WAYS
def test_an_empty_queue_needs_no_server(way: str, directory: Path, silent: Server) -> None:
    """Without a mail nobody connects."""

    async def scenario() -> None:
        await call(make(way, silent).process_queue, str(directory))

    run(way, scenario)


@WAYS
def test_the_file(way: str, directory: Path) -> None:
    """It holds the envelope, blind copies and options too, and the mail; and no password."""

    async def scenario() -> None:
        smtp = make(way, None)
        smtp.password, smtp.return_path, smtp.b_cc = "s3cret", "bounce@example.com", "dee@example.com"
        smtp.message_recipient_count = 1
        smtp.message_recipient_address[0] = "eve@example.com"
        smtp.message_recipient_options[0] = "NOTIFY NEVER"
        octets = read(await call(smtp.queue, str(directory)))
        envelope = json.loads(octets.split(b"\r\n\r\n")[0].partition(b"\r\n")[2])
        shown = json.dumps(envelope)
        for wanted in ("bounce@example.com", "dee@example.com", "eve@example.com", "NEVER"):
            assert wanted in shown
        assert b"From: Ann <ann@example.com>\r\n" in octets
        assert b"s3cret" not in octets

    run(way, scenario)


@WAYS
def test_a_refused_mail_and_a_file_that_is_none_stop_nobody(way: str, directory: Path) -> None:
    """They become ``.failed``, an Error event tells of each, the others go, and one error lists both."""
    (directory / "poison.queued").write_bytes(b"no mail")
    with Server(Script(replies={"RCPT:b@example.com": "550 5.1.1 no"})) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            await queue(smtp, directory, "a", "b", "c")
            errors: list[str] = []
            smtp.on_error = lambda e: errors.append(e.description)
            with pytest.raises(ComponentError, match="2 not sent") as caught:
                await call(smtp.process_queue, str(directory))
            assert "poison.failed" in caught.value.message
            assert "550 5.1.1 no" in caught.value.message
            assert len(errors) == 2

        run(way, scenario)
        assert {mail.paths[0] for mail in server.received} == {"a@example.com", "c@example.com"}
        assert suffixes(directory) == [".failed", ".failed"]


@WAYS
def test_no_server_leaves_the_queue_as_it_was(way: str, directory: Path, silent: Server) -> None:
    """Without a connection the run stops, and every mail is ``.queued``."""

    async def scenario() -> None:
        smtp = make(way, silent)
        await queue(smtp, directory, "a", "b")
        before = names(directory)
        with pytest.raises(ComponentError) as caught:
            await call(smtp.process_queue, str(directory))
        assert caught.value.code == 10061
        assert names(directory) == before
        assert suffixes(directory) == [".queued", ".queued"]

    run(way, scenario)


@WAYS
def test_a_refused_login_leaves_the_queue_as_it_was(way: str, directory: Path) -> None:
    """Neither is a mail begun where nobody may log in."""
    with Server(Script(users={"ann": "right"})) as server:

        async def scenario() -> None:
            smtp = make(way, server, allow_plaintext_auth=True)
            smtp.user, smtp.password = "ann", "wrong"
            await queue(smtp, directory, "a", "b")
            with pytest.raises(ComponentError) as caught:
                await call(smtp.process_queue, str(directory))
            assert caught.value.code == 161

        run(way, scenario)
        assert suffixes(directory) == [".queued", ".queued"]
        assert len(server.sessions) == 1


@WAYS
@pytest.mark.parametrize(
    ("answer", "left"),
    [
        (lambda: {"MAIL": ["421 4.3.2 bye", "250 ok"]}, [".queued"]),
        (lambda: {"RCPT": [Fault("reset"), "250 ok"]}, [".queued"]),
        (lambda: {"END": [Fault("reset"), "250 ok"]}, [".sending"]),
        (lambda: {"END": ["554 5.7.1 no", "250 ok"]}, [".failed"]),
    ],
)
def test_a_lost_connection(way: str, directory: Path, answer: Callable[[], Answer], left: list[str]) -> None:
    """The mail under way is queued again, in doubt, or failed; the next goes by another connection."""
    with Server(Script(replies=answer())) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            await queue(smtp, directory, "a", "b")
            with pytest.raises(ComponentError, match="1 not sent"):
                await call(smtp.process_queue, str(directory))

        run(way, scenario)
        assert len(server.received) == 1
        assert suffixes(directory) == left


@WAYS
def test_what_is_in_doubt(way: str, directory: Path) -> None:
    """By ``hold`` it is left alone; else it is sent again, with the same Message-ID."""
    with Server(Script(replies={"END": [Fault("reset"), "250 ok"]})) as server:

        async def scenario() -> None:
            smtp = make(way, server, in_doubt="hold")
            await queue(smtp, directory, "a")
            for _ in range(2):
                with suppress(ComponentError):  # the first time
                    await call(smtp.process_queue, str(directory))
            assert suffixes(directory) == [".sending"]
            assert not server.received
            await call(make(way, server).process_queue, str(directory))

        run(way, scenario)
        assert len(server.received) == 1
        assert suffixes(directory) == []


@WAYS
def test_bad_directories(way: str, directory: Path) -> None:
    """One that is not there, a file, and one that others may write are refused, and nothing is made."""
    (directory / "file").write_text("x")
    (directory / "open").mkdir()
    (directory / "open").chmod(0o777)

    async def scenario() -> None:
        smtp = make(way, None)
        for name in ("nothing", "file", "open"):
            for method in (smtp.queue, smtp.process_queue):
                with pytest.raises(ComponentError, match=name):
                    await call(method, str(directory / name))

    run(way, scenario)
    assert not list((directory / "open").iterdir())


@WAYS
def test_an_interrupted_run(way: str, directory: Path) -> None:
    """The mail under way is given back where it was not sent whole, and the rest is as it was."""
    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server)
            smtp.message_text = ("x" * 78 + "\r\n") * 100_000
            await queue(smtp, directory, "a", "b")
            smtp.on_transfer = lambda _: smtp.interrupt()
            with pytest.raises(ComponentError) as caught:
                await call(smtp.process_queue, str(directory))
            assert caught.value.code == 301
            assert suffixes(directory) == [".queued", ".queued"]
            smtp.on_transfer = None
            await call(smtp.process_queue, str(directory))

        run(way, scenario)
        assert len(server.received) == 2


@WAYS
def test_the_body_of_a_queued_mail_is_counted(way: str, directory: Path) -> None:
    """Transfer counts the body alone for a mail from the queue too."""
    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server)
            smtp.message_text = "12345678\r\n" * 50
            await queue(smtp, directory, "a")
            counted: list[tuple[int, int]] = []
            smtp.on_transfer = lambda e: counted.append((e.bytes_transferred, e.percent_done))
            await call(smtp.process_queue, str(directory))
            assert counted[-1] == (500, 100)

        run(way, scenario)
