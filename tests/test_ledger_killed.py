"""A run in a process of its own, killed at random moments and begun again until it is done."""

import json
import os
import random
import re
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from itertools import count as naturals
from pathlib import Path
from typing import Self

import pytest

import smtpkit
from smtpkit.testing import Server

HOME = Path(smtpkit.__file__).parents[1]
CHILD = Path(__file__).with_name("ledger_child.py")
MAILS = 2000
KILLS = 50
EACH = 17  # times that one run is killed


def kept(ledger: Path, folder: Path) -> dict[str, str]:
    """The state of each recipient as the disk has it, read from a copy, so that nothing is mended by looking."""
    for file in (ledger, Path(f"{ledger}-wal")):
        if file.exists():
            shutil.copy(file, folder / file.name)
        else:
            (folder / file.name).unlink(missing_ok=True)
    if not (folder / ledger.name).exists():
        return {}
    with closing(sqlite3.connect(folder / ledger.name)) as database:
        if database.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,):
            return {}
        return dict(database.execute("SELECT address, state FROM recipient").fetchall())


class Sender:
    """A process that begins others, each of which sends what is left of a run; see ``ledger_child.py``."""

    def __init__(self, url: str, in_doubt: str) -> None:
        words = [sys.executable, str(CHILD), url, str(MAILS), in_doubt]
        self._process = subprocess.Popen(words, cwd=HOME, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=30)

    def begin(self, ledger: Path) -> int:
        """Begin a process; its number, which is its own until ``wait``."""
        self.tell(str(ledger))
        return int(self.hear())

    def wait(self) -> int:
        """Wait for its end; how it ended."""
        self.tell("")
        return int(self.hear())

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    def hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode()

    def has_spoken(self, within: float) -> bool:
        """Does the process say something within so many seconds, since it is done?"""
        assert self._process.stdout is not None
        return select.select([self._process.stdout], [], [], within)[0] != []


class Killed:
    """A run that is killed again and again: what was under way each time, by recipient."""

    def __init__(self, server: Server, sender: Sender, folder: Path, chance: random.Random) -> None:
        self.server = server
        self.sender = sender
        self.ledger = folder / "run.db"
        self.copies = folder / "copies"
        self.copies.mkdir()
        self.chance = chance
        self.under_way: Counter[str] = Counter()
        self.most = 0

    def kill(self) -> bool:
        """Kill it at a random moment; False if it was done before that."""
        before = len(self.server.received)
        mails = self.chance.choice([0, self.chance.randrange(2 * MAILS // EACH)])
        pause = self.chance.uniform(0, 0.1 if mails == 0 else 0.01)
        process = self.sender.begin(self.ledger)
        until = time.monotonic() + 60
        try:
            while len(self.server.received) - before < mails and not self.sender.has_spoken(0.002):
                assert time.monotonic() < until
            done = self.sender.has_spoken(pause)
        finally:
            os.kill(process, signal.SIGKILL)
        if done:
            self.sender.hear()
        ended = self.sender.wait()
        if ended not in {-signal.SIGKILL, 0}:
            pytest.fail(f"it ended with {ended}, see what it has said")
        self.look()
        return not done

    def look(self) -> None:
        """Whatever has reached the server was written down before that; note what was not settled."""
        states = kept(self.ledger, self.copies)
        got = set(served(self.server))
        assert got <= states.keys(), "it was sent and not written down"
        assert {path for path, state in states.items() if state == "accepted"} <= got
        left = [path for path, state in states.items() if state == "under_way"]
        self.under_way.update(left)
        self.most = max(self.most, len(left))

    def finish(self) -> dict[str, int]:
        """Go on until it is done; the counts."""
        self.sender.begin(self.ledger)
        assert self.sender.has_spoken(60)
        counts: dict[str, int] = json.loads(self.sender.hear())
        assert self.sender.wait() == 0
        return counts


def served(server: Server) -> Counter[str]:
    """How often each recipient has got a mail."""
    return Counter(mail.paths[0] for mail in list(server.received))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("in_doubt", ["hold", "retry"])
def test_killed_at_random(memory_path: Path, in_doubt: str) -> None:
    """Killed at 50 random moments, a run of 2,000 is complete at the end: all are accounted for.

    With ``hold`` nothing is sent twice, and what did not arrive is in doubt. With ``retry`` all arrives; twice only
    what was handed out and not settled when it was killed, under the Message-ID of the first time.
    """
    seed = int(os.environ.get("SMTPKIT_SEED") or random.randrange(2**32))
    print(f"SMTPKIT_SEED={seed}")  # noqa: T201  how to have it again
    chance, kills = random.Random(seed), 0
    everybody = {f"user{number}@d{number % 7}.example.org" for number in range(MAILS)}
    for number in naturals():
        if kills >= KILLS:
            break
        folder = memory_path / str(number)
        folder.mkdir()
        with Server() as server, Sender(server.url, in_doubt) as sender:
            run = Killed(server, sender, folder, chance)
            for _ in range(EACH):
                if not run.kill():
                    break
                kills += 1
            counts = run.finish()
            got = served(server)
            identities: dict[str, set[bytes]] = {}
            for mail in server.received:
                found = re.search(rb"^Message-ID: (\S+)\r$", mail.octets, re.MULTILINE)
                assert found is not None
                identities.setdefault(mail.paths[0], set()).add(found[1])
        print(f"{counts}, at most {run.most} under way, {sum(got.values()) - len(got)} repeated")  # noqa: T201
        assert run.most, "nothing was ever under way when it was killed"
        assert sum(counts.values()) == MAILS
        assert counts["accepted"] + counts["in_doubt"] == MAILS
        if in_doubt == "hold":
            assert set(got.values()) <= {1}
            assert counts["in_doubt"] == len(run.under_way)
            assert everybody - got.keys() <= run.under_way.keys()
        else:
            assert got.keys() == everybody
            assert all(times <= 1 + run.under_way[path] for path, times in got.items())
            assert all(len(each) == 1 for each in identities.values())
