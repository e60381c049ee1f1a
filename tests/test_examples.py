"""The gallery: each example runs with no arguments and prints what it promises."""

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import smtpkit

GALLERY = Path(__file__).parent.parent / "examples"
PROMISED = {
    "01_one_mail.py": "accepted for bob@example.org",
    "02_script_with_attachment.py": "text/plain, text/html, text/csv",
    "03_progress.py": "100% of",
    "04_partial_refusal.py": "nobody gets it: <nobody@example.org> 550",
    "05_web_service.py": "100 mails over 4 connections",
    "06_trio_and_events.py": "accepted for bob@example.org",
    "07_pytest_fixture.py": "2 passed",
    "08_many_mails.py": "199 mails arrived",
    "09_queue_worker.py": "['bob@example.org', 'cy@example.org', 'dee@example.org']",
    "10_bulk_job.py": "399 mails were sent, 0 of them twice",
    "11_web_service.py": "2 mails: for ann@example.org, bob@example.org",
    "component_async.py": "2 mails over 1 connection",
    "component_queue.py": "2 mails sent, left behind: ['.failed']",
    "component_sync.py": "accepted for bob@example.org, cy@example.org, dee@example.org",
}


def test_every_example_is_run() -> None:
    """No example is left out of the list, and none is listed that is not there."""
    assert {file.name for file in GALLERY.glob("*.py")} == PROMISED.keys()


@pytest.mark.parametrize("name", PROMISED)
def test_example(name: str) -> None:
    """It ends well, without a warning, and says what it is there to say."""
    environment = dict(os.environ)
    environment.pop("SMTPKIT_URL", None)
    environment["PYTHONPATH"] = str(Path(smtpkit.__file__).parents[1])
    if not entry_points(group="pytest11", name="smtpkit"):  # a checkout that is not installed
        environment["PYTEST_PLUGINS"] = "smtpkit.testing.pytest_plugin"
    done = subprocess.run(
        [sys.executable, "-W", "error", str(GALLERY / name)],
        env=environment,
        cwd=GALLERY.parent,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert PROMISED[name] in done.stdout
    assert done.stderr == ""
