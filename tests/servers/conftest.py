"""What the tests on real servers show at the end of a run: tables, each cell of which was a real exchange."""

from collections.abc import Iterator

import pytest

Table = dict[tuple[str, str], str]  # (row, column) -> cell
_TABLES: pytest.StashKey[dict[str, Table]] = pytest.StashKey()


@pytest.fixture
def tables(pytestconfig: pytest.Config) -> dict[str, Table]:
    """The tables by their titles; a test fills in its cell."""
    return pytestconfig.stash.setdefault(_TABLES, {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the tables."""
    for title, table in config.stash.get(_TABLES, {}).items():
        terminalreporter.section(title)
        for line in _lines(table):
            terminalreporter.write_line(line)


def _lines(table: Table) -> Iterator[str]:
    rows = list(dict.fromkeys(row for row, _ in table))
    columns = list(dict.fromkeys(column for _, column in table))
    grid = [["", *columns], *([row, *(table.get((row, column), "-") for column in columns)] for row in rows)]
    widths = [max(len(line[index]) for line in grid) for index in range(len(columns) + 1)]
    for line in grid:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
