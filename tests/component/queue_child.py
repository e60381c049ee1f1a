"""Uses a queue of the component in a process of its own: ``main(begin, way, verb, directory, record, *words)``.

``queue``: the words are Message-IDs; a line ``queued``, the Message-ID and the path is on the disk before the next is
queued. ``process``: the words are the port of the server, what to do with what is in doubt, and KeepQueue. What is told
by the Error event is a line ``error``. An error of the component is printed, with its number. As a program it says that
it is ready, and begins when it is told to.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from tempfile import TemporaryDirectory
from typing import Any

import anyio.to_thread

from smtpkit import ComponentError
from smtpkit.testing import Server
from tests.component.ways import call, make, run
from tests.spool_child import tell


async def queue(smtp: Any, directory: str, record: str, *message_ids: str) -> None:
    """Queue a mail for each Message-ID, of which the first part is who it is to."""
    for message_id in message_ids:
        smtp.message_id = message_id
        smtp.send_to = f"{message_id[1:-1].partition('@')[0]}@example.com"
        tell(record, "queued", message_id, await call(smtp.queue, directory))


async def process(smtp: Any, directory: str, record: str, port: str, keep: str = "False") -> None:
    """Send what is there."""
    smtp.mail_server, smtp.mail_port = "127.0.0.1", int(port)
    smtp.config(f"KeepQueue={keep}")
    smtp.on_error = lambda e: tell(record, "error", str(e.error_code), e.description)
    await call(smtp.process_queue, directory)


def rehearse() -> None:
    """Queue and send a mail, so that all is loaded."""
    for name in ("anyio._backends._asyncio", "smtpkit.transport.asyncio_stream"):
        import_module(name)
    with TemporaryDirectory() as folder, Server() as server:
        smtp = make("blocking", server)
        smtp.queue(folder)
        smtp.process_queue(folder)


def main(begin: Callable[[], object], way: str, verb: str, directory: str, record: str, *words: str) -> None:
    """Do what is asked, and print the error if it is one of ours."""

    async def scenario() -> None:
        how: Any = {"in_doubt": words[1]} if verb == "process" else {}
        smtp = make(way, None, **how)
        if way != "blocking":
            await anyio.to_thread.run_sync(int)  # the thread that is there for the disk
        begin()
        try:
            if verb == "queue":
                await queue(smtp, directory, record, *words)
            else:
                await process(smtp, directory, record, words[0], *words[2:])
        except ComponentError as error:
            print(f"ComponentError {error.code}: {error.message}")  # noqa: T201  what the parent reads

    run(way, scenario)


if __name__ == "__main__":
    main(lambda: (print("ready", flush=True), sys.stdin.readline()), *sys.argv[1:])  # noqa: T201
