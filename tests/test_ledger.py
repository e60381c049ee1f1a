"""The run ledger: what it says, its file, what a run goes on with, and that whatever breaks in leaves it right."""

import errno
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from smtpkit import (
    AuthenticationRefused,
    Client,
    ConnectError,
    Counts,
    DataRefused,
    Event,
    InDoubt,
    InvalidMail,
    Mail,
    Message,
    NotSupported,
    Outcome,
    RecipientsRefused,
    Reply,
    Run,
    SenderRefused,
    ServiceClosing,
    Settled,
    SpoolError,
    SyncClient,
    UsageError,
)
from smtpkit.ledger import UNREAD
from smtpkit.ledger.rows import STATES, Change, Row, counted, kind, tallied, verdict
from smtpkit.ledger.store import Store
from smtpkit.testing import Fault, Script, Server
from tests.test_worker_cancelled import Moment

Policy = Literal["hold", "retry"]
OCTETS = b"From: ann@example.com\r\nSubject: many\r\n\r\nhello\r\n"


def mails(count: int) -> list[Mail]:
    """Mails, each to somebody of its own."""
    return [Mail(OCTETS, "ann@example.com", [f"u{number}@d{number % 3}.example.org"]) for number in range(count)]


def message(to: str | list[str] = "bob@example.org") -> Message:
    """A mail, with a Message-ID of its own."""
    return Message(sender="ann@example.com", to=to, subject="one", text="Hello.")


async def one_by_one(items: list[Any]) -> AsyncIterator[Any]:
    """An input that gives the loop a turn before each mail."""
    for item in items:
        await anyio.lowlevel.checkpoint()
        yield item


def served(server: Server) -> Counter[str]:
    """How often each recipient has got a mail."""
    return Counter(path for mail in server.received for path in mail.paths)


def states(counts: Counts) -> dict[str, int]:
    """What is not none of the counts."""
    return {state: number for state in STATES if (number := getattr(counts, state))}


def on_disk(ledger: Path, copies: Path) -> dict[str, str]:
    """The state of each recipient as another process would find it after a power cut."""
    copies.mkdir(exist_ok=True)
    for file in ledger.parent.glob(f"{ledger.name}*"):
        shutil.copy(file, copies / file.name)
    with closing(sqlite3.connect(copies / ledger.name)) as database:
        return dict(database.execute("SELECT address, state FROM recipient").fetchall())


async def left_by_a_kill(ledger: Path, *rows: Row) -> None:
    """A ledger in which these are under way, as after a kill."""

    def made() -> None:
        with closing(Store(ledger)) as store:
            store.next_run()
            store.write([Change(None, row) for row in rows])

    await anyio.to_thread.run_sync(made)


def under_way(address: str, message_id: str | None = None, key: int | str = 0) -> Row:
    """What was handed out."""
    return Row(key, address, message_id, "under_way", None, 1)


async def send(server: Server, ledger: Path, items: Any, in_doubt: Policy = "hold", **options: Any) -> list[Outcome]:
    """A whole run; the outcomes."""
    async with Client(server.url, connections=1) as client, Run(ledger, client, in_doubt=in_doubt) as run:
        return [outcome async for outcome in run.send_many(items, **options)]


async def to_the_end(outcomes: AsyncIterator[Outcome]) -> None:
    """Read all that come."""
    async for _ in outcomes:
        pass


async def count(server: Server, ledger: Path) -> Counts:
    """What a ledger counts."""
    async with Client(server.url) as client, Run(ledger, client) as run:
        return run.counts


@pytest.fixture
def ledger(memory_path: Path) -> Path:
    """The path of a ledger that is not there yet."""
    return memory_path / "run.db"


# What it says


KINDS = {
    "250 2.0.0 Ok: queued as 4Xk2Y91zQz": "250 2.0.0 Ok: queued as …",
    "250 ok": "250 ok",
    "250": "250",
    "550 5.1.1 <bob@example.org>: Recipient address rejected: User unknown": "550 5.1.1 …: Recipient address rejected: "
    "User unknown",
    "550 no bob@example.org here": "550 no … here",
    "450 4.2.0 greylisted for 300 seconds": "450 4.2.0 greylisted for … seconds",
    "451 4.7.1x odd": "451 … odd",
    "554 5.7.1 blocked, see https://bl.example/query/192.0.2.1": "554 5.7.1 blocked, see https://bl.example/query/…",
    "ChannelLost: the server closed the connection": "ChannelLost: the server closed the connection",
    "ConnectError: 127.0.0.1:25: refused": "ConnectError: … refused",
    "": "",
    "550 " + "x" * 500: "550 " + "x" * 116,
}


@pytest.mark.parametrize("reply", KINDS)
def test_kinds_of_replies(reply: str) -> None:
    """Replies are counted together that differ in an address, an id or a number."""
    assert kind(reply) == KINDS[reply]


GOOD, LATER, NEVER = Reply(250, ("ok",)), Reply(450, ("later",)), Reply(550, ("never",))
VERDICTS: list[tuple[Outcome, str, str | None]] = [
    (Outcome(accepted=("b@x",), reply=GOOD), "accepted", "250 ok"),
    (Outcome(accepted=("b@x",), reply=None, replies={"b@x": GOOD}), "accepted", "250 ok"),
    (Outcome(accepted=("b@x",)), "accepted", None),
    (Outcome(accepted=("c@x",), refused={"b@x": LATER}), "deferred", "450 later"),
    (Outcome(accepted=("c@x",), refused={"b@x": NEVER}), "refused", "550 never"),
    (Outcome(refused={"b@x": NEVER}, in_doubt=("c@x",), error=InDoubt("lost")), "refused", "550 never"),
    (Outcome(in_doubt=("b@x",), error=InDoubt("lost")), "in_doubt", "InDoubt: lost"),
    (Outcome(error=InDoubt("lost")), "in_doubt", "InDoubt: lost"),
    (Outcome(error=SenderRefused(NEVER, "MAIL")), "refused", "550 never"),
    (Outcome(error=SenderRefused(LATER, "MAIL")), "deferred", "450 later"),
    (Outcome(error=DataRefused(NEVER, "DATA")), "refused", "550 never"),
    (Outcome(error=RecipientsRefused({"c@x": NEVER})), "refused", "550 never"),
    (Outcome(error=ServiceClosing(Reply(421), "MAIL")), "deferred", "ServiceClosing: MAIL: 421"),
    (Outcome(error=AuthenticationRefused(NEVER, "AUTH")), "deferred", "AuthenticationRefused: AUTH: 550 never"),
    (Outcome(error=ConnectError("no")), "deferred", "ConnectError: no"),
    (Outcome(error=NotSupported("no", extension="SMTPUTF8")), "deferred", "NotSupported: no"),
    (Outcome(error=InvalidMail("bad")), "refused", "InvalidMail: bad"),
    (Outcome(error=UsageError("closed \udcff")), "deferred", "UsageError: closed \\udcff"),
]


@pytest.mark.parametrize("case", range(len(VERDICTS)))
def test_verdicts(case: int) -> None:
    """Final is what the server refused for good or accepted; what certainly was not served goes again; the rest may."""
    outcome, state, reply = VERDICTS[case]
    row = verdict(under_way("b@x"), outcome)
    assert (row.state, row.reply) == (state, reply)


def test_counts_are_sums() -> None:
    """By state, by domain in either case, by reply; what comes and goes leaves nothing."""
    rows = [
        Row(0, "u@A.x", None, "accepted", "250 ok 1", 1),
        Row(1, "u@a.x", None, "accepted", "250 ok 2", 1),
        Row(2, "u@b.x", None, "refused", "550 no", 1),
        Row(3, "u@b.x", None, "under_way", None, 1),
    ]
    kinds: set[str] = set()
    tally = tallied((Change(None, row) for row in rows), kinds)
    tally.update(tallied([Change(rows[3], rows[3]._replace(state="deferred", reply="450 later"))], kinds))
    counts = counted(tally)
    assert states(counts) == {"accepted": 2, "refused": 1, "deferred": 1}
    assert counts.total == 4
    assert {name: states(domain) for name, domain in counts.domains.items()} == {
        "a.x": {"accepted": 2},
        "b.x": {"refused": 1, "deferred": 1},
    }
    assert counts.replies == {"250 ok …": 2, "550 no": 1, "450 later": 1}
    tally.update(tallied((Change(row, None) for row in rows[:3]), kinds))
    assert states(counted(tally)) == {"deferred": 1}


def test_a_server_that_never_says_the_same() -> None:
    """A thousand kinds of replies are told apart; the rest is one, however often a ledger is opened, and as they go."""
    digits = str.maketrans("0123456789", "abcdefghij")
    rows = [Row(n, "u@x", None, "refused", f"550 no {str(n).translate(digits)}", 1) for n in range(1500)]
    kinds: set[str] = set()
    tally = tallied((Change(None, row) for row in rows), kinds)
    counts = counted(tally)
    assert counts.replies["…"] == 500
    assert len(counts.replies) == 1001
    tally.update(
        tallied((Change(row, None) for row in rows), {name for what, name, _ in tally if what == "reply"} - {"…"})
    )
    assert not +tally
    assert not -tally


# Its file


def test_the_file(ledger: Path) -> None:
    """For this user alone, in WAL mode, each transaction synchronous; and what was written is there again."""
    with closing(Store(ledger)) as store:
        assert stat.S_IMODE(ledger.stat().st_mode) == 0o600
        assert stat.S_IMODE(Path(f"{ledger}-wal").stat().st_mode) == 0o600
        pragmas = ("journal_mode", "synchronous", "locking_mode")
        assert [store._ask(f"PRAGMA {name}")[0][0] for name in pragmas] == ["wal", 2, "exclusive"]
        row = Row("a key", "bob@x", "<1@x>", "accepted", "250 ok", store.next_run())
        store.write([Change(None, row)])
        tally = store.tally
    with closing(Store(ledger)) as store:
        assert store.kept(["a key", "another"]) == {"a key": [row]}
        assert store.tally == tally
        assert store.next_run() == 2
        assert store.last_key() == "a key"
    assert [file.name for file in ledger.parent.iterdir()] == ["run.db"]


def test_many_keys_at_once(ledger: Path) -> None:
    """More keys than SQLite takes in one question."""
    rows = [Row(number, "bob@x", None, "accepted", None, 1) for number in range(2500)]
    with closing(Store(ledger)) as store:
        store.write([Change(None, row) for row in rows])
        assert store.kept(range(5000)) == {row.key: [row] for row in rows}


def test_a_change_that_fails_is_none(ledger: Path) -> None:
    """Where a transaction fails nothing of it is kept, counted or not, and the next one works."""
    with closing(Store(ledger)) as store:
        good = under_way("bob@x")
        with pytest.raises(SpoolError, match="nothing was written down"):
            store.write([Change(None, good), Change(None, good._replace(state=None))])  # type: ignore[arg-type]
        assert store.kept([0]) == {}
        assert store.tally == {}
        store.write([Change(None, good)])
        assert store.kept([0]) == {0: [good]}


def database(path: Path, *statements: str) -> None:
    """A database that somebody made."""
    with closing(sqlite3.connect(path)) as made, made:
        for statement in statements:
            made.execute(statement)


@pytest.mark.parametrize(
    "what", ["text", "short text", "another database", "another version", "directory", "no directory", "NUL"]
)
def test_no_ledger(ledger: Path, what: str) -> None:
    """What is no ledger, or of another version, is refused with what would be right, and stays as it is."""
    path: Path | str = ledger
    if what == "text":
        ledger.write_text("key,address\n" * 100)
    elif what == "short text":
        ledger.write_text("key")
    elif what == "another database":
        database(ledger, "CREATE TABLE mine (x)")
    elif what == "another version":
        Store(ledger).close()
        database(ledger, "PRAGMA user_version = 2")
    elif what == "directory":
        ledger.mkdir()
    elif what == "no directory":
        path = ledger / "x" / "run.db"
    else:
        path = "a\0b"
    before = ledger.read_bytes() if ledger.is_file() else None
    with pytest.raises(UsageError, match=r"^ledger .*: "):
        Store(path)
    assert before is None or ledger.read_bytes() == before


@pytest.mark.parametrize("statements", [None, (), ("PRAGMA journal_mode = WAL",)])
def test_one_that_was_only_begun(ledger: Path, statements: tuple[str, ...] | None) -> None:
    """What a kill leaves of a ledger that was being made is taken for a new one."""
    if statements is None:
        ledger.touch()
    else:
        database(ledger, *statements)
    with closing(Store(ledger)) as store:
        assert store.next_run() == 1


def test_a_directory_that_may_not_be_written(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says is told, as a SpoolError that names the ledger."""

    def refused(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patched:
        patched.setattr("os.open", refused)
        with pytest.raises(SpoolError, match=r"run.db.*cannot be opened: Permission denied"):
            Store(ledger)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("SQLITE_FULL", "make room"),
        ("SQLITE_READONLY_DIRECTORY", "allowed to write"),
        ("SQLITE_IOERR_FSYNC", "disk fails"),
    ],
)
def test_faults_of_the_disk(ledger: Path, name: str, advice: str) -> None:
    """Each says what to do about it."""

    class Failing:
        def execute(self, *_: object) -> None:
            fault = sqlite3.OperationalError("so it is")
            fault.sqlite_errorname = name
            raise fault

    with closing(Store(ledger)) as store:
        whole, store._database = store._database, Failing()  # type: ignore[assignment]
        with pytest.raises(SpoolError, match=f"run.db.*so it is; .*{advice}"):
            store.write([Change(None, under_way("bob@x"))])
        store._database = whole


def test_one_at_a_time(ledger: Path) -> None:
    """A second run is refused, in this process and in another, as often as it tries; not when the first has ended."""
    other = [sys.executable, "-c", f"from smtpkit.ledger.store import Store; Store({str(ledger)!r})"]
    with closing(Store(ledger)):
        for _ in range(2):
            with pytest.raises(UsageError, match="another run has it open"):
                Store(ledger)
            refused = subprocess.run(other, check=False, capture_output=True, text=True)
            assert "UsageError" in refused.stderr
            assert "another run has it open" in refused.stderr
    subprocess.run(other, check=True)


# What a run goes on with


@pytest.mark.anyio
@pytest.mark.parametrize("source", ["list", "iterator", "async iterator"])
async def test_a_run_and_a_second_one(ledger: Path, source: str) -> None:
    """All are sent and counted, each outcome with its item; a second run sends and tells nothing."""
    items = mails(100)
    with Server() as server:
        for time in range(2):
            given: Any = {"list": items, "iterator": iter(items), "async iterator": one_by_one(items)}[source]
            outcomes = await send(server, ledger, given)
            assert [outcome.item for outcome in outcomes] == ([] if time else items)
            assert all(outcome.accepted and outcome.error is None for outcome in outcomes)
            assert states(await count(server, ledger)) == {"accepted": 100}
        assert served(server) == {item.recipients[0]: 1 for item in items}


@pytest.mark.anyio
async def test_refused_and_deferred(ledger: Path) -> None:
    """Refused for good is final; refused for now is sent by the next run; the counts say so by domain and by reply."""
    replies = {"RCPT:u3@d0.example.org": ["550 5.1.1 no u3"], "RCPT:u4@d1.example.org": ["450 4.2.0 later", "250 ok"]}
    with Server(Script(replies=replies)) as server:
        first = await send(server, ledger, mails(6))
        assert [(outcome.item, type(outcome.error)) for outcome in first if outcome.error] == [
            (mails(6)[3], RecipientsRefused),
            (mails(6)[4], RecipientsRefused),
        ]
        assert all(outcome.error is None or outcome.error.outcome is outcome for outcome in first)
        counts = await count(server, ledger)
        assert states(counts) == {"accepted": 4, "refused": 1, "deferred": 1}
        assert states(counts.domains["d0.example.org"]) == {"accepted": 1, "refused": 1}
        assert states(counts.domains["d1.example.org"]) == {"accepted": 1, "deferred": 1}
        assert counts.replies == {"250 2.0.0 accepted as …": 4, "550 5.1.1 no …": 1, "450 4.2.0 later": 1}
        (outcome,) = await send(server, ledger, mails(6))
        assert outcome.item == mails(6)[4]
        counts = await count(server, ledger)
        assert states(counts) == {"accepted": 5, "refused": 1}
        assert counts.replies == {"250 2.0.0 accepted as …": 5, "550 5.1.1 no …": 1}
        assert set(served(server).values()) == {1}


@pytest.mark.anyio
async def test_several_recipients(ledger: Path) -> None:
    """The next run goes to those who were not served and not refused for good, with the same Message-ID."""
    people = ["ann@a.example", "bob@b.example", "eve@c.example"]
    replies = {"RCPT:bob@b.example": ["450 later", "250 ok"], "RCPT:eve@c.example": ["550 no"]}
    with Server(Script(replies=replies)) as server:
        await send(server, ledger, [message(people)])
        assert states(await count(server, ledger)) == {"accepted": 1, "deferred": 1, "refused": 1}
        (outcome,) = await send(server, ledger, [message(people)])
        assert outcome.accepted == ("bob@b.example",)
        assert states(await count(server, ledger)) == {"accepted": 2, "refused": 1}
        assert await send(server, ledger, [message(people)]) == []
        assert [mail.paths for mail in server.received] == [("ann@a.example",), ("bob@b.example",)]
        assert len({mail.message()["Message-ID"] for mail in server.received}) == 1


@pytest.mark.anyio
async def test_all_or_nobody(ledger: Path) -> None:
    """Where a mail is to go to all or to nobody, one who is refused for good is the end of it for all."""
    replies = {"RCPT:bob@b.example": ["450 later"], "RCPT:eve@c.example": ["550 no"]}
    with Server(Script(replies=replies)) as server:
        url = f"{server.url}?on_refused=stop"
        async with Client(url) as client, Run(ledger, client) as run:
            for _ in range(2):
                async for _ in run.send_many([message(["bob@b.example", "eve@c.example"])]):
                    pass
            assert states(run.counts) == {"refused": 2}
        assert not server.received


@pytest.mark.anyio
async def test_nobody_there(ledger: Path) -> None:
    """Without a server, or with one that ends, all is deferred, and goes by the next run."""
    with Server() as server:
        url = server.url
    async with Client(url) as client, Run(ledger, client) as run:
        outcomes = [outcome async for outcome in run.send_many(mails(5))]
        assert {type(outcome.error) for outcome in outcomes} == {ConnectError}
        assert states(run.counts) == {"deferred": 5}
    with Server() as server:
        assert len(await send(server, ledger, mails(5))) == 5
        assert len(served(server)) == 5


@pytest.mark.anyio
async def test_hold(ledger: Path) -> None:
    """What a kill left under way is told of in each run, counted as in doubt, and never sent."""
    await left_by_a_kill(ledger, under_way("u0@d0.example.org", "<1@x>"))
    with Server() as server:
        for time in range(2):
            outcomes = await send(server, ledger, mails(3))
            assert len(outcomes) == (1 if time else 3)
            (held,) = [outcome for outcome in outcomes if outcome.error is not None]
            assert held.in_doubt == ("u0@d0.example.org",)
            assert (held.item, held.message_id) == (mails(3)[0], "<1@x>")
            assert isinstance(held.error, InDoubt)
            assert held.error.outcome is held
            assert states(await count(server, ledger)) == {"accepted": 2, "in_doubt": 1}
        assert served(server) == {"u1@d1.example.org": 1, "u2@d2.example.org": 1}


def stdlib(message_id: str | None = None) -> EmailMessage:
    """A mail as the standard library has it."""
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "ann@example.com", "bob@example.org", "one"
    if message_id is not None:
        made["Message-ID"] = message_id
    made.set_content("Hello.")
    return made


def with_id() -> Message:
    """A mail that brings its Message-ID."""
    return Message(sender="ann@example.com", to="bob@example.org", headers={"message-id": "<2@x>"})


@pytest.mark.anyio
@pytest.mark.parametrize(
    "made", [message, with_id, stdlib, lambda: stdlib("<2@x>"), lambda: b"Message-ID: <1@x>\r\n" + OCTETS]
)
async def test_retry(ledger: Path, made: Any) -> None:
    """What a kill left under way is sent again with the Message-ID it had, whatever a new one would be."""
    await left_by_a_kill(ledger, under_way("bob@example.org", "<1@x>"))
    item = made()
    given = Mail(item, None, ["bob@example.org"])
    with Server() as server:
        (outcome,) = await send(server, ledger, [given], "retry")
        assert outcome.item is given
        assert outcome.message_id == "<1@x>"
        assert [mail.message()["Message-ID"] for mail in server.received] == ["<1@x>"]
        assert states(await count(server, ledger)) == {"accepted": 1}
        assert await send(server, ledger, [given], "retry") == []
    if isinstance(item, EmailMessage):
        assert item["Message-ID"] != "<1@x>"


@pytest.mark.anyio
async def test_octets_are_never_changed(ledger: Path) -> None:
    """In doubt, octets go only with the Message-ID they had, or with none as before; else it is said what is wrong."""
    await left_by_a_kill(ledger, under_way("bob@example.org", "<1@x>"), under_way("eve@example.org", None, 1))
    items = [Mail(b"Message-ID: <2@x>\r\n" + OCTETS, None, "bob@example.org"), Mail(OCTETS, None, "eve@example.org")]
    with Server() as server:
        with pytest.raises(UsageError, match=r"mail 0 is in doubt and had the Message-ID <1@x>, and has <2@x> now"):
            await send(server, ledger, items, "retry")
        assert states(await count(server, ledger)) == {"in_doubt": 2}
        items[0] = Mail(b"Message-ID: <1@x>\r\n" + OCTETS, None, "bob@example.org")
        await send(server, ledger, items, "retry")
        assert states(await count(server, ledger)) == {"accepted": 2}


@pytest.mark.anyio
@pytest.mark.parametrize("in_doubt", ["hold", "retry"])
async def test_lost_between_the_last_octet_and_its_reply(ledger: Path, in_doubt: Policy) -> None:
    """What is in doubt for the session's sake is no otherwise: told, held or sent again by the next run."""
    with Server(Script(replies={"END": [Fault("close")]}), Script()) as server:
        (outcome,) = await send(server, ledger, mails(1), in_doubt)
        assert isinstance(outcome.error, InDoubt)
        assert states(await count(server, ledger)) == {"in_doubt": 1}
        (outcome,) = await send(server, ledger, mails(1), in_doubt)
        assert (outcome.error is None) == (in_doubt == "retry")
        assert sum(served(server).values()) == (in_doubt == "retry")


@pytest.mark.anyio
async def test_held_for_some(ledger: Path) -> None:
    """Of a mail that is in doubt for one and deferred for another, the latter gets it."""
    later = Row(0, "eve@x.example", None, "deferred", "450 later", 1)
    await left_by_a_kill(ledger, under_way("bob@x.example"), later)
    with Server() as server:
        for _ in range(2):
            await send(server, ledger, [Mail(OCTETS, None, ["bob@x.example", "eve@x.example"])])
        assert served(server) == {"eve@x.example": 1}
        assert states(await count(server, ledger)) == {"accepted": 1, "in_doubt": 1}


@pytest.mark.anyio
async def test_in_doubt_and_not_to_be_read_any_more(ledger: Path) -> None:
    """What is in doubt stays so, whatever becomes of the input; what is deferred is refused then."""
    later = Row(1, "eve@x.example", None, "deferred", "450 later", 1)
    await left_by_a_kill(ledger, under_way("bob@x.example"), later)
    with Server() as server:
        outcomes = await send(server, ledger, [Mail(OCTETS, None, "nobody")] * 2, "retry")
        assert [type(outcome.error) for outcome in outcomes] == [InDoubt, InvalidMail]
        assert states(await count(server, ledger)) == {"in_doubt": 1, "refused": 1}


# The input


@pytest.mark.anyio
async def test_an_input_that_is_not_the_same(ledger: Path) -> None:
    """A mail that is for others than the ledger says is refused, after all that came before it."""
    with Server() as server:
        await send(server, ledger, mails(3))
        items = [*mails(2), Mail(OCTETS, None, "somebody@else.example"), *mails(9)[3:]]
        with pytest.raises(UsageError, match="mail 2 is for other recipients than this ledger says"):
            await send(server, ledger, items)
        assert len(server.received) == 3
        with pytest.raises(UsageError, match="mail 0 is for other"):
            await send(server, ledger, mails(4)[1:])


@pytest.mark.anyio
async def test_keys(ledger: Path) -> None:
    """By a key of the caller's the input may be in any order, and longer."""
    with Server() as server:
        await send(server, ledger, mails(5), key=lambda mail: mail.recipients[0])
        await send(server, ledger, mails(8)[::-1], key=lambda mail: mail.recipients[0])
        assert served(server) == {mail.recipients[0]: 1 for mail in mails(8)}
        with pytest.raises(UsageError, match="this ledger knows its mails by a key"):
            await send(server, ledger, mails(8))
        assert len(server.received) == 8


@pytest.mark.anyio
@pytest.mark.parametrize(
    "keys", [["a", "b", "a"], ["a", "b", ""], ["a", "b", 3], ["a", "b", "c\n"], ["a", "b", "\ud800"]]
)
async def test_wrong_keys(ledger: Path, keys: list[Any]) -> None:
    """A key that was given before, or is none, is refused, after all that came before it."""
    with Server() as server:
        given = iter(keys)
        with pytest.raises(UsageError, match=r"^key: "):
            await send(server, ledger, mails(3), key=lambda _: next(given))
        assert served(server) == {mail.recipients[0]: 1 for mail in mails(2)}


@pytest.mark.anyio
async def test_a_key_that_comes_again_later(ledger: Path) -> None:
    """It is refused however much later it comes."""
    with Server() as server:
        numbers = iter([*range(300), 0])
        with pytest.raises(UsageError, match="that of two mails"):
            await send(server, ledger, mails(301), key=lambda _: f"key {next(numbers)}")
        assert len(server.received) == 300


@pytest.mark.anyio
async def test_a_fault_of_the_input(ledger: Path) -> None:
    """What the input raises is raised, after all that came before; the next run goes on."""

    def broken() -> Iterator[Mail]:
        yield from mails(20)
        raise LookupError("no more rows")

    async def broken_too() -> AsyncIterator[Mail]:
        for mail in broken():
            yield mail

    with Server() as server:
        outcomes: list[Outcome] = []
        async with Client(server.url) as client, Run(ledger, client) as run:
            told = run.send_many(broken())
            outcomes += [await anext(told) for _ in range(20)]
            with pytest.raises(LookupError):
                await anext(told)
        assert len(outcomes) == 20
        with pytest.raises(LookupError):
            await send(server, ledger, broken_too())
        assert len(await send(server, ledger, mails(25))) == 5


@pytest.mark.anyio
async def test_a_mail_that_is_none(ledger: Path) -> None:
    """What cannot be made ready is refused, and told of once; where it was mended it is sent."""
    wrong: list[Any] = [mails(3)[0], Mail(OCTETS, None, "nobody"), mails(3)[2], ("a", "b", "c", "d"), "a path"]
    with Server() as server:
        outcomes = await send(server, ledger, wrong)
        assert Counter(type(outcome.error) for outcome in outcomes) == {type(None): 2, InvalidMail: 3}
        counts = await count(server, ledger)
        assert states(counts) == {"accepted": 2, "refused": 3}
        assert states(counts.domains[""]) == {"refused": 3}
        assert await send(server, ledger, wrong) == []
        assert len(await send(server, ledger, mails(3))) == 1
        assert states(await count(server, ledger)) == {"accepted": 3, "refused": 2}
        assert len(served(server)) == 3


@pytest.mark.anyio
async def test_a_source_that_is_read_once(ledger: Path) -> None:
    """An iterator of octets goes out whole, though its header was looked at."""
    with Server() as server:
        await send(server, ledger, [Mail(iter([OCTETS[:30], OCTETS[30:]]), None, "bob@example.org")])
        assert server.received[0].octets == OCTETS


@pytest.mark.anyio
async def test_an_outcome_does_not_wait_for_the_next_mail(ledger: Path) -> None:
    """Where the input has nothing yet, what was sent is settled, written down and told meanwhile."""
    heard = [anyio.Event() for _ in range(3)]

    async def slow() -> AsyncIterator[Mail]:
        for item, event in zip(mails(3), heard, strict=True):
            yield item
            with anyio.fail_after(5):
                await event.wait()

    seen = 0
    with Server() as server:
        async with Client(server.url) as client, Run(ledger, client) as run:
            async for _ in run.send_many(slow()):
                heard[seen].set()
                seen += 1
    assert seen == 3


@pytest.mark.anyio
async def test_an_outcome_is_on_the_disk_when_it_comes(ledger: Path) -> None:
    """Each is written down before the caller has it, and counted."""
    with Server() as server:
        async with Client(server.url) as client, Run(ledger, client) as run:
            seen = 0
            async for outcome in run.send_many(mails(40)):
                seen += 1
                assert on_disk(ledger, ledger.parent / "copies")[outcome.accepted[0]] == "accepted"
                assert run.counts.accepted >= seen


@pytest.mark.anyio
async def test_a_caller_who_reads_slowly(ledger: Path) -> None:
    """Only so much is sent ahead of who reads the outcomes; what is settled is on the disk all the same."""
    taken = 0

    def endless() -> Iterator[Mail]:
        nonlocal taken
        while True:
            yield Mail(OCTETS, None, f"u{taken}@example.org")
            taken += 1

    with Server() as server:
        async with Client(server.url) as client, Run(ledger, client) as run:
            async with run.send_many(endless()) as outcomes:
                await anext(outcomes)
                with anyio.fail_after(20):
                    while run.counts.accepted < UNREAD:  # noqa: ASYNC110  nobody tells of it
                        await anyio.sleep(0.01)
                await anyio.sleep(0.05)
                assert taken < UNREAD + 200
            counts = run.counts
        assert counts.accepted == len(server.received)
        assert counts.total == counts.accepted + counts.waiting


# Leaving and breaking in


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["block", "run", "within a limit"])
async def test_leaving_early(ledger: Path, how: str) -> None:
    """Left in the middle, in whatever way, nothing is in doubt: what was not sent waits, and goes once."""
    items = mails(200)
    with Server(Script(delay={"END": 0.001})) as server:
        async with Client(server.url) as client:
            async with Run(ledger, client) as run:
                if how == "block":
                    async with run.send_many(items) as outcomes:
                        for _ in range(20):
                            await anext(outcomes)
                    assert states(run.counts).keys() == {"accepted", "waiting"}
                elif how == "run":
                    outcomes = run.send_many(one_by_one(items))
                    for _ in range(20):
                        await anext(outcomes)
                else:
                    seen = 0
                    with anyio.CancelScope() as scope:
                        async for _ in run.send_many(items):
                            seen += 1
                            if seen == 20:
                                scope.cancel()
                                await anyio.lowlevel.checkpoint()
            counts = run.counts
        assert 20 <= counts.accepted < 200
        assert counts.accepted == len(server.received)
        assert states(counts).keys() == {"accepted", "waiting"}
        await send(server, ledger, items)
        assert served(server) == {item.recipients[0]: 1 for item in items}


@pytest.mark.anyio
async def test_leaving_a_server_that_is_silent(ledger: Path) -> None:
    """What is under way has the time of a reply to be settled; then it is in doubt."""
    with Server(Script(replies={"END": ["250 ok", Fault("stall")]})) as server:
        async with Client(server.url, timeout=0.2) as client:
            with anyio.fail_after(20):
                async with Run(ledger, client) as run, run.send_many(mails(50)) as outcomes:
                    await anext(outcomes)
        assert run.counts.accepted == len(server.received)
        assert run.counts.in_doubt >= 1
        assert run.counts.under_way == 0


@pytest.mark.anyio
@pytest.mark.parametrize("source", ["list", "async iterator"])
async def test_broken_into_anywhere(memory_path: Path, source: str) -> None:
    """Cancelled at any event, the ledger is right: what arrived is accepted or in doubt, and the rest goes once."""
    items = mails(12)
    with Server() as server:
        for moment in range(1, 70, 2):
            server.clear()
            ledger = memory_path / f"{moment}.db"
            left = moment
            async with Client(server.url) as client:
                with anyio.CancelScope() as scope:

                    def happened(_: Event, scope: anyio.CancelScope = scope) -> None:
                        nonlocal left
                        left -= 1
                        if left == 0:
                            scope.cancel()

                    client.on(Event, happened)
                    async with Run(ledger, client) as run:
                        async for _ in run.send_many(items if source == "list" else one_by_one(items), window=4):
                            pass
            disk = on_disk(ledger, memory_path / "copies")
            assert Counter(disk.values()) == states(run.counts), moment
            assert "under_way" not in disk.values(), moment
            got = served(server)
            assert {path for path, state in disk.items() if state == "accepted"} <= got.keys()
            assert got.keys() <= {path for path, state in disk.items() if state in {"accepted", "in_doubt"}}, moment
            doubt = {path for path, state in disk.items() if state == "in_doubt"}
            await send(server, ledger, items)
            assert set(served(server).values()) <= {1}
            assert served(server).keys() | doubt == {item.recipients[0] for item in items}


@pytest.mark.asyncio
async def test_cancelled_by_asyncio(memory_path: Path) -> None:
    """A task that asyncio cancels, at whatever await of it, leaves no thread, no task, and the file to the next run."""
    import asyncio

    with Server() as server:
        for turns in range(0, 60, 2):
            ledger = memory_path / f"{turns}.db"
            task = asyncio.create_task(send(server, ledger, mails(3)))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await send(server, ledger, mails(3))
            counts = await count(server, ledger)
            assert counts.accepted + counts.in_doubt == 3


@pytest.mark.timeout(120)
@pytest.mark.parametrize("way", ["cancelled", "left behind"])
def test_cancelled_at_every_call_to_the_disk(memory_path: Path, way: str) -> None:
    """Cancelled by asyncio while a thread is at the file: in doubt is only what may be sent, the sums are right."""
    import asyncio

    async def whole(server: Server, ledger: Path, moment: Moment) -> None:
        async def work() -> None:
            async with Client(server.url, connections=1) as client, Run(ledger, client) as run:
                client.on(Settled, hear)
                await to_the_end(run.send_many(mails(20), window=4))

        task, over = asyncio.create_task(work()), asyncio.Event()
        task.add_done_callback(lambda _: over.set())
        moment.begin(task.cancel if way == "cancelled" else over.set)
        await over.wait()
        if task.done():
            await task
        else:  # asyncio.run cancels it, and all others
            raise asyncio.CancelledError

    def hear(event: Settled) -> None:
        if event.outcome.accepted or event.outcome.in_doubt:
            perhaps.update(event.outcome.accepted + event.outcome.in_doubt)

    ended, nth = False, 0
    while not ended:
        nth += 1
        ledger = memory_path / f"{nth}.db"
        perhaps: set[str] = set()
        with Server() as server, pytest.MonkeyPatch.context() as patch:
            moment = Moment(patch, nth, Store, ("__init__", "next_run", "kept", "write", "close"))
            try:
                asyncio.run(whole(server, ledger, moment))
                ended = True
            except asyncio.CancelledError:
                assert moment.count >= nth
            patch.undo()
            with closing(Store(ledger)) as store:
                counts = counted(store.tally)
            disk = on_disk(ledger, memory_path / "copies")
            assert Counter(disk.values()) == states(counts), nth
            doubt = {path for path, state in disk.items() if state == "in_doubt"}
            assert doubt <= perhaps, nth
            asyncio.run(send(server, ledger, mails(20)))
            assert set(served(server).values()) <= {1}
            assert served(server).keys() | doubt == {item.recipients[0] for item in mails(20)}
    assert moment.count < nth
    assert nth > 6


# When the disk is full


@pytest.mark.anyio
@pytest.mark.parametrize("pages", [0, 4, 8])
async def test_a_full_disk(ledger: Path, pages: int) -> None:
    """It ends the run with a clear error; nothing is sent that was not written down, and the next run goes on."""
    items = [Mail(OCTETS, None, f"{'u' * 60}{number}@example.org") for number in range(2000)]
    with Server() as server:
        async with Client(server.url) as client, Run(ledger, client) as run:
            assert run._store is not None
            (used,) = run._store._database.execute("PRAGMA page_count").fetchone()
            run._store._database.execute(f"PRAGMA max_page_count = {used + pages}")
            with pytest.raises(SpoolError, match=r"run.db.*full; make room on the disk"):
                await to_the_end(run.send_many(items))
        disk = on_disk(ledger, ledger.parent / "copies")
        got = served(server)
        assert got.keys() <= disk.keys()
        assert {path for path, state in disk.items() if state == "accepted"} <= got.keys()
        await send(server, ledger, items)
        assert set(served(server).values()) == {1}
        counts = await count(server, ledger)
        assert counts.accepted + counts.in_doubt == 2000


# Wrong use


@pytest.mark.anyio
async def test_wrong_use(ledger: Path) -> None:
    """Each is an error that says what would be right."""
    with Server() as server:
        async with Client(server.url) as client:
            with pytest.raises(UsageError, match="in_doubt 'maybe': retry or hold"):
                Run(ledger, client, in_doubt="maybe")  # type: ignore[arg-type]
            with pytest.raises(UsageError, match=r"an async smtpkit.Client, not SyncClient"):
                Run(ledger, SyncClient(server.url))  # type: ignore[arg-type]
            run = Run(ledger, client)
            with pytest.raises(UsageError, match="write: async with Run"):
                run.send_many([])
            with pytest.raises(UsageError, match="once it was opened"):
                _ = run.counts
            async with run:
                with pytest.raises(UsageError, match="window: 1 to"):
                    await to_the_end(run.send_many([], window=0))
                with pytest.raises(UsageError, match="an iterable of messages, not bytes"):
                    run.send_many(b"octets")
                with pytest.raises(UsageError, match="entered already"):
                    await run.__aenter__()
                outcomes = run.send_many(mails(2))
                with pytest.raises(UsageError, match="busy"):
                    run.send_many([])
                assert [outcome async for outcome in outcomes] != []
                assert [outcome async for outcome in run.send_many(mails(2))] == []
                late = run.send_many(mails(3))
            assert [outcome async for outcome in late] == []
            with pytest.raises(UsageError, match="write: async with Run"):
                run.send_many([])
        with pytest.raises(UsageError, match="the client is closed"):
            async with Run(ledger, client) as run:
                run.send_many(mails(2))
    assert "run.db" in repr(run)


@pytest.mark.anyio
async def test_entered_where_it_cannot_be(ledger: Path) -> None:
    """What is no ledger is refused where the block is entered, by the error itself."""
    ledger.write_text("no ledger at all\n" * 50)  # noqa: ASYNC240  into memory
    async with Client("smtp://127.0.0.1:9") as client:
        with pytest.raises(UsageError, match="no ledger; give the path of another file"):
            async with Run(ledger, client):
                pass
