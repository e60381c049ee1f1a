"""Runs a Python script under strace, which tells its system calls and can kill it, or fail it, at any of them."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TRACED = "%file,%desc"  # all that could change a disk, and all that reads it

_CALL = re.compile(r"(?:\d+ +)?(\w+)\((.*)")


@dataclass(frozen=True, slots=True)
class Call:
    """A system call: the ``number``-th of its name in its process, and what it was called with."""

    name: str
    number: int
    arguments: str


@dataclass(frozen=True, slots=True)
class Run:
    """What became of a process. ``calls`` are those after it had looked at the path BEGIN."""

    status: int
    stdout: str
    stderr: str
    calls: tuple[Call, ...]


def command(script: str, *words: str, inject: str = "") -> list[str]:
    """To run ``script BEGIN words`` and log its calls. ``inject`` is strace's: ``fsync:error=EIO:when=3``."""
    strace = ["strace", "-f", "-qq", "-y", "-o", "calls", "-e", f"trace={TRACED}"]
    strace += ["-e", f"inject={inject}"] if inject else []
    # No start files, no hash seed and no byte code to write: one run makes the same calls as another.
    return [*strace, sys.executable, "-S", "-B", script, "BEGIN", *words]


def run(traced: list[str], folder: Path) -> Run:
    """Run a command, in which there is one of ``command``, in a folder."""
    path = ":".join(part or "." for part in sys.path)
    environment = {"PYTHONPATH": path, "PYTHONHASHSEED": "0", "LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    ended = subprocess.run(traced, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    log = folder / "calls"
    return Run(ended.returncode, ended.stdout, ended.stderr, _calls(log.read_text(errors="replace")))


def _calls(log: str) -> tuple[Call, ...]:
    counts: Counter[str] = Counter()
    found: list[Call] = []
    begun = False
    for line in log.splitlines():
        match = _CALL.match(line)
        if match is None:
            continue
        counts[match[1]] += 1
        if begun:
            found.append(Call(match[1], counts[match[1]], match[2]))
        begun = begun or (match[1] in {"access", "faccessat"} and '"BEGIN"' in match[2])
    return tuple(found)


@cache
def why_not() -> str | None:
    """Why no process can be traced here; None if it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    with tempfile.TemporaryDirectory(prefix="tracing-") as folder:
        script = Path(folder, "script.py")
        script.write_text("import os, sys\nos.access(sys.argv[1], 0)\nos.rename('a', 'b')\n")
        Path(folder, "a").touch()
        ended = run(command(str(script), inject="rename:signal=KILL:when=1"), Path(folder))
        if ended.status == -9 and [call.name for call in ended.calls] == ["rename"] and Path(folder, "a").exists():
            return None
    return f"strace cannot trace here, or not as far as is needed: status {ended.status}, {ended.stderr.strip()}"
