"""Runs a Python script under strace, which tells its system calls and can kill it, or fail it, at any of them.

A script has ``main(begin, *words)``, which calls ``begin`` just before the work, with all its threads there.

* ``Forks`` loads it once, calls its ``rehearse`` if it has that, and forks for each run, which is traced from ``begin``
  on. Nothing is loaded under strace, and each thread counts its calls from there: strace counts by thread, and so can
  mean a call of one thread alone.
* ``command`` and ``run`` are for a process of its own that is traced from its start on, and has one thread.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self

import pytest

from tests import tracee

ATONCE = 3  # processes
TRACED = "%file,%desc,%network"  # all that could change a disk, all that reads it, and all that a server hears

# How each call may fail; those not named here fail with EIO.
FAULTS = {
    "openat": ("EIO", "EMFILE", "EACCES", "ENOSPC"),
    "write": ("EIO", "ENOSPC", "EDQUOT"),
    "fsync": ("EIO", "ENOSPC"),
    "rename": ("EIO", "ENOSPC", "EACCES", "EROFS"),
    "renameat": ("EIO", "ENOSPC", "EACCES", "EROFS"),
    "renameat2": ("EIO", "ENOSPC", "EACCES", "EROFS"),
    "unlinkat": ("EIO", "EACCES", "EROFS"),
    "flock": ("EIO", "ENOLCK"),
}

_CALL = re.compile(r"(?:(\d+) +)?(\w+)\((.*)")
_UNFINISHED = "<unfinished ...>"  # another thread's call came between its beginning and its end
_RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)")
_PATH = ":".join(part or "." for part in sys.path)
_ENVIRONMENT = {"PYTHONPATH": _PATH, "PYTHONHASHSEED": "0", "LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
# No start files, no hash seed and no byte code to write: one run makes the same calls as another.
_PYTHON = [sys.executable, "-S", "-B"]


@dataclass(frozen=True, slots=True)
class Call:
    """A system call: the ``number``-th of its name in its thread, and what it was called with; 0 is the main thread."""

    name: str
    number: int
    arguments: str
    thread: int = 0

    @property
    def kill(self) -> str:
        """What makes strace kill the process instead of this call."""
        return f"{self.name}:signal=KILL:when={self.number}"

    @property
    def faults(self) -> list[str]:
        """What makes strace fail this call, in each way in which it may fail."""
        return [f"{self.name}:error={error}:when={self.number}" for error in FAULTS.get(self.name, ("EIO",))]


@dataclass(frozen=True, slots=True)
class Run:
    """What became of a process. ``calls`` are those after it had begun; only a run without a fault has them."""

    status: int
    stdout: str
    stderr: str
    calls: tuple[Call, ...]

    @property
    def kills(self) -> "list[tuple[Call, str]]":
        """To be killed at each call."""
        return [(call, call.kill) for call in self.calls]

    @property
    def faults(self) -> "list[tuple[Call, str]]":
        """To fail in each way at each call that has to do with the spool."""
        concerned = [call for call in self.calls if "/spool" in call.arguments.split("= ")[0]]
        return [(call, fault) for call in concerned for fault in call.faults]


def at_each(points: list[tuple[Call, str]], what: Callable[[int, Call, str], bool]) -> int:
    """Do something for each point, a few at once, and say how often it was so."""
    with ThreadPoolExecutor(ATONCE) as workers:
        return sum(workers.map(lambda numbered: what(numbered[0], *numbered[1]), enumerate(points)))


class Forks:
    """Processes that have loaded a script, and fork for each run. Use it in a ``with`` block, from any thread."""

    def __init__(self, script: str) -> None:
        command = [*_PYTHON, tracee.__file__, script]
        self._all = [
            subprocess.Popen(command, env=_ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(ATONCE)
        ]
        self._free: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()
        for process in self._all:
            self._free.put(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._all:
            process.__exit__(None, None, None)

    def run(self, folder: Path, *words: str, inject: str = "", thread: int = 0) -> Run:
        """Run ``main(begin, *words)`` in a folder. What is injected is for this thread alone."""
        process = self._free.get()
        told, heard = process.stdin, process.stdout
        assert told is not None
        assert heard is not None
        print(json.dumps([str(folder), *words]), file=told, flush=True)
        threads = json.loads(heard.readline())
        if not isinstance(threads, list):
            raise OSError(f"it ended before it began: {(folder / 'stderr').read_text()}")
        which = ["-e", f"inject={inject}", "-p", threads[thread]] if inject else ["-f", "-p", threads[0]]
        strace = ["strace", "-y", "-o", "calls", "-e", f"trace={TRACED}", *which]
        with subprocess.Popen(strace, cwd=folder, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            first = tracer.stderr.readline()
            os.kill(int(threads[0]), tracee.BEGIN)
            status = json.loads(heard.readline())
        self._free.put(process)
        if "attached" not in first:
            raise OSError(first)
        log = "" if inject else (folder / "calls").read_text(errors="replace")
        return Run(status, (folder / "stdout").read_text(), (folder / "stderr").read_text(), _calls(log, threads))


def command(script: str, *words: str, inject: str = "") -> list[str]:
    """To run ``script BEGIN words`` and log its calls. ``inject`` is strace's: ``fsync:error=EIO:when=3``."""
    strace = ["strace", "-f", "-qq", "-y", "-o", "calls", "-e", f"trace={TRACED}"]
    strace += ["-e", f"inject={inject}"] if inject else []
    return [*strace, *_PYTHON, script, "BEGIN", *words]


def run(traced: list[str], folder: Path) -> Run:
    """Run a command, in which there is one of ``command``, in a folder."""
    ended = subprocess.run(traced, cwd=folder, env=_ENVIRONMENT, capture_output=True, text=True, check=False)
    log = folder / "calls"
    return Run(ended.returncode, ended.stdout, ended.stderr, _calls(log.read_text(errors="replace"), []))


def _calls(log: str, threads: list[str]) -> tuple[Call, ...]:
    """The calls of a log, but for those of threads that begin later: nobody could attach to one before it makes them.

    Such a thread looks up a name or reads certificates, and has nothing to do with the spool.
    """
    counts: Counter[tuple[int, str]] = Counter()
    found: list[Call] = []
    unfinished: dict[str, int] = {}  # by process, where in ``found`` its call is
    begun = False
    for line in log.splitlines():
        resumed = _RESUMED.match(line)
        if resumed is not None and resumed[1] in unfinished:
            at = unfinished.pop(resumed[1])
            found[at] = replace(found[at], arguments=found[at].arguments.removesuffix(_UNFINISHED) + resumed[2])
        match = _CALL.match(line)
        if match is None:
            continue
        if threads and match[1] not in threads:
            assert "/spool" not in match[3], line
            continue
        thread = threads.index(match[1]) if threads else 0
        counts[thread, match[2]] += 1
        if begun:
            if match[3].endswith(_UNFINISHED):
                unfinished[match[1]] = len(found)
            found.append(Call(match[2], counts[thread, match[2]], match[3], thread))
        begun = begun or (match[2] in {"access", "faccessat"} and '"BEGIN"' in match[3])
    return tuple(found)


@cache
def why_not() -> str | None:
    """Why no process can be traced here; None if it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    with tempfile.TemporaryDirectory(prefix="tracing-") as folder:
        script = Path(folder, "script.py")
        script.write_text(
            "import os, sys\ndef main(begin):\n    begin()\n    os.rename('a', 'b')\n"
            "if __name__ == '__main__':\n    main(lambda: os.access(sys.argv[1], 0))\n"
        )
        Path(folder, "a").touch()
        kill = "rename:signal=KILL:when=1"
        ended = run(command(str(script), inject=kill), Path(folder))
        if ended.status != -9 or [call.name for call in ended.calls] != ["rename"] or not Path(folder, "a").exists():
            return (
                f"strace cannot trace here, or not as far as is needed: status {ended.status}, {ended.stderr.strip()}"
            )
        try:
            with Forks(str(script)) as forks:
                ended = forks.run(Path(folder), inject=kill)
        except OSError as error:
            return f"strace cannot trace what runs already: {error}"
        return None if ended.status == -9 and Path(folder, "a").exists() else f"strace killed nobody: {ended}"


@contextmanager
def loaded(script: str) -> Iterator[Forks]:
    """A script to be traced. Skips where nothing can be traced, but never in CI."""
    reason = why_not()
    if reason is not None:
        if os.environ.get("CI"):
            pytest.fail(f"CI needs it: {reason}")
        pytest.skip(reason)
    with Forks(script) as forks:
        yield forks


class Place:
    """A folder with a spool, and the record of what was done with it by the script that ``forks`` has loaded."""

    def __init__(self, folder: Path, forks: Forks) -> None:
        self.folder = folder
        self.spool = folder / "spool"
        self.record = folder / "record"
        self.forks = forks

    def run(self, *words: str, inject: str = "", thread: int = 0) -> Run:
        """Do it in a process of its own, traced."""
        return self.forks.run(self.folder, *words, inject=inject, thread=thread)

    def copy(self, folder: Path) -> Self:
        """The same once more."""
        shutil.copytree(self.folder, folder)
        return type(self)(folder, self.forks)

    def files(self) -> dict[str, str]:
        """By the name of each file, its state."""
        return dict(file.name.split(".") for file in self.spool.iterdir())

    def lines(self, word: str) -> list[list[str]]:
        """The lines of the record that begin with a word, without it."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [line.split()[1:] for line in lines if line.split()[0] == word]
