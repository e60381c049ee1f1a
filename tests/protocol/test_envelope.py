"""The envelope: what is an address, what DSN may ask, and that nothing can be said by it but what it is for."""

import pytest

from smtpkit.errors import InvalidMail
from smtpkit.protocol.envelope import (
    LONGEST_ADDRESS,
    Envelope,
    ForwardPath,
    check_address_literal,
    check_mailbox,
    plain_path,
    utf8_addr_unitext,
    utf8_addr_xtext,
    xtext,
)

LONGEST_DOMAIN = ".".join(["a" * 63] * 3 + ["a" * 63])

MAILBOXES = [
    "ann@example.com",
    "a.b.c@example.com",
    "!#$%&'*+-/=?^_`{|}~@example.com",
    '""@example.com',
    '"a b"@example.com',
    '"a@b <c>, d"@example.com',
    '"a\\"b\\\\c"@example.com',
    "ann@localhost",
    "ann@xn--bcher-kva.example",
    "ann@a_b.example",
    "ann@1.2.3.4",
    "ann@[192.0.2.1]",
    "ann@[IPv6:2001:db8::1]",
    "ann@[ipv6:::1]",
    "-ann@example.com",
    "änn@example.com",
    "用户@例子.广告",
    '"ä b"@example.com',
    "a" * 64 + "@example.com",
    f"ann@{LONGEST_DOMAIN}",
]


@pytest.mark.parametrize("text", MAILBOXES)
def test_mailbox(text: str) -> None:
    """A Mailbox of RFC 5321 section 4.1.2, with the letters of RFC 6531, is taken as it stands."""
    assert check_mailbox(text) == text


def test_plain_path() -> None:
    """The path of an address that was checked before is the one that checks it."""
    assert plain_path("ann@example.com", required=True) == ForwardPath("ann@example.com", required=True)


NOT_MAILBOXES = [
    "",
    "@",
    "ann",
    "ann@",
    "@example.com",
    "<ann@example.com>",
    "ann@example.com>",
    "ann@example.com> SIZE=1",
    "ann @example.com",
    "ann@exa mple.com",
    " ann@example.com",
    "ann@example.com ",
    "ann@example.com\n",
    "ann\r\nRSET@example.com",
    "ann\x00@example.com",
    "ann\x7f@example.com",
    "ann\x85@example.com",
    "ann\u2028@example.com",
    "ann\ud800@example.com",
    '"ann\nbob"@example.com',
    '"ann\\\nbob"@example.com',
    ".ann@example.com",
    "ann.@example.com",
    "a..n@example.com",
    "a@b@example.com",
    "ann,bob@example.com",
    "ann;bob@example.com",
    "(ann)bob@example.com",
    "ann@example.com (Ann)",
    "@relay.example:ann@example.com",
    '"ann@example.com',
    'ann"@example.com',
    '"ann"bob@example.com',
    '"ann"."bob"@example.com',
    '"ann"b"@example.com',
    '"ann\\"@example.com',
    '"ä\\é"@example.com',
    '"x@evil.example y"@internal.example"@example.com"',
    "ann@example..com",
    "ann@.example.com",
    "ann@example.com.",
    "ann@-example.com",
    "ann@example-.com",
    "ann@exam+ple.com",
    "ann@example.com:25",
    "ann@exa/mple.com",
    "ann@[192.0.2]",
    "ann@[192.0.2.01]",
    "ann@[192.0.2.1",
    "ann@[",
    "ann@[]",
    "ann@[2001:db8::1]",
    "ann@[IPv6:192.0.2.1]",
    "ann@[IPv6:fe80::1%eth0]",
    "ann@[IPv6:::1%> NOTIFY=NEVER]",
    "ann@[192.0.2.1]x",
    "ann@[x:y]",
    "a" * 65 + "@example.com",
    "é" * 33 + "@example.com",
    "ann@" + "a" * 64 + ".example",
    f"ann@{LONGEST_DOMAIN[:-1]}.a",
    "ann@" + "é" * 32 + ".example",
]


@pytest.mark.parametrize("text", NOT_MAILBOXES)
def test_not_a_mailbox(text: str) -> None:
    """What two readers might understand differently, or could add to the command, is no mailbox."""
    with pytest.raises(InvalidMail):
        check_mailbox(text)
    with pytest.raises(InvalidMail):
        ForwardPath(text)
    if text:
        with pytest.raises(InvalidMail):
            Envelope(text, (ForwardPath("bob@example.com"),), utf8=True)


@pytest.mark.parametrize("text", ["[192.0.2.1]", "[IPv6:::1]"])
def test_address_literal(text: str) -> None:
    """An address literal is taken as it stands."""
    assert check_address_literal(text) == text


ENCODINGS = [
    ("ann@example.com", "ann@example.com", "ann@example.com", "ann@example.com"),
    ("a+b=c@example.com", "a+2Bb+3Dc@example.com", "a\\x{2B}b\\x{3D}c@example.com", "a\\x{2B}b\\x{3D}c@example.com"),
    ('"a b"@x', '"a+20b"@x', '"a\\x{20}b"@x', '"a\\x{20}b"@x'),
    ("a\\b@x", "a\\b@x", "a\\x{5C}b@x", "a\\x{5C}b@x"),
    ("é@x", None, "\\x{E9}@x", "é@x"),
    ("Ā用😀@x", None, "\\x{100}\\x{7528}\\x{1F600}@x", "Ā用😀@x"),
]


@pytest.mark.parametrize(("text", "as_xtext", "as_utf8_xtext", "as_unitext"), ENCODINGS)
def test_encodings(text: str, as_xtext: str | None, as_utf8_xtext: str, as_unitext: str) -> None:
    """The three forms of an original recipient (RFC 3461 section 4, RFC 6533 section 3)."""
    assert utf8_addr_xtext(text) == as_utf8_xtext
    assert utf8_addr_unitext(text) == as_unitext
    if as_xtext is not None:
        assert xtext(text) == as_xtext
    else:
        with pytest.raises(InvalidMail, match="ASCII"):
            xtext(text)


@pytest.mark.parametrize("notify", [(), ("NEVER",), ("SUCCESS",), ("SUCCESS", "FAILURE", "DELAY")])
def test_notify(notify: tuple[str, ...]) -> None:
    """NEVER alone, or any of the others (RFC 3461 section 4.1)."""
    assert ForwardPath("a@b.example", notify=notify).notify == notify  # type: ignore[arg-type]  # of those words


@pytest.mark.parametrize(
    "notify", [("NEVER", "DELAY"), ("never",), ("",), ("X",), ("DELAY ORCPT=x",), ("NEVER", "NEVER"), ("DELAY",) * 99]
)
def test_wrong_notify(notify: tuple[str, ...]) -> None:
    """Nothing else, and nothing twice."""
    with pytest.raises(InvalidMail, match="notify"):
        ForwardPath("a@b.example", notify=notify)  # type: ignore[arg-type]  # what a user may write


@pytest.mark.parametrize("original", ["", "a\r\n", "a\0", "a\ud800", "x" * (LONGEST_ADDRESS + 1), "é" * 161])
def test_wrong_original(original: str) -> None:
    """An original recipient is an address, as long as one may be."""
    with pytest.raises(InvalidMail, match="original recipient"):
        ForwardPath("a@b.example", original=original)


@pytest.mark.parametrize("original", ["x", "no address at all", "x" * LONGEST_ADDRESS, "é" * 160])
def test_original(original: str) -> None:
    """It need not be one that we would send to: it comes from wherever the mail came from (RFC 3461 section 4.2)."""
    assert ForwardPath("a@b.example", original=original).original == original


PATHS = (ForwardPath("bob@example.com"),)


@pytest.mark.parametrize("envelope_id", ["x", "QQ 314159", "+=", "x" * 100, "=" * 33])
def test_envelope_id(envelope_id: str) -> None:
    """Printable ASCII, up to 100 octets once encoded (RFC 3461 section 4.4)."""
    assert Envelope("", PATHS, envelope_id=envelope_id).dsn


@pytest.mark.parametrize("envelope_id", ["", "x\r\n", "x\0", "\x7f", "é", "x" * 101, "=" * 34])
def test_wrong_envelope_id(envelope_id: str) -> None:
    """Anything else is refused."""
    with pytest.raises(InvalidMail):
        Envelope("", PATHS, envelope_id=envelope_id)


def test_wrong_envelopes() -> None:
    """Nobody to send to, the same address twice, an unknown RET: no envelope."""
    with pytest.raises(InvalidMail, match="at least one"):
        Envelope("", ())
    with pytest.raises(InvalidMail, match="each address once"):
        Envelope("", (PATHS[0], ForwardPath("bob@example.com", required=True)))
    with pytest.raises(InvalidMail, match="FULL or HDRS"):
        Envelope("", PATHS, ret="full")  # type: ignore[arg-type]  # what a user may write
    with pytest.raises(InvalidMail, match="require_tls: True or False"):
        Envelope("", PATHS, require_tls=1)  # type: ignore[arg-type]


def test_utf8_is_said() -> None:
    """An address that is not ASCII needs SMTPUTF8, and ``of`` says so by itself."""
    for reverse, forward in (("änn@example.com", "bob@example.com"), ("", "böb@example.com")):
        with pytest.raises(InvalidMail, match="SMTPUTF8"):
            Envelope(reverse, (ForwardPath(forward),))
        assert Envelope.of(reverse, [forward]).utf8
        assert not Envelope.of(reverse, [forward]).addresses_are_ascii
    assert not Envelope.of("", ["bob@example.com"]).utf8


def test_of() -> None:
    """Plain addresses, each once, in their order."""
    envelope = Envelope.of("ann@example.com", iter(["b@x", "a@x", "b@x"]), required=True)
    assert [path.address for path in envelope.forward_paths] == ["b@x", "a@x"]
    assert all(path.required for path in envelope.forward_paths)
    assert envelope.reverse_path == "ann@example.com"


def test_dsn() -> None:
    """Anything asked of DSN counts, of the mail or of a path."""
    assert not Envelope("", PATHS).dsn
    assert Envelope("", PATHS, ret="HDRS").dsn
    assert Envelope("", (ForwardPath("a@x", notify=("NEVER",)),)).dsn
    assert Envelope("", (*PATHS, ForwardPath("a@x", original="b@x"))).dsn
