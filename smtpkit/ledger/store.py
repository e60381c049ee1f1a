"""The file of a ledger: SQLite, in WAL mode, each transaction on the disk before it is told of. All of it blocks.

Rules: one process has it open, and a kill gives it up. What is in no transaction that was told of may be lost, and was
not begun. A file of another kind is never changed. It needs a local file system.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import groupby
from typing import TYPE_CHECKING, Any

from smtpkit.errors import SpoolError, UsageError
from smtpkit.ledger.rows import Change, Row, State, tallied

if TYPE_CHECKING:
    import sqlite3

VERSION = 1

_IDENTITY = 0x534D544C  # application_id: "SMTL"
_CREATE = """
CREATE TABLE recipient (
    key NOT NULL, address TEXT NOT NULL, message_id TEXT, state TEXT NOT NULL, reply TEXT, run INTEGER NOT NULL,
    PRIMARY KEY (key, address)
) WITHOUT ROWID;
CREATE TABLE tally (
    what TEXT NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL, number INTEGER NOT NULL,
    PRIMARY KEY (what, name, state)
) WITHOUT ROWID;
CREATE TABLE run (number INTEGER PRIMARY KEY, begun TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP);
"""
_KEEP = "INSERT OR REPLACE INTO recipient VALUES (?, ?, ?, ?, ?, ?)"
_DROP = "DELETE FROM recipient WHERE key = ? AND address = ?"
_COUNT = """
INSERT INTO tally VALUES (?, ?, ?, ?)
ON CONFLICT (what, name, state) DO UPDATE SET number = number + excluded.number
"""
_LEFT = "SELECT * FROM recipient WHERE state = 'under_way'"
_MANY = 900  # keys in one question; SQLite takes 999 at least
_ADVICE = {
    "SQLITE_FULL": "make room on the disk and try again",
    "SQLITE_READONLY": "this user must be allowed to write it and its directory",
    "SQLITE_CANTOPEN": "this user must be allowed to write it and its directory",
    "SQLITE_IOERR": "the disk fails; see the kernel's log",
    "SQLITE_CORRUPT": "it is damaged; take the last copy of it",
}


class Store:
    """The file, open. Raises UsageError where it is no ledger or another process has it, and SpoolError."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import sqlite3

        self._path = os.fspath(path)
        self._errors = sqlite3.Error
        with ExitStack() as stack, self._told("it cannot be opened"):
            _create(self._path)
            self._database = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
            stack.callback(self._database.close)
            self._begin()
            self.tally: dict[tuple[str, str, State], int] = {
                (what, name, state): number for what, name, state, number in self._ask("SELECT * FROM tally")
            }
            self._kinds = {name for what, name, _ in self.tally if what == "reply"}
            self._leave_in_doubt()
            stack.pop_all()

    def close(self) -> None:
        """Let go of it."""
        with suppress(self._errors):  # all that was told of is on the disk
            self._database.close()

    def next_run(self) -> int:
        """Write down that a run begins; its number, from 1. What was under way by then is in doubt."""
        with self._told("nothing was sent"):
            self._leave_in_doubt()
            number = self._database.execute("INSERT INTO run DEFAULT VALUES").lastrowid
        assert number is not None
        return number

    def last_key(self) -> int | str | None:
        """The last of its keys, which are positions or the caller's; None where there are none."""
        with self._told("it cannot be read"):
            last: int | str | None = self._ask("SELECT max(key) FROM recipient")[0][0]
        return last

    def kept(self, keys: Sequence[int | str]) -> dict[int | str, list[Row]]:
        """What it has of these mails, by key."""
        rows: list[Any] = []
        with self._told("it cannot be read"):
            for start in range(0, len(keys), _MANY):
                some = keys[start : start + _MANY]
                marks = ", ".join("?" * len(some))
                rows += self._ask(f"SELECT * FROM recipient WHERE key IN ({marks}) ORDER BY key", some)  # noqa: S608
        return {key: list(group) for key, group in groupby(map(Row._make, rows), key=lambda row: row.key)}

    def write(self, changes: Sequence[Change]) -> None:
        """Write changes down: they survive a power cut then, or none of them was made (SpoolError)."""
        tally = tallied(changes, self._kinds)
        with self._told("nothing was written down"), self._transaction():
            self._database.executemany(_DROP, [row[:2] for row, after in changes if row is not None and after is None])
            self._database.executemany(_KEEP, [change.after for change in changes if change.after is not None])
            self._database.executemany(_COUNT, [(*name, number) for name, number in tally.items() if number])
        self.tally |= {
            name: self.tally.get(name, 0) + number for name, number in tally.items()
        }  # at once, for who counts

    def _begin(self) -> None:
        """Take the file for this process alone, and look whether it is what it should be."""
        self._ask("PRAGMA locking_mode = EXCLUSIVE")
        identity, version, tables = (
            self._ask(question)[0][0]
            for question in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
        )
        if (identity or tables) and identity != _IDENTITY:
            raise UsageError(f"ledger {self._path!r}: a database, but no ledger; give the path of another file")
        if identity and version != VERSION:
            raise UsageError(f"ledger {self._path!r}: of version {version}, and this is for {VERSION}; begin a new one")
        self._ask("PRAGMA journal_mode = WAL")
        self._ask("PRAGMA synchronous = FULL")
        with self._transaction():  # which nobody else has by now
            if not identity:
                for statement in _CREATE.split(";"):
                    self._ask(statement)
                self._ask(f"PRAGMA application_id = {_IDENTITY}")
                self._ask(f"PRAGMA user_version = {VERSION}")

    def _leave_in_doubt(self) -> None:
        """What an earlier run handed out and did not settle is in doubt."""
        if any(number for (_, _, state), number in self.tally.items() if state == "under_way"):
            left = [Row._make(row) for row in self._ask(_LEFT)]
            reply = "InDoubt: the run ended before its outcome was written down"
            self.write([Change(row, row._replace(state="in_doubt", reply=reply)) for row in left])

    def _ask(self, question: str, values: Iterable[object] = ()) -> list[Any]:
        return self._database.execute(question, tuple(values)).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._ask("BEGIN IMMEDIATE")
        try:
            yield
            self._ask("COMMIT")
        except BaseException:
            with suppress(self._errors):  # it was rolled back already
                self._ask("ROLLBACK")
            raise

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Raise what SQLite and the system raise as ours."""
        try:
            yield
        except self._errors as fault:
            raise self._error(what, fault) from fault
        except OSError as fault:
            raise SpoolError(f"ledger {self._path!r}: {what}: {fault.strerror or fault}") from fault

    def _error(self, what: str, fault: "sqlite3.Error") -> SpoolError | UsageError:
        name = "_".join(getattr(fault, "sqlite_errorname", "").split("_")[:2])  # without what extends it
        if name in {"SQLITE_BUSY", "SQLITE_LOCKED"}:
            return UsageError(f"ledger {self._path!r}: another run has it open; wait for its end, or take another file")
        if name == "SQLITE_NOTADB":
            return UsageError(f"ledger {self._path!r}: no ledger; give the path of another file")
        advice = _ADVICE.get(name)
        return SpoolError(f"ledger {self._path!r}: {what}: {fault}{f'; {advice}' if advice else ''}")


def _create(path: str) -> None:
    """Make the file where there is none, for this user alone. Raises OSError and UsageError."""
    # One that is there is not opened: to close it would give up the lock that another run of this process has.
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR))
    except FileExistsError:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            raise UsageError(f"ledger {path!r}: no regular file") from None
        return
    except FileNotFoundError as fault:
        raise UsageError(f"ledger {path!r}: there is no such directory; make it first") from fault
    except ValueError as fault:
        raise UsageError(f"ledger {path!r}: {fault}") from fault
    if hasattr(os, "O_DIRECTORY"):
        directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # noqa: PTH120
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
