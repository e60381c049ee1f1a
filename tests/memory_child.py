"""Sends one mail from a process of its own: ``memory_child.py url stream source path blocks``.

Prints the peak of its memory in KiB, as the kernel counted it, and the seconds that sending took. It is a script, and
imports nothing of the tests.
"""

import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from smtpkit import Client, SyncClient

# What the mail is made of, 1 KiB at a time: lines that begin with a dot and line ends that must be mended are in it.
BLOCK = b"Subject: large\r\n\r\n.a dot\nand a line feed alone\r\n"
BLOCK += (b"0123456789abcdef" * 4 + b"\r\n") * 14
BLOCK += b"x" * (1022 - len(BLOCK)) + b"\r\n"
MENDED = BLOCK.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
CHUNK = 64  # blocks


def pieces(blocks: int) -> Iterator[bytes]:
    """The octets, from nothing but a block."""
    for start in range(0, blocks, CHUNK):
        yield BLOCK * min(CHUNK, blocks - start)


async def pieces_awaited(blocks: int) -> AsyncIterator[bytes]:
    """The same, for those who await."""
    for piece in pieces(blocks):
        yield piece


def peak() -> int:
    """The most memory this process has had, in KiB. Not ru_maxrss: it has what the parent had before exec."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


def main(url: str, stream: str, source: str, path: str, blocks: str) -> None:
    """Send, and print."""

    async def send(message: Any) -> None:
        async with Client(url) as client:
            await client.send(message, "ann@example.com", "bob@example.com")

    with Path(path).open("rb") as file:
        mail: Any = file if source == "file" else Path(path)
        if source == "iterable":
            mail = pieces(int(blocks)) if stream == "blocking" else pieces_awaited(int(blocks))
        begun = time.monotonic()
        if stream == "blocking":
            with SyncClient(url) as client:
                client.send(mail, "ann@example.com", "bob@example.com")
        else:
            import anyio

            anyio.run(send, mail, backend=stream)
        print(peak(), time.monotonic() - begun)  # noqa: T201  what the parent reads


if __name__ == "__main__":
    main(*sys.argv[1:])
