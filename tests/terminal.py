"""A text file that says it is a terminal."""

import io
import re

_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Terminal(io.StringIO):
    """Keeps what was written to it."""

    def isatty(self) -> bool:
        return True


class Latin(io.StringIO):
    """A plain file whose encoding cannot say much."""

    @property
    def encoding(self) -> str:  # type: ignore[override]  # of TextIOBase it is an attribute
        return "latin-1"


def plain(text: str) -> str:
    """The text without colours and cursor movements."""
    return _ESCAPES.sub("", text)
