"""Queue and ProcessQueue: what becomes of each file, and of the others, when something goes wrong."""

import errno
import inspect
import json
import os
import re
import textwrap
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from smtpkit import SMTP, AsyncSMTP, ComponentError
from smtpkit.component.queued import state_after
from smtpkit.errors import (
    ChannelLost,
    DataRefused,
    InDoubt,
    InvalidMail,
    NotSupported,
    Outcome,
    ProtocolViolation,
    RecipientsRefused,
    SenderRefused,
    ServiceClosing,
    SpoolError,
    TimedOut,
)
from smtpkit.protocol.reply import Reply
from smtpkit.testing import Fault, Script, Server
from tests.component.ways import WAYS, call, make, run


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


def read(path: Path) -> bytes:
    """What is in a file."""
    return path.read_bytes()


def mode(path: Path) -> int:
    """Who may do what with a file."""
    return path.stat().st_mode & 0o777


def inode(path: Path) -> int:
    """What makes a file the same, whatever its name."""
    return path.stat().st_ino


def contents(directory: Path) -> dict[str, bytes]:
    """By the name of each file without its state, what is in it."""
    return {path.stem: path.read_bytes() for path in directory.iterdir()}


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
def test_the_file_is_text(way: str, directory: Path) -> None:
    """It holds the envelope with blind copies and options, and the mail, in lines for anybody to read; no password."""

    async def scenario() -> None:
        smtp = make(way, None)
        smtp.mail_server = "relay.test"
        smtp.user, smtp.password, smtp.firewall_password = "ann-the-user", "s3cret", "f1rewall"
        smtp.config("AuthorizationIdentity=Bearer t0ken")
        smtp.return_path, smtp.b_cc, smtp.subject = "bounce@example.com", "dee@example.com", "Hello"
        smtp.message_recipient_count = 1
        smtp.message_recipient_address[0], smtp.message_recipient_type[0] = "eve@example.com", 1
        smtp.message_recipient_options[0] = "NOTIFY FAILURE,DELAY ORCPT=rfc822;eva@example.org"
        path = Path(await call(smtp.queue, str(directory)))
        assert path.suffix == ".queued"
        assert mode(path) == 0o600
        text = read(path).decode("ascii")
        for secret in ("ann-the-user", "s3cret", "f1rewall", "t0ken", "relay.test"):
            assert secret not in text
        assert text.count("\n") == text.count("\r\n")
        head, header, rest = text.split("\r\n\r\n")
        version, _, envelope = head.partition("\r\n")
        assert version == "smtpkit spool 1"
        told = json.loads(envelope)
        assert told["reverse_path"] == "bounce@example.com"
        nothing: dict[str, object] = {"notify": [], "original": None}
        assert told["forward_paths"] == [
            {"address": "bob@example.com", "required": True, **nothing},
            {
                "address": "eve@example.com",
                "required": True,
                "notify": ["FAILURE", "DELAY"],
                "original": "eva@example.org",
            },
            {"address": "dee@example.com", "required": False, **nothing},
        ]
        lines = header.split("\r\n")
        assert lines[:4] == [
            "From: Ann <ann@example.com>",
            "To: bob@example.com",
            "Cc: eve@example.com",
            "Subject: Hello",
        ]
        assert lines[4].startswith("Date: ")
        assert lines[5:] == [f"Message-ID: {told['message_id']}"]
        size = len(header) + len("\r\n\r\nHello\r\n")
        body, trailer, end = rest.split("\r\n")
        assert (body, end) == ("Hello", "")
        assert re.fullmatch(rf"smtpkit end {size:020} 7bit safe sha256 [0-9a-f]{{64}}", trailer)

    run(way, scenario)


@pytest.mark.parametrize("component", [SMTP, AsyncSMTP])
def test_the_documented_file(component: type[Any], directory: Path) -> None:
    """The file that help(queue) and the reference show has the lines of one that is made, in their order."""
    smtp = make("blocking", None)
    smtp.subject, smtp.message_recipient_count, smtp.send_to = "Hello", 1, ""
    smtp.message_recipient_address[0], smtp.message_recipient_options[0] = "bob@example.com", "NOTIFY=FAILURE"
    smtp.message_text = "Hello, Bob."
    lines = Path(smtp.queue(str(directory))).read_text().splitlines()
    shown = inspect.cleandoc(component.queue.__doc__ or "").partition("::\n\n")[2].partition("\n\nSo: ")[0]

    def kinds(text: list[str]) -> list[str]:
        return [re.sub(r"<\w+@|Date: .*|\d{20}|sha256 .*", "", line) for line in text]

    assert kinds(textwrap.dedent(shown).splitlines()) == kinds(lines)
    assert shown in component.reference()


@WAYS
def test_a_retry_is_the_same_mail(way: str, directory: Path) -> None:
    """Message-ID and Date are those of queue(): the same octets go a second time, and each mail has its own."""
    with Server(Script(replies={"END": [Fault("reset"), Fault("reset"), "250 ok", "250 ok"]})) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            await queue(smtp, directory, "a", "a")
            before = contents(directory)
            with pytest.raises(ComponentError, match="2 not sent"):
                await call(smtp.process_queue, str(directory))
            assert suffixes(directory) == [".sending", ".sending"]
            assert contents(directory) == before
            await call(make(way, server).process_queue, str(directory))
            assert all(any(mail.octets in file for mail in server.received) for file in before.values())

        run(way, scenario)
        assert len({mail.message()["Message-ID"] for mail in server.received}) == len(server.received) == 2
        assert suffixes(directory) == []


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


LOST: dict[str, tuple[Script, str]] = {
    "left at EHLO's reply": (Script(close_after=frozenset({"EHLO"})), ".queued"),
    "421 at MAIL": (Script(replies={"MAIL": ["421 4.3.2 bye", "250 ok"]}), ".queued"),
    "reset at MAIL": (Script(replies={"MAIL": [Fault("reset"), "250 ok"]}), ".queued"),
    "reset at RCPT": (Script(replies={"RCPT": [Fault("reset"), "250 ok"]}), ".queued"),
    "no word at RCPT": (Script(replies={"RCPT": [Fault("stall"), "250 ok"]}), ".queued"),
    "garbage at RCPT": (Script(replies={"RCPT": [Fault("garbage"), "250 ok"]}), ".queued"),
    "cut at DATA": (Script(replies={"DATA": [Fault("cut"), "354 go"]}), ".queued"),
    "reset in the mail data": (Script(replies={"DATA": ["354 go"]}, faults=(Fault("reset", before=1000),)), ".queued"),
    "421 at the end": (Script(replies={"END": ["421 4.3.2 bye", "250 ok"]}), ".queued"),
    "reset at the end": (Script(replies={"END": [Fault("reset"), "250 ok"]}), ".sending"),
    "no word at the end": (Script(replies={"END": [Fault("stall"), "250 ok"]}), ".sending"),
    "554 at the end": (Script(replies={"END": ["554 5.7.1 no", "250 ok"]}), ".failed"),
    "451 at the end": (Script(replies={"END": ["451 4.3.0 no", "250 ok"]}), ".failed"),
}


@WAYS
@pytest.mark.parametrize("when", LOST)
def test_a_lost_connection(way: str, directory: Path, when: str) -> None:
    """The mail under way is queued again, in doubt, or failed; the next goes by another connection."""
    script, left = LOST[when]
    with Server(script, Script()) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            # More than all buffers on the way hold, where it is not to get out whole.
            smtp.message_text = ("x" * 78 + "\r\n") * (150_000 if "in the mail data" in when else 1)
            smtp.timeout = 1
            await queue(smtp, directory, "a", "b")
            first, _ = names(directory)
            errors: list[tuple[int, str]] = []
            smtp.on_error = lambda e: errors.append((e.error_code, e.description))
            with pytest.raises(ComponentError, match="1 not sent") as caught:
                await call(smtp.process_queue, str(directory))
            ((code, text),) = errors
            assert (code, f"1 not sent: {text}") == (caught.value.code, caught.value.message)
            assert text.startswith(str((directory / first).with_suffix(left)))

        run(way, scenario)
        assert [mail.paths for mail in server.received] == [("b@example.com",)]
        assert suffixes(directory) == [left]


def test_what_becomes_of_a_mail() -> None:
    """Certainly not sent, for now: queued. Refused, or no mail: failed. It may have been accepted: in doubt."""
    reply = Reply(550, ("no",))
    for error, state in (
        (ChannelLost("x"), "queued"),
        (TimedOut("x", limit="timeout"), "queued"),
        (ServiceClosing(Reply(421, ("bye",)), "MAIL"), "queued"),
        (ProtocolViolation("x"), "queued"),
        (SpoolError("x"), "queued"),
        (SenderRefused(reply, "MAIL"), "failed"),
        (RecipientsRefused({"bob@example.com": reply}), "failed"),
        (DataRefused(reply, "DATA"), "failed"),
        (NotSupported("x", extension="SMTPUTF8"), "failed"),
        (InvalidMail("x"), "failed"),
    ):
        assert state_after(Outcome(error=error)) == state
        assert state_after(Outcome(error=error, in_doubt=("bob@example.com",))) == "sending"
    assert state_after(Outcome(accepted=("bob@example.com",), refused={"eve@example.com": reply})) == "sent"
    assert state_after(Outcome(in_doubt=("bob@example.com",), error=InDoubt("x"))) == "sending"
    assert state_after(None) == "sending"


@WAYS
def test_an_outage_in_the_middle(way: str, directory: Path) -> None:
    """Once no connection can be had the rest is as it was; the error says that, and what had failed before."""
    with Server(Script(replies={"RCPT:b@example.com": "550 5.1.1 no", "RCPT:c@example.com": Fault("reset")})) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            await queue(smtp, directory, "a", "b", "c", "d", "e")
            smtp.on_error = lambda e: server.stop() if ".queued" in e.description else None
            with pytest.raises(ComponentError) as caught:
                await call(smtp.process_queue, str(directory))
            assert caught.value.code == 10061
            assert "; before that 2 not sent: " in caught.value.message
            assert "550 5.1.1 no" in caught.value.message

        run(way, scenario)
        assert [mail.paths for mail in server.received] == [("a@example.com",)]
        assert suffixes(directory) == [".failed", ".queued", ".queued", ".queued"]


@WAYS
def test_what_was_sent_is_kept(way: str, directory: Path) -> None:
    """With KeepQueue what was sent is .sent, as it was queued, and no run takes it again; what failed is .failed."""
    with Server(Script(replies={"RCPT:b@example.com": "550 5.1.1 no"})) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            smtp.config("KeepQueue=True")
            await queue(smtp, directory, "a", "b", "c")
            before = contents(directory)
            with pytest.raises(ComponentError, match="1 not sent"):
                await call(smtp.process_queue, str(directory))
            await call(smtp.process_queue, str(directory))
            assert contents(directory) == before

        run(way, scenario)
        assert len(server.received) == 2
        assert suffixes(directory) == [".failed", ".sent", ".sent"]


@WAYS
def test_a_connection_that_ends_in_the_run(way: str, directory: Path) -> None:
    """Where the server leaves in the middle of the run another connection is opened, and stays as the first would."""
    with Server(Script(replies={"RSET": "421 4.3.2 bye"}), Script()) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            await queue(smtp, directory, "a", "b", "c")
            await call(smtp.connect)
            with pytest.raises(ComponentError, match="1 not sent"):
                await call(smtp.process_queue, str(directory))
            assert smtp.connected
            await call(smtp.process_queue, str(directory))
            assert smtp.connected
            await call(smtp.disconnect)

        run(way, scenario)
        assert [mail.paths[0][0] for mail in server.received] == ["a", "c", "b"]
        assert len(server.sessions) == 2
        assert suffixes(directory) == []


@WAYS
def test_the_disk_fails_while_it_is_read(way: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mail whose file cannot be read any more is not refused by anybody: it is queued again, and the others go."""
    real = os.pread
    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server)
            await queue(smtp, directory, "a", "b")
            first = Path(directory, names(directory)[0])
            this, reads = inode(first), 0

            def pread(fd: int, size: int, start: int) -> bytes:
                nonlocal reads
                reads += os.fstat(fd).st_ino == this
                if reads > 4 and os.fstat(fd).st_ino == this:  # trailer, digest, head, and the header's size
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return real(fd, size, start)

            monkeypatch.setattr(os, "pread", pread)
            with pytest.raises(ComponentError, match="cannot be read any more: Input/output error") as caught:
                await call(smtp.process_queue, str(directory))
            assert caught.value.code == 302
            assert names(directory) == [first.name]
            monkeypatch.undo()
            await call(smtp.process_queue, str(directory))

        run(way, scenario)
        assert [mail.paths[0] for mail in server.received] == ["b@example.com", "a@example.com"]
        assert suffixes(directory) == []


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


BAD: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "missing": (lambda path: path / "nothing", 302, "there is no such directory"),
    "below a missing one": (lambda path: path / "nothing" / "queue", 302, "there is no such directory"),
    "empty": (lambda _: "", 302, "there is no such directory"),
    "a file": (lambda path: touched(path / "file"), 302, "no directory"),
    "below a file": (lambda path: touched(path / "file") / "queue", 302, "no directory"),
    "a link": (lambda path: linked(path / "link", path), 302, "a symbolic link"),
    "a link to nothing": (lambda path: linked(path / "link", path / "nothing"), 302, "a symbolic link"),
    "written by a group": (lambda path: made(path / "open", 0o770), 302, "others may write it"),
    "written by all": (lambda path: made(path / "open", 0o707), 302, "others may write it"),
    "with a NUL": (lambda path: f"{path}/x\0y", 302, "null"),
    "too long": (lambda path: path / ("x" * 300), 302, "File name too long"),
    "octets": (bytes, 168, "queue_dir must be the path of a directory"),
    "none": (lambda _: None, 168, "queue_dir must be the path of a directory"),
}


def touched(path: Path) -> Path:
    """A file."""
    path.write_text("x")
    return path


def linked(path: Path, target: Path) -> Path:
    """A symbolic link."""
    path.symlink_to(target)
    return path


def made(path: Path, mode: int) -> Path:
    """A directory with this mode."""
    path.mkdir()
    path.chmod(mode)
    return path


@WAYS
@pytest.mark.parametrize("kind", BAD)
def test_bad_directories(way: str, directory: Path, silent: Server, kind: str) -> None:
    """Queue and ProcessQueue refuse what is no directory for mail with a number and its path, and make nothing."""
    make_it, code, words = BAD[kind]
    given: Any = make_it(directory)
    given = str(given) if isinstance(given, Path) else given
    before = sorted(directory.rglob("*"))

    async def scenario() -> None:
        smtp = make(way, silent)
        for method in (smtp.queue, smtp.process_queue):
            with pytest.raises(ComponentError, match=words) as caught:
                await call(method, given)
            assert caught.value.code == code
            assert repr(given) in caught.value.message
            assert smtp.idle

    run(way, scenario)
    assert sorted(directory.rglob("*")) == before


@WAYS
def test_a_directory_that_may_not_be_read(way: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's no is told, with what to do; there is no way to be refused as root, so the system is a double."""

    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    async def scenario() -> None:
        smtp = make(way, None)
        monkeypatch.setattr("smtpkit.spool.directory.os.open", refuse)
        for method in (smtp.queue, smtp.process_queue):
            with pytest.raises(ComponentError, match="Permission denied; this user must be allowed") as caught:
                await call(method, str(directory))
            assert caught.value.code == 302
            assert repr(str(directory)) in caught.value.message
        monkeypatch.undo()

    run(way, scenario)


@WAYS
def test_a_path_object_will_do(way: str, directory: Path) -> None:
    """The directory may be given as a Path too."""
    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server)
            await call(smtp.queue, directory)
            await call(smtp.process_queue, directory)

        run(way, scenario)
        assert len(server.received) == 1


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


@WAYS
def test_the_disk_fails_when_it_was_accepted(way: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says who has the mail, whose file is in doubt then and nobody's; what is behind it waits."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server, in_doubt="hold")
            await queue(smtp, directory, "a", "b")
            monkeypatch.setattr(os, "unlink", refuse)
            with pytest.raises(ComponentError, match="cannot be settled: Read-only file system") as caught:
                await call(smtp.process_queue, str(directory))
            monkeypatch.undo()
            assert caught.value.code == 302
            assert caught.value.outcome is not None
            assert caught.value.outcome.accepted == ("a@example.com",)
            assert suffixes(directory) == [".queued", ".sending"]
            await call(smtp.process_queue, str(directory))
            assert suffixes(directory) == [".sending"]
            await call(make(way, server).process_queue, str(directory))

        run(way, scenario)
        assert [mail.paths[0][0] for mail in server.received] == ["a", "b", "a"]
        assert suffixes(directory) == []


@WAYS
def test_events_of_a_run(way: str, directory: Path) -> None:
    """One connection begins and ends; each mail has its dialogue and its transfer; a refused blind copy is an error."""
    with Server(Script(replies={"RCPT:dee@example.com": "550 5.1.1 no"})) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            smtp.b_cc = "dee@example.com"
            await queue(smtp, directory, "a", "b")
            told: list[str] = []
            smtp.on_connection_status = lambda e: told.append(e.connection_event)
            smtp.on_start_transfer = lambda _: told.append("start")
            smtp.on_transfer = lambda e: told.append(f"{e.bytes_transferred} octets")
            smtp.on_end_transfer = lambda _: told.append("end")
            smtp.on_error = lambda e: told.append(e.description)
            smtp.on_pi_trail = lambda e: told.append(e.message) if e.message[:4] in {"MAIL", "RSET", "DATA"} else None
            await call(smtp.process_queue, str(directory))
            mail = ["MAIL", "DATA", "start", "7 octets", "end", "RCPT <dee@example.com>: 550 5.1.1 no"]
            assert [text.partition(" FROM")[0] for text in told] == [
                *("Remote host connected", *mail, "RSET", *mail, "Remote host disconnected")
            ]

        run(way, scenario)
        assert suffixes(directory) == []
