"""The reference page, from the table: what is documented is what is there."""

from collections.abc import Iterable
from inspect import cleandoc, signature
from typing import Any

from smtpkit.component import errors
from smtpkit.component.fields import Field, Hook, Row, Table, methods

_BEGINNING = """\
# SMTP and AsyncSMTP

`smtp.send_to = …` is what the documents call `SendTo`, and so are `smtp.SendTo = …`, `smtp.set_send_to(…)` and
`smtp.get_send_to()`; type checkers know the first. What is indexed is a sequence as long as MessageRecipientCount or
MessageHeaderCount, `smtp.message_recipient_type[0] = 2`, and its accessors take the index first."""


def page(component: type[Table], settings: type[Table]) -> str:
    """Every property, method, event, setting and error, as a page in Markdown."""
    rows = component.rows()
    properties = [row for row in rows if not isinstance(row, Hook)]
    hooks = [row for row in rows if isinstance(row, Hook)]
    repeated = [row.documented for row in properties if isinstance(row, Field) and row.setting]
    return "\n\n".join(
        (
            _BEGINNING,
            _doc(component),
            "## Properties",
            _table(
                ("Property", "In Python", "Value", "Default", "Meaning"),
                ((row.documented, f"`{row.name}`", *_value(row), row.meaning) for row in properties),
            ),
            "## Methods",
            *(_method(method) for method in methods(component)),
            "## Events",
            "A handler is a plain function, or None, and is given one value with these attributes.",
            _table(
                ("Event", "Handler", "Attributes", "Meaning"),
                ((row.documented, f"`{row.name}`", _attributes(row), row.meaning) for row in hooks),
            ),
            "## Settings",
            'By `config("Name=Value")` and `config("Name")`, the name in any case.',
            _table(
                ("Setting", "Value", "Default", "Meaning"),
                ((row.documented, *_value(row), row.meaning) for row in settings.rows()),
            ),
            f"The properties {', '.join(repeated)} are settings too.",
            "## Errors",
            _doc(errors.ComponentError),
            f"```text\n{_doc(errors)}\n```",
        )
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _value(row: Row[Any]) -> tuple[str, str]:
    """What it takes, and what it is unless it is set."""
    access = "" if row.access == "read, write" else f" ({row.access})"
    return f"{row.kind.wanted}{access}", f"`{row.default!r}`"


def _method(method: Any) -> str:
    parameters = ", ".join(name for name in signature(method).parameters if name != "self")
    return f"### {method.documented}\n\n`{method.__name__}({parameters})`\n\n{_doc(method)}"


def _doc(of: Any) -> str:
    """Its docstring, as Markdown has it."""
    return cleandoc(of.__doc__).replace("::\n", ":\n")


def _attributes(hook: Hook[Any]) -> str:
    """The documented ones: what an event has beside when, where and for what."""
    from dataclasses import fields

    return ", ".join(f"`{field.name}`" for field in fields(hook.event) if field.name not in {"at", "session", "item"})
