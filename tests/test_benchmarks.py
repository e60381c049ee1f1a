"""The benchmarks run: their figures are for reading, so nothing here is about time."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.benchmarks.__main__ import main, pace, per_trip
from tests.benchmarks.clients import CLIENTS
from tests.benchmarks.rows import TRIALS


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the sink and the pinning are Linux's")
@pytest.mark.timeout(180)
def test_benchmarks_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tiny counts through every kind of server: each row is measured, or says what is not there."""
    names = [
        "one",
        "one-postfix",
        "sync-bdat",
        "many",
        "trips-20",
        "recipients",
        "data",
        "tls",
        "rate-10000k",
        "import",
    ]
    kept = tmp_path / "figures.json"
    assert main(["--tiny", "--json", str(kept), "--only", *names]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    rows = json.loads(kept.read_text())["rows"]
    assert {row["trial"] for row in rows} == set(names)
    reasons = {row["missing"] for row in rows if not row["ratios"]}
    there = {"gcc", "smtp-sink", "smtp-source", "curl"}
    absent = {f"no {name}" for name in there if shutil.which(name, path="/usr/bin:/usr/sbin:/usr/local/bin") is None}
    assert reasons <= absent | {"no smtpproto", "not there"}


def test_table_is_whole() -> None:
    """Every goal is about clients of its trial, every client is one that there is, and no name is used twice."""
    assert len({trial.name for trial in TRIALS}) == len(TRIALS)
    for trial in TRIALS:
        assert set(trial.clients) <= set(CLIENTS)
        assert {goal.ours for goal in trial.goals} <= set(trial.clients)
        assert {goal.peer for goal in trial.goals} <= {None, *trial.clients}


def test_pace_of_a_trace() -> None:
    """Octets that come evenly are on time; a second that has twice its share is told."""
    even = [(tick / 100, 1000) for tick in range(300)]
    assert pace(even, 100_000) == {"error": pytest.approx(0, abs=1e-6), "worst": pytest.approx(1, abs=0.02)}
    burst = [(at, octets * 2 if 1 <= at < 2 else octets) for at, octets in even]
    assert pace(burst, 100_000)["worst"] == pytest.approx(2, abs=0.02)


def test_mails_in_a_round_trip() -> None:
    """Windows of four that arrive together each tenth of a second are four mails in a round trip of 100 ms."""
    assert per_trip([trip / 10 for trip in range(10) for _ in range(4)], 0.1) == pytest.approx(4, rel=0.02)
