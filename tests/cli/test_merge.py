"""The merge: what stands in a row becomes text in a mail, and never a header line, an address, markup or a program."""

import email
import email.policy
import sys
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

import smtpkit
from smtpkit.cli.merge import Template, compiled

ROW = {"email": "bob@example.org", "name": "Bob", "n": 3}
LETTER = """\
Subject: Hello {name}
To: {name} <{email}>
List-Id: a list
  of {name}

Dear {name}, you have {n} {{braces}}.
"""
EVIL = (
    "x\r\nBcc: eve@example.net",
    "x\nBcc: eve@example.net",
    "x\rBcc: eve@example.net",
    "x\r\n\r\nthe text",
    "x\x00",
    "x\u2028Bcc: eve@example.net",
    "x\x85Bcc: eve@example.net",
)


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """Makes a template of texts."""

    def make(letter: str = LETTER, html: str | None = None, *, suffix: str = "txt", **more: Any) -> Template:
        (tmp_path / f"mail.{suffix}").write_text(letter, encoding="utf-8", newline="")
        page = None
        if html is not None:
            page = tmp_path / f"page.{suffix.replace('txt', 'html')}"
            page.write_text(html, encoding="utf-8")
        options = {"sender": "News <news@example.com>", "column": "email", **more}
        return Template(tmp_path / f"mail.{suffix}", html=page, **options)

    return make


def _read(mail: smtpkit.Mail) -> EmailMessage:
    return email.message_from_bytes(mail.message.as_bytes().replace(b"\r\n", b"\n"), policy=email.policy.default)


def test_letter(make: Any) -> None:
    """Fields in header lines and in the text take the values of the row, which is sent to its recipient alone."""
    template = make()
    mail = template.mail(ROW)
    read = _read(mail)
    assert template.fields == {"email", "name", "n"}
    assert (mail.sender, mail.recipients) == ("News <news@example.com>", ["bob@example.org"])
    assert (read["Subject"], read["To"], read["List-Id"]) == ("Hello Bob", "Bob <bob@example.org>", "a list of Bob")
    assert read["From"] == "News <news@example.com>"
    assert read.get_content() == "Dear Bob, you have 3 {braces}.\n"


def test_bare_template(make: Any) -> None:
    """A template without To and From shows the recipient and the sender; line ends may be those of any system."""
    read = _read(make("\ufeffSubject: Hi\r\n\r\nHi\r\n").mail(ROW))
    assert (read["To"], read["From"], read.get_content()) == ("bob@example.org", "News <news@example.com>", "Hi\n")


def test_own_from(make: Any) -> None:
    """A From of the template is shown; the sender that was given stays the reverse-path."""
    mail = make(
        "From: {name} <ann@example.com>\nSender: desk@example.com\nReply-To: {name} <re@example.com>\n\nHi\n"
    ).mail(ROW)
    read = _read(mail)
    assert mail.sender == "News <news@example.com>"
    assert [read[name] for name in ("From", "Sender", "Reply-To")] == [
        "Bob <ann@example.com>",
        "desk@example.com",
        "Bob <re@example.com>",
    ]


def test_html_and_attachment(make: Any, tmp_path: Path) -> None:
    """Values are escaped in HTML, in quotes too, and not in the text; an attachment is the same for all."""
    (tmp_path / "a.csv").write_bytes(b"1,2\n")
    template = make("Subject: Hi\n\n{name}\n", '<p title="{name}">{name} {{}}</p>', attach=[tmp_path / "a.csv"])
    parts = [part for part in _read(template.mail({**ROW, "name": "<b>\"&'"})).walk() if not part.is_multipart()]
    assert [part.get_content_type() for part in parts] == ["text/plain", "text/html", "text/csv"]
    assert parts[0].get_content() == "<b>\"&'\n"
    escaped = "&lt;b&gt;&quot;&amp;&#x27;"
    assert parts[1].get_content().strip() == f'<p title="{escaped}">{escaped} {{}}</p>'


def test_html_alone(make: Any) -> None:
    """Without a text below the header lines there is the HTML alone."""
    read = _read(make("Subject: Hi", "<p>{name}</p>").mail(ROW))
    assert (read.get_content_type(), read.get_content().strip()) == ("text/html", "<p>Bob</p>")


@pytest.mark.parametrize("value", EVIL, ids=ascii)
@pytest.mark.parametrize("field", ["Subject: {name}", "X-Name: {name}", "To: {name} <{email}>", "List-Id: <{name}>"])
def test_no_header_line_is_added(field: str, value: str, make: Any) -> None:
    """Whatever a value holds, it adds no header line and does not end the header: refused, or a part of its field."""
    try:
        mail = make(f"{field}\n\nthe text of the mail\n").mail({**ROW, "name": value})
        octets = mail.message.as_bytes()
    except smtpkit.InvalidMail:
        return
    header, _, text = octets.partition(b"\r\n\r\n")
    assert text == b"the text of the mail\r\n"
    assert not [line for line in header.splitlines() if line.lower().startswith(b"bcc")]
    assert _read(mail)["Bcc"] is None
    assert mail.recipients == ["bob@example.org"]


@pytest.mark.parametrize("value", EVIL[:4], ids=ascii)
def test_line_ends_are_refused_in_header_lines(value: str, make: Any) -> None:
    """A line end in a header line costs that row its mail; in the text it is a line end."""
    with pytest.raises(smtpkit.InvalidMail, match="holds a line end"):
        make("Subject: {name}\n\nHi\n").mail({**ROW, "name": value})
    assert "Bcc: eve" in _read(make("Subject: Hi\n\n{name}\n").mail({**ROW, "name": EVIL[0]})).get_content()


@pytest.mark.parametrize(
    "value",
    [
        "Eve <eve@example.net>,",
        'a" <eve@example.net>, "b',
        "eve@example.net,",
        "back\\",
        "(comment",
        "group: x;",
        "Ü, V",
    ],
)
def test_a_name_is_a_name(value: str, make: Any) -> None:
    """What looks like addresses in a value is no more than a display name."""
    read = _read(make("To: {name} <{email}>\n\nHi\n").mail({**ROW, "name": value}))
    (found,) = read["To"].addresses
    assert (found.display_name, found.addr_spec) == (value, "bob@example.org")


@pytest.mark.parametrize(
    "value", ["a@x.org, b@x.org", "a@x.org>, <b@x.org", "a@x.org\r\nRCPT TO:<b@x.org>", "", "nobody", "<>", "a@x.org b"]
)
def test_one_recipient(value: str, make: Any) -> None:
    """A recipient is exactly one address."""
    for letter in ("Subject: Hi\n\nHi\n", "To: {name} <{email}>\n\nHi\n", "To: all <all@example.com>\n\nHi\n"):
        template = make(letter)
        with pytest.raises(smtpkit.InvalidMail):
            template.mail({**ROW, "email": value})


@pytest.mark.parametrize(
    ("letter", "told"),
    [
        ("Subject: Hi {name.__class__}\n\nHi", "line 1: '{name.__class__}' is no field"),
        ("Subject: Hi\n\nHi\n{name[0]}", "line 4: '{name[0]}' is no field"),
        ("Subject: Hi\n\nHi\n{name!r}", "line 4: '{name!r}' is no field"),
        ("Subject: Hi\n\nHi\n{name:>99999999999}", "line 4: '{name:>99999999999}' is no field"),
        ("Subject: Hi\n\nHi\n{}", "line 4: '{}' is no field"),
        ("Subject: Hi\n\np {\n color: red }", "line 3: '{' is no field"),
        ("Subject: Hi\n\nHi }", "line 3: '}' is no field"),
        ("To: {a.b} <{email}>\n\nHi", "line 1: '{a.b}' is no field"),
        ("Hello\n\nHi", "line 1: 'Hello' is no header line"),
        ("Subject: Hi\nsubject: Ho\n\nHi", "line 2: subject: it is there twice"),
        ("Bcc: eve@example.net\n\nHi", "line 1: Bcc: a mail goes to the recipient of its row alone"),
        ("Message-ID: <1@x>\n\nHi", "line 1: Message-ID: each mail has one of its own"),
        ("Content-Type: text/html\n\nHi", "line 1: Content-Type: it is set by the content"),
        ("Subject: Hi\n", ": an empty line and a text are wanted"),
    ],
)
def test_wrong_templates(letter: str, told: str, make: Any) -> None:
    """What is wrong in a template is told at once, with the line: nothing but plain names is looked up."""
    with pytest.raises(smtpkit.InvalidMail) as caught:
        make(letter)
    assert told in str(caught.value)


def test_values_of_json(make: Any) -> None:
    """Numbers are written as they are and null is empty; for a list there must be a template that says how."""
    template = make("Subject: {n}\n\n[{name}]\n")
    read = _read(template.mail({**ROW, "n": 1.5, "name": None}))
    assert (read["Subject"], read.get_content()) == ("1.5", "[]\n")
    with pytest.raises(smtpkit.InvalidMail, match=r"field name: \{name\} takes a text or a number"):
        template.mail({**ROW, "name": ["x"]})
    with pytest.raises(smtpkit.InvalidMail, match="field name: the row has none"):
        template.mail({"email": "a@x.org", "n": 1})


def test_names_with_blanks() -> None:
    """A column may be named as people name them."""
    text = compiled("{First name}, {straße-nr}", Path("x"), 1)
    assert text.fields == {"First name", "straße-nr"}
    assert text.render({"First name": "A", "straße-nr": 3}) == "A, 3"


def test_sender_is_checked(make: Any) -> None:
    """A sender that is no address is told before anything is merged."""
    with pytest.raises(smtpkit.InvalidMail, match="sender"):
        make(sender="news")


# jinja2 ---------------------------------------------------------------------------------------------------------------

JINJA = """\
Subject: Hello {{ name }}{% if n > 2 %}!{% endif %}
To: {{ name }} <{{ email }}>

Dear {{ name }},
{% for one in things %}- {{ one.what }}
{% endfor %}
"""


def test_jinja(make: Any) -> None:
    """A template named *.j2 may loop and decide; its HTML is escaped, its text not."""
    template = make(JINJA, "<p>{{ name }}</p>", suffix="j2")
    row = {**ROW, "name": "Bo & Co", "things": [{"what": "a"}, {"what": "b"}]}
    assert template.fields == {"email", "name", "n", "things"}
    read = _read(template.mail(row))
    text, page = (part.get_content().strip() for part in read.walk() if not part.is_multipart())
    assert read["Subject"] == "Hello Bo & Co!"
    assert text == "Dear Bo & Co,\n- a\n- b"
    assert page == "<p>Bo &amp; Co</p>"


@pytest.mark.parametrize("value", EVIL[:4], ids=ascii)
def test_jinja_adds_no_header_line(value: str, make: Any) -> None:
    """A header line is taken for one before the template runs, so no value ends it."""
    with pytest.raises(smtpkit.InvalidMail, match="holds a line end"):
        make("Subject: {{ name }}\n\nHi\n", suffix="j2").mail({**ROW, "name": value})


@pytest.mark.parametrize(
    "escape",
    [
        "{{ name.__class__.__mro__[1].__subclasses__() }}",
        "{{ name['__class__'] }}",
        "{{ name|attr('__class__') }}",
        "{{ ''.format.__globals__ }}",
        "{{ '{0.__class__}'.format(name) }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ things.append(1) }}",
        "{{ name.missing }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
        "{{ range(10**9)|list }}",
        "{{ 1 / 0 }}",
    ],
)
def test_jinja_stays_in_its_box(escape: str, make: Any) -> None:
    """A template reaches nothing but the row's values, changes none, and what fails in it is told as such."""
    row = {**ROW, "things": [0]}
    with pytest.raises(smtpkit.InvalidMail, match=r"mail\.j2"):
        make(f"Subject: Hi\n\n{escape}\n", suffix="j2").mail(row)
    assert row["things"] == [0]


def test_values_are_no_templates(make: Any) -> None:
    """What looks like a field in a value stays as it is, in either kind of template."""
    for letter, suffix in (("Subject: Hi\n\n{name}\n", "txt"), ("Subject: Hi\n\n{{ name }}\n", "j2")):
        read = _read(make(letter, suffix=suffix).mail({**ROW, "name": "{n} {{ n }} {% x %}"}))
        assert read.get_content() == "{n} {{ n }} {% x %}\n"


def test_jinja_errors(make: Any) -> None:
    """What is no template is told with its line."""
    with pytest.raises(smtpkit.InvalidMail, match=r"mail.j2, line 4: unexpected '}'"):
        make("Subject: Hi\n\nHi\n{{ name }\n", suffix="j2")


def test_without_jinja(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where jinja2 is not installed, that is said, and what to do."""
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(smtpkit.UsageError, match="not installed; pip install jinja2"):
        make("Subject: Hi\n\nHi\n", suffix="j2")
