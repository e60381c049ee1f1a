"""A run in a process of its own, killed at random moments and begun again until it is done."""

import json
import os
import random
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

import pytest

import smtpkit
from smtpkit.testing import Server

HOME = Path(smtpkit.__file__).parents[1]
CHILD = Path(__file__).with_name("ledger_child.py")
MAILS = 2000
KILLS = 50
EACH = 10  # times that one run is killed


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


class Killed:
    """A run that is killed again and again: what was under way each time, by recipient."""

    def __init__(self, server: Server, folder: Path, in_doubt: str, chance: random.Random) -> None:
        self.server = server
        self.ledger = folder / "run.db"
        self.copies = folder / "copies"
        self.copies.mkdir()
        self.in_doubt = in_doubt
        self.chance = chance
        self.under_way: Counter[str] = Counter()
        self.most = 0

    def begin(self) -> subprocess.Popen[str]:
        """Begin it, or go on."""
        words = [sys.executable, str(CHILD), self.server.url, str(self.ledger), str(MAILS), self.in_doubt]
        return subprocess.Popen(words, cwd=HOME, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def kill(self) -> bool:
        """Kill it at a random moment; False if it was done before that."""
        before = len(self.server.received)
        mails = self.chance.choice([0, self.chance.randrange(2 * MAILS // EACH)])
        pause = self.chance.uniform(0, 0.4 if mails == 0 else 0.01)
        with self.begin() as process:
            try:
                while len(self.server.received) - before < mails and process.poll() is None:
                    time.sleep(0.0005)
                time.sleep(pause)
            finally:
                process.kill()
            process.wait()
            err = process.stderr.read() if process.stderr is not None else ""
        assert process.returncode in {-signal.SIGKILL, 0}, err
        self.look()
        return process.returncode != 0

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
        with self.begin() as process:
            out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        counts: dict[str, int] = json.loads(out)
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
        with Server() as server:
            run = Killed(server, folder, in_doubt, chance)
            for _ in range(EACH):
                if not run.kill():
                    break
                kills += 1
            counts = run.finish()
            got = served(server)
            identities: dict[str, set[str]] = {}
            for mail in server.received:
                identities.setdefault(mail.paths[0], set()).add(str(mail.message()["Message-ID"]))
        print(f"{counts}, at most {run.most} under way, {sum(got.values()) - len(got)} repeated")  # noqa: T201
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
