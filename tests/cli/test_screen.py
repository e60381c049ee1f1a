"""The screen: colour only where it is wanted, a redrawn line only on a terminal, nothing raw from others."""

import io
import os
import sys
from typing import TYPE_CHECKING

import pytest

from smtpkit.cli.screen import Screen, duration, escape, volume
from tests.terminal import Latin, Terminal

if TYPE_CHECKING:
    from smtpkit.cli.screen import When


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.parametrize(
    ("terminal", "when", "environment", "colour"),
    [
        (True, "auto", {}, True),
        (False, "auto", {}, False),
        (True, "never", {}, False),
        (False, "always", {}, True),
        (True, "auto", {"NO_COLOR": "1"}, False),
        (True, "auto", {"NO_COLOR": ""}, True),
        (True, "auto", {"TERM": "dumb"}, False),
        (True, "always", {"NO_COLOR": "1", "TERM": "dumb"}, True),
    ],
)
def test_colour(
    terminal: bool,  # noqa: FBT001  a column of the table
    when: "When",
    environment: dict[str, str],
    colour: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The option wins; else a terminal that is not dumb has colour, unless NO_COLOR is set and not empty."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    screen = Screen(Terminal() if terminal else io.StringIO(), when=when)
    assert screen.paint("x", "red", "bold") == ("\x1b[31;1mx\x1b[0m" if colour else "x")
    assert screen.paint("", "red") == ""
    assert screen.paint("x") == "x"


def test_redrawn_line_gives_way() -> None:
    """On a terminal a line is redrawn in place; what is printed next takes its place."""
    file = Terminal()
    screen = Screen(file)
    screen.redraw("one")
    screen.redraw("two")
    screen.line("three")
    screen.redraw("four")
    screen.erase()
    screen.erase()
    assert file.getvalue() == "one\r\x1b[Ktwo\r\x1b[Kthree\nfour\r\x1b[K"


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_no_cursor_movement_without_a_terminal(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain file, and a dumb terminal, get whole lines only, even when colour is asked for."""
    monkeypatch.setenv("TERM", term)
    file = io.StringIO() if term == "xterm" else Terminal()
    screen = Screen(file, when="always")
    screen.redraw("one")
    screen.erase()
    screen.line("two")
    assert file.getvalue() == "two\n"


def test_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 columns where there is no terminal or it does not tell; COLUMNS is believed, up to 120."""
    assert Screen(io.StringIO()).width == 80
    assert Screen(Terminal()).width == 80
    for columns, width in (("100", 100), ("500", 120), ("many", 80)):
        monkeypatch.setenv("COLUMNS", columns)
        assert Screen(Terminal()).width == width


def test_standard_output_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a file it is the standard output of the moment."""
    Screen().line("hello")
    assert capsys.readouterr().out == "hello\n"
    assert Screen(sys.stdout).width == 80


@pytest.mark.parametrize(("share", "drawn"), [(-1, "░░░░"), (0, "░░░░"), (0.5, "██░░"), (1, "████"), (2, "████")])
def test_bar(share: float, drawn: str) -> None:
    """A bar is always as wide as asked for."""
    assert Screen(io.StringIO()).bar(share, 4) == drawn


@pytest.mark.parametrize(("share", "drawn"), [(0, "▏"), (0.5, "██"), (0.53, "██▏"), (1, "████")])
def test_stripe(share: float, drawn: str) -> None:
    """A stripe is as long as its share, and never nothing."""
    assert Screen(io.StringIO()).stripe(share, 4) == drawn


def test_what_the_encoding_cannot_say() -> None:
    """Where the file's encoding has no such characters, plain ones stand in; a name is escaped, and nothing fails."""
    file = Latin()
    screen = Screen(file)
    screen.line(screen.bar(0.5, 4) + " Grüße ≠ 你")
    assert screen.stripe(0.5, 4) == "##"
    assert file.getvalue() == "##.. Grüße != \\u4f60\n"


def test_reader_has_left() -> None:
    """When nobody reads any more the screen says so and goes quiet; nothing fails, not at the end either."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as file:
        screen = Screen(file)
        assert not screen.gone
        screen.line("one")
        assert screen.gone
        screen.line("two")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Grüße, 你好", "Grüße, 你好"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\rb\nc\td\0", "a\\rb\\nc\\td\\x00"),
        ("\x7f\x9b", "\\x7f\\x9b"),
        ("\udcff", "\\udcff"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
        ("\u2028\u200b", "\\u2028\\u200b"),
    ],
)
def test_escape(text: str, shown: str) -> None:
    """Controls, lone surrogates and what turns text around are shown, not obeyed."""
    assert escape(text) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0.00 ms"), (0.00042, "0.42 ms"), (0.0123, "12.3 ms"), (0.9999, "999.9 ms"), (1.84, "1.84 s")],
)
def test_duration(seconds: float, shown: str) -> None:
    """Three figures, in milliseconds below a second."""
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("octets", "shown"),
    [(0, "0 B"), (999, "999 B"), (1200, "1.2 kB"), (999_999, "1.0 MB"), (36e6, "36.0 MB"), (2e9, "2.0 GB")],
)
def test_volume(octets: float, shown: str) -> None:
    """A thousand to the k."""
    assert volume(octets) == shown
