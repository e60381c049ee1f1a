"""SCRAM (RFC 5802, RFC 7677): neither side shows the password, and the server proves that it knows it too."""

import base64
import hashlib
import hmac
import re
from collections.abc import Generator

from smtpkit.errors import ProtocolViolation, UsageError
from smtpkit.protocol.mechanism import Identity, Mechanism
from smtpkit.protocol.steps import Run

# Fewer make guessing cheap (RFC 7677 section 4); more keep our processor busy for a stranger.
FEWEST, MOST = 4096, 600_000
SHORTEST_SALT = 8  # octets (RFC 8018 section 4.1)

_MORE = rb"(?:,[A-Za-z]=[^,\x00]+)*"  # extensions that may be ignored; a mandatory one (m=) comes first, and fails
_SERVER_FIRST = re.compile(rb"r=([!-+\--~]+),s=([A-Za-z0-9+/=]+),i=([1-9][0-9]{0,9})" + _MORE)
_SERVER_FINAL = re.compile(rb"v=([A-Za-z0-9+/=]+)" + _MORE)


def scram(digest: str, who: Identity, *, plus: bool = False) -> Mechanism:
    """SCRAM with the hash function that hashlib calls ``digest``; ``plus`` binds it to the TLS it goes through."""
    bound = b""
    if plus:
        assert who.binding is not None
        flag, bound = f"p={who.binding.kind}", who.binding.octets
    else:
        flag = "n" if who.binding is None else "y"  # y: I could, but you seem not to (section 6)
    authzid = f"a={_escaped(who.authzid)}" if who.authzid else ""
    header = f"{flag},{authzid},"
    password = saslprep(who.password or "", "password").encode()
    bare = f"n={_escaped(saslprep(who.user, 'user'))},r={who.nonce}"
    challenge = yield f"{header}{bare}".encode()
    first = yield from _unless_refused(challenge)
    nonce, salt, iterations = _read_first(first, who.nonce)
    salted: bytes = yield Run(lambda: hashlib.pbkdf2_hmac(digest, password, salt, iterations))
    final = b"c=" + base64.b64encode(header.encode() + bound) + b",r=" + nonce
    said = b",".join((bare.encode(), first, final))
    client_key = hmac.digest(salted, b"Client Key", digest)
    signature = hmac.digest(hashlib.new(digest, client_key).digest(), said, digest)
    proof = bytes(one ^ other for one, other in zip(client_key, signature, strict=True))
    challenge = yield final + b",p=" + base64.b64encode(proof)
    last = yield from _unless_refused(challenge)
    found = _SERVER_FINAL.fullmatch(last)
    expected = hmac.digest(hmac.digest(salted, b"Server Key", digest), said, digest)
    if not (found and hmac.compare_digest(_decoded(found[1]), expected)):
        raise ProtocolViolation("SCRAM: the server's signature is wrong: it does not know the password")
    return b""


def _unless_refused(challenge: bytes | None) -> Generator[bytes, None, bytes]:
    """The challenge, unless it is an error (``e=``): that has an empty response, and the refusal follows."""
    if challenge is None:
        raise ProtocolViolation("SCRAM: the server says yes and has not proved that it knows the password")
    if challenge.startswith(b"e="):
        yield b""
        raise ProtocolViolation("SCRAM: the server goes on after it has told an error")
    return challenge


def _read_first(first: bytes, nonce: str) -> tuple[bytes, bytes, int]:
    """Nonce, salt and iterations of the server's first message. Raises ProtocolViolation."""
    found = _SERVER_FIRST.fullmatch(first)
    if not found:
        raise ProtocolViolation("SCRAM: the server's first message is malformed, or asks for an unknown extension")
    salt, iterations = _decoded(found[2]), int(found[3])
    if not found[1].startswith(nonce.encode()) or len(found[1]) == len(nonce):
        raise ProtocolViolation("SCRAM: the server does not extend the nonce it was given")
    if len(salt) < SHORTEST_SALT:
        raise ProtocolViolation(f"SCRAM: the server's salt is not base64 of {SHORTEST_SALT} octets or more")
    if not FEWEST <= iterations <= MOST:
        raise ProtocolViolation(f"SCRAM: the server wants {iterations} iterations; {FEWEST} to {MOST} are right")
    return found[1], salt, iterations


def _decoded(text: bytes) -> bytes:
    """The octets that a base64 text stands for; none where it is malformed."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""


def _escaped(name: str) -> str:
    """A name as ``saslname`` (section 5.1)."""
    return name.replace("=", "=3D").replace(",", "=2C")


def saslprep(text: str, what: str) -> str:
    """SASLprep for a query (RFC 4013): the same name in one form. Raises UsageError, which shows nothing of it."""
    if text and text.isascii() and text.isprintable():
        return text
    import stringprep
    from unicodedata import ucd_3_2_0

    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char for char in text if not stringprep.in_table_b1(char)
    )
    prepared = ucd_3_2_0.normalize("NFKC", mapped)
    prohibited = (
        *(stringprep.in_table_c12, stringprep.in_table_c21_c22, stringprep.in_table_c3, stringprep.in_table_c4),
        *(stringprep.in_table_c5, stringprep.in_table_c6, stringprep.in_table_c7, stringprep.in_table_c8),
        stringprep.in_table_c9,
    )
    right_to_left = [stringprep.in_table_d1(char) for char in prepared]
    mixed = any(right_to_left) and not (
        right_to_left[0] and right_to_left[-1] and not any(stringprep.in_table_d2(char) for char in prepared)
    )
    if not prepared or mixed or any(table(char) for table in prohibited for char in prepared):
        raise UsageError(f"the {what} is empty or has characters that SCRAM does not allow (RFC 4013)")
    return prepared
