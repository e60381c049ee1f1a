"""Sends a run of mails in a process of its own: the words are the URL, the ledger, how many, and what becomes of doubt.

Each mail is made anew, with a Message-ID of its own making. At the end the counts are printed, as JSON. It is a script,
and imports nothing of the tests.
"""

import json
import sys
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
        print(json.dumps({state: getattr(run.counts, state) for state in STATES}))  # noqa: T201  what the parent reads


if __name__ == "__main__":
    anyio.run(send, sys.argv[1], sys.argv[2], int(sys.argv[3]), "retry" if sys.argv[4] == "retry" else "hold")
