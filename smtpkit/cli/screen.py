"""What a person looks at: a terminal with colours and a line redrawn in place, or a plain file with neither.

Only the eight colours that every terminal has, none of them for text that must be read on white and on black alike.
"""

import os
import sys
from typing import Literal, TextIO

When = Literal["auto", "always", "never"]
Style = Literal["plain", "bold", "dim", "red", "green", "yellow", "blue", "magenta", "cyan"]

_CODES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36}
_BLOCKS = " ▏▎▍▌▋▊▉█"
_ASCII = {"█": "#", "░": ".", "─": "-", "·": "-", "…": "...", "✓": "+", "✗": "x", "≠": "!="}


class Screen:
    """Lines on a text ``file``. ``live``: a line can be redrawn in place. ``width`` in columns.

    ``gone``: whoever read it has left, and nothing is shown any more; that is no reason to stop sending.
    Colour by ``when``: "auto" means on a terminal that is not dumb, unless NO_COLOR is set (https://no-color.org).
    What the file's encoding cannot say is replaced.
    """

    def __init__(self, file: TextIO | None = None, *, when: When = "auto") -> None:
        self.file = file or sys.stdout
        self.live = self.file.isatty() and os.environ.get("TERM") != "dumb"
        self.colour = when == "always" or (when == "auto" and self.live and not os.environ.get("NO_COLOR"))
        self.gone = False
        self.width = _width(self.file) if self.live else 80
        self._encoding = self.file.encoding or "utf-8"
        self._drawn = False  # a line that will be redrawn stands there

    def paint(self, text: str, *styles: Style) -> str:
        """The text in these styles, or as it is where there is no colour."""
        codes = ";".join(str(_CODES[style]) for style in styles if style in _CODES)
        return f"\x1b[{codes}m{text}\x1b[0m" if self.colour and codes and text else text

    def line(self, text: str = "") -> None:
        """Print a line; a redrawn one gives way to it."""
        self._put(self._clear() + text + "\n")

    def redraw(self, text: str) -> None:
        """Draw a line in place, no wider than the screen; nothing where that cannot be done."""
        if self.live:
            self._put(self._clear() + text)
            self._drawn = True

    def erase(self) -> None:
        """Take the redrawn line away."""
        if self._drawn:
            self._put(self._clear())

    def bar(self, share: float, width: int, style: Style = "cyan") -> str:
        """A bar of ``width`` columns, filled to ``share`` (0 to 1)."""
        filled = round(min(max(share, 0), 1) * width)
        return self.paint("█" * filled, style) + self.paint("░" * (width - filled), "dim")

    def stripe(self, share: float, width: int) -> str:
        """A bar as long as ``share`` of ``width`` columns, in steps of an eighth, at least one; nothing behind it."""
        eighths = max(round(min(max(share, 0), 1) * width * 8), 1)
        if not self.can_say("▏"):
            return "#" * max(round(eighths / 8), 1)
        return "█" * (eighths // 8) + _BLOCKS[eighths % 8].strip()

    def can_say(self, text: str) -> bool:
        """Can the file's encoding say it?"""
        try:
            text.encode(self._encoding)
        except UnicodeEncodeError:
            return False
        return True

    def _clear(self) -> str:
        drawn, self._drawn = self._drawn, False
        return "\r\x1b[K" if drawn else ""

    def _put(self, text: str) -> None:
        if not self.can_say(text):
            for glyph, plain in _ASCII.items():
                text = text.replace(glyph, plain)
            text = text.encode(self._encoding, "backslashreplace").decode(self._encoding)
        try:
            self.file.write(text)
            self.file.flush()
        except BrokenPipeError:
            self.gone = True
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.file.fileno())  # what is buffered goes there too, also when the interpreter ends
            os.close(nowhere)


def _width(file: TextIO) -> int:
    try:
        return min(int(os.environ.get("COLUMNS") or os.get_terminal_size(file.fileno()).columns), 120)
    except (OSError, ValueError):
        return 80


def escape(text: str) -> str:
    """The text with everything escaped that would steer a terminal or turn text around; for what others have said."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text
    )


def duration(seconds: float) -> str:
    """Such as "0.42 ms", "12.3 ms", "1.84 s"."""
    if seconds < 0.0099995:
        return f"{seconds * 1e3:.2f} ms"
    return f"{seconds * 1e3:.1f} ms" if seconds < 0.99995 else f"{seconds:.2f} s"


def span(seconds: float) -> str:
    """Such as "42 s", "15 min", "3.5 h", "4.0 d": how long people wait."""
    for unit, factor in (("d", 86_400.0), ("h", 3600.0)):
        if seconds >= factor * 0.995:
            return f"{seconds / factor:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 99.5 else f"{seconds:.0f} s"


def volume(octets: float) -> str:
    """Such as "412 B", "1.2 kB", "35.9 MB"; a thousand to the k."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if octets >= factor * 0.9995:
            return f"{octets / factor:.1f} {unit}"
    return f"{octets:.0f} B"
