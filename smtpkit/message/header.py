"""Header fields: written so that no text can end one, and read from raw octets without changing the others.

Rules: a field is written in ASCII, by encoded words where its text is not (RFC 2047), but for addresses that need
SMTPUTF8. Whatever wrote a header, ``check_header`` looks at the octets last. Reading, a line ends in CRLF, LF or CR
alike, since that is what the mending of line ends makes of them, and the header ends before the first empty line.
"""

import binascii
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterable

from smtpkit.errors import InvalidMail
from smtpkit.message.address import UNSAFE, Mailbox

LONGEST_LINE = 998  # octets without CRLF (RFC 5322 section 2.1.1)
LONGEST_HEADER = 1_048_576  # octets
NEVER_SENT = ("bcc", "resent-bcc")
_IN_NEVER_SENT = b"bcc"  # in each of their names
ADDRESS_FIELDS = frozenset(
    prefix + name for prefix in ("", "resent-") for name in ("from", "sender", "reply-to", "to", "cc", "bcc")
)

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_FOLD_AT = 78
_FOLD_ENCODED_AT = 76  # a line with encoded words (RFC 2047 section 2)
_LONGEST_PIECE = 900  # characters that cannot be folded; what is longer is encoded, since encoded words can be
_NAME = re.compile(r"[!-9;-~]{1,76}\Z")
_PLAIN_PHRASE = re.compile(r"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~]+(?: [A-Za-z0-9!#$%&'*+\-/=?^_`{|}~]+)*\Z")
_Q_PLAIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/"
_PLAIN_TEXT = re.compile(r"(?!.*=\?)[!-~](?:[ -~]*[!-~])?\Z")
_PIECE = re.compile(r"[ \t]*[^ \t]+")
_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")
_FIELD_READ = re.compile(rb"(?:\xef\xbb\xbf)?" + _FIELD.pattern)  # some editors put U+FEFF before the first
_VALUE = re.compile(rb"[ \t]*:([^\r\n]*(?:(?:\r\n|[\r\n])[ \t][^\r\n]*)*)")
_START = re.compile(rb"\xef\xbb\xbf|>?From |[!-9;-~]{1,998}[ \t]*:")  # mbox format puts a line of its own first
_WHOLE = re.compile(rb"(?:[!-9;-~]++[ \t]*+:[\t -~\x80-\xff]*+\r\n(?:[ \t][\t -~\x80-\xff]*+\r\n)*+)*+\Z")
_NAMES = re.compile(rb"([!-9;-~]++)[ \t]*+:[^\n]*+\n(?:[ \t][^\n]*+\n)*+")
_CONTROLS = bytes({*range(32), 127} - {9})
_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?=[\r\n])")


def field(name: str, value: str | Iterable[Mailbox], *, charset: str = "utf-8", fold_at: int = _FOLD_AT) -> bytes:
    """One field, encoded and folded, with its CRLF. ``value`` is text, or mailboxes for a field that holds addresses.

    ``charset`` is that of encoded words, which must be one that holds ASCII; lines longer than ``fold_at`` are folded
    where there is a blank, at 76 where they hold encoded words. Text is taken as it is read: what looks like an encoded
    word is encoded again. Raises InvalidMail, which names the field, for controls (but TAB), lone surrogates,
    characters that the charset has not, and a name that is none (RFC 5322 section 2.2).
    """
    block = written(name, value, charset=charset, fold_at=fold_at)
    check_header(block, [name])
    return block


def written(name: str, value: str | Iterable[Mailbox], *, charset: str = "utf-8", fold_at: int = _FOLD_AT) -> bytes:
    """The same for those who let a whole header pass ``check_header``."""
    if not _NAME.match(name):
        raise InvalidMail(f"header field name {name!r}: 1 to 76 printable ASCII characters without blank and colon")
    if isinstance(value, str):
        if len(name) + len(value) + 2 <= fold_at and _PLAIN_TEXT.match(value):
            return f"{name}: {value}\r\n".encode()
        if UNSAFE.search(value):
            raise InvalidMail(
                f"{name} {value[:120]!r}: it holds a line end, another control or a lone surrogate; remove it"
            )
        pieces = _text_pieces(value, charset, len(name) + 1, fold_at)
    else:
        pieces = []
        for mailbox in value:
            pieces += _mailbox_pieces(mailbox, charset, 0 if pieces else len(name) + 1, fold_at)
        if pieces:
            pieces[-1] = pieces[-1].removesuffix(",")
    line = f"{name}:"
    whole = line + "".join(pieces)
    if "=?" in whole:
        fold_at = min(fold_at, _FOLD_ENCODED_AT)
    if len(whole) <= fold_at:
        return f"{whole}\r\n".encode()
    lines = []
    for piece in pieces:
        if len(line) + len(piece) > fold_at and line != f"{name}:":
            lines.append(line)
            line = ""
        line += piece
    return "".join(f"{each}\r\n" for each in (*lines, line)).encode()


def check_header(block: bytes, names: Iterable[str]) -> None:
    """The last gate: raises InvalidMail unless ``block`` holds exactly the fields named, each as often as named.

    Each line is the start of a field, or folded; at most 998 octets; without NUL, other controls but TAB, or a CR or LF
    that does not end a line.
    """
    want = " ".join(names).lower().encode()
    if len(block) <= LONGEST_LINE and _WHOLE.match(block) and b" ".join(_NAMES.findall(block)).lower() == want:
        return  # which is what the rest would find, and takes long to say
    lines = block.split(b"\r\n")
    if lines.pop():
        raise InvalidMail("header: its last line is not ended")
    if len(block.translate(None, _CONTROLS)) != len(block) - 2 * len(lines):
        line = next(line for line in lines if line.translate(None, _CONTROLS) != line)
        raise InvalidMail(f"header: the line {line[:120]!r} holds a control character")
    if max(map(len, lines), default=0) > LONGEST_LINE:
        line = max(lines, key=len)
        raise InvalidMail(f"header: the line {line[:40]!r}… is longer than {LONGEST_LINE} octets")
    found: list[bytes] = []
    for line in lines:
        start = _FIELD.match(line)
        if start is not None:
            found.append(start[1])
        elif line[:1] not in {b" ", b"\t"} or not found:
            raise InvalidMail(f"header: the line {line[:120]!r} is neither a field nor a part of one")
    have, meant = Counter(b" ".join(found).lower().split()), Counter(want.split())
    if have != meant:
        odd = b", ".join(sorted((have - meant) | (meant - have))).decode()
        raise InvalidMail(f"header: its fields are not those that were meant ({odd}); a value holds a line end")


def split_header(octets: bytes) -> tuple[bytes, bytes]:
    """The header, with the end of its last line, and the rest, which begins with the empty line.

    Octets that do not begin with a field are a mail without a header.
    """
    end = header_end(octets, at_end=True)
    assert end is not None
    return octets[:end], octets[end:]


def header_end(octets: bytes | bytearray, *, searched: int = 0, at_end: bool = False) -> int | None:
    """Where the header ends in the octets so far, or None if more must be read to know it.

    ``searched`` octets were seen before and did not show it; ``at_end``: no more follow.
    """
    if not _START.match(octets):
        decided = at_end or len(octets) > LONGEST_LINE + 2 or re.search(rb"[\r\n]", octets)
        return 0 if decided else None
    found = _BLANK_LINE.search(octets, max(0, searched - 2))
    if found is not None:
        return found.end()
    return len(octets) if at_end else None


def without(header: bytes) -> bytes:
    """The header without the fields that are never sent and their folded lines; every other octet stays.

    But where something goes, a CR at the end becomes CRLF: else it would take the LF of an empty line for its own.
    """
    if _IN_NEVER_SENT not in header.lower():
        return header
    kept = []
    dropping = False
    for line in header.splitlines(keepends=True):
        if line[:1] not in {b" ", b"\t"}:
            start = _FIELD_READ.match(line)
            dropping = start is not None and start[1].decode().lower() in NEVER_SENT
        if not dropping:
            kept.append(line)
    octets = b"".join(kept)
    return octets + b"\n" if octets[-1:] == b"\r" and len(octets) < len(header) else octets


def fields(header: bytes) -> list[tuple[str, str]]:
    """Name in lower case and text, unfolded, of each field; octets that are not UTF-8 are replaced."""
    found: list[tuple[str, list[bytes]]] = []
    for line in header.splitlines():
        start = _FIELD_READ.match(line)
        if line[:1] in {b" ", b"\t"}:
            if found:
                found[-1][1].append(line)
        elif start is not None:
            found.append((start[1].decode().lower(), [line[start.end() :]]))
    return [(name, b"".join(lines).decode("utf-8", "replace").strip(" \t")) for name, lines in found]


def text_of(header: bytes, name: str) -> str | None:
    """The text, unfolded, of the first field of this name (in lower case) that has any; None where there is none."""
    lowered, wanted, at = header.lower(), name.encode(), -1
    while (at := lowered.find(wanted, at + 1)) >= 0:
        value = _VALUE.match(header, at + len(wanted))
        if value is not None and (at == 0 or header[:at].endswith((b"\n", b"\r", b"\xef\xbb\xbf"))):
            text = value[1].replace(b"\r", b"").replace(b"\n", b"").decode("utf-8", "replace").strip(" \t")
            if text:
                return text
    return None


def unfold(text: str) -> str:
    """Header text as it was before it was folded (RFC 5322 section 2.2.3); any other line end stays, to be refused."""
    return re.sub(r"\r?\n(?=[ \t])", "", text)


def date(when: float | None = None) -> str:
    """A time, else that of now, as Date has it (RFC 5322 section 3.3), in UTC: where a mail was written is its own."""
    # Not gmtime(None): its clock may be some milliseconds behind, and so in another second.
    year, month, day, hour, minute, second, weekday, _, _ = time.gmtime(time.time() if when is None else when)
    return "%s, %02d %s %04d %02d:%02d:%02d +0000" % (  # noqa: UP031  half the time
        *(_DAYS[weekday], day, _MONTHS[month - 1], year),
        *(hour, minute, second),
    )


def message_id(domain: str) -> str:
    """A Message-ID of random octets (RFC 5322 section 3.6.4): nothing of this machine is in it."""
    return f"<{secrets.token_hex(16)}@{domain}>"


def _text_pieces(text: str, charset: str, taken: int, fold_at: int) -> list[str]:
    """Text in pieces between which a line may be folded."""
    pieces = _PIECE.findall(f" {text}")
    plain = text.isascii() and "=?" not in text and text == text.strip(" \t")
    if plain and all(len(piece) <= _LONGEST_PIECE for piece in pieces):
        return pieces
    return encoded_words(text, charset, taken=taken, fold_at=fold_at)


def _mailbox_pieces(mailbox: Mailbox, charset: str, taken: int, fold_at: int) -> list[str]:
    """A mailbox and the comma after it, in pieces. The address is never encoded."""
    name = mailbox.display_name
    if not name:
        return [f" {mailbox.address},"]
    if UNSAFE.search(name):
        raise InvalidMail(f"display name {name[:120]!r}: it holds a control character or a lone surrogate; remove it")
    if not name.isascii() or "=?" in name or len(name) > _FOLD_AT - 20:
        phrase = encoded_words(name, charset, taken=taken, fold_at=fold_at)
    elif _PLAIN_PHRASE.match(name):
        phrase = [f" {name}"]
    else:
        escaped = re.sub(r'(["\\])', r"\\\1", name)
        phrase = [f' "{escaped}"']
    return [*phrase, f" <{mailbox.address}>,"]


def encoded_words(text: str, charset: str = "utf-8", *, taken: int = 0, fold_at: int = _FOLD_AT) -> list[str]:
    """Text as encoded words, a blank before each, none of which cuts a character (RFC 2047 section 5).

    Lines with them have at most 76 characters, or ``fold_at`` if that is less; ``taken`` are those before the first.
    Q where most is ASCII, and then only with the characters that may stand in a phrase too; else B.
    """
    readable = sum(map(str.isascii, text)) * 3 > len(text) * 2

    def room(taken: int) -> int:
        """What the text of a word may cost; a character at least, whatever stands before it."""
        characters = max(min(_FOLD_ENCODED_AT, fold_at) - taken - len(f" =?{charset}?q??="), 12)
        return characters if readable else characters // 4 * 3

    longest, later = room(taken), room(0)
    words = [b""]
    size = 0
    for character in text:
        octets = _encoded(character, charset)
        cost = len(_q(octets) if readable else octets)
        if size + cost > longest:
            words.append(b"")
            size, longest = 0, later
        words[-1] += octets
        size += cost
    if readable:
        return [f" =?{charset}?q?{_q(word)}?=" for word in words]
    return [f" =?{charset}?b?{binascii.b2a_base64(word, newline=False).decode()}?=" for word in words]


def _encoded(character: str, charset: str) -> bytes:
    try:
        return character.encode(charset)
    except UnicodeEncodeError:
        raise InvalidMail(f"{character!r} cannot be written in the charset {charset}; utf-8 has it") from None


def _q(octets: bytes) -> str:
    """Octets in the Q encoding."""
    return "".join(_Q_WORDS[octet] for octet in octets)


_Q_WORDS = tuple(
    "_" if chr(octet) == " " else chr(octet) if chr(octet) in _Q_PLAIN else f"={octet:02X}" for octet in range(256)
)
