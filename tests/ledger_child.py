"""Sends runs of mails in processes of their own: the words are the URL, how many, and what becomes of doubt.

For each ledger that it is told of, a line each, it forks: that costs less than to start anew. It prints the number of
the process, which sends what is left of the run and prints the counts, as JSON; told to go on, by another line, it
prints how the process ended. Each mail is made anew, with a Message-ID of its own making. It is a script, and imports
nothing of the tests.
"""

import json
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Literal

import anyio

import smtpkit

STATES = ("accepted", "refused", "deferred", "in_doubt", "waiting", "under_way")


def mails(count: int) -> Iterator[smtpkit.Message]:
    """The input, the same in each process but for the Message-IDs."""
    for number in range(count):
        yield smtpkit.Message(
            sender="ann@example.com", to=f"user{number}@d{number % 7}.example.org", subject="A run", text="Hello.\n"
        )


async def send(url: str, ledger: str, count: int, in_doubt: Literal["hold", "retry"]) -> None:
    """Send what is left of the run."""
    async with smtpkit.Client(url) as client, smtpkit.Run(ledger, client, in_doubt=in_doubt) as run:
        async for outcome in run.send_many(mails(count)):
            assert outcome.error is None or isinstance(outcome.error, smtpkit.InDoubt), outcome
        counts = {state: getattr(run.counts, state) for state in STATES}
    tell(json.dumps(counts))


def tell(line: object) -> None:
    """Say a line to the parent."""
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


def main(url: str, count: str, in_doubt: str) -> None:
    """Fork for each line."""
    anyio.run(anyio.sleep, 0)  # what that imports need not be imported each time
    for ledger in iter(sys.stdin.readline, ""):
        process = os.fork()
        if process == 0:
            try:
                anyio.run(send, url, ledger.strip(), int(count), "retry" if in_doubt == "retry" else "hold")
            except BaseException:  # noqa: BLE001  whatever it is, this is not the process that reads on
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        tell(process)
        sys.stdin.readline()
        tell(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))


if __name__ == "__main__":
    main(*sys.argv[1:])
