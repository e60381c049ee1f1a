"""Properties: what holds for any octets, any text, any split, looked for by hypothesis."""

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from smtpkit.errors import InvalidMail
from smtpkit.message.address import address_of, addresses_of
from smtpkit.protocol.command import Auth, Command, Ehlo, Expn, Mail, Raw, Rcpt, Response, Vrfy
from smtpkit.protocol.envelope import (
    Envelope,
    ForwardPath,
    check_address_literal,
    check_mailbox,
    utf8_addr_unitext,
    utf8_addr_xtext,
    xtext,
)
from smtpkit.protocol.extension import MOST_KEYWORDS, Extensions
from smtpkit.protocol.mail_data import LineEnds, MailData, Transparency, survey
from smtpkit.protocol.reply import MalformedReply, Reply, ReplyLimits, ReplyReader
from smtpkit.telling import Telling
from tests.splits import cut, octet_by_octet
from tests.streams import run

places = st.lists(st.integers(0, 10_000), max_size=8)

# Replies

codes = st.integers(2, 5).flatmap(lambda first: st.integers(first * 100, first * 100 + 59))
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=20)
replies = st.builds(Reply, codes, st.lists(texts, min_size=1, max_size=4).map(tuple))


def wire(reply: Reply, line_end: bytes = b"\r\n") -> bytes:
    """A reply as a server says it."""
    last = len(reply.lines) - 1
    separators = ("- "[at == last] for at in range(last + 1))
    lines = (f"{reply.code}{mark}{text}".encode() for mark, text in zip(separators, reply.lines, strict=True))
    return b"".join(line + line_end for line in lines)


def read(pieces: list[bytes], limits: ReplyLimits) -> list[Reply]:
    """All replies in these pieces."""
    reader, found = ReplyReader(), []
    for piece in pieces:
        reader.feed(piece)
        while (reply := reader.next(limits)) is not None:
            found.append(reply)
    return found


@given(st.lists(replies, max_size=5), st.sampled_from([b"\r\n", b"\n"]), places)
def test_replies_are_the_same_under_any_split(said: list[Reply], line_end: bytes, at: list[int]) -> None:
    """The reader gives what the server said, whole, octet by octet and however it is cut."""
    octets = b"".join(wire(reply, line_end) for reply in said)
    for pieces in ([octets], octet_by_octet(octets), cut(octets, at)):
        assert read(pieces, ReplyLimits()) == said


almost = st.lists(st.sampled_from([b"250", b"25", b"354", b"-", b" ", b"\r", b"\n", b"\r\n", b"\0", b"\xff", b"x"]))


@given(st.one_of(st.binary(max_size=200), almost.map(b"".join)), places)
def test_garbage_is_replies_or_malformed(octets: bytes, at: list[int]) -> None:
    """Any octets are replies or a MalformedReply, and which of them does not depend on how they arrive."""
    results: list[object] = []
    limits = ReplyLimits(line=40, lines=3, octets=60)
    for pieces in ([octets], octet_by_octet(octets), cut(octets, at)):
        reader, found, wrong = ReplyReader(), [], False
        try:
            for piece in pieces:
                reader.feed(piece)
                while (reply := reader.next(limits)) is not None:
                    found.append(reply)
                    assert 200 <= reply.code < 560
                    assert len(str(reply).splitlines()) == 1
                    assert str(reply).encode()
                    assert reply.enhanced is None or reply.enhanced.class_ == reply.code // 100
        except MalformedReply:
            wrong = True
        results.append((found, wrong))
    assert results[0] == results[1] == results[2]


@given(st.lists(st.text(max_size=30), max_size=20))
def test_any_reply_to_ehlo_is_bearable(lines: list[str]) -> None:
    """Whatever a server offers, the answers of the extensions are of their kind and within their bounds."""
    extensions = Extensions.of(Reply(250, ("mail.example", *lines)))
    assert len(extensions.keywords) <= MOST_KEYWORDS
    assert extensions.size is None or 0 < extensions.size < 2**63
    assert all(name and " " not in name for name in extensions.mechanisms)
    assert "" not in extensions


# Mail data

pieces_of_mail = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"..", b"a", b"\xe9", b"\r\n.", b"\n.\r", b"\x0b", b"\x85"]),
    max_size=30,
).map(b"".join)


def mended(pieces: list[bytes], *, strict: bool = False) -> tuple[bytes, bool]:
    """The pieces with their line ends mended, and whether anything had to be."""
    ends = LineEnds(strict=strict)
    return b"".join([*map(ends.mend, pieces), ends.end()]), ends.touched


def doubled(pieces: list[bytes]) -> bytes:
    """The pieces with their dots doubled."""
    transparency = Transparency()
    return b"".join(map(transparency.double, pieces))


def plainly_mended(octets: bytes) -> bytes:
    """The same by another way, over the whole."""
    lines = re.split(rb"\r\n|\r|\n", octets)
    if lines[-1] == b"":
        lines.pop()
    return b"".join(line + b"\r\n" for line in lines)


@given(pieces_of_mail, places)
@example(b"\r\r\n.\r\r\n", [1, 2])
def test_line_ends_under_any_chunking(octets: bytes, at: list[int]) -> None:
    """The result is that of the whole, and there is no CR or LF but in CRLF; mending it again changes nothing."""
    result = plainly_mended(octets)
    for pieces in ([octets], octet_by_octet(octets), cut(octets, at)):
        assert mended(pieces) == (result, result != octets)
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", result)
    assert result == b"" or result.endswith(b"\r\n")
    assert mended([result], strict=True) == (result, False)


@given(pieces_of_mail, places)
def test_strict_line_ends_under_any_chunking(octets: bytes, at: list[int]) -> None:
    """Under ``strict`` the same is refused for every chunking, and what is not refused is changed at its end only."""
    bare = re.search(rb"\r(?!\n)|(?<!\r)\n", octets) is not None
    for pieces in ([octets], octet_by_octet(octets), cut(octets, at)):
        try:
            result, _ = mended(pieces, strict=True)
        except InvalidMail:
            assert bare
        else:
            assert not bare
            assert result in {octets, octets + b"\r\n"}


@given(pieces_of_mail, places)
def test_transparency_and_its_inverse(octets: bytes, at: list[int]) -> None:
    """What a server takes off gives back what was sent, no line is a lone dot, and the chunking is not seen."""
    octets = plainly_mended(octets)
    result = doubled([octets])
    assert doubled(octet_by_octet(octets)) == doubled(cut(octets, at)) == result
    lines = result.split(b"\r\n")
    assert b"." not in lines
    assert b"\r\n".join(line.removeprefix(b".") for line in lines) == octets


@given(pieces_of_mail, places)
def test_survey_agrees_with_what_is_told(octets: bytes, at: list[int]) -> None:
    """Size, octets over 127, and what need not be done: all as the telling shows them."""
    known = survey(cut(octets, at))
    result, touched = mended([octets])
    assert known == survey([octets])
    assert known.size == len(result)
    assert known.eight_bit == (max(result, default=0) > 127)
    assert known.mended == (not touched) == (result == octets)
    assert known.wire_safe == (result == octets == doubled([octets]))
    assert MailData.of(octets).size == len(result)


# Telling


async def inline(function: Callable[[], Any]) -> Any:
    """What a stream does where the caller blocks anyway."""
    return function()


def generated(chunks: list[bytes]) -> Iterator[bytes]:
    yield from chunks


async def async_generated(chunks: list[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def told(telling: Telling) -> bytes:
    """All that is told."""
    pieces = []
    while not telling.ended:
        pieces.append(await telling.next())
    await telling.aclose()
    return b"".join(pieces)


@given(pieces_of_mail, places, st.integers(1, 20), st.sampled_from([list, generated, async_generated]), st.booleans())
def test_telling_is_the_same(octets: bytes, at: list[int], size: int, source: Any, blocking: bool) -> None:  # noqa: FBT001
    """The same octets are told for any chunks, kind of source and size of a piece."""
    data = MailData(lambda: source(cut(octets, at)), blocking=blocking)
    assert run(told(Telling(data, size, inline))) == plainly_mended(octets)


# Command lines and addresses

anything = st.text(st.characters(), max_size=40)
with_traps = st.one_of(anything, st.lists(st.sampled_from(["\r", "\n", "\0", " ", "a", "é", "\ud800"])).map("".join))
COMMANDS: list[Callable[[str], Command]] = [
    Ehlo,
    Vrfy,
    Expn,
    Raw,
    Mail,
    Rcpt,
    lambda text: Mail("a@x", (text,)),
    lambda text: Rcpt("a@x", (text,)),
    lambda text: Raw(f"NOOP {text}"),
    lambda text: Auth(text, b"x"),
]


@given(st.sampled_from(COMMANDS), with_traps)
@example(Vrfy, "x" * 600)
def test_a_command_is_one_line(make: Callable[[str], Command], text: str) -> None:
    """A command with any text in it is exactly one line, or InvalidMail."""
    with suppress(InvalidMail):
        octets = make(text).render()
        assert octets.endswith(b"\r\n")
        assert not set(octets[:-2]) & {*range(32), 127}
        assert octets.decode()


@given(st.one_of(st.none(), st.binary(max_size=200)))
def test_sasl_is_one_line(octets: bytes | None) -> None:
    """Nor can any response of a SASL mechanism be more than a line."""
    for command in (Response(octets), Auth("X", octets)):
        assert not set(command.render()[:-2]) & {*range(32), 127}


mailbox_like = st.lists(
    st.sampled_from([*'ab.@"\\<> ,;:()[]%-_=+\r\n\0\t', "é", "\ud800", "\u2028", "IPv6:", "::1", "192.0.2.1", "x.y"]),
    max_size=14,
).map("".join)


@given(
    st.one_of(mailbox_like, mailbox_like.map("ann@[IPv6:::1{}]".format), mailbox_like.map('"{}"@x'.format), anything)
)
@example("ann@[IPv6:::1%> SIZE=1]")
@example('"a>b"@x')
def test_a_mailbox_is_only_a_mailbox(text: str) -> None:
    """Nothing that could end a path or a line is accepted outside quotes; what is accepted is read back the same."""
    try:
        assert check_mailbox(text) == text
    except InvalidMail:
        return
    outside = re.sub(r'\A"(?:[^"\\]|\\.)*"(?=@)', "", text)
    assert not set(outside) & set('<>\r\n\0\t ,;()"\\%')
    assert not set(text) & set("\r\n\0\t")
    assert outside.count("@") == 1
    envelope = Envelope.of(text, [text])
    assert envelope.reverse_path == envelope.forward_paths[0].address == text
    rendered = Rcpt(text).render().decode()
    assert re.fullmatch(r'RCPT TO:<((?:"(?:[^"\\]|\\.)*"|[^<>" ]+)@[^<> ]+)>\r\n', rendered, re.DOTALL)[1] == text  # type: ignore[index]  # it matches


plain_like = st.lists(
    st.sampled_from([*"ab.@%_=+-!#", "ann@", "example.com", "Ann <", ">", "1.2", " "]), max_size=8
).map("".join)


@given(st.one_of(plain_like, plain_like.map("{}@example.com".format), mailbox_like, mailbox_like.map("A <{}>".format)))
@example(f"{'a' * 65}@example.com")
@example(f"ann@{'a' * 64}.example")
@example(f"ann@{'.'.join(['a' * 63] * 4)}.example")
def test_an_address_that_was_read_is_a_mailbox(text: str) -> None:
    """What is read as an address would pass the check of the envelope, which is not asked again."""
    try:
        address = address_of(text, "to")
    except InvalidMail:
        return
    assert check_mailbox(address) == address
    assert addresses_of([text], "to") == addresses_of(text, "to") == [address]


@given(mailbox_like)
def test_an_address_literal_is_only_that(text: str) -> None:
    """What is accepted as an address literal holds digits, letters, dots and colons in brackets."""
    with suppress(InvalidMail):
        assert re.fullmatch(r"\[(?i:IPv6:)?[0-9A-Fa-f.:]+\]", check_address_literal(f"[{text}]"))


def xtext_decoded(text: str) -> str:
    return re.sub(r"\+([0-9A-F]{2})", lambda found: chr(int(found[1], 16)), text)


def utf8_decoded(text: str) -> str:
    return re.sub(r"\\x\{([0-9A-F]+)\}", lambda found: chr(int(found[1], 16)), text)


@given(st.text(st.characters(max_codepoint=127)))
def test_xtext_decodes_back(text: str) -> None:
    """Xtext is printable ASCII without blanks, + and = but its own, and gives back what was put in (RFC 3461 4)."""
    encoded = xtext(text)
    assert xtext_decoded(encoded) == text
    assert re.fullmatch(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*", encoded)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_utf8_addresses_decode_back(text: str) -> None:
    """Both forms of RFC 6533 give back what was put in; the first is ASCII, neither holds a blank or a control."""
    assert utf8_decoded(utf8_addr_xtext(text)) == utf8_decoded(utf8_addr_unitext(text)) == text
    assert re.fullmatch(r"(?:[!-*,-<>-\[\]-~]|\\x\{[0-9A-F]{2,6}\})*", utf8_addr_xtext(text))
    assert not re.search(r"[\x00-\x20\x7f+=]", utf8_addr_unitext(text))


@given(anything, anything)
def test_dsn_is_one_line(original: str, envelope_id: str) -> None:
    """An original recipient and an envelope id of any text go out in one word each, or are refused."""
    with suppress(InvalidMail):
        path = ForwardPath("bob@x", original=original)
        assert re.fullmatch(r"\S+", utf8_addr_xtext(path.original or ""), re.ASCII)
    with suppress(InvalidMail):
        envelope = Envelope("", (ForwardPath("bob@x"),), envelope_id=envelope_id)
        assert re.fullmatch(r"\S{1,100}", xtext(envelope.envelope_id or ""), re.ASCII)
