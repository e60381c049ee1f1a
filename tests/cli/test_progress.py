"""How far a bulk job is: in a line, in a log, in a panel, each no wider than it may be."""

import io
import re
from typing import Any

import pytest

import smtpkit
from smtpkit.cli import progress as shown
from smtpkit.cli.figures import Figures
from smtpkit.cli.progress import Line, Log, Pace, Panel, line, log_line, progress
from smtpkit.cli.screen import Screen
from tests.terminal import Terminal, plain

NEVER = smtpkit.Reply(550, ("5.1.1 \x1b[31mnever\x1b[0m " + "word " * 60,))


def _figures(accepted: int = 420, refused: int = 8, total: int = 1000, begun: float = 100.0) -> Figures:
    figures = Figures(total, begun)
    figures.counts.update(accepted=accepted, refused=refused)
    return figures


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal that shows colours."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def test_pace() -> None:
    """The rate is that of the last quarter of a minute, and the time left follows from it."""
    figures = _figures(accepted=0, refused=0)
    pace = Pace(figures)
    assert pace.look(100.0) == (0.0, 0.0, None, 0.0)
    for second in range(1, 41):
        figures.counts["accepted"] += 20 if second <= 20 else 10
        state = pace.look(100.0 + second)
        if second in {10, 20}:
            assert (state.rate, state.left) == (20.0, (1000 - 20 * second) / 20)
    assert (state.share, state.rate, state.left, state.elapsed) == (0.6, 10.0, 40.0, 40.0)
    for second in range(41, 60):
        state = pace.look(100.0 + second)
    assert (state.rate, state.left) == (0.0, None)


def test_pace_of_a_run_that_goes_on() -> None:
    """What earlier runs have settled is done, and no part of the rate."""
    figures = _figures(accepted=0, refused=0)
    figures.before = 500
    pace = Pace(figures)
    figures.counts["accepted"] = 100
    state = pace.look(110.0)
    assert (state.share, state.rate, state.left) == (0.6, 10.0, 40.0)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120])
def test_line(width: int, terminal: Terminal) -> None:
    """The line fits whatever the width is; share and rate are always there, and what is not zero goes last."""
    screen = Screen(terminal)
    screen.width = width
    figures = _figures(accepted=420_113, refused=812, total=1_000_000)
    text = plain(line(figures, Pace(figures).look(449.0), screen))
    assert len(text) < width
    assert "42%" in text
    assert "/s" in text
    if width >= 60:
        assert "420,113 accepted  812 refused" in text
    if width >= 120:
        assert "█" in text
        assert text.endswith("0 in doubt  0 sessions")


def test_log_line() -> None:
    """In a log it is said in words."""
    figures = _figures()
    figures.counts["invalid"] = 2
    assert log_line(figures, Pace(figures).look(110.0)) == (
        "430 of 1,000 (43%), 0/s, 420 accepted, 8 refused, 0 deferred, 0 in doubt, 2 invalid, 0 sessions"
    )
    pace = Pace(figures)
    figures.counts["accepted"] += 15
    assert log_line(figures, pace.look(110.0)).startswith("445 of 1,000 (44%), 1.5/s, 435 accepted")
    assert log_line(figures, pace.look(110.0)).endswith("0 sessions, 6 min left")


def test_log_comes_more_rarely() -> None:
    """At first a line every few seconds, after a while one a minute; nothing is redrawn."""
    file = io.StringIO()
    log = progress(_figures(), Screen(file), "x")
    assert isinstance(log, Log)
    times = []
    for tenth in range(36_000):
        before = file.tell()
        log.draw(100.0 + tenth / 10)
        if file.tell() != before:
            times.append(tenth / 10)
    log.close()
    assert times[:3] == [5.0, 10.5, 16.6]
    assert 59 < times[-1] - times[-2] <= 60.1
    assert len(times) < 100
    assert "\r" not in file.getvalue()
    assert "\x1b" not in file.getvalue()


def test_which(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A panel where there is rich and a terminal with colours, else a line; without a terminal nothing is redrawn."""
    found: list[Any] = [object()]
    monkeypatch.setattr(shown, "find_spec", lambda name: found[0])
    monkeypatch.setattr(shown, "Panel", lambda *arguments: "panel")
    figures = _figures()
    assert progress(figures, Screen(terminal), "x") == "panel"  # type: ignore[comparison-overlap]
    assert isinstance(progress(figures, Screen(terminal, when="never"), "x"), Line)
    assert isinstance(progress(figures, Screen(io.StringIO(), when="always"), "x"), Log)
    found[0] = None
    drawn = progress(figures, Screen(terminal), "x")
    assert isinstance(drawn, Line)
    drawn.draw(110.0)
    drawn.close()
    assert "43%" in plain(terminal.getvalue())
    assert terminal.getvalue().endswith("\r\x1b[K")


@pytest.mark.parametrize("width", [50, 80, 120])
def test_panel(width: int, terminal: Terminal) -> None:
    """The panel of rich shows all, no wider than the screen; a server's words steer no terminal."""
    screen = Screen(terminal)
    screen.width = width
    figures = _figures()
    figures.settle(smtpkit.Outcome(refused={"b@x.org": NEVER}), "b@x.org", 3, 101.0)
    panel = Panel(figures, screen, "rows.csv to smtp://[x]")
    for second in range(1, 5):
        panel.draw(100.0 + second)
    figures.latencies.stages["mail data"].add(0.012)
    panel.draw(110.0)
    frames = terminal.getvalue()
    panel.close()
    text = plain(frames.replace("\x1b[?25l", ""))  # which hides the cursor
    assert "\x1b[31mnever" not in frames
    assert "refused: b@x.org  550 5.1.1 \\x1b[31mnev" in text
    assert "smtp://[x]" in text
    assert "420 accepted  9 refused" in text
    assert "half within 11.2 ms" in text
    assert max(map(len, text.splitlines())) < width
    assert re.search(r"(\x1b\[1A\x1b\[2K){8}\Z", terminal.getvalue())
