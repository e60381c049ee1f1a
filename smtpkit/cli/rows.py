"""Rows of a file: CSV with a line of names, or JSON objects on a line each; read again and again, a row at a time.

Rules: what cannot be read is InvalidMail with the file's name and the line; a row is never guessed at or left out.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from smtpkit import InvalidMail

JSON_LINES = {".jsonl", ".ndjson"}
SEPARATORS = ",;\t"
SHOWN = 20  # names, where those that there are are told


class Row(NamedTuple):
    """A row: its number from 1, the line of the file where it begins, and its values by name."""

    number: int
    line: int
    values: Mapping[str, Any]


class Rows:
    """The rows of a file, by its suffix: ``.jsonl`` and ``.ndjson`` hold JSON, all others CSV.

    CSV is UTF-8, separated by whichever of comma, semicolon and TAB is most frequent in the line of names.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = self._json if path.suffix.lower() in JSON_LINES else self._csv

    def __iter__(self) -> Iterator[Row]:
        number = 0
        with self.path.open("rb") as file:
            for number, (line, values) in enumerate(self._read(self._lines(file)), 1):
                yield Row(number, line, values)
        if not number:
            raise InvalidMail(f"{self.path}: there is no row in it")

    def where(self, line: int) -> str:
        """Such as "rows.csv, line 17"."""
        return f"{self.path}, line {line}"

    def _lines(self, file: BinaryIO) -> Iterator[str]:
        number = 0
        try:
            for number, line in enumerate(file, 1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InvalidMail(f"{self.where(number)}: it is not UTF-8 ({error.reason})") from error

    def _json(self, lines: Iterator[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InvalidMail(f"{self.where(number)}: it is no JSON ({error})") from error
            if not isinstance(found, dict):
                raise InvalidMail(f'{self.where(number)}: a JSON object such as {{"email": …}} is wanted on each line')
            yield number, found

    def _csv(self, lines: Iterator[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        first = next(lines, "")
        separator = max(SEPARATORS, key=first.count)
        reader = csv.reader(chain([first], lines), delimiter=separator, strict=True)
        begins = 1
        try:
            names = [name.strip() for name in next(reader, [])]
            if double := {name for name in names if names.count(name) > 1}:
                raise InvalidMail(f"{self.where(1)}: these columns are there twice: {_listed(double)}")
            begins = reader.line_num + 1
            for values in reader:
                if values:
                    if len(values) != len(names):
                        raise InvalidMail(f"{self.where(begins)}: {len(values)} values for {len(names)} columns")
                    yield begins, dict(zip(names, values, strict=True))
                begins = reader.line_num + 1
        except csv.Error as error:
            raise InvalidMail(f"{self.where(begins)}: it is no CSV ({error})") from error


def _listed(names: "set[str] | Mapping[str, Any]") -> str:
    shown = ", ".join(sorted(names)[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown


def survey(rows: Rows, wanted: frozenset[str]) -> int:
    """Read all rows once; return how many there are. Raises InvalidMail where one lacks a field that is wanted."""
    count = 0
    for row in rows:
        count = row.number
        if not wanted <= row.values.keys():
            missing = _listed({*wanted} - {*row.values})
            raise InvalidMail(f"{rows.where(row.line)}: row {count} has no {missing}; it has {_listed(row.values)}")
    return count


def recipient_column(rows: Rows) -> str:
    """Which column holds the recipient: ``email`` or ``to``, in whatever case. Raises InvalidMail."""
    for row in rows:
        for wanted in ("email", "to"):
            for name in row.values:
                if name.lower() == wanted:
                    return name
        raise InvalidMail(f"{rows.path}: no column email or to; name it by --to-column, of {_listed(row.values)}")
    raise AssertionError("rows are never none")
