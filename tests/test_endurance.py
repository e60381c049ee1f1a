"""A hundred thousand mails through the pool: all arrive once, and memory, descriptors and tasks stay what they were.

Each run is a process of its own, so that its memory is its own too.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import smtpkit
from tests import endurance_child
from tests.benchmarks.servers import NotThereError, sink

COUNTS = {"many": 100_000, "tasks": 20_000}  # by tasks each mail is waited for
GROWTH = 1.05

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the sink and /proc are Linux's")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("way", "connections"), [("many", 1), ("many", 8), ("tasks", 8)])
def test_a_hundred_thousand(way: str, connections: int) -> None:
    """All are accepted once; after the first tenth memory grows by a twentieth at most, and nothing else grows."""
    count = COUNTS[way]
    try:
        with sink(max(os.sched_getaffinity(0)), chunking=True) as server:
            answer = subprocess.run(
                [
                    *(sys.executable, endurance_child.__file__, f"smtp://127.0.0.1:{server.port}"),
                    *(way, str(connections), str(count)),
                ],
                env={**os.environ, "PYTHONPATH": str(Path(smtpkit.__file__).parents[1])},
                capture_output=True,
                text=True,
                check=False,
            )
    except NotThereError as reason:
        pytest.skip(str(reason))
    assert (answer.returncode, answer.stderr) == (0, "")
    found = json.loads(answer.stdout)
    counted = {name: server.counted[name] for name in ("mails", "distinct", "recipients")}
    assert counted == dict.fromkeys(counted, count)
    assert found["accepted"] == count
    assert server.counted["sessions"] <= connections
    early, late = found["early"], found["late"]
    print(f"{way} over {connections}: {early['memory']} octets after a tenth, {late['memory']} in the end")  # noqa: T201
    assert late["memory"] <= early["memory"] * GROWTH
    assert late["files"] <= found["before"]["files"] + connections
    for name in ("files", "tasks"):
        assert found["after"][name] == found["before"][name]
