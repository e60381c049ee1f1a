"""The merge: a template and a row make a mail, in which whatever a value holds stays that value.

Rules: the template is taken apart before a value is seen, so a value adds no field and no address; in a display name it
is quoted, in HTML escaped. A field is a plain name: nothing is looked up in what stands for it. Templates of jinja2
(by their name, ``*.j2``) run in its sandbox.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from smtpkit import Attachment, InvalidMail, Mail, Message, UsageError

Values = Mapping[str, Any]

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}\n]*)\}|[{}]")
_NAME = re.compile(r"\w+(?:[ -]\w+)*\Z")
_FIELD = re.compile(r"([!-9;-~]+):[ \t]*(.*)\Z")
_NAMED = re.compile(r"[ \t]*(?P<name>.*?)[ \t]*<(?P<address>[^<>]*)>[ \t]*\Z", re.DOTALL)
_ADDRESSES = ("from", "to", "reply-to", "sender")
_OURS = {
    "cc": "a mail goes to the recipient of its row alone",
    "bcc": "a mail goes to the recipient of its row alone",
    "message-id": "each mail has one of its own, which stays the same when it is repeated",
    "mime-version": "it is always there",
}
_NO_JINJA = "a template of jinja2, which is not installed; pip install jinja2, or use {name} fields in a file not *.j2"


class Text(NamedTuple):
    """A text with fields: which they are, and what makes the text of a row's values."""

    fields: frozenset[str]
    render: Callable[[Values], str]


def compiled(source: str, where: Path, line: int, *, markup: bool = False) -> Text:
    """The text that stands in a file from a line on, taken apart. Raises InvalidMail and UsageError.

    ``markup``: it is HTML, and values are escaped.
    """
    return (_jinja if where.suffix == ".j2" else _plain)(source, where, line, markup=markup)


def _plain(source: str, where: Path, line: int, *, markup: bool) -> Text:
    literals, names, at = [""], [], 0
    for token in _TOKEN.finditer(source):
        literals[-1] += source[at : token.start()]
        at = token.end()
        if token[0] in {"{{", "}}"}:
            literals[-1] += token[0][0]
            continue
        if token[1] is None or not _NAME.match(token[1]):
            number = line + source.count("\n", 0, token.start())
            raise InvalidMail(
                f"{where}, line {number}: {token[0]!r} is no field; one is a plain name such as {{name}}, "
                "and a brace that is meant as such is doubled: {{ or }}"
            )
        names.append(token[1])
        literals.append("")
    literals[-1] += source[at:]

    def render(values: Values) -> str:
        parts = literals[:1]
        for name, literal in zip(names, literals[1:], strict=True):
            text = _text(values, name)
            parts += (escape(text) if markup else text, literal)
        return "".join(parts)

    return Text(frozenset(names), render)


def _text(values: Values, name: str) -> str:
    """The value of a field as text; null is empty."""
    if name not in values:
        raise InvalidMail(f"field {name}: the row has none")
    value = values[name]
    if value is None:
        return ""
    if isinstance(value, list | dict):
        raise InvalidMail(f"field {name}: {{{name}}} takes a text or a number; lists and objects need a *.j2 template")
    return str(value)


def _jinja(source: str, where: Path, line: int, *, markup: bool) -> Text:
    try:
        from jinja2 import StrictUndefined, TemplateSyntaxError, meta
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise UsageError(f"{where}: {_NO_JINJA}") from None
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, autoescape=markup, keep_trailing_newline=True
    )
    try:
        names = meta.find_undeclared_variables(environment.parse(source))
        template = environment.from_string(source)
    except TemplateSyntaxError as error:
        raise InvalidMail(f"{where}, line {line + error.lineno - 1}: {error.message}") from error

    def render(values: Values) -> str:
        try:
            return template.render(values)
        except Exception as error:
            raise InvalidMail(f"{where}: {type(error).__name__}: {error}") from error

    return Text(frozenset(names) - environment.globals.keys(), render)


class Template:
    """A mail with fields: a file of header lines, an empty line and a text; perhaps a file of HTML and attachments.

    ``sender`` is the reverse-path, and the From field where the template has none. The recipient stands in ``column``;
    the To field shows it where the template has none. ``fields`` are those that a row must have. Raises InvalidMail.
    """

    def __init__(
        self, path: Path, *, sender: str, column: str, html: Path | None = None, attach: Sequence[Path] = ()
    ) -> None:
        self._sender = sender
        self.column = column
        Message(sender=sender)  # which checks it
        self._attachments = tuple(Attachment(file.read_bytes(), file.name) for file in attach)
        header, separator, body = path.read_text("utf-8-sig").partition("\n\n")
        self._header = _header(header.rstrip("\n"), path)
        below = header.count("\n") + 3
        self._text = compiled(body, path, below) if body.strip() or html is None else None
        self._html = compiled(html.read_text("utf-8-sig"), html, 1, markup=True) if html else None
        if not separator and self._html is None:
            raise InvalidMail(f"{path}: an empty line and a text are wanted below the header lines")
        texts = [text for text in (*self._header.values(), self._text, self._html) if text is not None]
        self.fields = frozenset({column}.union(*(text.fields for text in texts)))

    def mail(self, values: Values) -> Mail:
        """The mail of a row. Raises InvalidMail."""
        recipient = _text(values, self.column).strip()
        header = {name: text.render(values) for name, text in self._header.items()}
        known = {name.lower(): header.pop(name) for name in [*header] if name.lower() in {*_ADDRESSES, "subject"}}
        if "sender" in known:
            header["Sender"] = known["sender"]
        if "to" in known:
            Message(sender=self._sender, to=[recipient])  # the address is checked, whatever the To field shows
        message = Message(
            sender=known.get("from", self._sender),
            to=[known.get("to", recipient)],
            reply_to=[known["reply-to"]] if "reply-to" in known else None,
            subject=known.get("subject", ""),
            text=None if self._text is None else self._text.render(values),
            html=None if self._html is None else self._html.render(values),
            attachments=self._attachments,
            headers=header,
        )
        return Mail(message, self._sender, [recipient])


def _header(text: str, path: Path) -> dict[str, Text]:
    """The header lines of a template, by name, in order."""
    fields: dict[str, tuple[int, str]] = {}
    name = ""
    for number, line in enumerate(text.split("\n"), 1):
        if name and line[:1] in {" ", "\t"}:
            first, value = fields[name]
            fields[name] = first, f"{value} {line.strip()}"
            continue
        found = _FIELD.match(line)
        if found is None:
            raise InvalidMail(
                f"{path}, line {number}: {line[:60]!r} is no header line such as 'Subject: Hello {{name}}'"
            )
        name, lower = found[1], found[1].lower()
        why = _OURS.get(lower) or ("it is set by the content" if lower.startswith("content-") else None)
        if why or lower in map(str.lower, fields):
            raise InvalidMail(f"{path}, line {number}: {name}: {why or 'it is there twice'}; remove it")
        fields[name] = number, found[2].strip()
    return {
        name: (_mailbox if name.lower() in _ADDRESSES else compiled)(value, path, number)
        for name, (number, value) in fields.items()
    }


def _mailbox(source: str, where: Path, line: int) -> Text:
    """The one mailbox of an address field: a name, in which values are quoted, and an address."""
    found = _NAMED.match(source)
    if found is None:
        return compiled(source, where, line)
    name, address = compiled(found["name"].strip('"'), where, line), compiled(found["address"], where, line)

    def render(values: Values) -> str:
        quoted = re.sub(r'(["\\])', r"\\\1", name.render(values))
        return f'"{quoted}" <{address.render(values)}>' if quoted else address.render(values)

    return Text(name.fields | address.fields, render)
