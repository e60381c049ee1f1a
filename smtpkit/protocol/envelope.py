"""The envelope: the reverse-path, the forward-paths and their parameters (RFC 5321, 1870, 3461, 6531).

An envelope is valid by construction: what is in it can be said on the wire as it stands. Domains come as A-labels;
turning names into A-labels is the message's business.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from smtpkit.errors import InvalidMail

Notify = Literal["NEVER", "SUCCESS", "FAILURE", "DELAY"]

LONGEST_ADDRESS = 64 + 1 + 255  # octets (RFC 5321 sections 4.5.3.1.1 and 4.5.3.1.2)

# What is not named here may stand there; naming what is above ASCII takes 50 ms to compile.
_ATEXT = r"[^\x00- \"(),.:;<>@\[\\\]\x7f]"
_DOT_STRING = re.compile(rf"{_ATEXT}+(?:\.{_ATEXT}+)*\Z")
_QUOTED_STRING = re.compile(r'"(?:[^\x00-\x1f"\\\x7f]|\\[ -~])*"\Z')
_LABEL = r"[^\x00-/:-@\[-`{-\x7f](?:[^\x00-,./:-@\[-^`{-\x7f]*[^\x00-/:-@\[-`{-\x7f])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\Z")
# What nearly all addresses are: ASCII, no quotes, no address literal, and no longer than may be.
_PLAIN = re.compile(
    r"(?=[^@]{1,64}@[^@]{1,255}\Z)[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]+)*"
    r"@[A-Za-z0-9](?:[A-Za-z0-9_\-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9_\-]{0,61}[A-Za-z0-9])?)*\Z"
)
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_XTEXT = re.compile(r"[^!-*,-<>-~]")


def check_mailbox(text: str) -> str:
    """Return ``text`` if it is a Mailbox as RFC 5321 section 4.1.2 (with RFC 6531) has it; raise InvalidMail if not."""
    if _PLAIN.match(text):
        return text

    def refuse(why: str) -> InvalidMail:
        return InvalidMail(f"address {text!r}: {why}; an address looks like user@example.com")

    if _UNSAFE.search(text):
        raise refuse("it holds a control character or a lone surrogate")
    local, at, domain = text.rpartition("@")
    if not at or not local or not domain:
        raise refuse("the local part or the domain is missing")
    if not (_DOT_STRING.match(local) or _QUOTED_STRING.match(local)):
        raise refuse("the local part is neither a dot-string nor a quoted string")
    if len(local.encode()) > 64:
        raise refuse("the local part is longer than 64 octets (RFC 5321 4.5.3.1.1)")
    if len(domain.encode()) > 255:
        raise refuse("the domain is longer than 255 octets (RFC 5321 4.5.3.1.2)")
    if domain.startswith("["):
        check_address_literal(domain)
    elif not _DOMAIN.match(domain) or any(len(label.encode()) > 63 for label in domain.split(".")):
        raise refuse("the domain is not a host name")
    return text


def check_address_literal(text: str) -> str:
    """Return ``text`` if it is an address literal, ``[192.0.2.1]`` or ``[IPv6:2001:db8::1]``; raise InvalidMail."""
    inner = text[1:-1]
    try:
        if not (text.startswith("[") and text.endswith("]")) or "%" in inner:  # a zone may hold anything: ``%> x``
            raise ValueError
        if inner[:5].lower() == "ipv6:":
            IPv6Address(inner[5:])
        else:
            IPv4Address(inner)
    except ValueError:
        raise InvalidMail(f"address literal {text!r}: write [192.0.2.1] or [IPv6:2001:db8::1]") from None
    return text


def xtext(text: str) -> str:
    """Encode as xtext (RFC 3461 section 4): what is not printable ASCII, and ``+`` and ``=``, as ``+XX``."""
    if not text.isascii():
        raise InvalidMail(f"{text!r} must be ASCII here (RFC 3461 section 4)")
    return _XTEXT.sub(lambda found: f"+{ord(found[0]):02X}", text)


def utf8_addr_xtext(text: str) -> str:
    r"""Encode an original recipient as utf-8-addr-xtext (RFC 6533 section 3): ``\x{HEX}`` for what is not ASCII."""
    return re.sub(r"[^!-*,-<>-\[\]-~]", lambda found: f"\\x{{{ord(found[0]):02X}}}", text)


def utf8_addr_unitext(text: str) -> str:
    r"""Encode an original recipient as utf-8-addr-unitext (RFC 6533 section 3), for use under SMTPUTF8."""
    return re.sub(r"[^!-*,-<>-\[\]-~\u0080-\U0010ffff]", lambda found: f"\\x{{{ord(found[0]):02X}}}", text)


@dataclass(slots=True)
class ForwardPath:
    """One recipient: its address, whether the mail may go out without it, and what it asks of DSN (RFC 3461).

    ``original`` is the original recipient for ORCPT, an address; it is encoded here as the envelope needs it.
    """

    address: str
    required: bool = False
    notify: tuple[Notify, ...] = ()
    original: str | None = None

    def __post_init__(self) -> None:
        check_mailbox(self.address)
        if self.notify or self.original is not None:
            self._check_dsn()

    def _check_dsn(self) -> None:
        asked = set(self.notify)
        if (asked != {"NEVER"} and asked - {"SUCCESS", "FAILURE", "DELAY"}) or len(asked) < len(self.notify):
            raise InvalidMail(f"notify {self.notify!r}: NEVER alone, or any of SUCCESS, FAILURE, DELAY (RFC 3461 4.1)")
        if self.original is not None and (
            _UNSAFE.search(self.original) or not 0 < len(self.original.encode()) <= LONGEST_ADDRESS
        ):
            raise InvalidMail(
                f"original recipient {self.original!r}: an address of up to {LONGEST_ADDRESS} octets, "
                "without control characters"
            )


def plain_path(address: str, *, required: bool) -> ForwardPath:
    """The same for an address that is known to be a Mailbox, and asks nothing of DSN."""
    path = object.__new__(ForwardPath)
    path.address, path.required, path.notify, path.original = address, required, (), None
    return path


@dataclass(slots=True)
class Envelope:
    """For whom a mail is: ``reverse_path`` ("" for none: a notification) and at least one forward-path.

    ``utf8``: the envelope or the header needs SMTPUTF8 (RFC 6531). ``ret`` and ``envelope_id`` are DSN's (RFC 3461).
    ``require_tls``: over verified TLS at each hop, or not at all (RFC 8689).
    """

    reverse_path: str
    forward_paths: tuple[ForwardPath, ...]
    utf8: bool = False
    ret: Literal["FULL", "HDRS"] | None = None
    envelope_id: str | None = None
    require_tls: bool = False

    def __post_init__(self) -> None:
        if self.reverse_path:
            check_mailbox(self.reverse_path)
        if not self.forward_paths:
            raise InvalidMail("recipients: an envelope needs at least one")
        if len(self.forward_paths) > 1 and len({path.address for path in self.forward_paths}) < len(self.forward_paths):
            raise InvalidMail("recipients: each address once; a verdict belongs to one forward-path")
        if self.ret not in (None, "FULL", "HDRS"):
            raise InvalidMail(f"ret {self.ret!r}: FULL or HDRS (RFC 3461 4.3)")
        if self.envelope_id is not None and not (
            self.envelope_id.isprintable() and 0 < len(xtext(self.envelope_id)) <= 100
        ):
            raise InvalidMail("envelope_id: 1 to 100 printable ASCII characters (RFC 3461 4.4)")
        if not isinstance(self.require_tls, bool):
            raise InvalidMail("require_tls: True or False")
        if not self.utf8 and not self.addresses_are_ascii:
            raise InvalidMail("an address that is not ASCII needs utf8=True on the envelope (SMTPUTF8, RFC 6531)")

    @property
    def addresses_are_ascii(self) -> bool:
        """Can every address be said without SMTPUTF8?"""
        return self.reverse_path.isascii() and "".join([path.address for path in self.forward_paths]).isascii()

    @property
    def dsn(self) -> bool:
        """Does the envelope ask anything of DSN?"""
        return (
            self.ret is not None
            or self.envelope_id is not None
            or any(path.notify or path.original is not None for path in self.forward_paths)
        )

    @classmethod
    def of(cls, reverse_path: str, recipients: Iterable[str], *, required: bool = False) -> "Envelope":
        """The envelope of plain addresses, told apart once each, SMTPUTF8 where one of them needs it."""
        paths = tuple(ForwardPath(address, required=required) for address in dict.fromkeys(recipients))
        utf8 = not (reverse_path.isascii() and all(path.address.isascii() for path in paths))
        return cls(reverse_path, paths, utf8=utf8)
