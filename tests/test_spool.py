"""The spool: what is in a file, what is refused, and what a mail goes through."""

import errno
import fcntl
import hashlib
import io
import json
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from smtpkit.errors import InvalidMail, SpoolError, UsageError
from smtpkit.protocol.envelope import Envelope, ForwardPath
from smtpkit.protocol.mail_data import MailData
from smtpkit.spool import Entry, Spool, Unfit
from smtpkit.spool import file as spool_file
from smtpkit.spool.directory import STALE, Directory

ENVELOPE = Envelope.of("ann@example.com", ["bob@example.com", "eve@example.com"])
MAIL = b"Subject: x\r\n\r\nHello.\r\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty directory for a spool."""
    made = tmp_path / "spool"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def spool(folder: Path) -> Iterator[Spool]:
    """The spool in it."""
    with Spool(folder) as opened:
        yield opened


def added(spool: Spool, octets: bytes = MAIL) -> Path:
    """A mail that was queued."""
    return Path(spool.add(ENVELOPE, MailData.of(octets), message_id="<1@x>"))


def one(spool: Spool) -> Entry:
    """The one mail that is claimed."""
    (entry,) = spool.claim()
    assert isinstance(entry, Entry)
    return entry


def unfit(spool: Spool) -> Unfit:
    """The one file that cannot be sent."""
    (found,) = spool.claim()
    assert isinstance(found, Unfit)
    return found


def told(mail_data: MailData) -> bytes:
    """The octets."""
    chunks: Any = mail_data.tell()
    return b"".join(chunks)


def names(folder: Path) -> list[str]:
    """What is in a folder: the state of each file, or its whole name."""
    return sorted(file.suffix or file.name for file in folder.iterdir())


# What is in a file ---------------------------------------------------------------------------------------------------

_ADDRESSES = st.from_regex(r"[a-zé]{1,8}(\.[a-z]{1,3})?@[a-z]{1,8}\.example", fullmatch=True)
_NOTIFY = st.sampled_from([(), ("NEVER",), ("SUCCESS",), ("FAILURE", "DELAY")])
_PATHS = st.builds(
    ForwardPath,
    _ADDRESSES,
    required=st.booleans(),
    notify=_NOTIFY,
    original=st.none() | st.sampled_from(["a b@x", "rené@x"]),
)
_ENVELOPES = st.builds(
    Envelope,
    st.just("") | _ADDRESSES,
    st.lists(_PATHS, min_size=1, max_size=4, unique_by=lambda path: path.address).map(tuple),
    utf8=st.just(True),
    ret=st.sampled_from([None, "FULL", "HDRS"]),
    envelope_id=st.none() | st.sampled_from(["QQ314159", "a+b=c"]),
)
_CHUNKS = st.lists(
    st.binary(max_size=9) | st.sampled_from([b"\r", b"\n", b".", b"\r\n.", b"smtpkit end 0"]), max_size=9
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_ENVELOPES, _CHUNKS, st.none() | st.text(max_size=20), st.booleans())
@example(ENVELOPE, [], "\ud800 \u2028\r\n", False)
def test_round_trip(folder: Path, envelope: Envelope, chunks: list[bytes], message_id: str | None, once: bool) -> None:  # noqa: FBT001
    """What was queued is what is claimed: envelope, Message-ID, and the octets as they would be on the wire."""
    chunks = [chunk.replace(b"\0", b"") for chunk in chunks]
    wanted = MailData.of(b"".join(chunks))
    mail_data = MailData(lambda: iter(chunks), one_shot=True) if once else wanted
    with Spool(folder) as spool:
        path = spool.add(envelope, mail_data, message_id=message_id)
        assert path.endswith(".queued")
        assert Path(path).stat().st_mode & 0o7777 == 0o600
        with one(spool) as entry:
            assert (entry.envelope, entry.message_id, entry.in_doubt) == (envelope, message_id, False)
            found = entry.mail_data
            mended = told(found)
            assert mended == b"".join(spool_file._mended(wanted))
            assert mended == told(found)
            assert found.size == len(mended)
            assert (found.eight_bit, found.mended, found.strict, found.one_shot) == (
                wanted.eight_bit,
                True,
                False,
                False,
            )
            assert found.wire_safe == (not (b"\r\n" + mended).count(b"\r\n."))
            assert found.blocking
            entry.sent(keep=False)
    assert names(folder) == []


def test_large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mail of many pieces is written and told a piece at a time."""
    monkeypatch.setattr(spool_file, "PIECE", 100)
    with Spool(folder) as spool:
        spool.add(ENVELOPE, MailData(lambda: (b"%d\r\n" % number for number in range(1000))))
        with one(spool) as entry:
            pieces: Any = list(entry.mail_data.tell())  # type: ignore[arg-type]
            assert b"".join(pieces) == b"".join(b"%d\r\n" % number for number in range(1000))
            assert {len(piece) for piece in pieces[1:-1]} == {100}


def test_readable(spool: Spool) -> None:
    """A human reads a file with an editor."""
    path = spool.add(
        Envelope(
            "ann@example.com", (ForwardPath("rené@example.com", notify=("FAILURE",)),), utf8=True, require_tls=True
        ),
        MailData.of(b"Subject: x\n\n.dot\nend"),
        message_id="<1@example.com>",
    )
    head, _, rest = Path(path).read_bytes().decode().partition("\r\n\r\n")
    version, _, fields = head.partition("\r\n")
    assert version == "smtpkit spool 1"
    assert '"address": "rené@example.com"' in fields
    assert json.loads(fields) == {
        "message_id": "<1@example.com>",
        "reverse_path": "ann@example.com",
        "forward_paths": [{"address": "rené@example.com", "required": False, "notify": ["FAILURE"], "original": None}],
        "utf8": True,
        "ret": None,
        "envelope_id": None,
        "require_tls": True,
    }
    with one(spool) as entry:
        assert entry.envelope.require_tls
    start = "Subject: x\r\n\r\n.dot\r\nend\r\nsmtpkit end 00000000000000000025 7bit dots sha256 "
    assert rest.startswith(start)
    assert len(rest) == len(start) + 64 + 2


class _OneOctet(io.FileIO):
    """A file that takes an octet at a time."""

    def write(self, octets: Any) -> int:
        return super().write(bytes(octets)[:1])


def test_short_writes(tmp_path: Path) -> None:
    """Where the system takes less than it is given, the rest is given again."""
    with _OneOctet(tmp_path / "x", "x+") as file:
        spool_file.write(file, ENVELOPE, MailData.of(MAIL), None)
        assert told(spool_file.read(file).mail_data) == MAIL


def test_every_octet_is_guarded(tmp_path: Path) -> None:
    """Each octet changed, each cut, and anything added is found out."""
    with io.FileIO(tmp_path / "x", "x+") as file:
        spool_file.write(file, Envelope.of("", ["b@x"]), MailData.of(b"\r\n.\r\n"), None)
        whole = (tmp_path / "x").read_bytes()

        def check(octets: bytes) -> None:
            file.truncate(0)
            os.pwrite(file.fileno(), octets, 0)
            with pytest.raises(InvalidMail, match=r"x: it (does not end|was changed|is cut)|x: its digest is wrong"):
                spool_file.read(file)

        for at in range(len(whole)):
            check(whole[:at])
            check(whole[at + 1 :])
            for mask in (1, 0x20, 0x80):
                check(whole[:at] + bytes([whole[at] ^ mask]) + whole[at + 1 :])
        for more in (b"\n", b"\0", b"\r\n", whole):
            check(whole + more)
        check(whole[:20] + whole)


def sealed(octets: bytes, size: int) -> bytes:
    """Octets with an end that fits them."""
    import hashlib

    octets += b"smtpkit end %020d 7bit safe sha256 " % size
    return octets + hashlib.sha256(octets).hexdigest().encode() + b"\r\n"


@pytest.mark.parametrize(
    "head",
    [
        "",
        "smtpkit spool 2\r\n{}\r\n\r\n",
        "smtpkit spool 1\r\n",
        "smtpkit spool 1\r\n[]",
        "smtpkit spool 1\r\n" + "[" * 100_000,
        "smtpkit spool 1\r\n{}",
        'smtpkit spool 1\r\n{"message_id": null, "forward_paths": 1}',
        'smtpkit spool 1\r\n{"message_id": null, "forward_paths": [1]}',
        'smtpkit spool 1\r\n{"message_id": null, "forward_paths": [{"address": "b@x", "notify": []}], "later": 1}',
        'smtpkit spool 1\r\n{"message_id": null, "forward_paths": [{"address": 1, "notify": []}], "reverse_path": ""}',
        'smtpkit spool 1\r\n{"message_id": null, "forward_paths": [{"address": "b", "notify": ""}], "utf8": true}',
    ],
)
def test_sealed_but_strange(tmp_path: Path, head: str) -> None:
    """A file with the right digest, made by somebody else, is InvalidMail and nothing worse."""
    with io.FileIO(tmp_path / "x", "x+") as file:
        file.write(sealed(head.encode(), 0))
        with pytest.raises(InvalidMail, match="x: its envelope cannot be read"):
            spool_file.read(file)


def test_sealed_with_a_wrong_size(tmp_path: Path) -> None:
    """A size that the file has no room for is found out, whatever the digest says."""
    with io.FileIO(tmp_path / "x", "x+") as file:
        file.write(sealed(b"smtpkit spool 1\r\n", 999))
        with pytest.raises(InvalidMail, match="digest is wrong"):
            spool_file.read(file)


@pytest.mark.parametrize("change", ["cut", "changed"])
def test_changed_while_it_is_told(spool: Spool, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file changed after it was claimed is never told to its end, so that no server accepts it."""
    monkeypatch.setattr(spool_file, "PIECE", 8)
    added(spool)
    with one(spool) as entry:
        octets = Path(entry.path).read_bytes()
        start = octets.index(MAIL)
        chunks: Any = entry.mail_data.tell()
        heard = [next(chunks), next(chunks)]
        with Path(entry.path).open("r+b") as file:
            if change == "cut":
                file.truncate(start + 8)
            else:
                file.seek(start + len(MAIL) - 4)
                file.write(b"X")
        with pytest.raises(InvalidMail, match=r"it was changed while it was sent|was cut while it was read"):
            heard.extend(chunks)
        assert len(b"".join(heard)) < len(MAIL)


def test_disk_fails_while_it_is_told(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the disk while the mail is told is a SpoolError that names the file."""
    added(spool)
    with one(spool) as entry:

        def fail(*_: object) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", fail)
            with pytest.raises(SpoolError, match=r"queued': it cannot be read any more: In"):
                told(entry.mail_data)
        assert told(entry.mail_data) == MAIL


# What is refused -----------------------------------------------------------------------------------------------------


def _of_mode(mode: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.mkdir()
        path.chmod(mode)

    return make


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "no such directory; make it first"),
        (Path.touch, "no directory"),
        (lambda path: path.symlink_to(path.parent), "a symbolic link; give the directory"),
        (lambda path: path.symlink_to(path.parent / "nothing"), "a symbolic link; give the directory"),
        (_of_mode(0o770), "others may write it (drwxrwx---); chmod go-w"),
        (_of_mode(0o702), "others may write it (drwx----w-); chmod go-w"),
    ],
)
@pytest.mark.parametrize("slash", ["", "/", "//"])
def test_directories_refused(tmp_path: Path, make: Callable[[Path], None], why: str, slash: str) -> None:
    """A directory that is none, is a link, or that others may write is refused with a sentence; none is created."""
    path = tmp_path / "spool"
    make(path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UsageError) as caught:
        Spool(f"{path}{slash}")
    assert f"spool {f'{path}{slash}'!r}: " in str(caught.value)
    assert why in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("path", "why"), [("", "no such directory"), ("a\0b", "null")])
def test_paths_refused(path: str, why: str) -> None:
    """A path that can be none is a UsageError too."""
    with pytest.raises(UsageError, match=why):
        Spool(path)


def test_root_is_a_directory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path of nothing but slashes means the root; whose it is decides."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(UsageError, match=r"spool '/': it belongs to another user \(uid 0, not 12345\)"):
        Spool("/")


def test_directory_that_cannot_be_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system refuses is a SpoolError that says what to do."""

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(SpoolError) as caught:
            Spool(folder)
    assert str(caught.value) == (
        f"spool {str(folder)!r}: it cannot be opened: Permission denied; "
        "this user must be allowed to read and to write there"
    )
    assert isinstance(caught.value.__cause__, PermissionError)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


def _file(octets: bytes, mode: int = 0o600) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(octets)
        path.chmod(mode)

    return make


def _device(path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root may make a device")
    os.mknod(path, 0o600 | 0o020000, os.makedev(1, 3))


STRANGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "symlink": (lambda path: path.symlink_to(path.with_name("secret")), "no regular file"),
    "dangling": (lambda path: path.symlink_to(path.with_name("nothing")), "no regular file"),
    "hardlink": (lambda path: path.hardlink_to(path.with_name("secret")), "another name as well (a hard link)"),
    "fifo": (lambda path: os.mkfifo(path, 0o600), "no regular file"),
    "socket": (_socket, "no regular file"),
    "device": (_device, "no regular file"),
    "directory": (lambda path: path.mkdir(), "no regular file"),
    "mode": (_file(b"x", 0o620), "others may write it (-rw--w----)"),
    "foreign": (_file(b"x"), "does not end as a mail of the spool"),
    "empty": (_file(b""), "does not end as a mail of the spool"),
}


@pytest.mark.parametrize("state", ["queued", "sending"])
@pytest.mark.parametrize("kind", STRANGE)
def test_strange_files(folder: Path, spool: Spool, kind: str, state: str) -> None:
    """What was planted is neither followed nor sent nor deleted: it becomes .failed, told once, and stops no other."""
    make, why = STRANGE[kind]
    secret = folder / "secret"
    secret.write_bytes(b"not to be sent")
    secret.chmod(0o600)
    make(folder / f"0.{state}")
    before = os.lstat(folder / f"0.{state}")
    good = [added(spool) for _ in range(3)]
    found = list(spool.claim())
    (strange,) = [each for each in found if isinstance(each, Unfit)]
    assert why in str(strange.error)
    assert isinstance(strange.error, InvalidMail)
    assert strange.path == str(folder / "0.failed")
    after = os.lstat(strange.path)
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert secret.read_bytes() == b"not to be sent"
    entries = [each for each in found if isinstance(each, Entry)]
    assert [entry.path for entry in entries] == [str(path.with_suffix(".sending")) for path in good]
    for entry in entries:
        entry.sent(keep=False)
    assert list(spool.claim()) == []


def test_foreign_owner(folder: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of somebody else is not sent."""
    added(spool)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert "it belongs to another user" in str(unfit(spool).error)
    assert names(folder) == [".failed"]


@pytest.mark.parametrize(
    "name",
    [
        *("a b.queued", "a\nb.queued", "..queued", ".queued", "é.queued", "x.queued\n", f"{'x' * 65}.queued"),
        *("x.QUEUED", "x.queued.bak", "x.sent", "x.failed", "x"),
    ],
)
def test_foreign_names(folder: Path, spool: Spool, name: str) -> None:
    """A file whose name is not one of a mail that waits is left alone."""
    added(spool).rename(folder / name)
    assert list(spool.claim()) == []
    assert [file.name for file in folder.iterdir()] == [name]


def test_one_poison_many_good(folder: Path, spool: Spool) -> None:
    """A damaged file is set aside for a human, and all the others are sent."""
    paths = [added(spool) for _ in range(50)]
    paths[10].write_bytes(paths[10].read_bytes()[:-1])
    sent = 0
    for entry in spool.claim():
        if isinstance(entry, Unfit):
            assert entry.path == str(paths[10].with_suffix(".failed"))
            assert "it is cut" in str(entry.error)
        else:
            entry.sent(keep=False)
            sent += 1
    assert sent == 49
    assert [file.name for file in folder.iterdir()] == [f"{paths[10].stem}.failed"]


@pytest.mark.parametrize(
    ("call", "number", "why"),
    [
        ("pread", errno.EIO, "Input/output error; the disk fails; see the kernel's log"),
        ("open", errno.EACCES, "Permission denied; this user must be allowed to read and to write there"),
    ],
)
def test_unreadable_file(spool: Spool, monkeypatch: pytest.MonkeyPatch, call: str, number: int, why: str) -> None:
    """A file that the system does not give is told and stays as it is; the next is sent."""
    bad, good = added(spool), added(spool)
    inode, real = bad.stat().st_ino, getattr(os, call)

    def fail(what: Any, *words: Any, **named: Any) -> Any:
        if what == bad.name or (isinstance(what, int) and os.fstat(what).st_ino == inode):
            raise OSError(number, os.strerror(number))
        return real(what, *words, **named)

    monkeypatch.setattr(os, call, fail)
    first, second = spool.claim()
    assert isinstance(first, Unfit)
    assert (type(first.error), first.path) == (SpoolError, str(bad))
    assert str(first.error).endswith(f"{bad.name} cannot be taken: {why}")
    assert isinstance(second, Entry)
    second.sent(keep=False)
    assert not good.exists()
    assert names(bad.parent) == [".queued"]


def test_no_more_files(folder: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no file can be opened any more the run ends with one error, not with one for each mail."""
    added(spool)
    added(spool)

    def fail(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", fail)
        with pytest.raises(SpoolError, match=r"raise its limit \(ulimit -n\)"):
            list(spool.claim())
    assert names(folder) == [".queued", ".queued"]


# Faults of the mail --------------------------------------------------------------------------------------------------


def _failing() -> Iterator[bytes]:
    yield b"Subject: x\r\n"
    raise OSError(errno.EIO, "their disk")


async def _awaited() -> AsyncIterator[bytes]:
    yield b"x"


@pytest.mark.parametrize(
    ("mail_data", "kind", "why"),
    [
        (MailData(_failing), InvalidMail, r"its source failed \(OSError: \[Errno \d+\] their disk\)"),
        (MailData(lambda: iter([b"a\0b"])), InvalidMail, "NUL"),
        (MailData(lambda: iter([b"a\n"]), strict=True), InvalidMail, "bare CR or LF"),
        (MailData(lambda: iter(["text"])), InvalidMail, "its source failed"),  # type: ignore[arg-type,return-value]
        (MailData(_awaited), UsageError, "an async iterable; gather its octets"),
    ],
    ids=["source", "nul", "strict", "text", "async"],
)
def test_faults_of_the_mail(folder: Path, spool: Spool, mail_data: MailData, kind: type[Exception], why: str) -> None:
    """What is wrong with the mail or its source is said so, never taken for a fault of the spool; nothing is left."""
    with pytest.raises(kind, match=why):
        spool.add(ENVELOPE, mail_data)
    assert names(folder) == []


def test_source_is_let_go_of(folder: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full, the source is closed, and an interruption leaves nothing either."""
    closed = []

    def chunks() -> Iterator[bytes]:
        try:
            yield b"x" * 1_000_000
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    with pytest.raises(KeyboardInterrupt):
        spool.add(ENVELOPE, MailData(chunks))

    class Full(io.FileIO):
        def write(self, octets: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("smtpkit.spool.directory.io.FileIO", Full)
    with pytest.raises(SpoolError, match="nothing was queued: No space left on device; make room on the disk"):
        spool.add(ENVELOPE, MailData(chunks))
    assert closed == [True, True]
    assert names(folder) == []


# What a mail goes through --------------------------------------------------------------------------------------------


def test_settled(folder: Path, spool: Spool) -> None:
    """Each way to settle leaves the file as it is documented, and the entry cannot be settled again."""

    def deleted(entry: Entry) -> None:
        entry.sent(keep=False)

    def kept(entry: Entry) -> None:
        entry.sent(keep=True)

    ways: list[tuple[Callable[[Entry], None], list[str]]] = [
        (deleted, []),
        (kept, [".sent"]),
        (Entry.failed, [".failed"]),
        (Entry.give_back, [".queued"]),
    ]
    for settle, left in ways:
        path = added(spool)
        entry = one(spool)
        assert entry.path == str(path.with_suffix(".sending"))
        assert names(folder) == [".sending"]
        settle(entry)
        assert names(folder) == left
        assert Path(entry.path).exists() == bool(left)
        for again in (deleted, kept, Entry.failed, Entry.give_back, lambda entry: entry.served(["bob@example.com"])):
            with pytest.raises(UsageError, match="this entry is settled already"):
                again(entry)
        entry.leave()
        with suppress(FileNotFoundError):
            Path(entry.path).unlink()


def test_in_doubt(folder: Path, spool: Spool) -> None:
    """What is left unsettled stays .sending, is left alone by "hold", and is claimed again with its Message-ID."""
    added(spool)
    with one(spool) as entry:
        assert list(spool.claim()) == [], "its lock is held"
    assert names(folder) == [".sending"]
    assert list(spool.claim(in_doubt="hold")) == []
    with one(spool) as entry:
        assert entry.in_doubt
        assert entry.message_id == "<1@x>"
        entry.give_back()
    with one(spool) as entry:
        assert not entry.in_doubt


def test_policies(spool: Spool) -> None:
    """A policy that is none is refused: a slip must not send mail twice."""
    with pytest.raises(UsageError, match="in_doubt 'Hold': retry or hold"):
        next(spool.claim(in_doubt="Hold"))  # type: ignore[arg-type]


def test_order(spool: Spool) -> None:
    """What is queued comes in the order it was queued in, then what is in doubt."""
    paths = [added(spool) for _ in range(5)]
    paths[1].rename(paths[1].with_suffix(".sending"))
    claimed = []
    for entry in spool.claim():
        assert isinstance(entry, Entry)
        with entry:
            claimed.append(Path(entry.path).stem)
    assert claimed == [paths[at].stem for at in (0, 2, 3, 4, 1)]


def test_several_at_once(folder: Path, spool: Spool) -> None:
    """Several entries may be open, and settled in any order."""
    for _ in range(3):
        added(spool)
    entries = [entry for entry in spool.claim() if isinstance(entry, Entry)]
    assert names(folder) == [".sending"] * 3
    for entry in reversed(entries):
        entry.sent(keep=False)
    assert names(folder) == []


def test_served(folder: Path, spool: Spool) -> None:
    """Who has the mail is taken off the envelope; the rest of it is as it was, and is for those who are left."""
    added(spool)
    with one(spool) as entry:
        entry.served(["nobody@example.com"])
        assert entry.envelope == ENVELOPE
        inode = Path(entry.path).stat().st_ino
        entry.served(["bob@example.com"])
        assert Path(entry.path).stat().st_ino != inode
        assert [path.address for path in entry.envelope.forward_paths] == ["eve@example.com"]
        assert (told(entry.mail_data), entry.message_id) == (MAIL, "<1@x>")
        assert list(spool.claim()) == [], "the new file is locked as the old one was"
        with pytest.raises(UsageError, match=r"everybody has the mail; call sent\(\)"):
            entry.served(["bob@example.com", "eve@example.com"])
        entry.give_back()
    assert names(folder) == [".queued"]
    with one(spool) as entry:
        assert [path.address for path in entry.envelope.forward_paths] == ["eve@example.com"]
        entry.failed()


def test_each_step_is_on_the_disk(folder: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is on the disk before its rename, and each change of a name before the next step."""
    steps: list[str] = []
    fsync, rename, unlink = os.fsync, os.rename, os.unlink

    def synced(fd: int) -> None:
        fsync(fd)
        steps.append("directory" if os.path.samestat(os.fstat(fd), folder.stat()) else "file")

    def renamed(old: str, new: str, **named: Any) -> None:
        rename(old, new, **named)
        steps.append(new.partition(".")[2])

    def unlinked(name: str, **named: Any) -> None:
        unlink(name, **named)
        steps.append("gone")

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(os, "unlink", unlinked)

    def taken() -> list[str]:
        told, steps[:] = steps[:], []
        return told

    added(spool)
    assert taken() == ["file", "queued", "directory"]
    with one(spool) as entry:
        assert taken() == ["sending", "directory"]
        entry.served(["bob@example.com"])
        assert taken() == ["file", "sending", "directory"]
        entry.give_back()
        assert taken() == ["queued", "directory"]
    one(spool).leave()
    assert taken() == ["sending", "directory"]
    with one(spool) as entry:
        assert taken() == ["directory"], "the crash may have come before the rename was on the disk"
        entry.sent(keep=False)
        assert taken() == ["gone", "directory"]
    assert names(folder) == []


def test_served_without_room(folder: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the new envelope cannot be written, the old one stands and the entry can still be settled."""
    added(spool)
    with one(spool) as entry:

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(SpoolError, match="still names who has it: No space left"):
                entry.served(["bob@example.com"])
        assert names(folder) == [".sending"]
        assert entry.envelope == ENVELOPE
        assert told(entry.mail_data) == MAIL
        entry.give_back()


def test_copies_in_the_way(folder: Path, spool: Spool) -> None:
    """No file is renamed over another: where a copy made by hand is in the way, both stay and it is told."""
    path = added(spool)
    with one(spool) as entry:
        path.write_bytes(b"a copy")
        with pytest.raises(SpoolError, match=r"cannot be settled: .*\.queued is there already; two files of one mail"):
            entry.give_back()
        path.write_bytes(Path(entry.path).read_bytes())
        path.chmod(0o600)
        found = unfit(spool)
        assert found.path == str(path)
        assert "two files of one mail lie there; take one away" in str(found.error)
        entry.sent(keep=True)
    path.write_bytes(b"poison")
    path.with_suffix(".failed").write_bytes(b"another")
    found = unfit(spool)
    assert found.path == str(path)
    assert isinstance(found.error, SpoolError)
    assert "and it cannot be set aside" in str(found.error)
    assert names(folder) == [".failed", ".queued", ".sent"]


# What others do meanwhile --------------------------------------------------------------------------------------------


def test_gone_meanwhile(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is gone, or is another file, when its turn comes or once it is locked, is passed over."""
    first, second, third, fourth = (added(spool) for _ in range(4))
    flock = fcntl.flock

    def lock(file: io.FileIO, how: int) -> None:
        """Lock, when another processor had the file before, or the next one."""
        flock(file, how)
        if file.name == first.name:
            second.unlink()
        if file.name == third.name:
            third.unlink()
        if file.name == fourth.name:  # it was replaced: the name means a file that is not locked
            octets = fourth.read_bytes()
            fourth.unlink()
            fourth.touch(0o600)
            fourth.write_bytes(octets)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", lock)
        with one(spool) as entry:
            assert Path(entry.path).stem == first.stem
            entry.sent(keep=False)
    with one(spool) as entry:
        assert Path(entry.path).stem == fourth.stem


def test_link_set_aside_by_another(folder: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link cannot be locked; where another processor was faster to set it aside, nothing more is told."""
    (folder / "0.queued").symlink_to("nothing")
    check_free = Directory.check_free

    def faster(self: Directory, name: str) -> None:
        check_free(self, name)
        (folder / "0.queued").unlink()

    monkeypatch.setattr(Directory, "check_free", faster)
    assert list(spool.claim()) == []


def test_being_written(folder: Path, spool: Spool) -> None:
    """A mail that is still being queued is locked: nobody takes it, not even after its rename."""
    path = added(spool)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert list(spool.claim()) == []
    one(spool).leave()


def test_stale_temporaries(folder: Path, spool: Spool) -> None:
    """What a crash left half written goes after 36 hours, if nobody holds it and it is a file of ours."""
    now = time.time()
    for name, age in (("old", STALE + 60), ("held", STALE + 60), ("young", STALE - 60), ("future", -STALE)):
        (folder / f"{name}.writing").touch(0o600)
        os.utime(folder / f"{name}.writing", (now - age, now - age))
    (folder / "link.writing").symlink_to("young.writing")
    os.utime(folder / "link.writing", (now - STALE - 60, now - STALE - 60), follow_symlinks=False)
    with (folder / "held.writing").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert list(spool.claim()) == []
        assert sorted(file.stem for file in folder.iterdir()) == ["future", "held", "link", "young"]
    assert list(spool.claim()) == []
    assert sorted(file.stem for file in folder.iterdir()) == ["future", "link", "young"]


def test_closed(folder: Path) -> None:
    """A closed spool says so of everything; to close it again does nothing."""
    spool = Spool(folder)
    added(spool)
    entry = one(spool)
    spool.close()
    spool.close()
    with pytest.raises(SpoolError, match="Bad file descriptor"):
        entry.failed()
    with pytest.raises(SpoolError, match="Bad file descriptor"):
        added(spool)
    with pytest.raises(SpoolError, match="its files cannot be listed: Bad file descriptor"):
        list(spool.claim())
    entry.leave()
    assert names(folder) == [".sending"]


def test_directory_is_renamed(folder: Path, spool: Spool) -> None:
    """What was opened stays opened, whatever its path means by then."""
    added(spool)
    folder.rename(folder.with_name("elsewhere"))
    folder.mkdir()
    one(spool).sent(keep=True)
    assert names(folder) == []
    assert names(folder.with_name("elsewhere")) == [".sent"]


# Later ---------------------------------------------------------------------------------------------------------------


def due(spool: Spool, now: float, *, until: float | None = None) -> int:
    """How many mails are taken at a time; they are given back, until another."""
    count = 0
    for entry in spool.claim(now=lambda: now):
        assert isinstance(entry, Entry)
        entry.give_back(until=until)
        count += 1
    return count


def test_put_off(spool: Spool) -> None:
    """What is given back until a time is passed over before it, by whoever says what time it is; so in a new run."""
    path = added(spool)
    now = time.time()
    assert due(spool, now + 1, until=now + 100) == 1
    with Spool(path.parent) as other:
        assert due(other, now + 99) == 0
        assert due(other, now + 101) == 1
        assert due(other, now + 99) == 0  # it is still the time that was set last
        one(other).give_back(until=now - 1)  # who says no time takes it
        assert due(other, now + 1) == 1


def test_the_clock_was_set_back(spool: Spool) -> None:
    """After a clock that was ahead nobody waits for a time that was wrong, be a mail put off or only written."""
    added(spool)
    now = time.time()
    assert due(spool, now - 3600) == 1
    assert due(spool, now - 3600, until=now + 1000) == 1
    assert due(spool, now + 1) == 0
    assert due(spool, now - 3600) == 1


def test_notes(spool: Spool) -> None:
    """Notes are there for the next processor, with the envelope that is left, and the digest is over them too."""
    path = added(spool)
    with one(spool) as entry:
        assert entry.notes == {}
        entry.served(["bob@example.com"], notes={"tried": 1, "by": "Zoë"})
        assert entry.notes == {"tried": 1, "by": "Zoë"}
        entry.served([], notes={"tried": 2})
        entry.served([], notes={"tried": 2})  # nothing to write
        entry.give_back()
    with one(spool) as entry:
        assert [found.address for found in entry.envelope.forward_paths] == ["eve@example.com"]
        assert (entry.notes, told(entry.mail_data)) == ({"tried": 2}, MAIL)
        entry.served(())
        assert entry.notes == {"tried": 2}
        entry.give_back()
    path.write_bytes(path.read_bytes().replace(b'"tried": 2', b'"tried": 3'))
    assert "its digest is wrong" in str(unfit(spool).error)


@pytest.mark.parametrize("notes", [b"7", b"[1]", b'"x"'])
def test_notes_that_are_none(spool: Spool, notes: bytes) -> None:
    """Notes that are no object make a file that is no mail."""
    path = added(spool)
    with one(spool) as entry:
        entry.served((), notes={"a": 1})
        entry.give_back()
    octets = re.sub(rb'\{\r\n  "a": 1\r\n \}', notes, path.read_bytes())
    body = octets[: octets.rindex(b" sha256 ") + 8]
    path.write_bytes(body + hashlib.sha256(body).hexdigest().encode() + b"\r\n")
    assert "its envelope cannot be read" in str(unfit(spool).error)


def test_since(spool: Spool, folder: Path) -> None:
    """An entry knows when it was queued, by its name, whatever happened since; another name says nothing."""
    before = time.time()
    path = added(spool)
    with one(spool) as entry:
        assert entry.since is not None
        assert before <= entry.since <= time.time()
        entry.give_back(until=time.time() - 1000)
    path.rename(folder / "20269999T000000-000000000-x.queued")
    with one(spool) as entry:
        assert entry.since is None


def test_files(spool: Spool, folder: Path) -> None:
    """What is there is listed by name with all that is known, and nothing is taken or changed by it."""
    assert spool.files() == []
    for number in range(4):
        added(spool, b"To: %d\r\n\r\n" % number)
    claimed = [entry for entry in spool.claim() if isinstance(entry, Entry)]
    until = time.time() + 500
    claimed[0].give_back(until=until)
    claimed[1].served((), notes={"said": "no"})
    claimed[1].failed()
    claimed[2].leave()
    (folder / "junk.queued").write_bytes(b"junk")
    (folder / "link.queued").symlink_to(folder / "junk.queued")
    (folder / "other.txt").write_bytes(b"")
    (folder / "x.writing").write_bytes(b"")
    before = names(folder)
    files = spool.files()
    assert [file.state for file in files] == ["queued", "failed", "in doubt", "sending", "queued"]
    assert files[0].until == pytest.approx(until)
    assert [file.until for file in files[1:]] == [None] * 4
    assert (files[0].sender, files[0].recipients, files[0].size, files[0].message_id) == (
        "ann@example.com",
        ("bob@example.com", "eve@example.com"),
        9,
        "<1@x>",
    )
    assert files[1].notes == {"said": "no"}
    assert [file.path for file in files] == sorted(file.path for file in files)
    assert isinstance(files[4].error, InvalidMail)
    assert (files[4].since, files[4].notes, files[4].size) == (None, None, None)
    claimed[3].give_back()
    assert names(folder) == sorted([name for name in before if name != ".sending"] + [".sending", ".queued"])


def test_files_that_cannot_be_read(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that the disk does not give is listed with the reason; one that goes meanwhile is not."""
    path = added(spool)
    path.chmod(0)
    if not os.access(path, os.R_OK):
        assert isinstance(spool.files()[0].error, SpoolError)

    def broken(*args: object, **kwargs: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path.chmod(0o600)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", broken)
        error = spool.files()[0].error
        assert isinstance(error, SpoolError)
        assert "cannot be read" in str(error)
    monkeypatch.setattr(Directory, "names", lambda _: ["20250101T000000-000000000-x.queued"])
    assert spool.files() == []
