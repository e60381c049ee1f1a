"""What the tests on real servers share: servers to log in at, and tables, each cell of which was a real exchange."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.servers import dovecot, kdc, postfix
from tests.servers.dovecot import Dovecot
from tests.servers.kdc import KDC
from tests.servers.postfix import Postfix

BY_PASSWORD = ("PLAIN", "LOGIN", "CRAM-MD5", "DIGEST-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256")
AT_POSTFIX = (*BY_PASSWORD, "SCRAM-SHA-512", "NTLM", "GSSAPI", "ANONYMOUS")
Table = dict[tuple[str, str], str]  # (row, column) -> cell
_TABLES: pytest.StashKey[dict[str, Table]] = pytest.StashKey()


class Servers(NamedTuple):
    """Real servers to log in at. ``kdc`` is None where there is none."""

    postfix: Postfix
    dovecot: Dovecot
    kdc: KDC | None


def need(reason: str | None, what: str) -> None:
    """Skip a test where something is missing, for this reason; fail it in CI."""
    if reason is not None and os.environ.get("CI"):
        pytest.fail(f"CI needs {what}: {reason}")
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """A Postfix that offers all it can, a Dovecot that relays to it, and a KDC for both where there is one."""
    need(postfix.why_not(), "Postfix")
    need(dovecot.why_not(), "Dovecot")
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="logins-", ignore_cleanup_errors=True)))
        home.chmod(0o755)
        for folder in ("postfix", "dovecot", "kdc"):
            (home / folder).mkdir()
        kerberos = stack.enter_context(KDC(home / "kdc")) if kdc.why_not() is None else None
        environment = kerberos.server if kerberos else {}
        first = stack.enter_context(Postfix(home / "postfix", " ".join(AT_POSTFIX), environment, "localhost"))
        second = stack.enter_context(Dovecot(home / "dovecot", first.port, environment))
        yield Servers(first, second, kerberos)


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
