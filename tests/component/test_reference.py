"""The documented names, and the class: neither has a name that the other has not."""

import inspect
import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import smtpkit
from smtpkit import SMTP, AsyncSMTP, ComponentError
from smtpkit.component.fields import Hook, Indexed, Order, methods

REFERENCE = json.loads(Path(__file__).with_name("reference.json").read_text(encoding="utf-8"))
ACCESS = {
    "read, write": "rw",
    "read": "r",
    "write": "w",
    "read, indexed": "r[]",
    "read, write, indexed": "rw[]",
}
BOTH = pytest.mark.parametrize("kind", [SMTP, AsyncSMTP])
NAMES = [*REFERENCE["properties"]]


def _properties(kind: Any) -> dict[str, Any]:
    return {row.documented: row for row in kind.rows() if not isinstance(row, Hook)}


def _default(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


@BOTH
def test_properties(kind: Any) -> None:
    """All 44 properties and no other, with their names in Python, their types, their defaults and who may set them."""
    rows = _properties(kind)
    found = {
        name: {
            "python": row.name,
            "type": type(row.default).__name__,
            "access": ACCESS[row.access],
            "default": _default(row.default),
        }
        for name, row in rows.items()
    }
    assert found == REFERENCE["properties"]
    assert len(found) == 44


@BOTH
def test_settings(kind: Any) -> None:
    """All 36 settings and no other, with their types and defaults; each is read and set by ``config`` in any case."""
    rows = {row.documented: row for row in kind.settings()}
    found = {name: {"type": type(row.default).__name__, "default": row.default} for name, row in rows.items()}
    assert found == REFERENCE["settings"]
    assert len(found) == 36
    smtp = kind()
    for name, row in rows.items():
        assert smtp.config(f" {name.upper()} = {row.kind.show(row.default)}") == ""
        shown = smtp.local_host if name == "LocalHost" else row.kind.show(row.default)
        assert smtp.config(name.lower()) == shown


@BOTH
def test_methods(kind: Any) -> None:
    """All 14 methods and no other, with their parameters, under both spellings."""
    found = {
        method.__dict__["documented"]: [name for name in inspect.signature(method).parameters if name != "self"]
        for method in methods(kind)
    }
    assert found == REFERENCE["methods"]
    for method in methods(kind):
        assert getattr(kind, method.__dict__["documented"]) is getattr(kind, method.__name__)


@BOTH
def test_events(kind: Any) -> None:
    """All 7 events and no other, with their parameters."""
    hooks = {row.documented: row for row in kind.rows() if isinstance(row, Hook)}
    common = {"at", "session", "item"}
    found = {name: [each.name for each in fields(row.event) if each.name not in common] for name, row in hooks.items()}
    assert {name: sorted(names) for name, names in found.items()} == {
        name: sorted(names) for name, names in REFERENCE["events"].items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_spellings(name: str) -> None:
    """The documented name, the one of Python and the accessors are one row, on both classes."""
    for kind in (SMTP, AsyncSMTP):
        row = _properties(kind)[name]
        assert getattr(kind, name) is getattr(kind, row.name) is row
        spelling = row.name.rstrip("_")
        assert hasattr(kind, f"get_{spelling}") == ("read" in row.access)
        assert hasattr(kind, f"set_{spelling}") == ("write" in row.access)
        assert name in (row.__doc__ or "")


def test_accessors_reach_the_row() -> None:
    """What one spelling sets every other reads."""
    smtp = SMTP()
    smtp.set_send_to("bob@example.com")  # type: ignore[attr-defined]
    smtp.set_from("ann@example.com")  # type: ignore[attr-defined]
    smtp.message_recipient_count = 1
    smtp.set_message_recipient_address(0, "cy@example.com")  # type: ignore[attr-defined]
    assert (smtp.send_to, smtp.SendTo, smtp.get_send_to()) == ("bob@example.com",) * 3  # type: ignore[attr-defined]
    assert smtp.from_ == "ann@example.com"
    assert list(smtp.message_recipient_address) == ["cy@example.com"]


def test_wrong_names_and_values() -> None:
    """A typo is an AttributeError that names what was meant; a wrong value a ComponentError that says what is right."""
    smtp = SMTP()
    with pytest.raises(AttributeError, match="did you mean mail_server"):
        smtp.mail_sever = "x"  # type: ignore[attr-defined]
    with pytest.raises(ComponentError, match="MailPort must be a whole number from 1 to 65535, not 0") as caught:
        smtp.mail_port = 0
    assert caught.value.code == 168
    with pytest.raises(ComponentError, match="no setting 'Nothing'") as caught:
        smtp.config("Nothing=1")
    assert caught.value.code == 169
    with pytest.raises(ComponentError) as caught:
        smtp.password = "pass\r\nword"
    assert "word\r" not in str(caught.value)
    with pytest.raises(AttributeError, match="only be read"):
        smtp.connected = True  # type: ignore[assignment]
    for row in SMTP.rows():
        if isinstance(row, Order):
            with pytest.raises(AttributeError, match="only be set"):
                getattr(smtp, row.name)


def test_indexed_properties_are_sequences() -> None:
    """They have a length, an order and an end, and are set one by one."""
    smtp = SMTP()
    smtp.message_recipient_count = 2
    rows = [row for row in SMTP.rows() if isinstance(row, Indexed)]
    assert len(rows) == 6
    smtp.message_recipient_type[1] = 2
    assert smtp.message_recipient_type == [0, 2]
    assert len(smtp.message_recipient_options) == 2
    with pytest.raises(IndexError, match=r"MessageRecipientName\[2\]: its count is 2"):
        _ = smtp.message_recipient_name[2]
    with pytest.raises(IndexError, match=r"MessageRecipientName\[2\]: its count is 2"):
        smtp.message_recipient_name[2] = "Bob"
    assert smtp.message_recipient_name[:] == ["", ""]
    with pytest.raises(ComponentError):
        smtp.message_recipient_type[0] = 3
    with pytest.raises(AttributeError, match="only be read"):
        smtp.message_header_field[0] = "x"
    smtp.message_recipient_count = 1
    assert smtp.message_recipient_type == [0]


def test_the_page() -> None:
    """``python -m smtpkit reference`` prints a page that has every documented name and its meaning."""
    run = subprocess.run(
        [sys.executable, "-m", "smtpkit", "reference"],
        cwd=Path(smtpkit.__file__).parents[1],
        check=True,
        capture_output=True,
        text=True,
    )
    for group in REFERENCE.values():
        for name in group:
            assert name in run.stdout
    for row in (*SMTP.rows(), *SMTP.settings()):
        assert row.meaning in run.stdout


def test_static_types() -> None:
    """A value of the wrong type and a name that is none are errors: mypy would complain of a remark without need."""
    smtp = smtpkit.SMTP()
    with pytest.raises(smtpkit.ComponentError, match="MailPort"):
        smtp.mail_port = "x"  # type: ignore[assignment]
    with pytest.raises(AttributeError, match="mail_server"):
        smtp.mail_sever = "x"  # type: ignore[attr-defined]
    smtp.on_transfer = lambda e: e.no_such  # type: ignore[attr-defined]
    smtp.on_transfer = lambda e: e.percent_done


def test_the_page_is_markdown() -> None:
    """Its tables have as many cells in each row as in their head, and a row for each name; its errors have numbers."""
    text = SMTP.reference()
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("| ")]
    assert [len(table) - 2 for table in tables] == [44, 7, len(SMTP.settings()) - 9]
    for table in tables:
        assert len({line.count("|") for line in table}) == 1
    outside = re.sub(r"```[\s\S]*?```|``.*?``|`.*?`|\n    .*", "", text)
    assert not re.search(r"[<>*]", outside)
    for number in (100, 161, 201, 301, 10061):
        assert f"\n{number}  " in text
