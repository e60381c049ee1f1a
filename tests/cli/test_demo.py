"""``smtpkit demo``: it shows everything, needs no terminal, and its verdict can be no."""

import asyncio
import dataclasses
import io
import os
import sys
import unicodedata
from collections.abc import Callable

import pytest

import smtpkit
from smtpkit.cli import demo
from smtpkit.cli.main import main
from smtpkit.cli.screen import Screen
from smtpkit.testing import Received, Script, Server
from tests.terminal import Terminal, plain


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same demonstration with less of everything."""
    monkeypatch.setattr(demo, "ATTACHMENT", 2**20)
    monkeypatch.setattr(demo, "RATE", 10e6)
    monkeypatch.setattr(demo, "MAILS", 40)
    monkeypatch.setattr(demo, "TASKS", 10)
    for name in ("NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def _columns(line: str) -> int:
    return sum(1 + (unicodedata.east_asian_width(char) == "W") for char in line)


def test_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """On a plain file: whole lines within 80 columns, no colour, no cursor movement, no password."""
    assert main(["demo"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    assert "\r" not in out
    assert demo.PASSWORD not in out
    assert max(map(_columns, out.splitlines())) <= 80
    assert "~>  AUTH PLAIN ***\n" in out
    assert "Grüße · Καλημέρα · Привет · 你好" in out
    assert "refused   nobody@example.org  550 5.1.1 no mailbox of that name here" in out
    assert "100%  40 of 40" in out
    assert out.count("= sent") == 5
    assert out.endswith("44 mails sent, 44 received, octet for octet the same.\n")


def test_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal: in colour, the progress redrawn in place; what stays is what a plain file gets."""
    file = Terminal()
    monkeypatch.setattr(sys, "stdout", file)
    assert main(["demo"]) == 0
    assert "\x1b[32m<~" in file.getvalue()
    frames = [line for line in plain(file.getvalue()).split("\r") if "%" in line]
    assert len(frames) > 2
    assert all(_columns(frame.split("\n")[0]) <= 80 for frame in frames)


def test_what_was_lost_is_seen() -> None:
    """A server that keeps no octets fails the comparison: the verdict is no, and so is the exit code."""
    file = io.StringIO()
    with Server(dataclasses.replace(demo.script(), keep="digest")) as server:
        assert not asyncio.run(demo.Demo(Screen(file), server).run())
    assert "≠ SENT" in file.getvalue()
    assert file.getvalue().endswith("What was received is not what was sent.\n")


def test_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 1 where the verdict is no."""
    without = dataclasses.replace(demo.script(), keep="digest")
    monkeypatch.setattr(demo, "script", lambda: without)
    assert main(["demo"]) == demo.FAILED
    assert capsys.readouterr().out.count("≠ SENT") == 5


def test_unexpected_acceptance_is_seen() -> None:
    """Had the server accepted whom it should refuse, the verdict would be no."""
    file = io.StringIO()
    with Server(dataclasses.replace(demo.script(), replies={})) as server:
        assert not asyncio.run(demo.Demo(Screen(file), server).run())
    assert file.getvalue().count("≠ SENT") == 1


def test_breach_is_seen() -> None:
    """Had we broken the protocol in the server's eyes, the verdict would be no."""
    file = io.StringIO()
    with Server(demo.script()) as server:
        shown = demo.Demo(Screen(file), server)
        assert asyncio.run(shown.run())
        server.sessions[0].errors.append("bare LF\x1b")
        assert not shown._summary()
    assert "The server complains: bare LF\\x1b\n" in file.getvalue()


def test_reader_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is demonstrated to nobody: as other programs, it ends as by SIGPIPE, without a word."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdout", file)
        assert main(["demo"]) == 141


CHANGES: list[Callable[[Received], Received]] = [
    lambda mail: dataclasses.replace(mail, octets=mail.octets[:-1]),
    lambda mail: dataclasses.replace(mail, octets=mail.octets + b"\r\n"),
    lambda mail: dataclasses.replace(mail, octets=mail.octets.swapcase()),
    lambda mail: dataclasses.replace(mail, reverse_path="eve@example.com"),
    lambda mail: dataclasses.replace(mail, recipients=mail.recipients * 2),
    lambda mail: dataclasses.replace(mail, recipients=()),
]


def test_same_sees_every_difference() -> None:
    """A mail that is missing, doubled, or changed in one octet, in its sender or its recipients is not the same."""
    meant = [demo._numbered(1), demo._numbered(2)]
    with Server(Script()) as server, smtpkit.SyncClient(server.url) as client:
        for mail in reversed(meant):
            client.send(mail.octets)
        first, second = server.received
    assert demo.same(meant, [first, second])
    assert not demo.same(meant, [first])
    assert not demo.same(meant, [first, second, second])
    assert not demo.same(meant, [first, first])
    for change in CHANGES:
        assert not demo.same(meant, [change(first), second])
