"""Mail data: line ends made CRLF and dots doubled, across any border between chunks, and what a survey knows of it."""

import pytest

from smtpkit.errors import InvalidMail
from smtpkit.protocol.mail_data import LineEnds, MailData, Survey, Transparency, survey
from tests.splits import octet_by_octet, splits


def mended(pieces: list[bytes], *, strict: bool = False) -> tuple[bytes, bool]:
    """The pieces with their line ends mended, and whether anything had to be."""
    ends = LineEnds(strict=strict)
    return b"".join([*map(ends.mend, pieces), ends.end()]), ends.touched


def doubled(pieces: list[bytes]) -> bytes:
    """The pieces with their dots doubled."""
    transparency = Transparency()
    return b"".join(map(transparency.double, pieces))


MENDED = [
    (b"", b""),
    (b"\r\n", b"\r\n"),
    (b"a\r\n", b"a\r\n"),
    (b"a\r\nb\r\n\r\n", b"a\r\nb\r\n\r\n"),
    (b"a", b"a\r\n"),
    (b"a\r\nb", b"a\r\nb\r\n"),
    (b"\n", b"\r\n"),
    (b"\r", b"\r\n"),
    (b"a\r", b"a\r\n"),
    (b"a\n", b"a\r\n"),
    (b"a\nb\n", b"a\r\nb\r\n"),
    (b"a\rb\r", b"a\r\nb\r\n"),
    (b"\r\r", b"\r\n\r\n"),
    (b"\n\n", b"\r\n\r\n"),
    (b"\n\r", b"\r\n\r\n"),
    (b"\r\r\n", b"\r\n\r\n"),
    (b"\r\n\r", b"\r\n\r\n"),
    (b"\r\n\n", b"\r\n\r\n"),
    (b"a\r\nb\nc\rd\r\r\ne", b"a\r\nb\r\nc\r\nd\r\n\r\ne\r\n"),
    (b"\xff\x0b\x0c\x85\x1a\r\n", b"\xff\x0b\x0c\x85\x1a\r\n"),
]


@pytest.mark.parametrize(("octets", "result"), MENDED)
def test_line_ends(octets: bytes, result: bytes) -> None:
    """Each line ends in CRLF and there is no other CR or LF, the last line too, however the octets are cut."""
    for pieces in splits(octets):
        assert mended(pieces) == (result, octets != result)
    assert mended([result]) == (result, False)


@pytest.mark.parametrize("octets", [octets for octets, result in MENDED if octets != result])
def test_strict_line_ends(octets: bytes) -> None:
    """Under ``strict`` a bare CR or LF is refused wherever it stands; a missing last line end is not one."""
    for pieces in splits(octets):
        if octets in {b"a", b"a\r\nb"}:
            assert mended(pieces, strict=True) == (octets + b"\r\n", True)
        else:
            with pytest.raises(InvalidMail, match="bare CR"):
                mended(pieces, strict=True)


def test_strict_leaves_what_is_right() -> None:
    """Under ``strict`` mail data with line ends of CRLF only is not changed."""
    for octets, result in MENDED:
        if octets == result:
            for pieces in splits(octets):
                assert mended(pieces, strict=True) == (octets, False)


@pytest.mark.parametrize("strict", [False, True])
def test_nul_is_refused(*, strict: bool) -> None:
    """A NUL octet cannot be sent, and nothing is made of it."""
    for octets in (b"\0", b"a\r\n\0.\r\n", b"\r\0\n"):
        for pieces in splits(octets):
            with pytest.raises(InvalidMail, match=r"NUL|bare CR"):
                mended(pieces, strict=strict)


SMUGGLING = [b"\n.\n", b"\n.\r", b"\r.\n", b"\r.\r", b"\n.\r\n", b"\r.\r\n", b"\r\n.\n", b"\r\n.\r"]
SMUGGLING += [b"\r\n.\r\r\n", b"\r\r\n.\r\r\n", b"\r\n.\r\n", b"\n\n..\n\n"]


@pytest.mark.parametrize("end", SMUGGLING)
def test_smuggling(end: bytes) -> None:
    """No end of mail data that any server might see is left in it: every line of a lone dot has its dot doubled."""
    octets = b"a" + end + b"MAIL FROM:<eve@example.com>\r\n"
    results = {doubled([mended(pieces)[0]]) for pieces in splits(octets)}
    results |= {doubled(octet_by_octet(mended(pieces)[0])) for pieces in splits(octets)}
    assert len(results) == 1
    wire = results.pop()
    assert b"\n.\r" not in wire
    assert wire.count(b"\r\n") == wire.count(b"\r") == wire.count(b"\n")


DOTS = [
    (b"", b""),
    (b".", b".."),
    (b".\r\n", b"..\r\n"),
    (b"..\r\n", b"...\r\n"),
    (b"a.b\r\n", b"a.b\r\n"),
    (b"a\r\n.b\r\n", b"a\r\n..b\r\n"),
    (b"a\r\n.\r\n", b"a\r\n..\r\n"),
    (b".\r\n.\r\n.\r\n", b"..\r\n..\r\n..\r\n"),
    (b"\r\n.\r\n", b"\r\n..\r\n"),
    (b"a.\r\nb\r\n", b"a.\r\nb\r\n"),
]


@pytest.mark.parametrize(("octets", "result"), DOTS)
def test_transparency(octets: bytes, result: bytes) -> None:
    """Each dot that begins a line is doubled, and no other, however the octets are cut (RFC 5321 section 4.5.2)."""
    for pieces in splits(octets):
        assert doubled(pieces) == result


SURVEYS = [
    (b"", Survey(0, eight_bit=False, mended=True, wire_safe=True)),
    (b"a\r\n", Survey(3, eight_bit=False, mended=True, wire_safe=True)),
    (b"a.\r\n", Survey(4, eight_bit=False, mended=True, wire_safe=True)),
    (b"a", Survey(3, eight_bit=False, mended=False, wire_safe=False)),
    (b"a\n", Survey(3, eight_bit=False, mended=False, wire_safe=False)),
    (b"a\r", Survey(3, eight_bit=False, mended=False, wire_safe=False)),
    (b"\xe9\r\n", Survey(3, eight_bit=True, mended=True, wire_safe=True)),
    (b".\r\n", Survey(3, eight_bit=False, mended=True, wire_safe=False)),
    (b"a\r\n.b\r\n", Survey(7, eight_bit=False, mended=True, wire_safe=False)),
    (b"\xe9\n.\n", Survey(6, eight_bit=True, mended=False, wire_safe=False)),
]


@pytest.mark.parametrize(("octets", "known"), SURVEYS)
def test_survey(octets: bytes, known: Survey) -> None:
    """Size once mended without transparency, octets over 127, and what need not be done again (RFC 1870 section 3)."""
    for pieces in splits(octets):
        assert survey(pieces) == known


def test_of_octets() -> None:
    """Mail data of octets at hand knows all that can be known, and can be told again."""
    data = MailData.of(b"\xe9\r\n.\r\n")
    assert (data.size, data.eight_bit, data.mended, data.wire_safe, data.strict) == (6, True, True, False, False)
    assert list(data.tell()) == list(data.tell()) == [b"\xe9\r\n.\r\n"]  # type: ignore[arg-type]  # not asynchronous
    with pytest.raises(InvalidMail, match="bare CR"):
        MailData.of(b"a\nb", strict=True)
    assert MailData.of(b"a\r\n", strict=True).strict
    with pytest.raises(InvalidMail, match="NUL"):
        MailData.of(b"\0")
