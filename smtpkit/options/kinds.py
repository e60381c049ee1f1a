"""What a value must be: in words, as a check, and how it is read from a URL; and the Secret."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from ipaddress import ip_address
from math import inf
from typing import Any, NamedTuple, TypeGuard, final, get_args

from smtpkit.errors import UsageError


@final
class Secret:
    """A text that shows itself to nobody who does not ask by ``reveal()``."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text."""
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> tuple[type["Secret"], tuple[str]]:
        return Secret, (self._text,)


SocketOption = tuple[int, int, int | bytes]  # level, option, value, as socket.setsockopt takes them
Token = str | Secret | Callable[[], str | Awaitable[str]]  # a function is asked for a fresh one at each login
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # controls, and what UTF-8 cannot say
_NOT_IN_HOST = re.compile(r"[\s/@?#%\[\]\\<>\"]")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"(?=.{{1,255}}\Z){_LABEL}(?:\.{_LABEL})*")  # RFC 5321 section 4.1.2
_MECHANISM = re.compile(r"[A-Za-z0-9_-]{1,20}")  # RFC 4422 section 3.1
_FIELD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[ \t!-~]*")  # RFC 9112 section 5
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,15})?", re.ASCII)
_FACTORS = {"k": 1e3, "m": 1e6, "g": 1e9}


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value must be, in words and as a check, and how it is read from a URL (None: it cannot stand there).

    ``read`` raises ValueError for what it cannot read. The default is always right.
    """

    wanted: str
    right: Callable[[object], bool]
    read: Callable[[str], object] | None = None
    secret: bool = False  # an error must not show it


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < inf


def _is_seconds(value: object) -> bool:
    return _is_number(value) or value == inf


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_port(value: object) -> bool:
    """Is it the number of a port?"""
    return _is_count(value) and value <= 65535


def is_text(value: object) -> TypeGuard[str]:
    """Is it a text, not empty, without control characters?"""
    return isinstance(value, str) and value != "" and not _UNSAFE.search(value)


def is_address(value: object) -> bool:
    """Is it an IP address?"""
    try:
        return isinstance(value, str) and bool(ip_address(value))
    except ValueError:
        return False


def _is_host(value: object) -> bool:
    if is_address(value):
        return True
    if not is_text(value) or ":" in value or _NOT_IN_HOST.search(value):
        return False
    return len(value) <= 255 and all(0 < len(label) <= 63 for label in value.removesuffix(".").split("."))


def _is_hello(value: object) -> bool:
    """Whether it is a Domain or address literal (RFC 5321 section 4.1.1.1)."""
    if not isinstance(value, str):
        return False
    if literal := re.fullmatch(r"\[(IPv6:)?([0-9A-Fa-f:.]+)\]", value):
        return is_address(literal[2]) and (":" in literal[2]) == bool(literal[1])
    return _DOMAIN.fullmatch(value) is not None


def _is_mechanism(value: object) -> bool:
    return isinstance(value, str) and _MECHANISM.fullmatch(value) is not None


def _is_path(value: object) -> bool:
    return is_text(value) and value.startswith("/") and not value.endswith("/")


def is_secret(value: object) -> bool:
    """Is it a Secret that holds a text?"""
    return isinstance(value, Secret) and is_text(value.reveal())


def _is_token(value: object) -> bool:
    return callable(value) or is_secret(value) or is_text(value)


def _is_field_lines(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(line, str) and _FIELD.fullmatch(line) for line in value)


def _is_socket_options(value: object) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(one, tuple)
        and len(one) == 3
        and all(isinstance(number, int) for number in one[:2])
        and isinstance(one[2], int | bytes)
        for one in value
    )


def _is_context(value: object) -> bool:
    from ssl import SSLContext

    return isinstance(value, SSLContext)


def _read_number(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise ValueError
    return float(text)


def _read_rate(text: str) -> float:
    factor = _FACTORS.get(text[-1:].lower())
    return _read_number(text) if factor is None else round(_read_number(text[:-1]) * factor, 6)


def _read_count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError
    return int(text)


def _read_flag(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError
    return text == "true"


def choice(literal: object) -> Kind:
    """One of the texts of a Literal."""
    choices = get_args(literal)
    return Kind("one of " + ", ".join(choices), lambda value: isinstance(value, str) and value in choices, str)


SECONDS = Kind("a positive number of seconds, or math.inf for no limit", _is_seconds, _read_number)
RATE = Kind("a positive number of octets per second (in a URL also 100k or 1.5M)", _is_number, _read_rate)
MAILS = Kind("a positive number of mails per second", _is_number, _read_number)
COUNT = Kind("a whole number, 1 or more", _is_count, _read_count)
PORT = Kind("a whole number from 1 to 65535", is_port, _read_count)
FLAG = Kind("True or False (in a URL true or false)", lambda value: isinstance(value, bool), _read_flag)
HOST = Kind("a host name or an IP address", _is_host, str)
ADDRESS = Kind("an IP address of this machine", is_address, str)
PATH = Kind("the absolute path of a unix socket", _is_path)
HELLO = Kind("a host name such as mail.example.com, or an address literal such as [192.0.2.1]", _is_hello, str)
NAME = Kind("a text that is not empty and has no control characters", is_text, str)
USER = Kind(NAME.wanted, is_text)
SASL = Kind("the name of a SASL mechanism, such as PLAIN", _is_mechanism, str)
SECRET = Kind(NAME.wanted, is_secret, secret=True)
TOKEN = Kind(f"{NAME.wanted}, or a function that returns one", _is_token, secret=True)
CONTEXT = Kind("an ssl.SSLContext", _is_context)
FIELDS = Kind('a tuple of header lines in ASCII, each "Name: value" without its line end', _is_field_lines, secret=True)
SOCKET_OPTIONS = Kind(
    "a tuple of (level, option, value), such as (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)", _is_socket_options
)


def row(kind: Kind, meaning: str) -> dict[str, Any]:
    """The metadata of a dataclass field that is an option."""
    return {"kind": kind, "meaning": meaning}


def check(value: Any) -> None:
    """Raise UsageError for the first field of a dataclass that is not what its row says."""
    for one in fields(value):
        kind, given, default = one.metadata.get("kind"), getattr(value, one.name), one.default
        if kind and not (type(given) is type(default) and given == default) and not kind.right(given):
            raise wrong(one.name, kind, given)


def wrong(name: str, kind: Kind, given: object) -> UsageError:
    """The error for a value that is not what its row says."""
    return UsageError(f"{name} must be {kind.wanted}" + ("" if kind.secret else f", not {given!r}"))


class Parameter(NamedTuple):
    """What is known of one keyword: what it must be, its default, what it means."""

    kind: Kind
    default: object
    meaning: str
