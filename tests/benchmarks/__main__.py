"""``python -m tests.benchmarks``: each client in a process of its own, in turns; medians, and their ratios to smtplib.

The server is the library's scripted one in this process, so what is compared is the clients' own processor time.
"""

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from smtpkit.testing import Script, Server

ROUNDS = 5
MAILS = 1000
LARGE = 64 * 1024 * 1024
MAIL = b"From: ann@example.com\r\nTo: bob@example.com\r\nSubject: benchmark\r\n\r\n" + b"x" * 70 + b"\r\n" * 2
MAIL += (b"y" * 70 + b"\r\n") * ((4096 - len(MAIL)) // 72)


def smtplib_client(host: str, port: int, mail: bytes, count: int) -> None:
    """The standard library."""
    import smtplib

    with smtplib.SMTP(host, port, local_hostname="client.example") as client:
        for _ in range(count):
            client.sendmail("ann@example.com", ["bob@example.com"], mail)


def aiosmtplib_client(host: str, port: int, mail: bytes, count: int) -> None:
    """aiosmtplib, on asyncio."""
    import asyncio

    import aiosmtplib

    async def main() -> None:
        client = aiosmtplib.SMTP(hostname=host, port=port, local_hostname="client.example", start_tls=False)
        async with client:
            for _ in range(count):
                await client.sendmail("ann@example.com", ["bob@example.com"], mail)

    asyncio.run(main())


def sync_client(host: str, port: int, mail: bytes, count: int) -> None:
    """The sync client, in the caller's thread."""
    import smtpkit

    with smtpkit.SyncClient(f"smtp://{host}:{port}", tls="none") as client:
        for _ in range(count):
            client.send(mail, "ann@example.com", ["bob@example.com"])


def async_client(host: str, port: int, mail: bytes, count: int) -> None:
    """The async client, one mail after the other."""
    import asyncio

    import smtpkit

    async def main() -> None:
        async with smtpkit.Client(f"smtp://{host}:{port}", tls="none") as client:
            for _ in range(count):
                await client.send(mail, "ann@example.com", ["bob@example.com"])

    asyncio.run(main())


CLIENTS: dict[str, Callable[[str, int, bytes, int], None]] = {
    "smtplib": smtplib_client,
    "aiosmtplib": aiosmtplib_client,
    "smtpkit.SyncClient": sync_client,
    "smtpkit.Client": async_client,
}


def child(name: str, host: str, port: str, size: str, count: str) -> None:
    """Send, and print processor seconds, seconds, and the peak memory in KiB above that before sending."""
    mail = MAIL if int(size) == 0 else MAIL + (b"z" * 70 + b"\r\n") * (int(size) // 72)
    CLIENTS[name](host, int(port), MAIL, 20)  # imports, first use
    memory, cpu, began = _peak(), time.process_time(), time.perf_counter()
    CLIENTS[name](host, int(port), mail, int(count))
    print(time.process_time() - cpu, time.perf_counter() - began, _peak() - memory)


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(server: Server, size: int, count: int) -> dict[str, list[float]]:
    """Medians over the rounds for each client: CPU, seconds, memory."""
    runs: dict[str, list[list[float]]] = {name: [] for name in CLIENTS}
    for _ in range(ROUNDS):
        for name, results in runs.items():
            command = [
                sys.executable,
                "-m",
                "tests.benchmarks",
                name,
                server.host,
                str(server.port),
                str(size),
                str(count),
            ]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results.append([float(word) for word in printed.split()])
            server.clear()
    return {
        name: [statistics.median(column) for column in zip(*results, strict=True)] for name, results in runs.items()
    }


def main() -> None:
    """Print the tables."""
    with Server(Script(keep="digest", extensions=("PIPELINING", "8BITMIME"))) as server:
        small, large = measure(server, 0, MAILS), measure(server, LARGE, 1)
    print(f"{MAILS} mails of 4 KiB, one after the other, on one session; one mail of {LARGE >> 20} MiB")
    print(f"{'':20}{'CPU, µs a mail':>16}{'mails/s':>10}{'64 MiB: CPU, s':>18}{'memory, MiB':>14}")
    for name in CLIENTS:
        cpu, took, _ = small[name]
        big, _, memory = large[name]
        print(f"{name:20}{cpu / MAILS * 1e6:16.0f}{MAILS / took:10.0f}{big:18.2f}{memory / 1024:14.1f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(*sys.argv[1:])
    else:
        main()
