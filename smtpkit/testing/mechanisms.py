"""The server's half of AUTH: mechanisms are generators that yield challenges, are sent responses, return the user.

A mechanism is called with the script and the initial response (None without one). It returns the name of the user, or
None if the client is not who it says it is. Responses and challenges are decoded.
"""

import base64
import hmac
import re
import secrets
from collections.abc import Callable, Generator

from smtpkit.testing.script import Script

Mechanism = Callable[[Script, bytes | None], Generator[bytes, bytes, str | None]]


def _user(script: Script, name: bytes, password: bytes) -> str | None:
    user = name.decode(errors="replace")
    known = script.users.get(user)
    return user if known is not None and hmac.compare_digest(known.encode(), password) else None


def plain(script: Script, initial: bytes | None) -> Generator[bytes, bytes, str | None]:
    """RFC 4616. Nobody may act for somebody else."""
    response = (yield b"") if initial is None else initial
    parts = response.split(b"\0")
    if len(parts) != 3 or parts[0] not in (b"", parts[1]):
        return None
    return _user(script, parts[1], parts[2])


def login(script: Script, initial: bytes | None) -> Generator[bytes, bytes, str | None]:
    """draft-murchison-sasl-login."""
    name = (yield b"Username:") if initial is None else initial
    password = yield b"Password:"
    return _user(script, name, password)


def cram_md5(script: Script, initial: bytes | None) -> Generator[bytes, bytes, str | None]:
    """RFC 2195. The server speaks first, so an initial response is a failure."""
    if initial is not None:
        return None
    challenge = f"<{secrets.token_hex(8)}@smtpkit.test>".encode()
    response = yield challenge
    name, _, digest = response.rpartition(b" ")
    user = name.decode(errors="replace")
    known = script.users.get(user)
    if known is None:
        return None
    expected = hmac.new(known.encode(), challenge, "md5").hexdigest()
    return user if hmac.compare_digest(expected.encode(), digest) else None


def _bearer(script: Script, name: bytes, token: bytes) -> str | None:
    user = name.decode(errors="replace")
    known = script.tokens.get(user)
    return user if known is not None and hmac.compare_digest(known.encode(), token) else None


def xoauth2(script: Script, initial: bytes | None) -> Generator[bytes, bytes, str | None]:
    """Google's and Microsoft's XOAUTH2; a wrong token is told in a challenge, answered by an empty line."""
    response = (yield b"") if initial is None else initial
    found = re.fullmatch(rb"user=([^\x01]*)\x01auth=Bearer ([^\x01]*)\x01\x01", response)
    user = _bearer(script, found[1], found[2]) if found else None
    if user is None:
        yield b'{"status":"401","schemes":"bearer","scope":"https://mail.smtpkit.test/"}'
    return user


def oauthbearer(script: Script, initial: bytes | None) -> Generator[bytes, bytes, str | None]:
    """RFC 7628; a wrong token is told in a challenge, answered by one octet 01."""
    response = (yield b"") if initial is None else initial
    found = re.fullmatch(
        rb"n,a=([^,]*),\x01(?:[^\x01]+\x01)*?auth=Bearer ([^\x01]*)\x01(?:[^\x01]+\x01)*\x01", response
    )
    user = None
    if found:
        name = found[1].replace(b"=2C", b",").replace(b"=3D", b"=")
        user = _bearer(script, name, found[2])
    if user is None:
        yield b'{"status":"invalid_token","scope":"mail"}'
    return user


MECHANISMS: dict[str, Mechanism] = {
    "PLAIN": plain,
    "LOGIN": login,
    "CRAM-MD5": cram_md5,
    "XOAUTH2": xoauth2,
    "OAUTHBEARER": oauthbearer,
}


class Exchange:
    """One AUTH exchange (RFC 4954): base64 in, replies out. ``user`` is who the client has shown to be ("": nobody)."""

    __slots__ = ("_script", "_steps", "user")

    def __init__(self, script: Script) -> None:
        self.user = ""
        self._script = script
        self._steps: Generator[bytes, bytes, str | None] | None = None

    def begin(self, name: str, initial: str | None) -> str:
        """The reply to AUTH with this mechanism and initial response ("=" is an empty one)."""
        try:
            response = None if initial is None else _decode("" if initial == "=" else initial)
        except ValueError:
            return "501 5.5.2 not base64"
        self._steps = MECHANISMS[name](self._script, response)
        return self._advance(None)

    def respond(self, text: str) -> str:
        """The reply to a response; ``*`` gives up."""
        if text == "*":
            return "501 5.7.0 given up"
        try:
            return self._advance(_decode(text))
        except ValueError:
            return "501 5.5.2 not base64"

    def _advance(self, response: bytes | None) -> str:
        if self._steps is None:  # only a script asks for more than the mechanism needs
            return "535 5.7.8 not accepted"
        try:
            challenge = next(self._steps) if response is None else self._steps.send(response)
        except StopIteration as end:
            self._steps = None
            self.user = end.value or ""
            return "235 2.7.0 welcome" if end.value else "535 5.7.8 not accepted"
        return f"334 {base64.b64encode(challenge).decode()}"


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
