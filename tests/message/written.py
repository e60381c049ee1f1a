"""Messages of every kind, each from a number: what was put in, for those who judge what comes out."""

import random
from dataclasses import dataclass

from smtpkit import Attachment, Message

PIECES = (
    "word", "Grüße", "日本語", "\U0001f600", "e\u0301", "\u200f", "\xa0", "\u2028", "\x85", "\ufeff",
    "a=20b", "=", "==\t", " ", "  ", "\t", "\n", "\r", "\r\n", "\n.", "\n..\n", "\nFrom ", "\n>From ",
    "\n-- \n", "\n--=_1\n", "x" * 75, "x" * 76, "y" * 77 + "\n", "z" * 999, "é" * 80, ".", "From ",
    "\x0b", "\x1b", "\x7f", "<b>&amp;</b>", "=?utf-8?q?a?=",
)  # fmt: skip
NAMES = (
    "report", " ", "ä", "日本語", "\U0001f600", '"', "\\", "'", "%", "%41", "*", ";", "=", "=?utf-8?q?a?=", "x" * 40,
    "(", ")", ",", "/", ":", "@", "\t", "..", "é" * 20, "\u2028", "&", "#", "+",
)  # fmt: skip
ENDS = (".pdf", ".txt", ".HTML", ".csv", ".png", ".tar.gz", ".docx", "", ".unknown")
PEOPLE = (
    "Ann",
    "Bob B. Brown",
    "Grüße",
    "日本語",
    'Quo"te',
    "Comma, Inc.",
    "",
    "a=b",
    "=?utf-8?q?a?=",
    "o'neil",
)
HOSTS = ("example.com", "straße.example", "xn--strae-oqa.example", "[192.0.2.1]", "a-b.example.org")


@dataclass(frozen=True)
class Written:
    """A message, and what a reader is to find in it: addresses as pairs of name and address, parts as triples."""

    message: Message
    subject: str
    sender: tuple[str, str]
    to: list[tuple[str, str]]
    text: str | None
    html: str | None
    attached: list[tuple[str | None, str, bytes]]  # filename, content type, octets
    content_ids: list[str | None]


def written(number: int) -> Written:
    """The message of this number."""
    chance = random.Random(number)
    html = _text(chance) if chance.random() < 0.5 else None
    text = _text(chance) if html is None or chance.random() < 0.6 else None
    sender, *to = (_person(chance, place) for place in range(chance.randint(2, 5)))
    subject = "".join(chance.choices([piece for piece in NAMES if piece != "\t"], k=chance.randint(0, 8))).strip()
    attachments: list[Attachment] = []
    attached = []
    for place in range(chance.choice((0, 0, 1, 2, 5))):
        octets = _octets(chance)
        once = [piece for piece in NAMES if "=?" not in piece]  # postal-mime decodes twice what RFC 2231 tells
        name = "".join(chance.choices(once, k=chance.randint(1, 5))).strip()[:60] + chance.choice(ENDS)
        filename = name or None if chance.random() < 0.9 else None
        content_type = chance.choice((None, None, "application/x-any", "text/plain", "image/gif"))
        content_id = f"part{place}@example.com" if html is not None and chance.random() < 0.4 else None
        if (
            filename is None or content_id is not None
        ):  # postal-mime adds an inline text, or one without a name, to ours
            content_type = "image/png"
        attachments.append(Attachment(octets, filename, content_type, content_id))
        attached.append((filename, "/".join(attachments[-1].media_type), octets))
    inline = [attachment.content_id is None for attachment in attachments]
    order = sorted(range(len(attachments)), key=inline.__getitem__)  # pictures stand with the HTML
    message = Message(
        sender=_shown(sender),
        to=list(map(_shown, to)),
        subject=subject,
        text=text,
        html=html,
        attachments=attachments,
    )
    return Written(
        message,
        subject,
        _on_the_wire(sender),
        list(map(_on_the_wire, to)),
        None if text is None else lines(text),
        None if html is None else lines(html),
        [attached[place] for place in order],
        [attachments[place].content_id for place in order],
    )


def lines(text: str) -> str:
    """The text in lines that end in LF, but for those at its end: readers differ about the last."""
    return text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")


def _text(chance: random.Random) -> str:
    kind = chance.randint(0, 9)
    if kind == 0:
        return ""
    if kind == 1:
        return "".join(map(chr, chance.sample(range(1, 0xD800), k=60) + chance.sample(range(0xE000, 0x110000), k=40)))
    if kind == 2:
        return "".join(f"{'word ' * chance.randint(0, 14)}\n" for _ in range(30))
    return "".join(chance.choices(PIECES, k=chance.randint(1, 40)))


def _octets(chance: random.Random) -> bytes:
    kind = chance.randint(0, 5)
    if kind == 0:
        return bytes(range(256)) * chance.randint(1, 3)
    if kind == 1:
        return b"".join(chance.choices((b"\r", b"\n", b"\r\n.", b"--=_1", b"\0", b".", b"From "), k=50))
    return chance.randbytes(chance.choice((0, 1, 56, 57, 58, 114, 3000)))


def _person(chance: random.Random, place: int) -> tuple[str, str, str]:
    return chance.choice(PEOPLE), f"p{place}.x+{chance.randint(0, 99)}", chance.choice(HOSTS)


def _shown(person: tuple[str, str, str]) -> str:
    name, local, host = person
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}" <{local}@{host}>' if name else f"{local}@{host}"


def _on_the_wire(person: tuple[str, str, str]) -> tuple[str, str]:
    name, local, host = person
    return name, f"{local}@{host.replace('straße', 'xn--strae-oqa')}"
