"""Mailboxes: read from the text of address lists, strictly, and written as they go on the wire.

Rules: one pass from left to right, no recursion, so the work grows with the text and with nothing else. What two
readers might understand differently is refused: the address found is the text that stood there, less blanks and
comments between its words. Domains are IDNA 2008 (RFC 5891) by UTS 46, non-transitional, so ``straße`` stays itself;
local parts are made NFC (RFC 6532 section 3.1) and nothing more.
"""

import binascii
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from smtpkit.errors import InvalidMail
from smtpkit.protocol.envelope import check_mailbox

LONGEST = 1_048_576  # characters of one list
LONGEST_ELEMENT = 1000  # words and specials between two commas
LONGEST_WORD = 256  # of what is taken for an encoded word; RFC 2047 allows 75
DEEPEST = 32  # comments in comments
UNSAFE = re.compile("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")  # in header text: controls but TAB, and lone surrogates

_TOKEN = re.compile(
    r'(?P<blank>[ \t]+)|(?P<atom>[^ \t()<>\[\]:;@\\,."]+)|(?P<quoted>"(?:[^"\\]++|\\.)*+")'
    r"|(?P<literal>\[[^\[\]\\]*\])|(?P<special>[<>:;@,.])|(?P<comment>\()"
)
_IN_COMMENT = re.compile(r"[^()\\]+|\\.|[()]")
_ENCODED_WORD = re.compile(r"=\?([!-)+->@-~]+)(?:\*[!->@-~]*)?\?([bBqQ])\?([!->@-~]*)\?=")
# An address alone or behind a name of plain words: what the rules below make of it is known, and it is valid.
_WORD = r"[A-Za-z0-9!#$%&'*+/?^_`{|}~-]"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_PLAIN = re.compile(
    rf"(?:({_WORD}++(?: {_WORD}++){{0,8}}+) <)?+(?=[^@]{{1,64}}@)(({_WORD}++(?:\.{_WORD}++)*+)"
    rf"@(?=[^>]{{1,255}}>?\Z)({_LABEL}(?:\.{_LABEL})*))(?(1)>)\Z"
)
_RIGHT = "write ann@example.com or Ann <ann@example.com>"


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A display name ("" for none) and an address; the domain may be Unicode. Raises InvalidMail for no address."""

    display_name: str
    local_part: str  # as on the wire: a dot-string, or a quoted string with its quotes
    domain: str

    def __post_init__(self) -> None:
        if self.local_part.isascii() and self.domain.isascii():
            self._check()
            return
        for character in self.local_part:
            plain = unicodedata.normalize("NFC", character)
            if (plain != character and plain.isascii()) or not (character.isprintable() or character in "\u200c\u200d"):
                raise InvalidMail(f"address {str(self)!r}: {character!r} has no place in a local part; remove it")
        object.__setattr__(self, "local_part", unicodedata.normalize("NFC", self.local_part))
        self._check()

    def _check(self) -> None:
        if "=?" in self.local_part or "\ufffd" in self.local_part + self.domain:
            raise InvalidMail(
                f"address {str(self)!r}: an address is never encoded (RFC 2047 section 5); write it plainly"
            )
        check_mailbox(self.address)

    def __str__(self) -> str:
        return f"{self.local_part}@{self.domain}"

    @property
    def address(self) -> str:
        """The address as it goes on the wire: the domain as A-labels. Not ASCII only where the local part is not."""
        return f"{self.local_part}@{_a_labels(self.domain)}"

    @property
    def unicode_address(self) -> str:
        """The address as people read it: the domain as U-labels where it has them."""
        import idna

        try:
            return f"{self.local_part}@{idna.decode(_a_labels(self.domain))}" if "[" not in self.domain else str(self)
        except UnicodeError:
            return str(self)


def identity(address: str) -> tuple[str, str]:
    """What is the same for the same mailbox: a domain is in either case, a local part is not."""
    local, _, domain = address.rpartition("@")
    return local, domain.lower()


def _a_labels(domain: str) -> str:
    """The domain in ASCII. Raises InvalidMail; what is ASCII already is left as it is."""
    if domain.isascii():
        return domain
    import idna

    if len(domain) > 255:
        raise InvalidMail(f"domain {domain[:40]!r}…: longer than 255 octets (RFC 5321 4.5.3.1.2)")
    try:
        return idna.encode(domain, uts46=True, transitional=False, std3_rules=True).decode()
    except UnicodeError as error:
        raise InvalidMail(f"domain {domain!r}: no domain name by IDNA 2008 ({error})") from error


class _Token(NamedTuple):
    kind: str  # atom, quoted, literal, comment; a special is its own kind
    text: str
    apart: bool = True  # is there a blank or a comment before it?


def parse_mailboxes(text: str, name: str = "address list") -> list[Mailbox]:
    """Read the text of an address list (RFC 5322 section 3.4), unfolded: mailboxes, and groups for their members.

    Encoded words in display names are decoded; a comment is the display name where there is no other. Blanks and
    comments between words, empty elements and dots in display names are taken, as obsolete forms (section 4.4);
    source routes are not. Raises InvalidMail, which begins with ``name``.
    """
    plain = _PLAIN.match(text)
    if plain is not None:
        return [_valid(plain[1] or "", plain[3], plain[4])]
    found: list[Mailbox] = []
    element: list[_Token] = []
    in_group = closed = False  # closed: a group has ended, and nothing but a comma follows
    try:
        for token in _tokens(text):
            if closed and token.kind not in {",", "comment"}:
                raise InvalidMail("after the semicolon of a group comes a comma, or nothing")
            if token.kind == ":" and not any(before.kind == "<" for before in element):
                if in_group or not _words(element):
                    raise InvalidMail("a colon stands only after the name of a group, as in friends: ann@example.com;")
                in_group, element = True, []
            elif token.kind in {",", ";"}:
                if token.kind == ";" and not in_group:
                    raise InvalidMail("a semicolon stands only at the end of a group; separate addresses by commas")
                found.extend(_mailbox(element))
                closed = token.kind == ";"
                in_group, element = in_group and not closed, []
            elif len(element) == LONGEST_ELEMENT:
                raise InvalidMail(f"more than {LONGEST_ELEMENT} words between two commas")
            else:
                element.append(token)
        if in_group:
            raise InvalidMail("a group ends with a semicolon")
        found.extend(_mailbox(element))
    except InvalidMail as error:
        shown = text if len(text) <= 120 else text[:120] + "…"
        raise InvalidMail(f"{name} {shown!r}: {error}") from None
    return found


def _valid(display_name: str, local_part: str, domain: str) -> Mailbox:
    """A Mailbox of what is known to be valid."""
    mailbox = object.__new__(Mailbox)
    object.__setattr__(mailbox, "display_name", display_name)
    object.__setattr__(mailbox, "local_part", local_part)
    object.__setattr__(mailbox, "domain", domain)
    return mailbox


def address_of(text: str, name: str) -> str:
    """The address on the wire of one mailbox, ``ann@example.com`` or ``Ann <ann@example.com>``. Raises InvalidMail."""
    plain = _PLAIN.match(text) if type(text) is str else None
    return plain[2] if plain is not None else mailbox_of(text, name).address


def addresses_of(value: str | Iterable[str], name: str) -> list[str]:
    """The addresses on the wire of an argument as ``mailboxes_of`` takes it."""
    if isinstance(value, list | tuple):
        return [address_of(one, name) for one in value]
    return [mailbox.address for mailbox in mailboxes_of(value, name)]


def mailbox_of(text: str, name: str) -> Mailbox:
    """Read exactly one mailbox. Raises InvalidMail, which begins with ``name``."""
    if not isinstance(text, str):
        raise InvalidMail(f"{name}: an address is a str, not {type(text).__name__}; {_RIGHT}")
    found = parse_mailboxes(text, name)
    if len(found) != 1:
        raise InvalidMail(f"{name} {text[:120]!r}: {len(found)} addresses where there must be one; {_RIGHT}")
    return found[0]


def mailboxes_of(value: str | Iterable[str], name: str) -> list[Mailbox]:
    """The mailboxes of an argument that takes a list of texts, one mailbox each, or one text with an address list."""
    if isinstance(value, str):
        return parse_mailboxes(value, name)
    if isinstance(value, bytes | bytearray | memoryview) or not isinstance(value, Iterable):
        raise InvalidMail(f"{name}: a str or a list of them, not {type(value).__name__}; {_RIGHT}")
    return [mailbox_of(one, name) for one in value]


def _tokens(text: str) -> Iterator[_Token]:
    """The tokens of RFC 5322 section 3.2, less blanks. Raises InvalidMail for what is none."""
    if len(text) > LONGEST:
        raise InvalidMail(f"longer than {LONGEST} characters")
    if UNSAFE.search(text):
        raise InvalidMail("it holds a control character or a lone surrogate; remove it")
    at = 0
    apart = True
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise InvalidMail(f"{text[at]!r} at {at} opens or closes what has no other end; {_RIGHT}")
        kind = token.lastgroup or ""
        start, at = at, token.end()
        if kind == "comment":
            at = _comment_end(text, at)
        if kind != "blank":
            word = text[start:at]
            yield _Token(word if kind == "special" else kind, word, apart)
        apart = kind in {"blank", "comment"}


def _comment_end(text: str, at: int) -> int:
    """Where the comment that was opened before ``at`` is closed."""
    depth = 1
    while depth:
        part = _IN_COMMENT.match(text, at)
        if part is None:
            raise InvalidMail("a comment is not closed")
        depth += (part[0] == "(") - (part[0] == ")")
        if depth > DEEPEST:
            raise InvalidMail(f"comments lie deeper than {DEEPEST}")
        at = part.end()
    return at


def _mailbox(element: list[_Token]) -> Iterator[Mailbox]:
    """The mailbox of what stands between two commas; none where nothing does."""
    tokens = [token for token in element if token.kind != "comment"]
    if not tokens:
        return
    kinds = [token.kind for token in tokens]
    if "<" in kinds:
        opened = kinds.index("<")
        if kinds[-1] != ">" or kinds.count("<") + kinds.count(">") != 2:
            raise InvalidMail(f"an address in <> is the last of its element; {_RIGHT}")
        phrase, spec = tokens[:opened], tokens[opened + 1 : -1]
        if phrase and not _words(phrase):
            raise InvalidMail(f'a display name with "@" or the like stands in quotes; {_RIGHT}')
        display_name = _display_name(phrase)
    else:
        spec = tokens
        remarks = [token.text for token in element if token.kind == "comment"]
        display_name = _display_name([_Token("atom", word) for word in _inside(remarks[-1]).split()] if remarks else [])
    kinds = [token.kind for token in spec]
    if kinds.count("@") != 1:
        raise InvalidMail(f"an address has one @ outside quotes; {_RIGHT}")
    at = kinds.index("@")
    local, domain = spec[:at], spec[at + 1 :]
    if not _dotted(local, {"atom", "quoted"}) or not (
        _dotted(domain, {"atom"}) or [token.kind for token in domain] == ["literal"]
    ):
        raise InvalidMail(f"the local part or the domain is not words joined by dots; {_RIGHT}")
    yield Mailbox(display_name, "".join(token.text for token in local), "".join(token.text for token in domain))


def _words(tokens: list[_Token]) -> bool:
    """Is it a phrase, with the dots that the obsolete form allows?"""
    kinds = {token.kind for token in tokens if token.kind != "comment"}
    return bool(kinds - {"."}) and kinds <= {"atom", "quoted", "."}


def _dotted(tokens: list[_Token], kinds: set[str]) -> bool:
    return (
        len(tokens) % 2 == 1
        and all(token.kind in kinds for token in tokens[::2])
        and all(token.kind == "." for token in tokens[1::2])
    )


def _inside(text: str) -> str:
    """What stands in the quotes or brackets, quoted pairs resolved (RFC 5322 section 3.2.1)."""
    return re.sub(r"\\(.)", r"\1", text[1:-1])


def _display_name(phrase: list[_Token]) -> str:
    """The words of a phrase as they are read, encoded words decoded (RFC 2047); the blank between two of them goes."""
    name = ""
    run: list[bytes] = []  # encoded words in a row, since a character may be cut between two
    for token in phrase:
        octets = _decode(token.text) if token.kind == "atom" else None
        if octets is not None:
            name += " " if token.apart and name and not run else ""
            run.append(octets)
            continue
        name += _readable(run)
        run = []
        name += " " if token.apart and name else ""
        name += _inside(token.text) if token.kind == "quoted" else token.text
    return name + _readable(run)


def _readable(run: list[bytes]) -> str:
    """Encoded words in a row as text; what may not stand in a header is replaced, so that it ends here."""
    return UNSAFE.sub("\ufffd", b"".join(run).decode("utf-8", "replace"))


def _decode(text: str) -> bytes | None:
    """The text of an encoded word as UTF-8, or None if it is none."""
    found = _ENCODED_WORD.fullmatch(text) if len(text) <= LONGEST_WORD else None
    if found is None:
        return None
    charset, how, data = found[1].lower(), found[2].lower(), found[3]
    try:
        octets = binascii.a2b_base64(data) if how == "b" else binascii.a2b_qp(data, header=True)
        return octets if charset in {"utf-8", "us-ascii"} else octets.decode(charset, "replace").encode()
    except (LookupError, ValueError):
        return None
