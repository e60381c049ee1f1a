"""The directory of a spool: opened once, checked, and all that is done in it done by its descriptor."""

import errno
import fcntl
import io
import os
import re
import stat
import time
from calendar import timegm
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from smtpkit.errors import InvalidMail, SpoolError, UsageError

STALE = 36 * 3600  # seconds after which a temporary file that nobody holds is removed

_STAMP_FORM = "%Y%m%dT%H%M%S"
_STAMP = re.compile(r"(\d{8}T\d{6})-(\d{9})-", re.ASCII)

_ADVICE = {
    errno.EACCES: "this user must be allowed to read and to write there",
    errno.EDQUOT: "make room in the quota and try again",
    errno.EEXIST: "two files of one mail lie there; take one away",
    errno.EFBIG: "this process may not write files of that size; raise its limit (ulimit -f)",
    errno.EIO: "the disk fails; see the kernel's log",
    errno.EMFILE: "this process has too many files open; raise its limit (ulimit -n)",
    errno.ENFILE: "the system has too many files open",
    errno.ENOSPC: "make room on the disk and try again",
    errno.EPERM: "this user must be allowed to read and to write there",
    errno.EROFS: "the file system is mounted read-only",
}


class Directory:
    """The directory by its descriptor: what is done in it is done to it, whatever its path means by then."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = _open_directory(path)

    def close(self) -> None:
        """Let go of it; the descriptor means nothing from then on."""
        if self._fd >= 0:
            closed, self._fd = self._fd, -1
            with suppress(OSError):  # it says nothing about what was done
                os.close(closed)

    def check_named(self) -> None:
        """Raise OSError unless its path means it still."""
        if not os.path.samestat(os.stat(self._path), os.fstat(self._fd)):  # noqa: PTH116  as it was given
            raise FileNotFoundError(errno.ENOENT, "another directory has its name")

    def names(self) -> list[str]:
        """What is in it."""
        # Opened anew: those who list by one descriptor share their place in the list.
        listing = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            return os.listdir(listing)  # noqa: PTH208  pathlib lists no descriptor
        finally:
            os.close(listing)

    def look(self, name: str) -> tuple[io.FileIO, os.stat_result] | None:
        """Open a file to look at it, without a lock; None if it is gone, or is no regular file."""
        with suppress(FileNotFoundError), ExitStack() as stack:
            if not stat.S_ISREG(self._stat(name).st_mode):
                return None
            file = io.FileIO(name, opener=self._opener)
            stack.callback(let_go, file)
            found = os.fstat(file.fileno())
            stack.pop_all()
            return file, found
        return None

    def lock(self, name: str) -> io.FileIO | None:
        """Open and lock a file: None if it is gone or somebody has it, InvalidMail if it is no file of ours."""
        try:
            file = io.FileIO(name, opener=self._opener)
        except FileNotFoundError:
            return None
        except OSError as fault:
            if fault.errno in {errno.EISDIR, errno.ELOOP, errno.ENXIO}:
                raise InvalidMail(f"{name}: no regular file") from fault
            raise
        with ExitStack() as stack:
            stack.callback(let_go, file)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            if not self.means(name, file):
                return None
            _check_ours(name, os.fstat(file.fileno()))
            stack.pop_all()
        return file

    def means(self, name: str, file: io.FileIO) -> bool:
        """Is this file the one of that name?"""
        try:
            return os.path.samestat(self._stat(name), os.fstat(file.fileno()))
        except FileNotFoundError:
            return False

    @contextmanager
    def new_file(self) -> Iterator[tuple[str, io.FileIO]]:
        """A new file, locked: its name without the suffix ``.writing``. On any fault it goes, ``.queued`` or not."""
        seconds, rest = divmod(time.time_ns(), 1_000_000_000)
        name = f"{time.strftime(_STAMP_FORM, time.gmtime(seconds))}-{rest:09d}-{os.urandom(8).hex()}"
        with ExitStack() as undo:
            undo.callback(self._discard, f"{name}.writing")
            file = io.FileIO(f"{name}.writing", "x+", opener=self._opener)
            undo.callback(let_go, file)
            undo.callback(self._discard, f"{name}.queued")  # before the lock is given up
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield name, file
            undo.pop_all()

    def remove_if_stale(self, name: str) -> None:
        """Remove what a crash left unfinished; a fault here stops no mail."""
        with suppress(OSError, InvalidMail):
            if time.time() - self._stat(name).st_mtime > STALE:
                file = self.lock(name)
                if file is not None:
                    with file:
                        self.unlink(name)

    def check_free(self, name: str) -> None:
        """Raise FileExistsError if there is a file of that name."""
        with suppress(FileNotFoundError):
            self._stat(name)
            raise FileExistsError(errno.EEXIST, f"{name} is there already")

    def rename(self, old: str, new: str) -> None:
        """Rename, over what is there."""
        os.rename(old, new, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def unlink(self, name: str) -> None:
        """Delete a file."""
        os.unlink(name, dir_fd=self._fd)

    def sync(self) -> None:
        """Wait until the disk has its names as they are."""
        os.fsync(self._fd)

    def path(self, name: str) -> str:
        """The path by which a file in it can be opened."""
        return os.path.join(self._path, name)  # noqa: PTH118  as it was given: a Path would tidy it

    def error(self, what: str, fault: OSError) -> SpoolError:
        """A fault of the system as ours."""
        return trouble(self._path, what, fault)

    @contextmanager
    def told(self, what: str) -> Iterator[None]:
        """Raise a fault of the system as ours."""
        try:
            yield
        except OSError as fault:
            raise self.error(what, fault) from fault

    def _discard(self, name: str) -> None:
        with suppress(OSError):
            self.unlink(name)

    def _stat(self, name: str) -> os.stat_result:
        return os.stat(name, dir_fd=self._fd, follow_symlinks=False)

    def _opener(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600, dir_fd=self._fd)


def since(name: str) -> float | None:
    """When a file was queued (seconds since 1970), as the name that it was given says; None for another name."""
    found = _STAMP.match(name)
    try:
        return timegm(time.strptime(found[1], _STAMP_FORM)) + int(found[2]) / 1e9 if found else None
    except ValueError:
        return None


def put_off_until(found: os.stat_result) -> float | None:
    """Until when a file is put off, or was (seconds since 1970): its time of modification, which is that of writing
    where nobody set it, and not later than the last change to the file.
    """
    return found.st_mtime if found.st_mtime > found.st_ctime else None


def is_put_off(file: io.FileIO, now: Callable[[], float]) -> bool:
    """Is a file not to be taken yet? Where the clock was set back since, nothing is believed."""
    found = os.fstat(file.fileno())
    until = put_off_until(found)
    return until is not None and found.st_ctime <= now() < until


def put_off(file: io.FileIO, until: float) -> None:
    """Let a file not be taken before a time (seconds since 1970), durably."""
    os.utime(file.fileno(), (until, until))
    os.fsync(file.fileno())


def let_go(file: io.FileIO) -> None:
    """Close a file, and give up its lock. What goes wrong in that says nothing about the mail."""
    with suppress(OSError):
        file.close()


def _open_directory(path: str) -> int:
    """Open the directory, if it is one that a spool may be in."""
    bare = path.rstrip("/") if path.strip("/") else path  # a link followed by a slash would be followed
    with ExitStack() as stack:
        try:
            fd = os.open(bare, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            found = os.fstat(fd)
        except FileNotFoundError:
            raise UsageError(f"spool {path!r}: there is no such directory; make it first, with mode 0700") from None
        except ValueError as fault:
            raise UsageError(f"spool {path!r}: {fault}") from fault
        except OSError as fault:
            if os.path.islink(bare):  # noqa: PTH114
                raise UsageError(f"spool {path!r}: a symbolic link; give the directory that it means") from fault
            if fault.errno == errno.ENOTDIR:
                raise UsageError(f"spool {path!r}: no directory") from fault
            raise trouble(path, "it cannot be opened", fault) from fault
        if found.st_uid != os.geteuid():
            raise UsageError(f"spool {path!r}: it belongs to another user (uid {found.st_uid}, not {os.geteuid()})")
        if found.st_mode & 0o022:
            raise UsageError(f"spool {path!r}: others may write it ({stat.filemode(found.st_mode)}); chmod go-w")
        stack.pop_all()
    return fd


def _check_ours(name: str, found: os.stat_result) -> None:
    """Raise InvalidMail unless the file is one that ``add`` could have made."""
    if not stat.S_ISREG(found.st_mode):
        raise InvalidMail(f"{name}: no regular file")
    if found.st_nlink != 1:
        raise InvalidMail(f"{name}: it has another name as well (a hard link)")
    if found.st_uid != os.geteuid():
        raise InvalidMail(f"{name}: it belongs to another user (uid {found.st_uid})")
    if found.st_mode & 0o022:
        raise InvalidMail(f"{name}: others may write it ({stat.filemode(found.st_mode)})")


def trouble(where: str, what: str, fault: OSError) -> SpoolError:
    """What failed, why, and what to do about it."""
    advice = _ADVICE.get(fault.errno or 0)
    return SpoolError(f"spool {where!r}: {what}: {fault.strerror or fault}{f'; {advice}' if advice else ''}")
