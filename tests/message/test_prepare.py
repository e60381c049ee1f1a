"""Preparing mail: every kind of source gives the same octets, and an envelope from its header or from the caller."""

import io
import os
import random
import re
from collections.abc import AsyncIterator, Callable, Iterator
from email import message_from_bytes, message_from_string, policy
from email.header import Header
from email.message import EmailMessage, MIMEPart
from email.message import Message as OldMessage
from email.mime.text import MIMEText
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpkit.errors import InvalidMail
from smtpkit.message.message import DSN, SMALL, Message, Prepared, prepare
from smtpkit.message.mime import Attachment
from smtpkit.protocol.mail_data import LineEnds, MailData
from tests.streams import run as drive

RAW = (
    b"From: Ann <ann@example.com>\r\nBcc: dora@example.com,\r\n eve@example.com\r\nTo: bob@example.com\r\n"
    b"Message-ID: <1@example.com>\r\n\r\n.Hello\r\nBcc: this is text\r\n"
)
SENT = RAW.replace(b"Bcc: dora@example.com,\r\n eve@example.com\r\n", b"")
EVERYBODY = ["bob@example.com", "dora@example.com", "eve@example.com"]


class Runs:
    """Runs what blocks inline, and counts how often that was asked for."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self, function: Callable[[], Any]) -> Any:
        self.count += 1
        return function()


def prepared(message: Any, *arguments: Any, **options: Any) -> Prepared:
    """What ``prepare`` gives, driven without an event loop."""
    options.setdefault("run", Runs())
    return drive(prepare(message, *arguments, **options))


async def _gather(source: Any) -> list[bytes]:
    return [chunk async for chunk in source] if hasattr(source, "__aiter__") else list(source)


def octets(mail_data: MailData) -> bytes:
    """One telling, its line ends mended as the session does."""
    chunks: list[bytes] = drive(_gather(mail_data.tell()))
    ends = LineEnds(strict=mail_data.strict)
    return b"".join([*map(ends.mend, chunks), ends.end()])


def paths(mail: Prepared) -> list[str]:
    """For whom it is."""
    return [path.address for path in mail.envelope.forward_paths]


def pieces(whole: bytes, size: int) -> list[bytes]:
    return [whole[at : at + size] for at in range(0, len(whole), size)]


class Unseekable(io.RawIOBase):
    """A file as a pipe is one: it gives as much as it likes."""

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = iter(chunks)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        return next((chunk for chunk in self._chunks if chunk), b"")


async def _async(chunks: list[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


KINDS = ("bytes", "bytearray", "memoryview", "list", "tuple", "generator", "iterator", "file", "pipe", "path", "async")


def source(kind: str, chunks: list[bytes], folder: Path) -> Any:
    """The octets as each kind of source."""
    whole = b"".join(chunks)
    match kind:
        case "bytes" | "bytearray" | "memoryview":
            return {"bytes": bytes, "bytearray": bytearray, "memoryview": memoryview}[kind](whole)
        case "list" | "tuple":
            return list(chunks) if kind == "list" else tuple(chunks)
        case "generator":
            return (chunk for chunk in chunks)
        case "iterator":
            return iter(chunks)
        case "file":
            file = io.BytesIO(b"not this" + whole)
            file.seek(8)
            return file
        case "pipe":
            return Unseekable(chunks)
        case "path":
            (folder / "mail.eml").write_bytes(whole)
            return folder / "mail.eml"
    return _async(chunks)


ONCE = {"generator", "iterator", "pipe", "async"}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 4096])
@pytest.mark.parametrize("kind", KINDS)
def test_every_source(kind: str, size: int, tmp_path: Path) -> None:
    """Each kind gives the same envelope and octets, whatever its chunks; Bcc is in the one and not in the other."""
    mail = prepared(source(kind, pieces(RAW, size), tmp_path))
    assert mail.envelope.reverse_path == "ann@example.com"
    assert sorted(paths(mail)) == EVERYBODY
    assert mail.message_id == "<1@example.com>"
    assert mail.mail_data.one_shot is (kind in ONCE)
    assert mail.mail_data.blocking is (kind in {"file", "pipe", "path"})
    assert mail.mail_data.size == (None if kind in ONCE else len(SENT))
    assert mail.mail_data.eight_bit is (None if kind in ONCE else False)
    assert octets(mail.mail_data) == SENT
    if kind in ONCE:
        with pytest.raises(InvalidMail, match="only once"):
            mail.mail_data.tell()
    else:
        assert octets(mail.mail_data) == SENT


LINES = st.sampled_from(
    [
        b"Bcc: x@y.example",
        b"bcc :",
        b" folded",
        b"\tfolded",
        b"To: z@y.example",
        b"",
        b"Resent-Bcc: q",
        b"text",
        b"B",
        b"Bcc",
    ]
)
ENDS = st.sampled_from([b"\r\n", b"\n", b"\r"])
BLOCKS = st.lists(st.tuples(LINES, ENDS), max_size=12).map(lambda lines: b"".join(map(b"".join, lines)))


@settings(deadline=None, max_examples=300)
@given(BLOCKS, st.randoms(use_true_random=False))
def test_chunks_do_not_matter(tmp_path_factory: pytest.TempPathFactory, whole: bytes, chance: random.Random) -> None:
    """However the octets are cut, and from whatever source, the same ones go out, and no Bcc field is in the header."""
    cuts = sorted(chance.randrange(len(whole) + 1) for _ in range(chance.randrange(8)))
    chunks = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    folder = tmp_path_factory.getbasetemp()
    told = {
        kind: octets(prepared(source(kind, chunks, folder), "a@b.example", "c@d.example").mail_data) for kind in KINDS
    }
    assert len(set(told.values())) == 1
    if whole[:1] not in {b"", b" ", b"\t", b"\r", b"\n"} and b":" in re.split(rb"[\r\n]", whole)[0]:
        header = re.split(rb"\r\n\r\n|\A\r\n", told["bytes"])[0]
        assert not re.search(rb"(?mi)^(resent-)?bcc *:", header)


@pytest.mark.parametrize("kind", KINDS)
def test_octets_without_a_header(kind: str, tmp_path: Path) -> None:
    """Where the caller says for whom it is, the octets need no header, and are not held back to look for one."""
    chunks = [b"x" * 78 + b"\r\n"] * 20_000
    mail = prepared(source(kind, chunks, tmp_path), "", ["bob@example.com"])
    assert mail.envelope.reverse_path == ""
    assert mail.message_id is None
    assert octets(mail.mail_data) == b"".join(chunks)


@pytest.mark.parametrize("kind", KINDS)
def test_a_header_that_does_not_end(kind: str, tmp_path: Path) -> None:
    """A stream's header is looked for in 1 MiB, not in all memory; octets at hand may be all header."""
    chunks = [b"X: " + b"x" * 75 + b"\r\n"] * 15_000
    if kind in {"bytes", "bytearray", "memoryview"}:
        assert octets(prepared(source(kind, chunks, tmp_path), "", ["b@c.example"]).mail_data) == b"".join(chunks)
    else:
        with pytest.raises(InvalidMail, match="does not end within"):
            prepared(source(kind, chunks, tmp_path), "", ["b@c.example"])


@pytest.mark.parametrize("kind", KINDS)
def test_faults_in_the_octets(kind: str, tmp_path: Path) -> None:
    """NUL is refused always, bare line ends if strict: at once, or when a one-shot source is told."""

    def tell(whole: bytes, newlines: Literal["normalize", "strict"]) -> bytes:
        chunks = pieces(b"To: a\r\n\r\n" + whole, 5)
        return octets(prepared(source(kind, chunks, tmp_path), "", "b@c.example", newlines=newlines).mail_data)

    with pytest.raises(InvalidMail, match="NUL"):
        tell(b"a\0b", "normalize")
    with pytest.raises(InvalidMail, match="bare CR or LF"):
        tell(b"a\nb", "strict")
    assert tell(b"a\nb\rc", "normalize") == b"To: a\r\n\r\na\r\nb\r\nc\r\n"


def test_a_cr_before_bcc_is_still_a_line_end() -> None:
    """Where Bcc goes between a CR and an empty line of LF, the empty line stays: the text does not become header."""
    mail = prepared(b"To: a\rBcc: b@c.example\r\n\nBcc: text\r\n", "", "d@e.example")
    assert octets(mail.mail_data) == b"To: a\r\n\r\nBcc: text\r\n"


def test_what_octets_show() -> None:
    """Of octets at hand all is known; of a one-shot source what its head shows."""
    assert prepared(b"To: a@b.example\r\n\r\n\xff\r\n", "").mail_data.eight_bit is True
    plain = prepared(b"To: a@b.example\r\n\r\nx\r\n", "").mail_data
    assert (plain.eight_bit, plain.mended, plain.wire_safe) == (False, True, True)
    assert prepared(iter([b"To: a@b.example\r\n\r\n\xff\r\n"]), "").mail_data.eight_bit is True


def test_chunks_of_other_kinds() -> None:
    """Chunks may be bytearrays and memoryviews; an async iterable need not have more than its protocol asks for."""

    class Plain:
        def __init__(self) -> None:
            self._chunks: Iterator[bytes] = iter([RAW, b"more\r\n"])

        def __aiter__(self) -> "Plain":
            return self

        async def __anext__(self) -> bytes:
            for chunk in self._chunks:
                return chunk
            raise StopAsyncIteration

    assert octets(prepared([bytearray(RAW[:9]), memoryview(RAW[9:])]).mail_data) == SENT
    assert octets(prepared(Plain()).mail_data) == SENT + b"more\r\n"


def test_a_file_is_not_taken_for_what_it_was(tmp_path: Path) -> None:
    """A file that was changed is not told; and none is trusted to need no transparency."""
    path = tmp_path / "a.eml"
    path.write_bytes(RAW)
    mail = prepared(path)
    assert not mail.mail_data.wire_safe
    path.write_bytes(RAW + b"more\r\n")
    with pytest.raises(InvalidMail, match=r"a\.eml: the file was changed"):
        octets(mail.mail_data)


@pytest.mark.parametrize("memory", ["has it", "has a part", "has nothing", "cannot be asked"])
def test_a_file_in_the_systems_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: str) -> None:
    """The octets are the same wherever they are, and an empty chunk is told before each that comes from the disk."""
    path = tmp_path / "a.eml"
    path.write_bytes(RAW + b"x" * 70 + b"\r\n" * 200_000)
    asked = []

    def preadv(number: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        asked.append((offset, flags))
        if memory == "has nothing" or (memory == "has a part" and len(asked) % 2):
            raise BlockingIOError
        return os.readv(number, [buffers[0][:5000]] if memory == "has a part" else buffers)

    monkeypatch.setattr(os, "RWF_NOWAIT", 8, raising=False)
    monkeypatch.setattr(os, "preadv", preadv, raising=False)
    if memory == "cannot be asked":
        monkeypatch.delattr(os, "RWF_NOWAIT")
    mail_data = prepared(path).mail_data
    telling: Any = mail_data.tell()
    chunks = list(telling)
    assert b"".join(chunks) == path.read_bytes().replace(RAW, SENT)
    assert mail_data.size == sum(map(len, chunks))
    assert set(asked) == ({(-1, 8)} if memory != "cannot be asked" else set())
    body = chunks[2:]  # behind the header, and what was read with it
    assert (b"" in body) == (memory != "has it")
    if memory in {"has nothing", "cannot be asked"}:
        assert all((chunk == b"") == (number % 2 == 0) for number, chunk in enumerate(body))


def test_files_are_closed(tmp_path: Path) -> None:
    """A telling that stops early closes its file; the caller's own file stays open and where it was."""
    path = tmp_path / "a.eml"
    path.write_bytes(RAW)
    telling: Any = prepared(path).mail_data.tell()
    next(telling)
    telling.close()
    with path.open("rb") as file:
        file.seek(4)
        mail = prepared(file, "", "b@c.example")
        assert file.tell() == 4
        telling = mail.mail_data.tell()
        next(telling)
        telling.close()
        assert not file.closed


def test_iterables_are_closed() -> None:
    """A telling that stops early closes a generator, sync and async."""
    closed = []

    def chunks() -> Iterator[bytes]:
        try:
            yield RAW
            yield b"more"
        finally:
            closed.append("sync")

    async def achunks() -> AsyncIterator[bytes]:
        try:
            yield RAW
            yield b"more"
        finally:
            closed.append("async")

    telling: Any = prepared(chunks()).mail_data.tell()
    next(telling)
    telling.close()
    atelling: Any = prepared(achunks()).mail_data.tell()
    drive(anext(atelling))
    drive(atelling.aclose())
    assert closed == ["sync", "async"]


def test_unusable_paths(tmp_path: Path) -> None:
    """A path that cannot be read is named."""
    with pytest.raises(InvalidMail, match=r"none\.eml: No such file"):
        prepared(tmp_path / "none.eml")
    with pytest.raises(InvalidMail, match="a directory"):
        prepared(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidMail, match="no regular file"):
        prepared(tmp_path / "pipe")


class AsyncFile:
    """A file whose read() must be awaited."""

    async def read(self, size: int) -> bytes:
        return b""


class Broken:
    """An iterable that fails."""

    def __iter__(self) -> Iterator[bytes]:
        raise OSError("the disk is gone")


class NothingYet(io.RawIOBase):
    """A non-blocking file that has nothing yet."""

    def read(self, size: int = -1, /) -> None:
        return None


WRONG: list[tuple[Any, str]] = [
    ("mail.eml", r"give Path\(\.\.\.\) or \.encode\(\)"),
    (io.StringIO("To: x"), "open it as binary"),
    (AsyncFile(), "must be awaited"),
    (Broken(), "the disk is gone"),
    (NothingYet(), "gives NoneType"),
    (["To: x"], "gives str, not bytes"),
    (iter(["To: x"]), "gives str, not bytes"),
    ([7], "gives int, not bytes"),
    (7, "EmailMessage, a smtpkit.Message, bytes, a Path.*not int"),
    (None, "not NoneType"),
    (iter([b"To: a@b.example\r\n\r\n"]), "sender: the header has no From"),
    (b"From: a@b.example\r\n\r\n", "recipients: the header has none"),
    (b"From: a@b@c.example\r\nTo: a@b.example\r\n\r\n", "From field 'a@b@c.example'"),
    (b"From: a@b.example\r\nTo: a@b c@d\r\n\r\n", "To field 'a@b c@d'"),
    (b"From: a@b.example\r\nTo: \xff@b.example\r\n\r\n", "To field"),
    (b"Resent-From: a@b.example\r\nResent-From: c@b.example\r\n\r\n", "more than one Resent block"),
]


@pytest.mark.parametrize(("message", "why"), WRONG, ids=[why[:20] for _, why in WRONG])
def test_wrong_messages(message: Any, why: str) -> None:
    """What cannot be sent is refused, and the error says what would be right."""
    with pytest.raises(InvalidMail, match=why):
        prepared(message)


def test_the_callers_envelope() -> None:
    """What the caller says wins over the header; a domain in another case is no second recipient."""
    mail = prepared(RAW, "Cy <cy@faß.de>", "D <d@example.com>, e@example.com")
    assert (mail.envelope.reverse_path, paths(mail)) == ("cy@xn--fa-hia.de", ["d@example.com", "e@example.com"])
    mail = prepared(RAW, "<>", iter(["b@example.com", "a@example.com", "b@EXAMPLE.com", "B@example.com"]))
    assert (mail.envelope.reverse_path, paths(mail)) == ("", ["b@example.com", "a@example.com", "B@example.com"])
    assert mail.item is RAW
    wrong: list[tuple[Any, Any, str]] = [
        (None, [], "recipients: nobody"),
        (None, "", "recipients: nobody"),
        (None, b"a@b.example", "recipients: "),
        (None, [b"a@b.example"], "recipients: "),
        ("a@b.example, c@d.example", None, "sender "),
        (7, None, "sender: "),
    ]
    for sender, recipients, why in wrong:
        with pytest.raises(InvalidMail, match=why):
            prepared(RAW, sender, recipients)


def test_sender_before_from() -> None:
    """The reverse-path is Sender, else the first of From; the Resent block, where there is one, goes before all."""
    head = b"From: a@b.example, c@b.example\r\nTo: t@b.example\r\n"
    assert prepared(head).envelope.reverse_path == "a@b.example"
    assert prepared(head + b"Sender: s@b.example\r\n").envelope.reverse_path == "s@b.example"
    resent = b"Resent-From: r@b.example\r\nResent-To: q@b.example\r\nResent-Bcc: p@b.example\r\n" + head
    mail = prepared(resent)
    assert (mail.envelope.reverse_path, paths(mail)) == ("r@b.example", ["q@b.example", "p@b.example"])
    assert b"Resent-Bcc" not in octets(mail.mail_data)


def test_utf8_is_needed_for_addresses_only() -> None:
    """SMTPUTF8 is asked for where an address needs it, in the envelope or the header; not for text."""
    assert prepared("From: é@b.example\r\nTo: t@b.example\r\n".encode()).envelope.utf8
    assert prepared(
        "From: a@b.example\r\nTo: t@b.example\r\nCc: é@b.example\r\n".encode(), "", "t@b.example"
    ).envelope.utf8
    assert prepared("From: a@é.example\r\nTo: t@b.example\r\n".encode()).envelope.utf8
    assert not prepared("From: É <a@b.example>\r\nTo: t@b.example\r\nSubject: é\r\n".encode()).envelope.utf8
    assert not prepared("From: a@b.example\r\nCc: é é é\r\n".encode(), "", "t@b.example").envelope.utf8
    assert not prepared(b"From: J\xe9 <a@b.example>\r\nTo: t@b.example\r\n").envelope.utf8


def test_dsn() -> None:
    """What is asked of DSN holds for all or for one; ORCPT goes along with NOTIFY."""
    mail = prepared(RAW, "", ["a@b.example", "c@b.example"], dsn=DSN(("FAILURE",), "HDRS", "id"), on_refused="stop")
    assert (mail.envelope.ret, mail.envelope.envelope_id) == ("HDRS", "id")
    for path in mail.envelope.forward_paths:
        assert (path.notify, path.original, path.required) == (("FAILURE",), path.address, True)
    dsn = DSN({"A <a@b.example>": ("NEVER",)}, original={"c@b.example": "x@y.example"})
    one, other = prepared(RAW, "", ["a@b.example", "c@b.example"], dsn=dsn).envelope.forward_paths
    assert (one.notify, one.original, one.required) == (("NEVER",), "a@b.example", False)
    assert (other.notify, other.original) == ((), "x@y.example")
    with pytest.raises(InvalidMail, match="no recipient"):
        prepared(RAW, "", "a@b.example", dsn=DSN({"z@b.example": ("NEVER",)}))
    text: Any = "NEVER"
    with pytest.raises(InvalidMail, match="notify: a tuple"):
        prepared(RAW, dsn=DSN(text))


def test_heavy_work_is_run_elsewhere(tmp_path: Path) -> None:
    """What is small is done at once; files and what is big are left to ``run``."""
    small = EmailMessage()
    small.set_content("x")
    big = EmailMessage()
    big.set_content("x" * SMALL + "\n")
    light: list[Any] = [RAW, [RAW], small, iter([RAW])]
    heavy: list[Any] = [RAW + b"x" * SMALL, [RAW, b"x" * SMALL], big, source("path", [RAW], tmp_path), io.BytesIO(RAW)]
    for message, count in [*((one, 0) for one in light), *((one, 1) for one in heavy)]:
        runs = Runs()
        prepared(message, "a@b.example", "c@d.example", run=runs)
        assert runs.count == count


@pytest.mark.anyio
async def test_no_event_loop_is_held_up(anyio_backend: str, tmp_path: Path) -> None:
    """On asyncio and on trio: whatever opens or reads a file does so in a worker thread."""
    from anyio import to_thread

    path = source("path", [RAW], tmp_path)
    written = Message(sender="a@b.example", to="c@d.example", text="x", attachments=[path, Attachment(b"x", "a.pdf")])
    with path.open("rb") as file:
        for message in (path, file, written, email_message(), RAW, source("async", [RAW], tmp_path)):
            mail = await prepare(message, run=to_thread.run_sync)
            assert mail.envelope.forward_paths
            if mail.mail_data.one_shot:  # trio warns of an async generator that is not read to its end
                assert b"".join(await _gather(mail.mail_data.tell())) == SENT


# --- messages of the standard library


def email_message(**headers: str) -> EmailMessage:
    """An EmailMessage with a text that is not ASCII."""
    message = EmailMessage()
    for name, value in {"From": "ann@example.com", "To": "bob@example.com", **headers}.items():
        message[name.replace("_", "-")] = value
    message.set_content("Grüße\n.dot\n", cte="8bit")
    return message


def old_message(**headers: Any) -> OldMessage:
    """A message as it was made before Python 3.6."""
    message = MIMEText("Grüße\n.dot\n", "plain", "utf-8")
    for name, value in {"From": "ann@example.com", "To": "bob@example.com", **headers}.items():
        message[name.replace("_", "-")] = value
    return message


MAKERS = pytest.mark.parametrize("make", [email_message, old_message])


@MAKERS
def test_stdlib_messages(make: Callable[..., OldMessage]) -> None:
    """The message goes out with Date and Message-ID and without Bcc, and the caller's own is not changed."""
    message = make(Bcc="dora@example.com", Subject="Grüße an alle")
    before = message.as_string()
    mail = prepared(message)
    whole = octets(mail.mail_data)
    assert message.as_string() == before
    assert paths(mail) == ["bob@example.com", "dora@example.com"]
    again = message_from_bytes(whole, policy=policy.default)
    assert again["Bcc"] is None
    assert again["Date"].endswith(" +0000")
    assert mail.message_id == again["Message-ID"]
    assert re.fullmatch(r"<[0-9a-f]{32}@example\.com>", again["Message-ID"])
    assert again["Subject"] == "Grüße an alle"
    assert again.get_content().splitlines() == ["Grüße", ".dot"]
    assert not whole.count(b"\n") - whole.count(b"\r\n")
    assert mail.mail_data.size == len(whole)


def test_seven_bits() -> None:
    """Parts in 8 bits can be told in 7, with the same header but for the encoding."""
    data = prepared(email_message()).mail_data
    assert data.eight_bit is True
    assert data.seven_bit is not None
    seven = data.seven_bit()
    assert seven.eight_bit is False
    one, other = (message_from_bytes(octets(each), policy=policy.default) for each in (data, seven))
    assert one["Message-ID"] == other["Message-ID"]
    assert isinstance(one, MIMEPart)
    assert isinstance(other, MIMEPart)
    assert one.get_content().splitlines() == other.get_content().splitlines()
    assert prepared(old_message()).mail_data.seven_bit is None
    raw = "From: a@b.example\nTo: a@b.example\nContent-Type: text/plain; charset=utf-8\n\né".encode()
    seven_bit = prepared(message_from_bytes(raw, policy=policy.default)).mail_data.seven_bit
    assert seven_bit is not None
    assert b"Content-Transfer-Encoding: base64\r\n" in octets(seven_bit())
    nameless = prepared(
        message_from_bytes(b"From: a@b.example\nTo: a@b.example\n\n\xe9", policy=policy.default)
    ).mail_data
    assert nameless.seven_bit is not None
    with pytest.raises(InvalidMail, match="charset"):
        nameless.seven_bit()


@MAKERS
def test_multiparts_are_not_changed(make: Callable[..., OldMessage]) -> None:
    """Flattening sets boundaries, at any depth: in a copy."""
    inner = EmailMessage()
    inner.set_content("a")
    inner.add_alternative("<b>", subtype="html")
    outer = EmailMessage()
    outer["From"], outer["To"] = "a@b.example", "c@d.example"
    outer.set_content("b")
    outer.add_attachment(inner)
    before = [(part.raw_items(), part.get_boundary()) for part in outer.walk()]
    keys = [part.items() for part in outer.walk()]
    assert octets(prepared(outer).mail_data).count(b"boundary=") == 2
    assert [part.items() for part in outer.walk()] == keys
    assert [boundary for _, boundary in before] == [part.get_boundary() for part in outer.walk()]


@MAKERS
def test_addresses_are_never_encoded(make: Callable[..., OldMessage]) -> None:
    """Display names are encoded, domains are A-labels, a local part stays what it is and needs SMTPUTF8."""
    mail = prepared(make(From="Ännchen <ann@straße.example>", To="Jörg <jörg@example.com>, b@example.com"))
    assert (mail.envelope.reverse_path, paths(mail)) == (
        "ann@xn--strae-oqa.example",
        ["jörg@example.com", "b@example.com"],
    )
    assert mail.envelope.utf8
    whole = octets(mail.mail_data)
    assert b"From: =?utf-8?q?=C3=84nnchen?= <ann@xn--strae-oqa.example>\r\n" in whole
    assert "To: =?utf-8?q?J=C3=B6rg?= <jörg@example.com>, b@example.com\r\n".encode() in whole
    assert not prepared(make(From="Ännchen <ann@straße.example>")).envelope.utf8


def test_old_header_objects() -> None:
    """Header objects of the old kind go out as they encode themselves, but for addresses."""
    whole = octets(
        prepared(old_message(From=Header("Ännchen <ann@example.com>", "utf-8"), Subject=Header("é", "utf-8"))).mail_data
    )
    assert b"From: =?utf-8?q?=C3=84nnchen?= <ann@example.com>\r\n" in whole
    assert b"Subject: =?utf-8?b?w6k=?=\r\n" in whole


def test_what_was_parsed_stays() -> None:
    """The fields of a parsed message go out as they were folded; octets that are not ASCII are encoded."""
    raw = (
        b"From: a@b.example\r\nTo: " + b", ".join(b"user%d@b.example" % each for each in range(20)) + b"\r\n"
        b"Subject: " + b"word " * 40 + b"\r\nX: a\r\n  b\r\nDate: d\r\nMessage-ID: <1@b>\r\n\r\nbody\r\n"
    )
    for rules in (policy.default, policy.SMTP, policy.SMTPUTF8):
        assert octets(prepared(message_from_bytes(raw, policy=rules)).mail_data) == raw
    eight = "From: É <a@b.example>\r\nTo: t@b.example\r\nSubject: é\r\n\r\nbody\r\n"
    for parsed in (
        message_from_bytes(eight.encode(), policy=policy.default),
        message_from_string(eight, policy=policy.default),
        message_from_bytes(eight.encode()),
        message_from_string(eight),
    ):
        whole = octets(prepared(parsed).mail_data)
        assert whole.isascii()
        assert message_from_bytes(whole, policy=policy.default)["Subject"] == "é"
        assert message_from_bytes(whole, policy=policy.default)["From"] == "É <a@b.example>"


HOSTILE = [
    "x =?UTF-8?Q?=0A?=Bcc: evil@example.com",
    "x =?UTF-8?Q?=0D=0A?=Bcc: evil@example.com",
    "a\0b",
    "a\nBcc: b",
    "a\r\nX: b",
]


@MAKERS
@pytest.mark.parametrize("text", HOSTILE)
def test_header_injection(make: Callable[..., OldMessage], text: str) -> None:
    """No text of a field makes another (CVE-2024-6923): it is refused, here or by the standard library, or inert."""
    try:
        mail = prepared(make(Subject=text))
    except ValueError:  # InvalidMail is one
        return
    assert "evil@example.com" not in paths(mail)
    assert not re.search(rb"(?m)^(Bcc|X):", octets(mail.mail_data))


@MAKERS
@pytest.mark.parametrize("name", ["X\r\nBcc", "X\nY", "X Y", "X\0"])
def test_header_name_injection(make: Callable[..., OldMessage], name: str) -> None:
    """A name that is none is refused."""
    with pytest.raises(ValueError, match="header"):
        prepared(make(**{name: "x"}))


@MAKERS
@pytest.mark.parametrize(
    "text",
    ["a@evil.example <b@x.example>", "a@b@c.example", "=?utf-8?q?x=40evil?=@internal", "a@b.example c@d.example"],
)
def test_address_differentials(make: Callable[..., OldMessage], text: str) -> None:
    """Where the standard library reads another address than stands there, the mail is refused."""
    with pytest.raises(InvalidMail, match="To"):
        prepared(make(To=text))


def test_groups_and_odd_messages() -> None:
    """A group without members goes out as it is; without From the Message-ID is of the sender, or of nobody."""
    mail = prepared(email_message(To="undisclosed-recipients:;"), None, "b@c.example")
    assert b"To: undisclosed-recipients:;\r\n" in octets(mail.mail_data)
    bare = EmailMessage()
    bare.set_content("x")
    assert str(prepared(bare, "a@b.example", "c@d.example").message_id).endswith("@b.example>")
    assert str(prepared(bare, "", "c@d.example").message_id).endswith("@localhost>")
    bare["Message-ID"], bare["Date"] = "<own@b.example>", "Mon, 01 Jan 2024 00:00:00 +0000"
    assert prepared(bare, "", "c@d.example").message_id == "<own@b.example>"
    assert str(prepared(old_message(From="nobody"), "a@b.example").message_id).endswith("@b.example>")
    old = old_message(X="a\ud800")
    with pytest.raises(InvalidMail, match="X: it holds a lone surrogate"):
        prepared(old)
    with pytest.raises(InvalidMail, match="NUL"):
        prepared(message_from_bytes(b"To: a@b.example\n\na\0b"), "")


def test_stdlib_faults_are_ours() -> None:
    """What the standard library cannot flatten is InvalidMail."""
    broken = OldMessage()
    broken["To"] = "a@b.example"
    broken.set_payload(["no message"])
    with pytest.raises(InvalidMail, match="message: it cannot be read"):
        prepared(broken, "")
