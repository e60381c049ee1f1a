"""The reference page, from the table: what is documented is what is there."""

from inspect import cleandoc, signature
from typing import Any

from smtpkit.component.fields import Field, Hook, Row, Table, methods


def page(component: type[Table], settings: type[Table]) -> str:
    """Every property, method, event and setting, as a page of plain text in Markdown."""
    rows = component.rows()
    properties = [row for row in rows if not isinstance(row, Hook)]
    lines = ["# SMTP and AsyncSMTP", "", "## Properties", ""]
    for row in properties:
        lines += _row(row)
    lines += ["## Methods", ""]
    for method in methods(component):
        parameters = [name for name in signature(method).parameters if name not in {"self", "_"}]
        lines += [f"### {method.__dict__['documented']}", "", f"`{method.__name__}({', '.join(parameters)})`", ""]
        lines += [cleandoc(method.__doc__ or ""), ""]
    lines += ["## Events", ""]
    for row in rows:
        if isinstance(row, Hook):
            names = ", ".join(f"`{name}`" for name in parameters_of(row))
            lines += [f"### {row.documented}", "", f"`{row.name}`, which is given {names}", "", row.meaning, ""]
    lines += ["## Settings", "", 'By `config("Name=Value")` and `config("Name")`.', ""]
    for row in settings.rows():
        lines += [f"### {row.documented}", "", f"{row.kind.wanted}; default `{row.default!r}`", "", row.meaning, ""]
    repeated = [row.documented for row in properties if isinstance(row, Field) and row.setting]
    lines += [f"The properties {', '.join(repeated)} are settings too."]
    return "\n".join(lines)


def parameters_of(hook: Hook[Any]) -> list[str]:
    """The documented parameters of an event: what it has beside when, where and for what."""
    from dataclasses import fields

    return [field.name for field in fields(hook.event) if field.name not in {"at", "session", "item"}]


def _row(row: Row[Any]) -> list[str]:
    kind = f"{row.kind.wanted}; {row.access}; default `{row.default!r}`"
    return [f"### {row.documented}", "", f"`{row.name}`: {kind}", "", row.meaning, ""]
