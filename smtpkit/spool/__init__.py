"""The spool: a directory of mail that waits to be sent. The suffix of a file is its state.

::

    id.writing -> id.queued -> id.sending -> gone, or id.sent, or id.failed
                     ^_____________|         given back: not sent, for now

Each step is on the disk (fsync of the file, rename, fsync of the directory) before the caller goes on. Needs a local
file system of POSIX; a lock on NFS may hold nobody off.

Why two processors never send one mail at once, and a crash loses none:

* Whoever renames, replaces or deletes a file holds the lock (flock) on it, and has looked, under the lock, whether the
  name still means the locked file. Of many who opened one file, one goes on; the others find the lock taken, or the
  name gone or given to another file. A file is locked from its first octet until ``add`` returns.
* The lock is taken before the rename to ``.sending`` and given up after the rename away from it; the kernel gives it
  up for a process that dies, once its children have ended too. So a ``.sending`` whose lock is free was left by a
  crash: it is in doubt.
* Nothing is handed out before its ``.sending`` is on the disk, so what is ``.queued`` after a power cut was not begun.
* Nothing is renamed over another file. Ids are unique, so only a copy made by hand can be in the way.
* What is queued goes first, what is in doubt last: a mail that kills its processor stops no other.
* What is given back until a time has that as its time of modification; any other file was modified when it was written.

What a file looks like is told in ``file.py``.
"""

import errno
import io
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from smtpkit.errors import InvalidMail, SMTPError, UsageError
from smtpkit.protocol.envelope import Envelope
from smtpkit.protocol.mail_data import MailData
from smtpkit.spool.directory import Directory, is_put_off, let_go, put_off, since
from smtpkit.spool.file import Content, read, write
from smtpkit.spool.listed import Listed, look

_NAME = re.compile(r"([0-9A-Za-z_-]{1,64})\.(writing|queued|sending)")
_STATES = ("queued", "sending", "sent", "failed")
_EVERYWHERE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # the next file would fare no better


@dataclass(frozen=True, slots=True)
class Unfit:
    """A file that cannot be sent, and where it is now.

    ``error`` is InvalidMail if it is no mail, or not whole: it is ``.failed``. It is a SpoolError if the file could
    not be read, or a copy is in its way: it stays where it was.
    """

    path: str
    error: SMTPError


class Spool:
    """A directory of mail, opened: use it in a ``with`` block, or ``close`` it. All its functions block.

    The directory is there already, belongs to this user, is no link, and nobody else may write it: UsageError if not.
    Any number of processes and threads may have it open.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = Directory(os.fspath(directory))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the directory; entries not settled cannot be settled any more."""
        self._directory.close()

    def check_place(self) -> None:
        """Raise SpoolError where the path does not mean this directory any more: what comes there is not seen here."""
        with self._directory.told("it was moved or removed; begin anew, in the one that is to be used"):
            self._directory.check_named()

    def add(self, envelope: Envelope, mail_data: MailData, *, message_id: str | None = None) -> str:
        """Queue a mail, and return the path of its file: it is on the disk then, and survives a power cut.

        Raises InvalidMail for what is wrong with the mail data or their source, UsageError if that must be awaited,
        and SpoolError. Nothing is queued then.
        """
        directory = self._directory
        with directory.told("nothing was queued"), directory.new_file() as (name, file):
            write(file, envelope, mail_data, message_id)
            directory.rename(f"{name}.writing", f"{name}.queued")
            directory.sync()
            file.close()
        return directory.path(f"{name}.queued")

    def claim(
        self, *, in_doubt: Literal["retry", "hold"] = "retry", now: Callable[[], float] | None = None
    ) -> "Iterator[Entry | Unfit]":
        """Take one mail after the other: what is queued when this begins, in order of name, then what is in doubt.

        With ``now``, which tells seconds since 1970, it passes over what was given back until a later time.
        ``in_doubt="hold"`` leaves alone what a crash left in the middle of an attempt. What another processor has is
        passed over. Settle each entry, or leave its ``with`` block, to let go of it. Raises SpoolError when the
        directory fails; what was not taken yet is as it was.
        """
        if in_doubt not in {"retry", "hold"}:
            raise UsageError(f"in_doubt {in_doubt!r}: retry or hold")
        with self._directory.told("its files cannot be listed"):
            found = [match for match in map(_NAME.fullmatch, self._directory.names()) if match]
        for match in found:
            if match[2] == "writing":
                self._directory.remove_if_stale(match[0])
        for state in ("queued",) if in_doubt == "hold" else ("queued", "sending"):
            for name in sorted(match[1] for match in found if match[2] == state):
                taken = self._take(name, state, now)
                if taken is not None:
                    yield taken

    def files(self) -> "list[Listed]":
        """What is in the directory, in order of name; nothing is taken, and no mail data are read."""
        with self._directory.told("its files cannot be listed"):
            names = sorted(self._directory.names())
        return [found for name in names if (found := look(self._directory, name)) is not None]

    def _take(self, name: str, state: str, now: Callable[[], float] | None) -> "Entry | Unfit | None":
        """Take one mail, if it is still there, nobody has it, and it is not put off."""
        directory, file_name = self._directory, f"{name}.{state}"
        with ExitStack() as stack:
            try:
                file = directory.lock(file_name)
                if file is None:
                    return None
                stack.callback(let_go, file)
                if now is not None and state == "queued" and is_put_off(file, now):
                    return None
                content = read(file)
                for other in _STATES:
                    if other != state:
                        directory.check_free(f"{name}.{other}")
            except InvalidMail as why:
                return self._set_aside(name, state, why)
            except OSError as fault:
                error = directory.error(f"{file_name} cannot be taken", fault)
                if fault.errno in _EVERYWHERE:
                    raise error from fault
                return Unfit(directory.path(file_name), error)
            with directory.told(f"{file_name} cannot be taken"):
                if state == "queued":
                    directory.rename(file_name, f"{name}.sending")
                directory.sync()
            stack.pop_all()
        return Entry(directory, name, file, content, in_doubt=state == "sending")

    def _set_aside(self, name: str, state: str, why: InvalidMail) -> Unfit | None:
        """Make a file that is no mail ``.failed``, unless another processor was faster."""
        directory, file_name = self._directory, f"{name}.{state}"
        trouble = f"{why}; and it cannot be set aside"
        with directory.told(trouble):
            try:
                directory.check_free(f"{name}.failed")
                directory.rename(file_name, f"{name}.failed")
            except FileNotFoundError:
                return None
            except FileExistsError as fault:
                return Unfit(directory.path(file_name), directory.error(trouble, fault))
            directory.sync()
        return Unfit(directory.path(f"{name}.failed"), why)


class Entry:
    """A mail that is being sent, and nobody else's until it is settled.

    ``in_doubt``: an attempt was under way when its process died, so it may have been sent already.
    Leaving the ``with`` block unsettled is ``leave``. Where settling raises SpoolError, the mail is in doubt. A file
    that somebody has deleted meanwhile is settled by that.
    """

    envelope: Envelope
    message_id: str | None
    mail_data: MailData  # told from the file, as often as is wanted, until the entry is settled
    notes: Mapping[str, Any]  # what those who had it before have written down for whoever has it next

    def __init__(
        self, directory: "Directory", name: str, file: io.FileIO, content: "Content", *, in_doubt: bool
    ) -> None:
        self.in_doubt = in_doubt
        self._directory = directory
        self._name = name
        self._state = "sending"
        self._file = file
        self.envelope, self.message_id, self.mail_data, self.notes = content

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    @property
    def since(self) -> float | None:
        """When it was queued (seconds since 1970), by its name; None for a file that was named by hand."""
        return since(self._name)

    @property
    def path(self) -> str:
        """Where the file is, or was before it was deleted."""
        return self._directory.path(f"{self._name}.{self._state}")

    def sent(self, *, keep: bool) -> None:
        """It was accepted, for everybody: the file is deleted, or ``.sent`` if ``keep``."""
        self._settle("sent" if keep else None)

    def failed(self) -> None:
        """It was refused, and is not tried again: ``.failed``, for a human."""
        self._settle("failed")

    def give_back(self, *, until: float | None = None) -> None:
        """It was certainly not sent, for now: ``.queued`` again, for the next run, or for one at ``until`` or later."""
        self._settle("queued", until)

    def leave(self) -> None:
        """It may have been sent: it stays ``.sending``, in doubt. Does nothing if it is settled."""
        let_go(self._file)

    def served(self, recipients: Collection[str], *, notes: Mapping[str, Any] | None = None) -> None:
        """Take recipients who have the mail off its envelope, durably; then settle it for those who are left.

        ``notes`` replaces those of the entry: a JSON object.

        Needs room for a second copy of the file. If it raises SpoolError, nothing or all of it came about.
        """
        self._check_unsettled()
        left = tuple(path for path in self.envelope.forward_paths if path.address not in recipients)
        if not left:
            raise UsageError(f"{self.path}: everybody has the mail; call sent()")
        notes = self.notes if notes is None else notes
        if len(left) == len(self.envelope.forward_paths) and notes == self.notes:
            return
        directory, now = self._directory, f"{self._name}.sending"
        with directory.told(f"{self.path} still names who has it"):
            if not directory.means(now, self._file):  # somebody has deleted it
                return
            with directory.new_file() as (name, file):
                write(file, replace(self.envelope, forward_paths=left), self.mail_data, self.message_id, notes)
                content = read(file)
                directory.rename(f"{name}.writing", now)  # over the old one, with both locks held
                let_go(self._file)
                self._file = file
                self.envelope, self.message_id, self.mail_data, self.notes = content
                directory.sync()

    def _settle(self, state: str | None, until: float | None = None) -> None:
        self._check_unsettled()
        directory, now = self._directory, f"{self._name}.sending"
        with directory.told(f"{now} cannot be settled"):
            if not directory.means(now, self._file):  # somebody has deleted it
                pass
            elif state is None:
                directory.unlink(now)
            else:
                directory.check_free(f"{self._name}.{state}")
                if until is not None:
                    put_off(self._file, until)
                directory.rename(now, f"{self._name}.{state}")
                self._state = state
            let_go(self._file)
            directory.sync()

    def _check_unsettled(self) -> None:
        if self._file.closed:
            raise UsageError(f"{self.path}: this entry is settled already")
