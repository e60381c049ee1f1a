"""Sends many mails from a process of its own: ``endurance_child.py url way connections count``.

Prints a line of JSON: how many were accepted, and the process's resident memory (octets), descriptors and tasks after
a tenth of the mails, and in the end. It is a script, and imports nothing of the tests.
"""

import asyncio
import gc
import json
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from smtpkit import Client, Mail

OCTETS = (
    b"From: ann@example.com\r\nTo: bob@example.com\r\nSubject: %d\r\n\r\n"
    + b"sixty-two characters and a line end make a line of a mail\r\n" * 16
)


def mail(number: int) -> Mail:
    """A mail of about 1 KiB, with a sender of its own."""
    return Mail(OCTETS % number, f"s{number}@example.com", ["bob@example.com"])


def held() -> dict[str, int]:
    """What this process holds."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "memory": pages * resource.getpagesize(),
        "files": len(os.listdir("/proc/self/fd")),  # noqa: PTH208  one of them is that of the listing
        "tasks": len(asyncio.all_tasks()),
    }


class Count:
    """Counts what was accepted, each mail once, and looks after a tenth."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.seen = bytearray(count)
        self.accepted = 0
        self.early: dict[str, int] = {}

    def mails(self) -> Iterator[Mail]:
        """All of them, made when they are asked for."""
        return (mail(number) for number in range(self.count))

    def settle(self, sender: str | None) -> None:
        """One was accepted."""
        number = int((sender or "")[1:].partition("@")[0])
        assert not self.seen[number]
        self.seen[number] = 1
        self.accepted += 1
        if self.accepted == self.count // 10:
            self.early = held()


async def by_many(client: Client, count: Count) -> None:
    """By ``send_many``."""
    async with client.send_many(count.mails()) as outcomes:
        async for outcome in outcomes:
            outcome.raise_for_refused()
            count.settle(outcome.item.sender)


async def by_tasks(client: Client, count: Count) -> None:
    """By tasks that take mail after mail, twice as many as there are sessions."""
    mails = count.mails()

    async def work() -> None:
        for one in mails:
            await client.send(*one)
            count.settle(one.sender)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(2 * client.options.connections):
            tasks.create_task(work())


async def main(url: str, way: str, connections: int, count: Count) -> None:
    """Send, and print."""
    before = held()
    async with Client(url, tls="none", connections=connections) as client:
        await {"many": by_many, "tasks": by_tasks}[way](client, count)
        late = held()
    after = held()
    found = {"accepted": count.accepted, "before": before, "early": count.early, "late": late, "after": after}
    print(json.dumps(found))  # noqa: T201  what the parent reads


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Count(int(sys.argv[4]))))
