"""Loads a script and forks for each run of it: ``tracee.py script``; ``tracing.Forks`` starts it.

For each run a line comes in, a folder and words; a line with the numbers of its threads goes out when the work is to
begin; a signal lets it go on, which is no call that is traced; and a line with its status goes out when it has ended.
What it prints is in the folder. It is a script, and imports nothing of the tests.
"""

import ctypes
import json
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

BEGIN = signal.SIGUSR1
_ANYBODY_MAY_TRACE = 0x59616D61  # PR_SET_PTRACER; where Yama guards, a parent alone may


def child(main: Callable[..., Any], folder: str, words: list[str]) -> None:
    """Do the work, in a process of its own."""
    ctypes.CDLL(None).prctl(_ANYBODY_MAY_TRACE, ctypes.c_ulong(-1), 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, {BEGIN})
    os.chdir(folder)
    told = os.dup(1)
    for number, name in ((1, "stdout"), (2, "stderr")):
        opened = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(opened, number)
        os.close(opened)

    def begin() -> None:
        threads = sorted(task.name for task in Path("/proc/self/task").iterdir())
        threads.sort(key=lambda name: name != str(os.getpid()))
        os.write(told, json.dumps(threads).encode() + b"\n")
        signal.sigwait({BEGIN})
        os.access("BEGIN", os.F_OK)

    status = 1
    try:
        main(begin, *words)
        status = 0
    except BaseException:  # noqa: BLE001  shown, as the interpreter does
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(status)


def serve(script: str) -> None:
    """Fork for each run, until there is no more."""
    names = runpy.run_path(script)
    if "rehearse" in names:
        names["rehearse"]()
    for request in sys.stdin:
        folder, *words = json.loads(request)
        pid = os.fork()
        if pid == 0:
            child(names["main"], folder, words)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.write(1, json.dumps(status).encode() + b"\n")


if __name__ == "__main__":
    serve(sys.argv[1])
