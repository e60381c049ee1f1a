"""Rows of a file: CSV and JSON lines as people have them, and what is wrong told with its line."""

import tracemalloc
from pathlib import Path

import pytest

import smtpkit
from smtpkit.cli.rows import Rows, recipient_column, survey


def _rows(folder: Path, name: str, text: str | bytes) -> Rows:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return Rows(path)


@pytest.mark.parametrize(
    "text",
    [
        "email,name\nb@x.org,Bob\n",
        "\ufeffemail,name\r\nb@x.org,Bob\r\n",
        "email;name\nb@x.org;Bob",
        "email\tname\nb@x.org\tBob\n\n",
        ' email , name \n"b@x.org","Bob"\n',
    ],
    ids=["plain", "as spreadsheets write it", "semicolons", "tabs", "quoted"],
)
def test_csv(text: str, tmp_path: Path) -> None:
    """CSV is read with or without U+FEFF, by whichever separator its first line shows."""
    (row,) = _rows(tmp_path, "rows.csv", text)
    assert (row.number, row.line, dict(row.values)) == (1, 2, {"email": "b@x.org", "name": "Bob"})


def test_csv_over_several_lines(tmp_path: Path) -> None:
    """A quoted value may hold line ends and separators; a row is told by the line where it begins."""
    rows = _rows(tmp_path, "rows.csv", 'email,name\na@x.org,"one,\ntwo"\n\nb@x.org,three\n')
    assert [(row.number, row.line, row.values["name"]) for row in rows] == [(1, 2, "one,\ntwo"), (2, 5, "three")]


@pytest.mark.parametrize("name", ["rows.jsonl", "ROWS.NDJSON"])
def test_json_lines(name: str, tmp_path: Path) -> None:
    """JSON lines are read by the file's name; empty lines are none."""
    rows = _rows(tmp_path, name, '{"email": "a@x.org", "n": 1}\n\n{"email": "b@x.org", "n": [2]}')
    assert [(row.number, row.line, row.values["n"]) for row in rows] == [(1, 1, 1), (2, 3, [2])]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("rows.csv", "", "rows.csv: there is no row in it"),
        ("rows.csv", "email,name\n", "rows.csv: there is no row in it"),
        ("rows.csv", "email,name\na@x.org,A\nb@x.org\n", "rows.csv, line 3: 1 values for 2 columns"),
        ("rows.csv", "email,name\na@x.org,A,\n", "rows.csv, line 2: 3 values for 2 columns"),
        ("rows.csv", "email,name,email\na@x.org,A,b\n", "rows.csv, line 1: these columns are there twice: email"),
        ("rows.csv", 'email\na@x.org\n"b@x.org\n', "rows.csv, line 3: it is no CSV (unexpected end of data)"),
        ("rows.csv", b"email\na@x.org\nb\xff@x.org\n", "rows.csv, line 3: it is not UTF-8"),
        ("rows.jsonl", '{"email": "a@x.org"}\n{"email"}\n', "rows.jsonl, line 2: it is no JSON"),
        ("rows.jsonl", '{"email": "a@x.org"}\n["b@x.org"]\n', "rows.jsonl, line 2: a JSON object such as"),
        ("rows.jsonl", "[" * 100_000, "rows.jsonl, line 1: it is no JSON"),
    ],
    ids=range(10),
)
def test_what_is_no_row(name: str, text: str | bytes, told: str, tmp_path: Path) -> None:
    """What cannot be read is told with the file and the line."""
    with pytest.raises(smtpkit.InvalidMail) as caught:
        list(_rows(tmp_path, name, text))
    assert str(caught.value).removeprefix(f"{tmp_path}/").startswith(told)


def test_missing_field(tmp_path: Path) -> None:
    """A row that lacks a field is told by number and line, with the fields that it has."""
    rows = _rows(tmp_path, "rows.jsonl", '{"email": "a@x.org", "n": 1}\n\n{"email": "b@x.org", "m": 1}\n')
    assert survey(rows, frozenset({"email"})) == 2
    with pytest.raises(smtpkit.InvalidMail, match=r"rows.jsonl, line 3: row 2 has no n; it has email, m$"):
        survey(rows, frozenset({"email", "n"}))
    with pytest.raises(smtpkit.InvalidMail, match=r"line 1: row 1 has no a b, c; it has email, n$"):
        survey(rows, frozenset({"c", "a b"}))


def test_recipient_column(tmp_path: Path) -> None:
    """The recipient stands in a column email or, if there is none, to, in whatever case."""
    assert recipient_column(_rows(tmp_path, "rows.csv", "To,E-Mail,EMail\na,b,c\n")) == "EMail"
    assert recipient_column(_rows(tmp_path, "rows.csv", "name,To\na,b\n")) == "To"
    with pytest.raises(smtpkit.InvalidMail, match="no column email or to; name it by --to-column, of mail, name"):
        recipient_column(_rows(tmp_path, "rows.csv", "name,mail\na,b\n"))


@pytest.mark.parametrize(
    ("name", "line"), [("rows.csv", "{0}@x.org,N {0}\n"), ("rows.jsonl", '{{"email": "{0}@x"}}\n')]
)
def test_constant_memory(name: str, line: str, tmp_path: Path) -> None:
    """Twenty thousand rows are surveyed in the memory of a few."""
    rows = _rows(tmp_path, name, "email,name\n" * name.endswith("csv") + "".join(map(line.format, range(20_000))))
    tracemalloc.start()
    try:
        assert survey(rows, frozenset({"email"})) == 20_000
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 200_000
