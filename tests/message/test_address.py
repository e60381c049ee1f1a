"""Addresses: what is read from address lists, what is refused, and that the work grows with the text only."""

import re
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpkit.errors import InvalidMail
from smtpkit.message import address
from smtpkit.message.address import DEEPEST, Mailbox, address_of, mailboxes_of, parse_mailboxes
from smtpkit.message.header import field, fields

READ = [
    ("ann@example.com", [("", "ann@example.com")]),
    ("Ann <ann@example.com>", [("Ann", "ann@example.com")]),
    ('"Doe, Jane" <jane@example.com>, bob@example.com', [("Doe, Jane", "jane@example.com"), ("", "bob@example.com")]),
    (r'"a \"b\" \\" <ann@example.com>', [('a "b" \\', "ann@example.com")]),
    ("ann@example.com (Ann (of old))", [("Ann (of old)", "ann@example.com")]),
    ("(x)ann(y)@(z)example(.).com", [(".", "ann@example.com")]),
    ("John Q. Public <j@example.com>", [("John Q. Public", "j@example.com")]),
    ("example.com Support <s@example.com>", [("example.com Support", "s@example.com")]),
    ("a . b @ example . com", [("", "a.b@example.com")]),
    ("a@example.com, , b@example.com,", [("", "a@example.com"), ("", "b@example.com")]),
    ("undisclosed-recipients:;", []),
    ("Us: a@example.com, B <b@example.com>;, c@d.e", [("", "a@example.com"), ("B", "b@example.com"), ("", "c@d.e")]),
    ("=?utf-8?q?J=C3?= =?utf-8?q?=BCrg?= Y <j@example.com>", [("Jürg Y", "j@example.com")]),
    ("=?iso-8859-1?b?Sm9z6Q==?= <j@example.com>", [("José", "j@example.com")]),
    ("=?x-no-such?q?a?= <j@example.com>", [("=?x-no-such?q?a?=", "j@example.com")]),
    ("=?utf-8?b?!?= <j@example.com>", [("", "j@example.com")]),
    ('"=?utf-8?q?a?=" <j@example.com>', [("=?utf-8?q?a?=", "j@example.com")]),
    ('"a b"@example.com', [("", '"a b"@example.com')]),
    ("ann@[192.0.2.1]", [("", "ann@[192.0.2.1]")]),
    ("ann@[IPv6:2001:db8::1]", [("", "ann@[IPv6:2001:db8::1]")]),
    ("Jörg <joerg@straße.example>", [("Jörg", "joerg@xn--strae-oqa.example")]),
    ("josé@example.com", [("", "josé@example.com")]),
    ("jose\u0301@example.com", [("", "josé@example.com")]),
    ("ann@ex\uff41mple\u3002com", [("", "ann@example.com")]),
    ("", []),
    (" , ", []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "found"), READ)
def test_lists(text: str, found: list[tuple[str, str]]) -> None:
    """Display names, quotes, comments, groups, encoded words and the obsolete forms are read as RFC 5322 has them."""
    assert [(mailbox.display_name, mailbox.address) for mailbox in parse_mailboxes(text)] == found


REFUSED = [
    "a@b@c",
    "<a@b>, c",
    "alice@example.org)bob@example.org",  # CVE-2019-16056 and its kin
    "alice@example.org<bob@example.org>",  # CVE-2023-27043
    "alice@example.org <bob@example.org>",
    "alice@example.org,bob@example.org>",
    "<alice@example.org> bob@example.org",
    "a <b@example.com> <c@example.com>",
    "bob smith@example.com",
    "a@b c@d",
    "a@b;",
    "us: a@b.example; c@d.example",
    "us:; them:;",
    "a;b@example.com",
    "a: b: c@example.com;",
    "a: b@example.com",
    ": b@example.com;",
    "a@b: c@example.com;",
    "<@relay.example:ann@example.com>",
    "=?utf-8?q?x=40evil.example?=@example.com",
    "ann@=?utf-8?q?evil?=.example",
    "ann",
    "@example.com",
    "ann@",
    "<>",
    "ann@.example.com",
    "ann@example.com.",
    "ann..b@example.com",
    '"a".b@example.com',
    "(ann@example.com",
    "ann@example.com)",
    '"ann@example.com',
    "ann@[192.0.2.1",
    "ann@exa℀mple.com",
    "ann@exam ple.com",
    "ann@" + "é" * 300 + ".example",
    "a" * 65 + "@example.com",
    "\u212aann@example.com",  # KELVIN SIGN, which NFC turns into K
    "ann\u00a0@example.com",
    "ann\u202e@example.com",
    "ann\ufffd@example.com",
    "ann@example.com\nBcc: x@example.com",
    "ann@example.com\0",
    "a\udc80@example.com",
    "\ud800 <ann@example.com>",
    "ann\\@example.com",
    "(" * (DEEPEST + 1) + ")" * (DEEPEST + 1),
    "a " * 1001 + "<ann@example.com>",
    "x" * 1_048_577,
]


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:40].encode("unicode_escape").decode())
def test_refused(text: str) -> None:
    """What two readers might understand differently, or what is no address, is refused, and the argument named."""
    with pytest.raises(InvalidMail, match=r"^to "):
        parse_mailboxes(text, "to")


def test_at_in_quotes_goes_to_the_domain_outside() -> None:
    """A quoted local part is one whatever it holds (nodemailer GHSA-mm7p-fcc7-pg87): nothing goes to what is inside."""
    assert address_of('"x@evil.example y"@internal', "to") == '"x@evil.example y"@internal'


def test_errors_say_what_would_be_right() -> None:
    """An error shows an address as it should be written."""
    with pytest.raises(InvalidMail, match=r"write ann@example\.com or Ann <ann@example\.com>"):
        address_of("Ann ann", "sender")


@pytest.mark.parametrize("text", ["", "a@example.com, b@example.com", "x:;"])
def test_one_address(text: str) -> None:
    """An argument for one address takes exactly one."""
    with pytest.raises(InvalidMail, match=r"^sender"):
        address_of(text, "sender")


def test_types() -> None:
    """Addresses are texts: octets and numbers are refused, by name."""
    not_text: Any
    for not_text in (b"ann@example.com", 7, None):
        with pytest.raises(InvalidMail, match="recipients: "):
            mailboxes_of(not_text, "recipients")
        with pytest.raises(InvalidMail, match="sender: "):
            address_of(not_text, "sender")
    assert [one.address for one in mailboxes_of("a@b.example, c@d.example", "to")] == ["a@b.example", "c@d.example"]
    assert [one.address for one in mailboxes_of(iter(["a@b.example"]), "to")] == ["a@b.example"]


def test_unicode_address() -> None:
    """People see U-labels, the wire A-labels; what is not IDNA 2008 either way is left as it is."""
    assert Mailbox("", "ann", "straße.example").unicode_address == "ann@straße.example"
    assert Mailbox("", "ann", "xn--strae-oqa.example").unicode_address == "ann@straße.example"
    assert Mailbox("", "ann", "my_host.example").unicode_address == "ann@my_host.example"
    assert Mailbox("", "ann", "[192.0.2.1]").unicode_address == "ann@[192.0.2.1]"
    assert Mailbox("", "ann", "faß.de").address == "ann@xn--fa-hia.de"


def test_controls_in_encoded_words_end_here() -> None:
    """A line end that hides in an encoded word is no line end in the display name."""
    (mailbox,) = parse_mailboxes("=?utf-8?q?a=0D=0ABcc=3A_x?= <b@example.com>")
    assert mailbox.display_name == "a\ufffd\ufffdBcc: x"


ALPHABET = st.sampled_from([*'ab.@,;:<>()[]"\\ \t=?_éß\u212a\ud800\n\x00', "=?utf-8?q?", "?=", "a@b.example"])
LISTS = st.one_of(st.lists(ALPHABET, max_size=40).map("".join), st.text(max_size=60))


@settings(deadline=None)
@given(LISTS)
def test_nothing_but_invalid_mail(text: str) -> None:
    """Any text is read or refused by InvalidMail; what is read can be written, and read again with equal addresses."""
    try:
        found = parse_mailboxes(text)
    except InvalidMail:
        return
    ((_, written),) = fields(field("To", found))
    assert [one.address for one in parse_mailboxes(written)] == [one.address for one in found]
    for one in found:  # the address is what stood there, less blanks and comments
        if one.address.isascii():
            assert one.address.split("@")[0] in re.sub(r"[ \t]|\([^()]*\)", "", text) or "(" in text or '"' in text


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=120)


@settings(deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=4))
def test_display_names_round_trip(names: list[str]) -> None:
    """A display name is read as it was written, but for blanks at its ends and in a row."""
    mailboxes = [Mailbox(name, "ann", "example.com") for name in names]
    ((_, written),) = fields(field("To", mailboxes))
    assert written.isascii()
    again = parse_mailboxes(written)
    assert [one.address for one in again] == ["ann@example.com"] * len(names)
    assert [one.display_name for one in again] == names


def _calls(work: Callable[[], object]) -> int:
    """How many lines of Python some work runs."""
    lines = 0

    def count(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        work()
    finally:
        sys.settrace(before)
    return lines


@pytest.mark.parametrize(
    "piece", ["(", "()", '"', "<", ":", "a@b,", "a:;", ".", "a ", "\\", "=?utf-8?q?a?= ", ")", "@"]
)
def test_work_is_linear(piece: str) -> None:
    """Ten times the text is at most fifteen times the work, whatever the text repeats."""

    def parse(times: int) -> Callable[[], object]:
        def work() -> object:
            try:
                return parse_mailboxes(piece * times)
            except InvalidMail as error:
                return error

        return work

    assert _calls(parse(3000)) <= 15 * max(_calls(parse(300)), 200)


# --- the quick way

NEVER = re.compile("(?!)")
PIECES = st.sampled_from((
    *("Ann", "ann", "=?utf-8?q?a?=", "=", "?", "@", "@", "example.com", "a" * 63, "a" * 64, "b" * 65, ".", "-", "_"),
    *(" ", "<", ">", " <", ">", ",", ", ", ";", ":", '"', "(", ")", "[192.0.2.1]", "\\", "é", "straße", "\t", "\n"),
    *("\0", "'", "a.b", "1", "+", "example.com" * 23, "\ufffd", "/", "!#$%&*^`{|}~"),
))  # fmt: skip
DOMAINS = ("example.com", "a", "-a", "a-", "a_b.c", "_a", "a.", "a..b", "a" * 63, "a" * 64, "é.example", "[::1]")
LIKELY = st.builds(
    "{}{}{}@{}{}".format,
    st.sampled_from(("", "Ann <", "Ann B Cee <", "Ann  B <", " <", "<", "A. B <", "=?utf-8?q?a?= <", "a=b <", "Ann<")),
    st.sampled_from(("ann", "a.b", "a..b", ".a", "a=b", "=?a", "a" * 64, "a" * 65, "é", "'a'", "a?b", '"a b"')),
    st.sampled_from(("", "", ".x", "+y", " ")),
    st.sampled_from(DOMAINS)
    | st.integers(240, 260).map(lambda size: ("a" * 50 + ".") * (size // 51) + "b" * (size % 51)),
    st.sampled_from((">", "", "> ", ">>", " >", ",", ">,b@example.com")),
)


def read(text: str) -> object:
    """The mailboxes in all their parts, or the error."""
    try:
        return [(one.display_name, one.local_part, one.domain, one.address) for one in parse_mailboxes(text, "to")]
    except InvalidMail as error:
        return str(error)


@settings(deadline=None, max_examples=2000)
@given(st.lists(PIECES, max_size=8).map("".join) | LIKELY)
def test_the_quick_way_finds_the_same(text: str) -> None:
    """What is read at a glance is what the whole grammar makes of it, and no text is read that it refuses."""
    quick = read(text)
    with mock.patch.object(address, "_PLAIN", NEVER):
        assert read(text) == quick


@pytest.mark.parametrize("local", [64, 65])
@pytest.mark.parametrize("domain", [255, 256])
@pytest.mark.parametrize("label", [49, 63, 64])
@pytest.mark.parametrize("frame", ["{}", "Ann <{}>"])
def test_the_quick_way_knows_the_limits(local: int, domain: int, label: int, frame: str) -> None:
    """What is too long for the whole grammar is too long for the quick way, and what is just right is read."""
    name = ".".join(["b" * label] * 9)[:domain]
    quick = read(frame.format(f"{'a' * local}@{name}"))
    assert isinstance(quick, list) == ((local, domain) == (64, 255) and label < 64)
    with mock.patch.object(address, "_PLAIN", NEVER):
        assert read(frame.format(f"{'a' * local}@{name}")) == quick


def test_the_quick_way_is_taken() -> None:
    """Plain addresses are read without a token of the grammar, and what is read is as valid as what is made."""
    with mock.patch.object(address, "_tokens", side_effect=AssertionError):
        for text in ("ann@example.com", "Ann <ann@example.com>", "Ann B <a.b+c@x-1.example>"):
            (one,) = parse_mailboxes(text)
            assert one == Mailbox(one.display_name, one.local_part, one.domain)
