"""MIME as it is written here: fit for the wire, of a known size, told twice the same, files read when they are told."""

import base64
import os
import re
import subprocess
import sys
import threading
from binascii import a2b_qp
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import unquote
from mimetypes import _types_map_default as of_the_standard_library  # type: ignore[attr-defined]  # not of this machine
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpkit import Attachment, InvalidMail, Message
from smtpkit.message import mime
from smtpkit.message.media_types import MEDIA_TYPES, guess
from smtpkit.message.message import prepare
from smtpkit.message.mime import PIECE, Content, base64_lines, encoded, mail_data, quoted_printable
from smtpkit.protocol.mail_data import MailData, survey
from tests.message.written import written
from tests.streams import run as drive

PEOPLE: dict[str, Any] = {"sender": "Ann <ann@example.com>", "to": "bob@example.com"}


async def _inline(function: Any) -> Any:
    return function()


def prepared(**content: Any) -> MailData:
    """The mail data of a message with this content."""
    return drive(prepare(Message(**(PEOPLE | content)), run=_inline)).mail_data


def told(data: MailData) -> bytes:
    """All that is told."""
    tell: Any = data.tell
    return b"".join(tell())


def attached(octets: bytes) -> list[EmailMessage]:
    """The attachments, as another reads them."""
    parsed = message_from_bytes(octets, policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    return list(parsed.iter_attachments())


def test_fit_for_the_wire() -> None:
    """What is said of a mail is what reading it through shows; no line is too long; it is told twice the same."""
    for one in map(written, range(300)):
        data = drive(prepare(one.message, run=_inline)).mail_data
        octets = told(data)
        assert (data.size, data.eight_bit, data.mended, data.wire_safe) == survey([octets], strict=True)
        assert data.wire_safe
        assert octets.isascii()
        assert max(map(len, octets.split(b"\r\n"))) <= 998
        assert told(data) == octets == one.message.as_bytes()
        assert (data.blocking, data.raw, data.one_shot) == (False, False, False)


# Text.

ENCODED: list[tuple[str, str, bytes]] = [
    ("", "7bit", b"\r\n"),
    ("Hi", "7bit", b"Hi\r\n"),
    ("a\nb\r\nc\rd\n\re\n", "7bit", b"a\r\nb\r\nc\r\nd\r\n\r\ne\r\n"),
    ("-- \n", "7bit", b"-- \r\n"),
    ("x" * 78, "7bit", b"x" * 78 + b"\r\n"),
    ("x" * 79, "quoted-printable", b"x" * 75 + b"=\r\nxxxx\r\n"),
    ("a.b\n.", "quoted-printable", b"a.b\r\n=2E\r\n"),
    (".a", "quoted-printable", b"=2Ea\r\n"),
    ("From here\n", "quoted-printable", b"=46rom here\r\n"),
    ("a\nFrom \n", "quoted-printable", b"a\r\nFrom=20\r\n"),
    ("Fromm\nFom\n", "7bit", b"Fromm\r\nFom\r\n"),
    ("a=é and more \t\n", "quoted-printable", b"a=3D=C3=A9 and more =09\r\n"),
    ("日本", "base64", b"5pel5pysDQo=\r\n"),
    ("\x0c\x1b", "7bit", b"\x0c\x1b\r\n"),
]


@pytest.mark.parametrize(("text", "encoding", "octets"), ENCODED)
def test_encodings_of_text(text: str, encoding: str, octets: bytes) -> None:
    """Plain text goes out as it is, other text in the shorter of two encodings; lines end in CRLF, the last too."""
    assert encoded(text) == (encoding, octets)


LINES = st.lists(
    st.text(st.sampled_from(". \tF=é日x\u2028"), max_size=200)
    | st.sampled_from(["From ", "From x", ".", "..", "x" * 74 + " ", "." + "y" * 74 + " ", "From " + "z" * 70 + "\t"])
    | st.integers(70, 80).map("x".__mul__).map("{}. From .".format)
    | st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=120)
)


@settings(deadline=None, max_examples=400)
@given(LINES)
def test_quoted_printable(lines: list[str]) -> None:
    """Another decoder gives the octets back; lines of 76 at most, no blank at an end, no dot or From at a start."""
    read_back(lines)


@pytest.mark.parametrize("start", [".", "From ", "..", ""])
@pytest.mark.parametrize("then", [".", "From ", "é", "=", " ", "\t."])
def test_quoted_printable_where_lines_break(start: str, then: str) -> None:
    """Whatever stands where a line is broken, and broken once more."""
    read_back([start + "y" * count + then + "z" * more for count in range(60, 80) for more in (0, 1, 9)])


def read_back(lines: list[str]) -> None:
    """Judge quoted-printable."""
    octets = "".join(f"{line}\r\n" for line in lines).encode()
    quoted = quoted_printable(octets)
    assert a2b_qp(quoted) == octets
    assert quoted.endswith(b"\r\n") or not quoted
    for line in quoted.split(b"\r\n"):
        assert len(line) <= 76
        assert not line.startswith((b".", b"From "))
        assert not line.endswith((b" ", b"\t"))
        assert re.fullmatch(rb"(?:[\t -<>-~]|=[0-9A-F]{2})*=?", line)


@settings(deadline=None, max_examples=200)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_any_text_comes_back(text: str) -> None:
    """Whatever the encoding that was chosen, another reader reads the text, its line ends made one kind."""
    (body,) = message_from_bytes(Message(text=text, **PEOPLE).as_bytes(), policy=policy.default).walk()
    assert isinstance(body, EmailMessage)
    meant = text.replace("\r\n", "\n").replace("\r", "\n")
    assert body.get_content().replace("\r\n", "\n") == meant + "\n" * (meant[-1:] != "\n")


# Base64.


@pytest.mark.parametrize("size", [0, 1, 2, 3, 56, 57, 58, 114, 57 * 8, 57 * 64 + 1, 57 * 73 - 1, PIECE - 1, PIECE])
def test_base64(size: int) -> None:
    """The standard library's lines, with CRLF."""
    octets = os.urandom(size)
    assert base64_lines(octets) == base64.encodebytes(octets).replace(b"\n", b"\r\n")


@pytest.mark.parametrize("size", [1, 57, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 100])
@pytest.mark.parametrize("kind", ["octets", "file"])
def test_pieces(size: int, kind: str, tmp_path: Path) -> None:
    """Large attachments are told a piece at a time, in lines without a seam, from memory and from a file."""
    octets = os.urandom(size)
    (tmp_path / "a.bin").write_bytes(octets)
    data = prepared(attachments=[tmp_path / "a.bin" if kind == "file" else Attachment(octets, "a.bin")])
    assert data.blocking == (kind == "file")
    tell: Any = data.tell
    chunks = list(tell())
    assert max(map(len, chunks)) <= PIECE * 78 // 57 + 78
    whole = b"".join(chunks)
    assert len(whole) == data.size
    assert base64.encodebytes(octets).replace(b"\n", b"\r\n") in whole
    assert attached(whole)[0].get_content() == octets


# Files.


def changed(path: Path) -> None:
    path.write_bytes(b"other")


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def replaced(path: Path) -> None:
    path.with_suffix(".new").write_bytes(path.read_bytes())
    path.with_suffix(".new").rename(path)


def rewritten(path: Path) -> None:
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [changed, longer, replaced, rewritten, Path.unlink])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_file_that_changes(change: Any, when: str, tmp_path: Path) -> None:
    """A file that is not what it was when the mail was prepared is named, before or while it is told."""
    path = tmp_path / "a.bin"
    path.write_bytes(os.urandom(3 * PIECE))
    chunks: Any = iter(prepared(attachments=[path]).tell())  # type: ignore[arg-type]
    if when == "meanwhile":
        next(chunks)
        next(chunks)
        if change in {replaced, Path.unlink}:  # what is open stays what it was
            change(path)
            assert sum(1 for _ in chunks) == 3
            return
    change(path)
    with pytest.raises(InvalidMail, match=r"attachments: .*a\.bin: (the file was changed|No such file)"):
        list(chunks)


def test_unusable_files(tmp_path: Path) -> None:
    """A directory, and what is not there, are named when the mail is prepared."""
    for path in (tmp_path, tmp_path / "none", tmp_path / "none" / "x.eml"):
        with pytest.raises(InvalidMail, match="attachments: "):
            prepared(attachments=[path])
        with pytest.raises(InvalidMail, match="attachments: "):
            Message(attachments=[path], **PEOPLE).as_bytes()
        with pytest.raises(InvalidMail, match="attachments: "):
            Attachment(path).read()


def test_what_has_no_size(tmp_path: Path) -> None:
    """A pipe, an empty file and what the system makes up are read when the mail is prepared."""
    pipe, empty, octets = tmp_path / "pipe", tmp_path / "empty", os.urandom(100_000)
    os.mkfifo(pipe)
    empty.touch()
    writer = threading.Thread(target=pipe.write_bytes, args=(octets,))
    writer.start()
    data = prepared(attachments=[pipe, empty, Path("/proc/self/cmdline")])
    writer.join()
    for _ in range(2):
        first, second, third = (part.get_content() for part in attached(told(data)))
        assert (first, second) == (octets, b"")
        assert b"pytest" in third


def test_left_early(tmp_path: Path) -> None:
    """A telling that is given up closes its file."""
    (tmp_path / "a.bin").write_bytes(os.urandom(3 * PIECE))
    chunks: Any = prepared(attachments=[tmp_path / "a.bin"]).tell()
    next(chunks)
    next(chunks)
    chunks.close()
    assert not [name for name in map(_target, Path("/proc/self/fd").iterdir()) if name.endswith("a.bin")]


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


SPARSE = """
import asyncio, sys
from pathlib import Path
from smtpkit import Message
from smtpkit.message.message import prepare

def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

async def inline(function):
    return function()

async def main():
    paths = [Path(path) for path in sys.argv[1:]]
    message = Message(sender="a@example.com", to="b@example.com", text="x", attachments=paths)
    data = (await prepare(message, run=inline)).mail_data
    before, told = peak(), 0
    for form in (data, data.binary()):
        size = sum(map(len, form.tell()))
        assert size == form.size, (size, form.size)
        told += size
    print(told, peak() - before)

asyncio.run(main())
"""


def test_memory(tmp_path: Path) -> None:
    """A file of 2 GiB takes no more memory than a small one, to be prepared and told, encoded and as it is."""
    small, large = tmp_path / "small.bin", tmp_path / "large.bin"
    small.write_bytes(os.urandom(3 * PIECE))
    large.touch()
    os.truncate(large, 2 << 30)
    command = [sys.executable, "-c", SPARSE, str(small), str(large)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert not done.stderr
    size, grown = map(int, done.stdout.split())
    assert size > (2 << 30) * (78 * 4 / 76 / 3 + 1)
    assert grown <= 8 * 1024


# Names.

PARAMETERS: list[tuple[str, bytes, bytes]] = [
    ("a.bin", b"", b'\r\n filename="a.bin"'),
    ("a b's (1).bin", b"", b'\r\n filename="a b\'s (1).bin"'),
    ("x" * 56 + ".bin", b"", b'\r\n filename="' + b"x" * 56 + b'.bin"'),
    (
        "x" * 57 + ".bin",
        b'\r\n name="' + b"x" * 57 + b'.bin"',
        b"\r\n filename*0*=utf-8''" + b"x" * 54 + b";\r\n filename*1*=xxx.bin",
    ),
    ("ä.bin", b'\r\n name="=?utf-8?q?=C3=A4=2Ebin?="', b"\r\n filename*=utf-8''%C3%A4.bin"),
    ('a"\\.bin', b'\r\n name="=?utf-8?q?a=22=5C=2Ebin?="', b"\r\n filename*=utf-8''a%22%5C.bin"),
    ("=?a?b?c?=", b'\r\n name="=?utf-8?q?=3D=3Fa=3Fb=3Fc=3F=3D?="', b"\r\n filename*=utf-8''%3D%3Fa%3Fb%3Fc%3F%3D"),
    (" a\t", b'\r\n name="=?utf-8?q?_a=09?="', b"\r\n filename*=utf-8''%20a%09"),
]  # fmt: skip


@pytest.mark.parametrize(("filename", "in_type", "in_disposition"), PARAMETERS, ids=repr)
def test_names(filename: str, in_type: bytes, in_disposition: bytes) -> None:
    """A plain name is quoted; any other is told by RFC 2231, and in Content-Type for readers that do not know it."""
    octets = Message(attachments=[Attachment(b"", filename, "a/b")], **PEOPLE).as_bytes()
    header = octets.partition(b"Content-Type: a/b")[2].partition(b"\r\n\r\n")[0]
    fields = re.split(rb"\r\n(?! )", header)
    assert fields[0] == (b";" + in_type if in_type else b"")
    assert fields[1] == b"Content-Disposition: attachment;" + in_disposition
    (part,) = attached(octets)
    assert part.get_filename() == filename.strip()  # as it reads them


@settings(deadline=None, max_examples=300)
@given(st.text(min_size=1, max_size=90))
def test_any_name_comes_back(filename: str) -> None:
    """A name is refused, or read by another as it was given; the header of its part has no other field."""
    try:
        attachment = Attachment(b"x", filename)
    except InvalidMail:
        return
    (part,) = attached(Message(attachments=[attachment], **PEOPLE).as_bytes())
    assert part.get_filename() == unquote(filename).strip()  # as it reads them
    assert part.keys() == ["Content-Type", "Content-Disposition", "Content-Transfer-Encoding"]


def test_guesses() -> None:
    """Every end that the standard library knows is known here, whatever its case; what is compressed is octets."""
    assert {end.removeprefix(".") for end in of_the_standard_library} - MEDIA_TYPES.keys() <= {
        "gz",
        "xul",
        "dcm",
        "obj",
    }
    assert [guess(name) for name in ("a.PDF", "b.tar.gz", ".png", "png", "", "a.b.docx", "a.", "a.svgz")] == [
        "application/pdf", "application/octet-stream", "application/octet-stream", "application/octet-stream",
        "application/octet-stream", MEDIA_TYPES["docx"], "application/octet-stream", "application/octet-stream",
    ]  # fmt: skip


# Mails that are attached.

MAIL = b"From: x@example.com\r\nSubject: old\r\n\r\ninside\r\n"
ATTACHED_MAILS: list[tuple[bytes, bytes | None]] = [
    (MAIL, MAIL),
    (MAIL.replace(b"\r\n", b"\n"), MAIL),
    (MAIL.replace(b"\r\n", b"\r"), MAIL),
    (MAIL[:-2], MAIL),
    (MAIL + b".dot\r\n", MAIL + b".dot\r\n"),
    (MAIL + b"x" * 998, MAIL + b"x" * 998 + b"\r\n"),
    (MAIL + b"x" * 998 + b"\r\n" + b"y" * 998, MAIL + b"x" * 998 + b"\r\n" + b"y" * 998 + b"\r\n"),
    (MAIL + b"x" * (PIECE - len(MAIL) - 1) + b"\r\n", None),
    (MAIL + b"x" * 999, None),
    (MAIL + (b"y" * 70 + b"\r\n") * 2000 + b"x" * 999 + b"\r\nend\r\n", None),
    (MAIL + b"\0\r\n", None),
    (MAIL + b"\xe9\r\n", None),
    (MAIL + (b"y" * 70 + b"\n") * 4000, MAIL + (b"y" * 70 + b"\r\n") * 4000),
]


@pytest.mark.parametrize(("octets", "carried"), ATTACHED_MAILS, ids=range(len(ATTACHED_MAILS)))
@pytest.mark.parametrize("kind", ["octets", "file"])
def test_attached_mails(octets: bytes, carried: bytes | None, kind: str, tmp_path: Path) -> None:
    """A mail is attached as one where its line ends are all that must be mended, else as octets (RFC 2046 5.2.1)."""
    path = tmp_path / "old.eml"
    path.write_bytes(octets)
    data = prepared(attachments=[path if kind == "file" else Attachment(octets, "old.eml")])
    whole = told(data)
    (size, eight_bit, mended, wire_safe) = survey([whole], strict=True)
    assert (data.size, data.eight_bit, data.mended, data.wire_safe) == (size, eight_bit, mended, wire_safe)
    (part,) = attached(whole)
    if carried is None:
        assert part.get_content_type() == "application/octet-stream"
        assert part.get_payload(decode=True) == octets
        return
    assert part.get_content_type() == "message/rfc822"
    assert part["Content-Transfer-Encoding"] == "7bit"
    assert b"\r\n\r\n" + carried + b"\r\n--" in whole
    assert data.binary is None
    assert wire_safe == (b"\n." not in carried)


# Structure.


def test_boundaries() -> None:
    """Each mail has boundaries of its own, always the same; they begin differently, so none is taken for another."""
    parts: dict[str, Any] = {
        "text": "a",
        "html": "b",
        "attachments": [Attachment(b"", "a.png", content_id="a"), Attachment(b"", "b")],
    }
    message = Message(**PEOPLE, **parts)
    octets = message.as_bytes()
    assert octets == message.as_bytes()
    boundaries = re.findall(rb'boundary="(=_[^"]{33})"', octets)
    assert len({boundary[:3] for boundary in boundaries}) == 3
    assert not set(boundaries) & set(re.findall(rb'boundary="([^"]+)"', Message(**PEOPLE, **parts).as_bytes()))
    assert b"boundary" not in Message(text="a", **PEOPLE).as_bytes()


def test_the_gate_of_the_header() -> None:
    """A header that has other fields than were meant goes nowhere."""
    with pytest.raises(InvalidMail, match=r"not those that were meant \(bcc\)"):
        mail_data(b"From: a@example.com\r\nBcc: b@example.com\r\n", ["From"], Content("x", None, (), ""))


@pytest.mark.parametrize("place", [0, 1])
def test_the_gate_of_a_part(place: int) -> None:
    """Nor does the header of a part, whatever would have let a line end into it."""
    told = ["", ""]
    told[place] = "\r\nX-Evil: y"
    attachments = [Attachment(b"x", "a.png", content_id="a"), Attachment(MAIL, "a.eml"), Attachment(b"x", "a")]
    for one in attachments:
        with mock.patch.object(mime, "_parameters", return_value=tuple(told)):
            with pytest.raises(InvalidMail, match=r"not those that were meant \(x-evil\)"):
                Message(html="x", attachments=[one], **PEOPLE).as_bytes()
            with pytest.raises(InvalidMail, match=r"not those that were meant \(x-evil\)"):
                prepared(html="x", attachments=[one])


def test_dots_in_the_header() -> None:
    """A field whose name begins with a dot is sent, and the mail is not taken for one without such lines."""
    data = prepared(headers={".X": "y"}, text="a")
    assert not data.wire_safe
    assert survey([told(data)], strict=True) == (data.size, data.eight_bit, data.mended, data.wire_safe)


def test_utf8_in_the_header() -> None:
    """An address that is not ASCII makes the header so, and the mail one of 8 bits."""
    data = prepared(to="jörg@example.com", text="é", html="é")
    assert data.eight_bit
    assert survey([told(data)], strict=True) == (data.size, data.eight_bit, data.mended, data.wire_safe)


# The form for BINARYMIME.


def leaves(octets: bytes) -> list[tuple[bytes, bytes]]:
    """The header and the octets of each part that has none in it, by a reading of its own."""
    header, _, body = octets.partition(b"\r\n\r\n")
    found = re.search(rb'boundary="([^"]+)"', header)
    if found is None:
        return [(header, body)]
    between = b"\r\n--" + found[1]
    first, *parts, last = (b"\r\n" + body).split(between)
    assert first == b""
    assert last == b"--\r\n"
    assert b"Content-Transfer-Encoding: binary" not in header or b"binary" in body
    return [leaf for part in parts for leaf in leaves(part.removeprefix(b"\r\n"))]


def test_binary() -> None:
    """The same mail with its attachments as they are: less by a quarter, nothing else changed, every octet kept."""
    count = 0
    for one in map(written, range(300)):
        plain = drive(prepare(one.message, run=_inline)).mail_data
        if plain.binary is None:
            assert not one.attached
            continue
        count += 1
        data = plain.binary()
        octets = told(data)
        assert octets == told(data)
        assert len(octets) == data.size
        assert data.raw
        assert data.mended
        assert data.binary is None
        assert not data.wire_safe
        assert b"\r\nContent-Transfer-Encoding: binary\r\n" in octets.partition(b"\r\n\r\n")[0]
        binary = [body for header, body in leaves(octets) if b"Encoding: binary" in header]
        assert binary == [content for _, _, content in one.attached]
        texts = [leaf for leaf in leaves(octets) if b"Encoding: binary" not in leaf[0]]
        assert texts == [leaf for leaf in leaves(told(plain)) if b"Disposition" not in leaf[0]]
    assert count > 100
    large = prepared(attachments=[Attachment(os.urandom(100_000), "a")])
    assert large.binary is not None
    assert (large.binary().size or 0) < (large.size or 0) * 0.74
