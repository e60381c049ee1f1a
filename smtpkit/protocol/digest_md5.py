"""DIGEST-MD5 (RFC 2831, historic by RFC 6331): only for servers that have nothing better, and only by name."""

import hashlib
import hmac
import re

from smtpkit.errors import ProtocolViolation, UsageError
from smtpkit.protocol.mechanism import Identity, Mechanism

_QUOTED, _TOKEN = rb'"((?:[^"\\]|\\.)*)"', rb'([^\s",]+)'
_DIRECTIVE = re.compile(rb"[\s,]*([A-Za-z-]+)\s*=\s*(?:" + _QUOTED + b"|" + _TOKEN + rb")\s*(?:,[\s,]*|\Z)", re.DOTALL)


def digest_md5(who: Identity) -> Mechanism:
    """One exchange, without a security layer; the server has to prove that it knows the password too."""
    challenge = yield None
    given = _directives(challenge)
    qop = b",".join(given.get("qop", [b"auth"])).replace(b" ", b"").lower().split(b",")
    if len(given.get("nonce", [])) != 1 or given.get("algorithm") != [b"md5-sess"] or b"auth" not in qop:
        raise ProtocolViolation("DIGEST-MD5: the challenge needs one nonce, algorithm=md5-sess and qop=auth")
    charset = "utf-8" if given.get("charset") == [b"utf-8"] else "latin-1"
    user, realm = _realm(who.user, [value.decode(charset, "replace") for value in given.get("realm", [])])
    nonce, cnonce, uri = given["nonce"][0], who.nonce.encode(), f"{who.service}/{who.host}".encode()
    secret = b":".join(_octets(text, charset) for text in (user, realm, who.password or ""))
    start = b":".join((_md5(secret), nonce, cnonce, *([who.authzid.encode()] if who.authzid else [])))

    def proof(verb: bytes) -> bytes:
        parts = (_hex(start), nonce, b"00000001", cnonce, b"auth", _hex(verb + b":" + uri))
        return _hex(b":".join(parts))

    quoted = {
        b"username": user.encode(charset),
        b"realm": realm.encode(charset),
        b"nonce": nonce,
        b"cnonce": cnonce,
        b"digest-uri": uri,
        b"authzid": who.authzid.encode(),
    }
    said = [name + b'="' + re.sub(rb'([\\"])', rb"\\\1", value) + b'"' for name, value in quoted.items() if value]
    said += [b"nc=00000001", b"qop=auth", b"response=" + proof(b"AUTHENTICATE")]
    said += [b"charset=utf-8"] if charset == "utf-8" else []
    last = yield b",".join(said)
    if last is None or not hmac.compare_digest(b"".join(_directives(last).get("rspauth", [])), proof(b"")):
        raise ProtocolViolation("DIGEST-MD5: the server has not proved that it knows the password")
    return b""


def _directives(challenge: bytes | None) -> dict[str, list[bytes]]:
    """The directives of a challenge, by name, each as often as it is given. Raises ProtocolViolation."""
    found: dict[str, list[bytes]] = {}
    text, at = challenge or b"", 0
    while at < len(text):
        directive = _DIRECTIVE.match(text, at)
        if directive is None:
            raise ProtocolViolation("DIGEST-MD5: the challenge is no list of directives")
        name, quoted, token = directive.groups()
        value = token if quoted is None else re.sub(rb"\\(.)", rb"\1", quoted, flags=re.DOTALL)
        found.setdefault(name.decode().lower(), []).append(value)
        at = directive.end()
    return found


def _realm(user: str, realms: list[str]) -> tuple[str, str]:
    """The user's name and realm: the domain of the user where the server has that realm, else its first one."""
    name, _, domain = user.rpartition("@")
    if name and domain in realms:
        return name, domain
    return user, realms[0] if realms else ""


def _octets(text: str, charset: str) -> bytes:
    """What is hashed of a text: ISO 8859-1 if it can be, else the charset (section 2.1.2.1). Raises UsageError."""
    for encoding in ("latin-1", charset):
        try:
            return text.encode(encoding)
        except UnicodeEncodeError:
            pass
    raise UsageError("DIGEST-MD5: the server takes user and password in ISO 8859-1 only; name another mechanism")


def _md5(octets: bytes) -> bytes:
    return hashlib.md5(octets, usedforsecurity=False).digest()


def _hex(octets: bytes) -> bytes:
    return _md5(octets).hex().encode()
