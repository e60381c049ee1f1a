"""The pytest plugin, as somebody else's test run sees it."""

import os
import subprocess
import sys
from pathlib import Path

import smtpkit.testing

ROOT = Path(smtpkit.testing.__file__).parents[2]

TESTS = """
import os, smtplib, sys

def test_light():
    assert "smtpkit.testing.server" not in sys.modules

def test_server(smtpkit_server):
    with smtplib.SMTP(smtpkit_server.host, smtpkit_server.port) as client:
        client.starttls(context=smtpkit_server.client_context())
        client.login("tester", "secret")

def test_outbox(smtpkit_outbox):
    assert os.environ["SMTPKIT_URL"] == smtpkit_outbox.url
    host, port = smtpkit_outbox.url.removeprefix("smtp://").split(":")
    with smtplib.SMTP(host, int(port)) as client:
        client.sendmail("a@x.test", ["b@y.test"], b"Subject: hi")
    assert [mail.message()["Subject"] for mail in smtpkit_outbox] == ["hi"]

def test_gone():
    assert "SMTPKIT_URL" not in os.environ
"""


def test_fixtures_in_a_run_of_their_own(tmp_path: Path) -> None:
    """The fixtures work with nothing but the plugin loaded, and the plugin loads no server before it is asked for."""
    (tmp_path / "test_it.py").write_text(TESTS)
    environment = {name: value for name, value in os.environ.items() if name != "SMTPKIT_URL"}
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "smtpkit.testing.pytest_plugin",
        "-q",
        "-W",
        "error",
        str(tmp_path),
    ]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "4 passed" in done.stdout, done.stdout + done.stderr
