"""The queue worker against a scripted server: who gets the mail, how often, and what becomes of the file."""

import errno
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import smtpkit
from smtpkit.protocol.envelope import Envelope, ForwardPath
from smtpkit.protocol.mail_data import MailData
from smtpkit.spool import Entry
from smtpkit.spool.directory import Directory
from smtpkit.testing import Fault, Occurrence, Script, Server

pytestmark = pytest.mark.anyio

QUICK = smtpkit.Retry(first=0.01, most=0.01, greylisted=0.01, jitter=0)
HOLD = smtpkit.Retry(first=0.01, most=0.01, greylisted=0.01, jitter=0, in_doubt="hold")
MAIL = b"From: ann@example.com\r\nMessage-ID: <1@example.com>\r\n\r\nHello.\r\n"
BOB, EVE, CY = "bob@example.org", "eve@example.org", "cy@example.org"
OLD = "20200101T000000-000000000-0123456789abcdef"  # a file that was queued then


@pytest.fixture
def folder(memory_path: Path) -> Path:
    """An empty directory for a spool."""
    made = memory_path / "spool"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def server() -> Iterator[Server]:
    """A running server, whose scripts a test may set."""
    with Server() as server:
        yield server


class Told(list[smtpkit.Attempted]):
    """What a worker has told."""

    @property
    def states(self) -> list[str]:
        return [event.state for event in self]


async def add(folder: Path, *recipients: str, octets: bytes = MAIL) -> Path:
    """Queue a mail."""
    return Path(await smtpkit.enqueue(folder, octets, "ann@example.com", recipients))


async def work(
    folder: Path, url: str, retry: smtpkit.Retry = QUICK, *, wait: bool = False, keep: bool = False, **options: Any
) -> Told:
    """Work until nothing is due, or nothing is queued; return what was told."""
    told = Told()
    async with smtpkit.Client(url, **options) as client:
        client.on(smtpkit.Attempted, told.append)
        await client.worker(folder, retry=retry, keep=keep).run(wait=wait)
    return told


def served(server: Server) -> Counter[str]:
    """How often each recipient has got a mail; the server found nothing to object to."""
    assert [error for session in server.sessions for error in session.errors] == []
    return Counter(path for mail in server.received for path in mail.paths)


def states(folder: Path) -> list[str]:
    """The states of the files."""
    return sorted(file.suffix for file in folder.iterdir())


def contents(folder: Path) -> list[bytes]:
    """What is in the files."""
    return [file.read_bytes() for file in folder.iterdir()]


async def listed(folder: Path) -> smtpkit.Listed:
    """The one file."""

    def look() -> list[smtpkit.Listed]:
        with smtpkit.Spool(folder) as spool:
            return spool.files()

    (file,) = await anyio.to_thread.run_sync(look)
    return file


async def noted(folder: Path, notes: dict[str, Any], settle: Callable[[Entry], None]) -> None:
    """Write notes into the one file that waits, and settle it."""

    def note() -> None:
        with smtpkit.Spool(folder) as spool:
            for entry in spool.claim():
                assert isinstance(entry, Entry)
                entry.served((), notes=notes)
                settle(entry)

    await anyio.to_thread.run_sync(note)


# Accepted and refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [False, True])
async def test_accepted(folder: Path, server: Server, keep: bool) -> None:  # noqa: FBT001
    """What is accepted for all is sent once, as it was queued, and its file is gone or kept."""
    for number in range(5):
        await add(folder, f"user{number}@example.org", BOB)
    told = await work(folder, server.url, keep=keep, connections=2)
    assert told.states == ["sent"] * 5
    assert [event.attempts for event in told] == [1] * 5
    assert served(server) == {BOB: 5} | {f"user{number}@example.org": 1 for number in range(5)}
    assert {mail.octets for mail in server.received} == {MAIL}
    assert states(folder) == [".sent"] * 5 * keep
    assert await work(folder, server.url) == []


async def test_connections(folder: Path, server: Server) -> None:
    """As many mails are under way at once as the client has sessions, and no more."""
    server.scripts = (Script(delay={"END": 0.05}),)
    for _ in range(9):
        await add(folder, BOB)
    await work(folder, server.url, connections=3)
    assert (len(server.received), len(server.sessions)) == (9, 3)


async def test_refused_for_now(folder: Path, server: Server) -> None:
    """Who has the mail is not served again; who was put off gets it in the end: once each."""
    server.scripts = (Script(replies={f"RCPT:{BOB}": ["450 4.2.0 greylisted", "452 4.2.2 full", "250 ok"]}),)
    path = await add(folder, BOB, EVE, CY)
    told = await work(folder, server.url, wait=True)
    assert told.states == ["queued", "queued", "sent"]
    assert [event.attempts for event in told] == [1, 2, 3]
    assert served(server) == {BOB: 1, EVE: 1, CY: 1}
    assert {event.path for event in told[:2]} == {str(path)}
    assert states(folder) == []


async def test_later_in_another_run(folder: Path, server: Server) -> None:
    """What is put off is not tried before its time, by no worker; who has the mail, and how often it was tried, is
    known to the next one.
    """
    server.scripts = (Script(replies={f"RCPT:{BOB}": ["451 4.3.0 later", "451 4.3.0 later", "250 ok"]}),)
    path = await add(folder, BOB, EVE)
    later = smtpkit.Retry(first=1000, jitter=0)
    (event,) = await work(folder, server.url, later)
    assert event.until is not None
    assert event.until > path.stat().st_ctime + 900
    assert (await listed(folder)).until == pytest.approx(event.until)
    assert (await listed(folder)).notes == {"attempts": 1, "said": f"<{BOB}> 451 4.3.0 later"}
    assert await work(folder, server.url, later) == []
    os.utime(path, (1, 1))  # time goes by
    (event,) = await work(folder, server.url, later)
    assert (event.state, event.attempts) == ("queued", 2)
    os.utime(path, (1, 1))
    assert (await work(folder, server.url, later)).states == ["sent"]
    assert served(server) == {BOB: 1, EVE: 1}


async def test_refused_for_good(folder: Path, server: Server) -> None:
    """A recipient refused for good is never asked again; the file ends ``.failed``, for that one, with the reply."""
    replies = {f"RCPT:{BOB}": "550 5.1.1 no such user", f"RCPT:{EVE}": ["450 4.2.0 greylisted", "250 ok"]}
    server.scripts = (Script(replies=replies),)
    await add(folder, BOB, EVE, CY)
    assert (await work(folder, server.url, wait=True)).states == ["queued", "failed"]
    assert served(server) == {EVE: 1, CY: 1}
    assert sum(f"RCPT TO:<{BOB}>".encode() in session.said("C") for session in server.sessions) == 1
    file = await listed(folder)
    assert (file.state, file.recipients) == ("failed", (BOB,))
    assert file.notes is not None
    assert file.notes["refused"] == {BOB: "550 5.1.1 no such user"}


@pytest.mark.parametrize("moment", ["MAIL", "RCPT", "END"])
@pytest.mark.parametrize(("reply", "wanted"), [("554 5.7.1 no", ["failed"]), ("451 4.3.0 later", ["queued", "sent"])])
async def test_refused_at_each_stage(folder: Path, server: Server, moment: str, reply: str, wanted: list[str]) -> None:
    """A refusal for good sets the mail aside with the reply in its notes; one for now is tried again."""
    server.scripts = (Script(replies={moment: [reply, "250 2.0.0 ok"]}),)
    await add(folder, BOB)
    told = await work(folder, server.url, wait=True)
    assert told.states == wanted
    if wanted == ["failed"]:
        notes = (await listed(folder)).notes or {}
        assert reply in notes["said"]
        assert notes["refused"].keys() == {BOB}


async def test_not_supported(folder: Path, server: Server) -> None:
    """A mail that the server cannot take as it is is set aside, and the session goes on for the others."""
    server.scripts = (Script(extensions=("PIPELINING",)),)
    await add(folder, BOB, octets="Subject: ü\r\n\r\n".encode())
    await add(folder, EVE)
    assert sorted((await work(folder, server.url, connections=1)).states) == ["failed", "sent"]
    assert served(server) == {EVE: 1}
    assert len(server.sessions) == 1
    assert "8BITMIME" in str(((await listed(folder)).notes or {})["said"])


async def test_required(folder: Path, server: Server) -> None:
    """Where a recipient is required and refused for good, the mail goes to nobody."""
    server.scripts = (Script(replies={f"RCPT:{BOB}": "550 5.1.1 no"}),)
    paths = (ForwardPath(BOB, required=True), ForwardPath(EVE))
    spool = await anyio.to_thread.run_sync(smtpkit.Spool, folder)
    await anyio.to_thread.run_sync(spool.add, Envelope("ann@example.com", paths), MailData.of(MAIL))
    spool.close()
    assert (await work(folder, server.url)).states == ["failed"]
    assert server.received == []
    assert (await listed(folder)).recipients == (BOB, EVE)


async def test_attempts_used_up(folder: Path, server: Server) -> None:
    """After the last attempt what was refused for now has failed, with what was said last."""
    server.scripts = (Script(replies={"RCPT": ["450 4.2.0 one", "450 4.2.0 two", "450 4.2.0 three"]}),)
    await add(folder, BOB)
    policy = smtpkit.Retry(first=0.01, most=0.01, attempts=3)
    assert (await work(folder, server.url, policy, wait=True)).states == ["queued", "queued", "failed"]
    assert ((await listed(folder)).notes or {})["said"] == f"<{BOB}> 450 4.2.0 three"


async def test_too_old(folder: Path, server: Server) -> None:
    """A mail older than the maximum age has one more attempt; what is said then is the last word."""
    server.scripts = (Script(replies={f"RCPT:{BOB}": "450 4.2.0 still not"}),)
    (await add(folder, BOB, EVE)).rename(folder / f"{OLD}.queued")
    assert (await work(folder, server.url)).states == ["failed"]
    assert served(server) == {EVE: 1}
    assert (await listed(folder)).recipients == (BOB,)
    assert "450 4.2.0 still not" in ((await listed(folder)).notes or {})["said"]


# Outages --------------------------------------------------------------------------------------------------------------


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


async def test_outage(folder: Path) -> None:
    """Without a connection the run ends with the error; no attempt is counted, and nothing else is tried."""
    for _ in range(5):
        await add(folder, BOB)
    url = f"smtp://127.0.0.1:{_free_port()}"
    told = Told()
    async with smtpkit.Client(url, connections=2) as client:
        client.on(smtpkit.Attempted, told.append)
        with pytest.raises(smtpkit.ConnectError):
            await client.worker(folder, retry=QUICK).run()
    assert 1 <= len(told) <= 2
    assert {(event.state, event.attempts, event.until) for event in told} == {("queued", 0, None)}
    assert states(folder) == [".queued"] * 5
    assert not any(b"notes" in octets for octets in contents(folder))


async def test_recovery(folder: Path) -> None:
    """Who waits goes on after an outage: each mail is delivered once, and its first attempt is counted as such."""
    for _ in range(5):
        await add(folder, BOB)
    told = Told()
    with Server(port=_free_port()) as server:
        server.stop()

        def recover(event: smtpkit.Attempted) -> None:
            told.append(event)
            if len(told) == 3:
                server.start()

        async with smtpkit.Client(server.url, connections=1) as client:
            client.on(smtpkit.Attempted, recover)
            await client.worker(folder, retry=QUICK).run(wait=True)
        assert told.states == ["queued"] * 3 + ["sent"] * 5
        assert {event.attempts for event in told[3:]} == {1}
        assert served(server) == {BOB: 5}
    assert states(folder) == []


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("most", [1, 3])
async def test_fewer_sessions_than_wished(folder: Path, server: Server, most: int, *, wait: bool) -> None:
    """A server that bears fewer sessions than the client would have gets all mails over those, also without waiting:
    that is no outage, and no attempt is counted.
    """
    server.scripts = (Script(),) * most + (Script(greeting="421 4.7.0 too many connections"),)
    for _ in range(30):
        await add(folder, BOB)
    (await add(folder, EVE)).rename(folder / f"{OLD}.queued")  # which an outage would fail
    told = await work(folder, server.url, wait=wait, connections=5)
    assert Counter(told.states)["sent"] == 31
    assert {event.attempts for event in told if event.state == "queued"} <= {0}
    assert served(server) == {BOB: 30, EVE: 1}
    assert states(folder) == []


@pytest.mark.parametrize("greeting", ["421 4.3.2 not now", "554 no service", "garbage"])
async def test_greeted_badly(folder: Path, server: Server, greeting: str) -> None:
    """A greeting that sends everybody away is an outage: what time mends is waited for, the rest ends the work."""
    server.scripts = (Script(greeting=greeting), Script())
    await add(folder, BOB)
    if greeting.startswith("554"):
        with pytest.raises(smtpkit.Refused):
            await work(folder, server.url, wait=True)
        assert len(server.sessions) == 1
    else:
        assert (await work(folder, server.url, wait=True)).states == ["queued", "sent"]
        server.scripts = (Script(greeting=greeting),)
        await add(folder, BOB)
        with pytest.raises(smtpkit.SMTPError):
            await work(folder, server.url)
    assert states(folder) == [".queued"]
    assert (await listed(folder)).notes == {}


async def test_login_refused(folder: Path, server: Server) -> None:
    """A refused login is not repeated, also by who waits: the mails are as they were."""
    server.scripts = (Script(users={"ann": "right"}, require_auth=True),)
    for _ in range(3):
        await add(folder, BOB)
    url = server.url.replace("//", "//ann:wrong@")
    with pytest.raises(smtpkit.AuthenticationRefused):
        await work(folder, url, wait=True, tls="none", allow_plaintext_auth=True, connections=1)
    assert states(folder) == [".queued"] * 3
    assert len(server.sessions) == 1


async def test_too_old_in_an_outage(folder: Path) -> None:
    """An outage fails a mail that is too old, and no other."""
    (await add(folder, BOB)).rename(folder / f"{OLD}.queued")
    await add(folder, EVE)
    with pytest.raises(smtpkit.ConnectError):
        await work(folder, f"smtp://127.0.0.1:{_free_port()}", connections=1)
    assert states(folder) == [".failed", ".queued"]


async def test_others_send_too(folder: Path, server: Server) -> None:
    """Whoever sends by the same client is not in the worker's way, whatever is sent."""
    for _ in range(3):
        await add(folder, BOB)
    async with smtpkit.Client(server.url) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.worker(folder, retry=QUICK).run)
        await client.send(bytearray(MAIL), recipients=EVE)
    assert served(server) == {BOB: 3, EVE: 1}


async def test_a_session_that_ended(folder: Path, server: Server) -> None:
    """A server that closes after each mail costs no attempt: the next goes by another session."""
    server.scripts = (Script(close_after=frozenset({"END"})),)
    for _ in range(4):
        await add(folder, BOB)
    told = await work(folder, server.url, connections=1, total=30)
    assert [(event.state, event.attempts) for event in told] == [("sent", 1)] * 4
    assert served(server) == {BOB: 4}


async def test_an_outage_found_late(folder: Path, server: Server) -> None:
    """Where the session that was to be used again is dead, and none comes in its place, that counts no attempt."""
    dying = Script(replies={"MAIL": ["250 ok", Fault("close")]})
    server.scripts = (dying, Script(greeting="421 4.3.2 not now"), Script())
    for _ in range(2):
        await add(folder, BOB)
    told = await work(folder, server.url, wait=True, connections=1)
    assert [(event.state, event.attempts) for event in told] == [("sent", 1), ("queued", 0), ("sent", 1)]
    assert served(server) == {BOB: 2}


async def test_closing(folder: Path, server: Server) -> None:
    """421 in the middle of a transaction is a refusal for now."""
    server.scripts = (Script(replies={f"RCPT:{BOB}": ["421 4.7.0 too many", "250 ok"]}),)
    await add(folder, BOB)
    told = await work(folder, server.url, wait=True)
    assert [(event.state, event.attempts) for event in told] == [("queued", 1), ("sent", 2)]
    assert served(server) == {BOB: 1}


# In doubt -------------------------------------------------------------------------------------------------------------


async def test_in_doubt_is_held(folder: Path, server: Server) -> None:
    """With ``hold`` what may have been accepted stays as it is, and no run touches it again."""
    server.scripts = (Script(replies={"END": Fault("close")}), Script())
    await add(folder, BOB)
    (event,) = await work(folder, server.url, HOLD, wait=True)
    assert (event.state, event.outcome.in_doubt) == ("sending", (BOB,))
    assert (await listed(folder)).state == "in doubt"
    assert await work(folder, server.url, HOLD, wait=True) == []
    assert server.received == []


async def test_in_doubt_is_repeated(folder: Path, server: Server) -> None:
    """With ``retry`` it is sent again, later, with the same Message-ID."""
    server.scripts = (Script(replies={"END": Fault("close")}), Script())
    await add(folder, BOB)
    told = await work(folder, server.url, QUICK, wait=True)
    assert [(event.state, event.attempts) for event in told] == [("queued", 1), ("sent", 2)]
    assert server.received[0].message()["Message-ID"] == "<1@example.com>"


async def test_in_doubt_for_ever(folder: Path, server: Server) -> None:
    """What is in doubt after the last attempt never fails: it stays, is told of once, and is not tried any more."""
    server.scripts = (Script(replies={"END": Fault("close")}),)
    await add(folder, BOB)
    policy = smtpkit.Retry(first=0.01, most=0.01, attempts=2)
    told = await work(folder, server.url, policy, wait=True)
    assert told.states == ["queued", "sending"]
    assert await work(folder, server.url, policy, wait=True) == []
    assert states(folder) == [".sending"]
    assert len(server.sessions) == 2


@pytest.mark.parametrize("in_doubt", ["hold", "retry"])
async def test_in_doubt_for_one(folder: Path, server: Server, in_doubt: Any) -> None:
    """In LMTP one may have it for certain and another perhaps: whoever has it is off the envelope."""
    with Server(Script(lmtp=True, replies={f"END:{EVE}": Fault("close")}), Script(lmtp=True)) as lmtp:
        await add(folder, BOB, EVE)
        policy = smtpkit.Retry(first=0.01, most=0.01, in_doubt=in_doubt)
        told = await work(folder, lmtp.url, policy, wait=True)
        if in_doubt == "hold":
            assert told.states == ["sending"]
            assert (await listed(folder)).recipients == (EVE,)
        else:
            assert told.states == ["queued", "sent"]
            assert lmtp.received[-1].paths == (EVE,)
        assert Counter(path for mail in lmtp.received for path in mail.paths)[BOB] == 1


async def test_left_by_a_crash(folder: Path, server: Server) -> None:
    """What a crash left is sent by ``retry`` and left alone by ``hold``."""
    path = await add(folder, BOB)
    path.rename(path.with_suffix(".sending"))
    assert await work(folder, server.url, HOLD) == []
    assert (await work(folder, server.url, QUICK)).states == ["sent"]


async def test_left_by_a_crash_and_broken_off(folder: Path, server: Server) -> None:
    """What a crash left is in doubt as before where somebody breaks in before it is sent again."""
    path = await add(folder, BOB)
    path.rename(path.with_suffix(".sending"))
    async with smtpkit.Client(server.url) as client:
        with anyio.CancelScope() as scope:
            client.on(smtpkit.Connected, lambda _: scope.cancel())
            await client.worker(folder, retry=QUICK).run()
    assert states(folder) == [".sending"]
    assert server.received == []


async def test_left_by_a_crash_in_an_outage(folder: Path, server: Server) -> None:
    """What a crash left is in doubt as before after an outage, and is sent when that is over."""
    path = await add(folder, BOB)
    path.rename(path.with_suffix(".sending"))
    with pytest.raises(smtpkit.ConnectError):
        await work(folder, f"smtp://127.0.0.1:{_free_port()}")
    assert states(folder) == [".sending"]
    server.scripts = (Script(greeting="421 4.3.2 not now"), Script())
    assert (await work(folder, server.url, wait=True)).states == ["sending", "sent"]
    assert served(server) == {BOB: 1}


async def test_crashed_before_it_failed(folder: Path, server: Server) -> None:
    """Where a crash came after it was written down that all who are left were refused, the file has failed."""
    path = await add(folder, BOB)
    await noted(folder, {"attempts": 1, "said": "550 no", "refused": {BOB: "550 no"}}, Entry.leave)
    (event,) = await work(folder, server.url)
    assert (event.state, event.attempts, str(event.outcome.error)) == ("failed", 1, "550 no")
    assert states(folder) == [".failed"]
    assert server.sessions == []
    assert path.with_suffix(".failed").exists()


async def test_queued_again_by_hand(folder: Path, server: Server) -> None:
    """A mail that has failed and was renamed to ``.queued`` is tried anew, as if for the first time."""
    server.scripts = (Script(replies={f"RCPT:{BOB}": ["550 5.1.1 no", "450 4.2.0 later", "250 ok"]}),)
    path = await add(folder, BOB, EVE)
    policy = smtpkit.Retry(first=0.01, most=0.01, greylisted=0.01, attempts=2)
    assert (await work(folder, server.url, policy)).states == ["failed"]
    path.with_suffix(".failed").rename(path)
    told = await work(folder, server.url, policy, wait=True)
    assert [(event.state, event.attempts) for event in told] == [("queued", 1), ("sent", 2)]
    assert served(server) == {BOB: 1, EVE: 1}


@pytest.mark.parametrize(
    "notes", [{"attempts": "x", "refused": 7}, {"attempts": None}, {"refused": []}, {"refused": {EVE: "550 no"}}]
)
async def test_strange_notes(folder: Path, server: Server, notes: dict[str, Any]) -> None:
    """Notes that are not ours are as good as none."""
    await add(folder, BOB)
    await noted(folder, notes, Entry.give_back)
    assert [(event.state, event.attempts) for event in await work(folder, server.url)] == [("sent", 1)]


# Files that are no mails, and the disk --------------------------------------------------------------------------------


async def test_poison(folder: Path, server: Server) -> None:
    """A file that is no mail is set aside and told of; one that cannot be taken is told of once; the others go."""
    (folder / "a.queued").write_bytes(b"junk")
    stuck = await add(folder, EVE)
    stuck.with_suffix(".sending").write_bytes(b"a copy")
    for _ in range(9):
        await add(folder, BOB)
    told = await work(folder, server.url, HOLD, wait=True)
    assert Counter(told.states) == {"failed": 1, "queued": 1, "sent": 9}
    (poison,) = [event for event in told if event.state == "failed"]
    assert poison.path == str(folder / "a.failed")
    assert isinstance(poison.outcome.error, smtpkit.InvalidMail)
    assert served(server) == {BOB: 9}


@pytest.mark.parametrize("reply", ["250 ok", "451 4.3.0 later", "554 5.7.1 no"])
@pytest.mark.parametrize("keep", [False, True])
async def test_deleted_while_it_is_sent(folder: Path, server: Server, reply: str, *, keep: bool) -> None:
    """A file that somebody deletes while its mail is sent is gone, whatever becomes of the mail, and the others go."""
    path = await add(folder, EVE)
    await add(folder, BOB)

    def delete(_: Occurrence) -> str:
        path.with_suffix(".sending").unlink()
        return reply

    server.scripts = (Script(replies={"END": [delete, "250 ok"]}),)
    await work(folder, server.url, wait=True, keep=keep, connections=1)
    assert served(server) == ({EVE: 1} if reply.startswith("250") else {}) | {BOB: 1}
    assert states(folder) == [".sent"] * keep


@pytest.mark.parametrize("suffix", [".sending", ".sent", ".failed"])
async def test_a_copy_is_in_the_way(folder: Path, server: Server, suffix: str) -> None:
    """A mail of which there is another file is not begun, and told of once; the others go."""
    path = await add(folder, EVE)
    path.with_suffix(suffix).write_bytes(path.read_bytes())
    await add(folder, BOB)
    told = await work(folder, server.url, HOLD, wait=True, keep=True)
    assert sorted(told.states) == ["queued", "sent"]
    assert "take one away" in next(str(event.outcome.error) for event in told if event.path == str(path))
    assert served(server) == {BOB: 1}
    assert path.exists()


def _full(*args: object, **kwargs: object) -> None:
    raise smtpkit.SpoolError(os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(("accepted", "state"), [(False, ".queued"), (True, ".failed")])
async def test_disk_full(
    folder: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    accepted: bool,  # noqa: FBT001
    state: str,
) -> None:
    """Where it cannot be written down who has the mail it is set aside: else the next run would send it to them again,
    and each run after that. Where nobody has it is queued. The work ends.
    """
    server.scripts = (Script(replies={f"RCPT:{BOB}": "450 4.2.0 later"}),)
    await add(folder, *([BOB, EVE] if accepted else [BOB]))
    monkeypatch.setattr(Entry, "served", _full)
    told = Told()
    async with smtpkit.Client(server.url) as client:
        client.on(smtpkit.Attempted, told.append)
        with pytest.raises(smtpkit.SpoolError, match="No space left"):
            await client.worker(folder, retry=QUICK).run(wait=True)
    assert states(folder) == [state]
    assert [(event.state, event.until is None) for event in told] == [(state[1:], accepted)]
    monkeypatch.undo()
    await work(folder, server.url)
    assert served(server) == ({EVE: 1} if accepted else {})


async def test_disk_full_and_in_doubt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot be written down who has the mail, and another may have it, it stays in doubt."""
    with Server(Script(lmtp=True, replies={f"END:{EVE}": Fault("close")}), Script(lmtp=True)) as lmtp:
        await add(folder, BOB, EVE)
        monkeypatch.setattr(Entry, "served", _full)
        with pytest.raises(smtpkit.SpoolError, match="No space left"):
            await work(folder, lmtp.url, HOLD)
    assert states(folder) == [".sending"]


@pytest.mark.parametrize("name", ["names", "sync"])
async def test_directory_fails(folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A directory that fails ends the work with SpoolError."""
    await add(folder, BOB)

    def fail(*args: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Directory, name, fail)
    with pytest.raises(smtpkit.SpoolError, match="Input/output error"):
        await work(folder, server.url, wait=True)
    assert server.received == []


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("end", [Path.rmdir, lambda folder: folder.rename(folder.with_name("old"))])
async def test_directory_goes(folder: Path, server: Server, end: Callable[[Path], object], *, again: bool) -> None:
    """A directory that is moved or removed ends the work, also where there is another one in its place: else nobody
    would see what comes there.
    """
    told = anyio.Event()

    async def go() -> None:
        await told.wait()
        await anyio.to_thread.run_sync(end, folder)
        if again:
            await anyio.Path(folder).mkdir(mode=0o700)

    await add(folder, BOB)
    async with smtpkit.Client(server.url) as client, anyio.create_task_group() as tasks:
        client.on(smtpkit.Attempted, lambda _: told.set())
        tasks.start_soon(go)
        with anyio.fail_after(10), pytest.raises(smtpkit.SpoolError, match="moved or removed"):
            await client.worker(folder).watch(interval=0.01)


async def test_usage(folder: Path, server: Server) -> None:
    """A directory that is not there, an interval that is none, a closed client, and a second run at once."""
    with pytest.raises(smtpkit.UsageError, match="no such directory"):
        await work(folder / "not", server.url)
    client = smtpkit.Client(server.url)
    worker = client.worker(folder)
    with pytest.raises(smtpkit.UsageError, match="interval 0"):
        await worker.watch(interval=0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.watch)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(smtpkit.UsageError, match="busy"):
            await worker.run()
        worker.stop()
    await client.aclose()
    with pytest.raises(smtpkit.UsageError, match="closed"):
        client.worker(folder)


# To the end -----------------------------------------------------------------------------------------------------------


async def test_watch(folder: Path, server: Server) -> None:
    """A worker that watches takes what comes, and what becomes due, until it is stopped."""
    server.scripts = (Script(replies={f"RCPT:{BOB}": ["450 4.2.0 later", "250 ok"]}),)
    async with smtpkit.Client(server.url) as client, anyio.create_task_group() as tasks:
        worker = client.worker(folder, retry=QUICK)
        tasks.start_soon(lambda: worker.watch(interval=0.01))
        for recipient in (BOB, EVE, CY):
            await add(folder, recipient)
            await anyio.sleep(0.01)
        await server.wait_for_async(3)
        worker.stop()
    assert served(server) == {BOB: 1, EVE: 1, CY: 1}
    assert states(folder) == []


async def test_what_comes_while_it_waits(folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that waits for what is due much later looks for what comes meanwhile, and for what the clock says."""
    monkeypatch.setattr("smtpkit.worker.RARELY", 0.01)
    server.scripts = (Script(replies={f"RCPT:{BOB}": ["452 4.2.2 full", "250 ok"]}),)
    path = await add(folder, BOB)
    async with smtpkit.Client(server.url) as client, anyio.create_task_group() as tasks:
        put_off = anyio.Event()
        client.on(smtpkit.Attempted, lambda _: put_off.set())
        tasks.start_soon(lambda: client.worker(folder, retry=smtpkit.Retry(first=1000)).run(wait=True))
        await put_off.wait()
        await anyio.sleep(0.05)  # it waits by then, or will not begin to
        await add(folder, EVE)
        await server.wait_for_async(1)
        os.utime(path, (1, 1))  # time goes by
    assert served(server) == {BOB: 1, EVE: 1}


async def _stopped(
    folder: Path, server: Server, kind: type[smtpkit.Event], end: Callable[[smtpkit.Worker], None], count: int = 5
) -> Told:
    """Work on a few mails, two at once, and end it when the first event of this kind comes."""
    for number in range(count):
        await add(folder, f"user{number}@example.org")
    told = Told()
    async with smtpkit.Client(server.url, connections=2) as client:
        client.on(smtpkit.Attempted, told.append)
        worker = client.worker(folder, retry=HOLD)

        def end_once(_: smtpkit.Event) -> None:
            off()
            end(worker)

        off = client.on(kind, end_once)
        await worker.run(wait=True)
    return told


async def test_stop(folder: Path, server: Server) -> None:
    """When it is stopped what is in flight is finished, and the rest is queued as it was."""
    server.scripts = (Script(delay={"END": 0.1}),)
    told = await _stopped(folder, server, smtpkit.TransferEnded, lambda worker: worker.stop())
    assert told.states in (["sent"], ["sent"] * 2)  # a busy machine may not have begun the second by then
    left = 5 - len(told)
    assert states(folder) == [".queued"] * left
    assert (await work(folder, server.url)).states == ["sent"] * left
    assert served(server) == {f"user{number}@example.org": 1 for number in range(5)}


@pytest.mark.parametrize(
    ("moment", "kind", "doubt"),
    [("MAIL", smtpkit.CommandSent, {0}), ("END", smtpkit.TransferEnded, {1, 2})],
)
async def test_stop_with_a_limit(
    folder: Path, server: Server, moment: str, kind: type[smtpkit.Event], doubt: set[int]
) -> None:
    """What is not finished within the limit is given back where it was certainly not sent, and else in doubt."""
    server.scripts = (Script(replies={moment: None, "EHLO": "250 smtpkit.test"}),)
    told = await _stopped(folder, server, kind, lambda worker: worker.stop(within=0.3))
    assert set(told.states) <= {"sending"}
    assert states(folder).count(".sending") in doubt
    assert states(folder).count(".queued") == 5 - states(folder).count(".sending")
    assert server.received == []


async def test_stopped_before_it_began(folder: Path, server: Server) -> None:
    """A stop that comes first is not lost, and holds once."""
    await add(folder, BOB)
    async with smtpkit.Client(server.url) as client:
        worker = client.worker(folder)
        worker.stop()
        await worker.watch()
        assert states(folder) == [".queued"]
        await worker.run()
    assert served(server) == {BOB: 1}


async def test_stop_in_an_outage(folder: Path) -> None:
    """Who waits for the end of an outage, or for what is due much later, is woken by a stop."""
    await add(folder, BOB)
    async with smtpkit.Client(f"smtp://127.0.0.1:{_free_port()}") as client:
        worker = client.worker(folder, retry=smtpkit.Retry(first=1000))
        client.on(smtpkit.Attempted, lambda _: worker.stop(within=1000))
        await worker.run(wait=True)
    assert states(folder) == [".queued"]


async def test_stop_while_it_waits(folder: Path, server: Server) -> None:
    """A run that waits for what is due much later is woken by a stop."""
    server.scripts = (Script(replies={"RCPT": "452 4.2.2 full"}),)
    await add(folder, BOB)
    async with smtpkit.Client(server.url) as client, anyio.create_task_group() as tasks:
        worker = client.worker(folder, retry=smtpkit.Retry(first=1000))
        put_off = anyio.Event()
        client.on(smtpkit.Attempted, lambda _: put_off.set())
        tasks.start_soon(lambda: worker.run(wait=True))
        await put_off.wait()
        await anyio.sleep(0.05)  # it waits by then, or will not begin to
        worker.stop(within=1000)
    assert states(folder) == [".queued"]


@pytest.mark.parametrize("number", range(1, 40, 3))
async def test_cancelled_at_each_event(folder: Path, server: Server, number: int) -> None:
    """Whenever it is cancelled, no mail is lost; twice goes none that was not in doubt."""
    for count in range(4):
        await add(folder, f"user{count}@example.org")
    seen = 0
    async with smtpkit.Client(server.url, connections=2) as client:
        with anyio.CancelScope() as scope:

            def count_down(_: smtpkit.Event) -> None:
                nonlocal seen
                seen += 1
                if seen == number:
                    scope.cancel()

            client.on(smtpkit.Event, count_down)
            await client.worker(folder, retry=HOLD).run()
    first = served(server)
    doubt = states(folder).count(".sending")
    assert set(states(folder)) <= {".queued", ".sending"}
    assert sum(first.values()) + states(folder).count(".queued") + doubt >= 4
    await work(folder, server.url, HOLD)
    assert set(served(server).values()) == {1}
    assert len(served(server)) >= 4 - doubt
    assert states(folder) == [".sending"] * doubt


# Queueing -------------------------------------------------------------------------------------------------------------


async def test_enqueue(folder: Path, server: Server) -> None:
    """What is queued is what ``send`` would send: the envelope by the header, a notification as asked, no Bcc in it."""
    message = smtpkit.Message(sender="Ann <ann@example.com>", to=BOB, bcc=EVE, subject="x", text="y")
    path = await smtpkit.enqueue(str(folder), message, dsn=smtpkit.DSN(notify=("SUCCESS",)))
    assert path.endswith(".queued")
    assert (await listed(folder)).message_id == message.message_id
    await work(folder, server.url)
    (mail,) = server.received
    assert (mail.reverse_path, mail.paths) == ("ann@example.com", (BOB, EVE))
    assert mail.recipients[0].parameters["NOTIFY"] == "SUCCESS"
    assert b"eve@" not in mail.octets


async def _chunks() -> AsyncIterator[bytes]:
    yield MAIL


async def test_enqueue_what_cannot_be(folder: Path) -> None:
    """What is no mail, has nobody to go to, or must be awaited, is refused, and nothing is queued."""
    for message, recipients, kind in [
        (b"Subject: x\r\n\r\n", None, smtpkit.InvalidMail),
        (b"no header", [], smtpkit.InvalidMail),
        (_chunks(), [BOB], smtpkit.UsageError),
        (folder / "not there.eml", [BOB], smtpkit.InvalidMail),
    ]:
        with pytest.raises(kind):
            await smtpkit.enqueue(folder, message, "ann@example.com", recipients)
    with pytest.raises(smtpkit.UsageError, match="no such directory"):
        await smtpkit.enqueue(folder / "not", MAIL, "ann@example.com", BOB)
    assert states(folder) == []


async def test_the_pace_of_the_client_is_kept(folder: Path, server: Server) -> None:
    """A worker's mails wait for their turn as those of ``send`` do: one at a time to a domain needs one session."""
    server.scripts = (Script(delay={"END": 0.05}),)
    for _ in range(4):
        await add(folder, BOB)
    told = await work(folder, server.url, connections=4, domain_connections=1)
    assert told.states == ["sent"] * 4
    assert len(server.sessions) == 1
