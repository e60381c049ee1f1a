"""DIGEST-MD5: the examples of RFC 2831, and every way in which a server can be wrong."""

import base64
import hashlib

import pytest

from smtpkit.errors import AuthenticationRefused, ProtocolViolation, UsageError
from smtpkit.protocol.digest_md5 import digest_md5
from smtpkit.protocol.mechanism import Identity
from smtpkit.protocol.procedures import authenticate
from tests.driver import drive

CHRIS = Identity(user="chris", password="secret", host="elwood.innosoft.com", service="imap", nonce="OA6MHXh6VqTrRk")
CHALLENGE = (
    'realm="elwood.innosoft.com",nonce="OA6MG9tEQGm2hh",qop="auth",algorithm=md5-sess,charset=utf-8'  # section 4
)
PROOF = "rspauth=ea40f60335c427b5527b84dbabcdfffd"


def b64(text: str) -> str:
    """Base64, as it stands on the wire."""
    return base64.b64encode(text.encode()).decode()


def answer(who: Identity, challenge: str | bytes) -> bytes:
    """What is said to a challenge."""
    mechanism = digest_md5(who)
    assert next(mechanism) is None
    said = mechanism.send(challenge.encode() if isinstance(challenge, str) else challenge)
    assert isinstance(said, bytes)
    return said


def test_example() -> None:
    """The example of RFC 2831 section 4, and the empty response to the server's proof."""
    talk = drive(authenticate("DIGEST-MD5", CHRIS), f"334 {b64(CHALLENGE)}", f"334 {b64(PROOF)}", "235 ok")
    assert talk.of is None
    assert talk.said[::2] == ["AUTH DIGEST-MD5", ""]
    assert base64.b64decode(talk.said[1]).decode().split(",") == [
        'username="chris"',
        'realm="elwood.innosoft.com"',
        'nonce="OA6MG9tEQGm2hh"',
        'cnonce="OA6MHXh6VqTrRk"',
        'digest-uri="imap/elwood.innosoft.com"',
        "nc=00000001",
        "qop=auth",
        "response=d388dad90d4bbd760a152321f2143af7",
        "charset=utf-8",
    ]


def test_second_example() -> None:
    """The ACAP example of the same section, where the service has another name."""
    who = Identity(user="chris", password="secret", host="elwood.innosoft.com", service="acap", nonce="OA9BSuZWMSpW8m")
    said = answer(who, 'realm="elwood.innosoft.com",nonce="OA9BSXrbuRhWay",qop="auth",algorithm=md5-sess,charset=utf-8')
    assert b"response=6084c6db3fede7352c551284490fd0fc" in said


@pytest.mark.parametrize(
    "last", ["334 " + b64("rspauth=ea40f60335c427b5527b84dbabcdfffe"), "334 " + b64("x=y"), "334 ", "334 eA=="]
)
def test_wrong_proof(last: str) -> None:
    """A server that does not prove that it knows the password is given up."""
    talk = drive(authenticate("DIGEST-MD5", CHRIS), f"334 {b64(CHALLENGE)}", last, "235 ok")
    assert type(talk.error) is ProtocolViolation
    assert talk.said[-1] == "*"


@pytest.mark.parametrize("challenges", [[], [f"334 {b64(CHALLENGE)}"]])
@pytest.mark.parametrize("yes", ["235 ok", "235 eA=="])
def test_yes_without_proof(challenges: list[str], yes: str) -> None:
    """235 before the proof is no login."""
    talk = drive(authenticate("DIGEST-MD5", CHRIS), *challenges, yes)
    assert type(talk.error) is ProtocolViolation


def test_refused() -> None:
    """A refusal is a refusal."""
    talk = drive(authenticate("DIGEST-MD5", CHRIS), f"334 {b64(CHALLENGE)}", "535 5.7.8 no")
    assert isinstance(talk.of, AuthenticationRefused)


GOOD = 'nonce="n",algorithm=md5-sess'
WRONG = {
    "no nonce": "algorithm=md5-sess",
    "two nonces": f'{GOOD},nonce="m"',
    "no algorithm": 'nonce="n"',
    "another algorithm": 'nonce="n",algorithm=md5',
    "two algorithms": f"{GOOD},algorithm=md5-sess",
    "a layer is a must": f'{GOOD},qop="auth-int,auth-conf"',
    "no list": "hello there",
    "an open quote": 'nonce="n,algorithm=md5-sess',
    "two values": 'nonce="n" "m",algorithm=md5-sess',
    "nothing": "",
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_challenge(case: str) -> None:
    """A challenge that is wrong is given up with ``*``: no digest of the password leaves."""
    talk = drive(authenticate("DIGEST-MD5", CHRIS), f"334 {b64(WRONG[case])}", "501 x")
    assert type(talk.error) is ProtocolViolation
    assert talk.said == ["AUTH DIGEST-MD5", "*"]


@pytest.mark.parametrize(
    "challenge",
    [GOOD, f" , {GOOD} ,, ", f'{GOOD},qop="auth-conf, AUTH"', f"{GOOD},stale=true", GOOD.replace("=", " = ")],
)
def test_lenient_reading(challenge: str) -> None:
    """White space, empty elements, other directives and other layers beside ``auth`` are no matter."""
    assert b"response=" in answer(CHRIS, challenge)


REALMS = [
    ("ann", "", b'username="ann",nonce'),
    ("ann", ',realm="a"', b'username="ann",realm="a",'),
    ("ann", ',realm="a",realm="b"', b'username="ann",realm="a",'),
    ("ann@b", ',realm="a",realm="b"', b'username="ann",realm="b",'),
    ("ann@c", ',realm="a",realm="b"', b'username="ann@c",realm="a",'),
    ("@b", ',realm="b"', b'username="@b",realm="b",'),
    ("ann@b", "", b'username="ann@b",nonce'),
]


@pytest.mark.parametrize(("user", "realms", "said"), REALMS)
def test_realm(user: str, realms: str, said: bytes) -> None:
    """The realm is the user's domain where the server has it, else the server's first, else none."""
    assert answer(Identity(user=user, password="p", nonce="c"), GOOD + realms).startswith(said)


def test_quotes() -> None:
    """Quotes and backslashes are escaped, and understood where the server has them."""
    said = answer(Identity(user='a"n\\n', password="p", nonce="c"), 'nonce="n\\"1",algorithm=md5-sess')
    assert said.startswith(rb'username="a\"n\\n",nonce="n\"1",')


def test_authzid() -> None:
    """Whom to act as is said and part of the digest; left out where nobody is named."""
    with_it = answer(Identity(user="ann", password="p", nonce="c", authzid="bob"), GOOD)
    without = answer(Identity(user="ann", password="p", nonce="c"), GOOD)
    assert b'authzid="bob"' in with_it
    assert b"authzid" not in without
    assert with_it.partition(b"response=")[2] != without.partition(b"response=")[2]


def _response(user: bytes, realm: bytes, password: bytes) -> bytes:
    def md5(octets: bytes) -> bytes:
        return hashlib.md5(octets).digest()

    key = md5(md5(user + b":" + realm + b":" + password) + b":n:c").hex().encode()
    behind = md5(b"AUTHENTICATE:smtp/h").hex().encode()
    return md5(key + b":n:00000001:c:auth:" + behind).hex().encode()


def test_charsets() -> None:
    """What ISO 8859-1 can say is hashed in it, and the rest in UTF-8 where the server knows it (section 2.1.2.1)."""
    who = Identity(user="änn", password="pässwörd", host="h", nonce="c")
    with_utf8 = answer(who, f'{GOOD},charset=utf-8,realm="ö"')
    assert 'username="änn",realm="ö"'.encode() in with_utf8
    expected = _response("änn".encode("latin-1"), b"\xf6", "pässwörd".encode("latin-1"))
    assert b"response=" + expected in with_utf8
    without = answer(who, GOOD.encode() + b',realm="\xf6"')
    assert 'username="änn",realm="ö"'.encode("latin-1") in without
    assert b"response=" + expected in without
    who = Identity(user="ann", password="пароль", host="h", nonce="c")
    assert b"response=" + _response(b"ann", b"", "пароль".encode()) in answer(who, f"{GOOD},charset=utf-8")


def test_charset_too_small() -> None:
    """What a server without UTF-8 cannot be told is the caller's mistake, said without the password."""
    for who in (Identity(user="ann", password="пароль"), Identity(user="аня", password="secret")):
        with pytest.raises(UsageError) as caught:
            answer(who, GOOD)
        assert "пароль" not in str(caught.value)
        assert caught.value.__context__ is None
