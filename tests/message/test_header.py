"""Header fields: nothing written can become a second field, and reading changes no octet that is not Bcc's."""

import email
import email.policy
import re
from datetime import UTC, datetime
from email.header import decode_header, make_header
from email.utils import format_datetime
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpkit.errors import InvalidMail
from smtpkit.message import header as module
from smtpkit.message.address import Mailbox
from smtpkit.message.header import (
    check_header,
    date,
    field,
    fields,
    header_end,
    message_id,
    split_header,
    unfold,
    without,
)


def _read(octets: bytes) -> email.message.Message:
    return email.message_from_bytes(octets + b"\r\n", policy=email.policy.default)


@settings(deadline=None)
@given(st.text(max_size=300))
def test_no_text_gains_a_field_or_a_line(text: str) -> None:
    """Any text is refused, or is one field whose lines are folded; the standard library reads the text back."""
    try:
        octets = field("Subject", text)
    except InvalidMail:
        assert re.search("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]", text)
        return
    assert octets.isascii()
    assert octets.endswith(b"\r\n")
    first, *others = octets[:-2].split(b"\r\n")
    assert first.startswith(b"Subject:")
    assert all(line[:1] in {b" ", b"\t"} and line.strip() for line in others)
    assert all(len(line) <= 998 for line in (first, *others))
    assert not re.search(rb"[\r\n\0]", b"".join((first, *others)))
    message = _read(octets)
    assert message.keys() == ["Subject"]


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029"), max_size=200))
def test_text_round_trips(text: str) -> None:
    """What was written is what another reader reads."""
    assert str(_read(field("Subject", text))["Subject"]) == text


@settings(deadline=None)
@given(st.text(max_size=90))
def test_no_name_gains_a_field(name: str) -> None:
    """Any text for a name is refused, or is one name."""
    try:
        octets = field(name, "text")
    except InvalidMail:
        return
    assert octets == f"{name}: text\r\n".encode()
    assert re.fullmatch("[!-9;-~]+", name)


@settings(deadline=None)
@given(st.text(max_size=60), st.text(max_size=30))
def test_no_display_name_gains_a_field(name: str, local: str) -> None:
    """Any display name and local part is refused, or stands in one field."""
    try:
        octets = field("To", [Mailbox(name, local, "example.com")])
    except InvalidMail:
        return
    check_header(octets, ["To"])


@pytest.mark.parametrize("bad", ["a\r\nBcc: x", "a\nb", "a\rb", "a\0b", "a\x0bb", "a\x1cb", "a\x7fb", "a\ud800b"])
def test_controls_are_refused(bad: str) -> None:
    """Line ends, NUL, other controls and lone surrogates are refused, and the error names the field."""
    with pytest.raises(InvalidMail, match=r"^Subject "):
        field("Subject", bad)
    with pytest.raises(InvalidMail, match="display name"):
        field("To", [Mailbox(bad, "ann", "example.com")])


@pytest.mark.parametrize("name", ["", "A B", "A:", "A\r\nBcc", "Ä", "x" * 77])
def test_names(name: str) -> None:
    """A name that is none is refused."""
    with pytest.raises(InvalidMail, match="header field name"):
        field(name, "text")


@pytest.mark.parametrize("text", ["a\u2028Bcc: x", "a\u0085Bcc: x", "x =?UTF-8?Q?=0A?=Bcc: x", "\u560a\u560d Bcc: x"])
def test_what_becomes_a_line_end_elsewhere_is_inert(text: str) -> None:
    """What others take for a line end, or decode to one (CVE-2024-6923), is encoded."""
    octets = field("Subject", text)
    check_header(octets, ["Subject"])
    assert b"Bcc: x" not in octets


WRITTEN: list[tuple[str, str | list[Mailbox], bytes]] = [
    ("Subject", "Hi", b"Subject: Hi\r\n"),
    ("Subject", "", b"Subject:\r\n"),
    ("Subject", " padded ", b"Subject: =?utf-8?q?_padded_?=\r\n"),
    ("Subject", "Grüße an", b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe_an?=\r\n"),
    ("Subject", "日本語", b"Subject: =?utf-8?b?5pel5pys6Kqe?=\r\n"),
    ("X", "a " * 40 + "b", b"X: " + b"a " * 37 + b"a\r\n a a b\r\n"),
    ("To", [Mailbox("Ann", "ann", "example.com")], b"To: Ann <ann@example.com>\r\n"),
    ("To", [Mailbox("", "a", "b.de"), Mailbox("", "c", "faß.de")], b"To: a@b.de, c@xn--fa-hia.de\r\n"),
    ("To", [Mailbox('Doe, "J"', "j", "example.com")], b'To: "Doe, \\"J\\"" <j@example.com>\r\n'),
    ("To", [Mailbox("Jörg", "jörg", "example.com")], "To: =?utf-8?q?J=C3=B6rg?= <jörg@example.com>\r\n".encode()),
    ("To", [], b"To:\r\n"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "octets"), WRITTEN)
def test_written(name: str, value: str | list[Mailbox], octets: bytes) -> None:
    """Text in ASCII stays as it is, other text becomes encoded words, addresses never do."""
    assert field(name, value) == octets


GOOD = b"To: a\r\nSubject: b\r\n c\r\n"
BAD = [
    (GOOD, ["To"]),  # one more than was meant
    (GOOD, ["To", "Subject", "Cc"]),
    (GOOD + b"Bcc: x\r\n", ["To", "Subject"]),
    (GOOD + b"To: x\r\n", ["To", "Subject"]),  # a second of a name that is meant once
    (GOOD[:-2], ["To", "Subject"]),
    (b" c\r\n", []),
    (b"no field\r\n", []),
    (b"\r\n", []),
    (b"To: a\nBcc: b\r\n", ["To"]),
    (b"To: a\rBcc: b\r\n", ["To"]),
    (b"To: a\0b\r\n", ["To"]),
    (b"To: " + b"x" * 995 + b"\r\n", ["To"]),
]


def test_the_gate_lets_pass() -> None:
    """A header that holds what was meant passes, in either case."""
    check_header(GOOD, ["TO", "subject"])
    check_header(b"", [])
    check_header(b"To: " + b"x" * 994 + b"\r\n", ["to"])


@pytest.mark.parametrize(("block", "names"), BAD)
def test_the_gate_refuses(block: bytes, names: list[str]) -> None:
    """A field too many or too few, a line that is neither a field nor folded, a control, a long line: none passes."""
    with pytest.raises(InvalidMail, match=r"^header: "):
        check_header(block, names)


STRIPPED = [
    (b"To: a\r\nBcc: b\r\nCc: c\r\n", b"To: a\r\nCc: c\r\n"),
    (b"bCC : b,\r\n\tc\r\n d\r\nTo: a\r\n", b"To: a\r\n"),
    (b"To: a\nBcc: b\nCc: c\n", b"To: a\nCc: c\n"),
    (b"To: a\rBcc: b\rCc: c\r", b"To: a\rCc: c\r\n"),
    (b"To: a\r\nResent-Bcc: b\r\nBcc: c", b"To: a\r\n"),
    (b"X-Bcc: b\r\nTo: a\r\n Bcc: c\r\n", b"X-Bcc: b\r\nTo: a\r\n Bcc: c\r\n"),
    (b"\xef\xbb\xbfBcc: b\r\nTo: a\r\n", b"To: a\r\n"),
    (b"Subject: \xe9\r\nno field\r\nBcc: x\r\n", b"Subject: \xe9\r\nno field\r\n"),
    (b"", b""),
]


@pytest.mark.parametrize(("header", "kept"), STRIPPED)
def test_without(header: bytes, kept: bytes) -> None:
    """Bcc and Resent-Bcc go with their folded lines, whatever ends a line; every other octet stays."""
    assert without(header) == kept


SPLIT = [
    (b"To: a\r\n\r\nbody", 7),
    (b"To: a\n\nbody", 6),
    (b"To: a\r\rbody", 6),
    (b"To: a\r\n\nbody", 7),
    (b"To: a\n\r\nbody", 6),
    (b"To: a\r\r\nbody", 6),
    (b"To: a\r\n \r\n\r\nbody", 10),
    (b"To: a\r\n", 7),
    (b"To: a", 5),
    (b"\r\nbody", 0),
    (b"no header\r\n\r\nBcc: x", 0),
    (b"From ann Mon\nTo: a\n\nbody", 19),
    (b"\xef\xbb\xbfTo: a\r\n\r\nbody", 10),
    (b"x" * 2000 + b":", 0),
    (b"", 0),
]


@pytest.mark.parametrize(("octets", "end"), SPLIT)
def test_split(octets: bytes, end: int) -> None:
    """The header ends before the first empty line, by any line end; what does not begin with a field has none."""
    assert split_header(octets) == (octets[:end], octets[end:])


@pytest.mark.parametrize(("octets", "end"), SPLIT)
def test_split_octet_by_octet(octets: bytes, end: int) -> None:
    """Read one octet after the other, the header ends at the same place."""
    found = None
    for read in range(1, len(octets) + 1):
        found = header_end(octets[:read], searched=read - 1)
        if found is not None:
            break
    assert (end if found is None else found) == end


def test_fields() -> None:
    """Names in lower case and texts unfolded, whatever ends a line; octets that are not UTF-8 are replaced."""
    header = b" stray\r\nTo : a,\r\n\tb\nno field\rSubject: \xc3\xa9\xe9\r\n"
    assert fields(header) == [("to", "a,\tb"), ("subject", "é\ufffd")]
    assert unfold("a,\r\n b\n\tc") == "a, b\tc"


def test_message_id_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Message-ID is random octets and the domain given, and asks nobody for a host name."""
    import socket

    def leak() -> str:
        raise AssertionError

    for name in ("gethostname", "getfqdn"):
        monkeypatch.setattr(socket, name, leak)
    one, other = message_id("example.com"), message_id("example.com")
    assert re.fullmatch(r"<[0-9a-f]{32}@example\.com>", one)
    assert one != other


@settings(deadline=None)
@given(st.integers(0, 253402300799))
def test_date(when: int) -> None:
    """A date is written as the standard library writes it, in UTC, whatever the locale."""
    assert date(when) == format_datetime(datetime.fromtimestamp(when, UTC))


def test_date_of_now() -> None:
    """Without a time it is that of now."""
    before, now, after = datetime.now(UTC), email.utils.parsedate_to_datetime(date()), datetime.now(UTC)
    assert before.replace(microsecond=0) <= now <= after


# --- the quick ways

NEVER = re.compile("(?!)")
ODD = (b"\n", b"\r", b"a", b"\0", b"\x0b", b"\x7f", b"\xc3\xa9", b"\t", b"Subject: a", b"x" * 990, b"y" * 10)
LINES = (b"Subject: a", b"X:", b" folded", b"\tfolded", b"", b": b", b"X : y", b" ", b"bcc: z", b"\xe9: a", b"a" * 998)
BLOCKS = st.lists(
    st.sampled_from((*ODD, *(line + b"\r\n" for line in LINES), *(line + b"\r\n" for line in LINES))), max_size=8
).map(b"".join)


def checked(block: bytes, names: list[str]) -> str:
    """What the gate says."""
    try:
        check_header(block, names)
    except InvalidMail as error:
        return str(error)
    return ""


@settings(deadline=None, max_examples=2000)
@given(BLOCKS, st.lists(st.sampled_from(("Subject", "X", "x", "bcc", "a")), max_size=4))
def test_the_quick_gate_is_the_gate(block: bytes, names: list[str]) -> None:
    """A header passes at a glance only if it passes line by line."""
    found = [line.partition(b":")[0].strip(b" \t").decode("latin-1") for line in re.split(rb"\r\n(?![ \t])", block)]
    for meant in (names, [name for name in found if name]):
        quick = checked(block, meant)
        with mock.patch.object(module, "_WHOLE", re.compile(rb"(?!)")):
            assert checked(block, meant) == quick


@settings(deadline=None, max_examples=1000)
@given(st.text(st.sampled_from("a =?\tb é."), max_size=100) | st.sampled_from(["x" * size for size in range(60, 80)]))
def test_plain_text_is_written_the_same(text: str) -> None:
    """What is written at a glance is what would be written piece by piece."""
    quick = field("Subject", text)
    with mock.patch.object(module, "_PLAIN_TEXT", NEVER):
        assert field("Subject", text) == quick


@pytest.mark.parametrize("charset", ["iso-8859-1", "windows-1252", "utf-8", "shift_jis"])
def test_charset(charset: str) -> None:
    """Encoded words are in the charset asked for, in Q and in B, and read back as the text."""
    texts = ["Gr\xfc\xdfe an alle"] if charset != "shift_jis" else ["\u65e5\u672c\u8a9e " * 30, "about \u65e5"]
    for text in texts:
        line = field("Subject", text, charset=charset).decode("ascii")
        assert f"=?{charset}?" in line
        assert all(len(word) <= 75 for word in re.findall(r"=\?\S+\?=", line))
        decoded = str(make_header(decode_header(unfold(line[len("Subject: ") : -2]))))
        assert decoded == text


def test_charset_that_has_not_the_character() -> None:
    """A character that the charset has not is refused, with what would have it."""
    with pytest.raises(InvalidMail, match="utf-8 has it"):
        field("Subject", "\u65e5", charset="iso-8859-1")


@pytest.mark.parametrize("fold_at", [40, 78, 200, 998])
def test_folds_where_it_is_told_to(fold_at: int) -> None:
    """No line is longer than asked, and none is folded without need."""
    text = " ".join(["word"] * 100)
    lines = field("Subject", text, fold_at=fold_at).split(b"\r\n")[:-1]
    assert all(len(line) <= fold_at for line in lines)
    assert (len(lines) == 1) == (len(f"Subject: {text}") <= fold_at)
    assert b"".join(lines) == f"Subject: {text}".encode()
