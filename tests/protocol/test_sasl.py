"""SASL mechanisms: what each says, octet for octet, and which is chosen."""

import pytest

from smtpkit.protocol.mechanism import Identity
from smtpkit.protocol.sasl import MECHANISMS, Proof, choose

ANN = Identity(user="ann", password="secret", host="mail.example", port=587)
TOKEN = Identity(user="ann@example.com", token="ya29.x", host="mail.example", port=587)


def said(name: str, who: Identity, *challenges: bytes) -> list[object]:
    """All that a mechanism says to these challenges; it is asked once more than it may answer."""
    mechanism = MECHANISMS[name].mechanism(who)
    responses: list[object] = [next(mechanism)]
    for challenge in challenges:
        try:
            responses.append(mechanism.send(challenge))
        except StopIteration:
            break
    return responses


EXCHANGES: list[tuple[str, Identity, list[bytes | None]]] = [
    ("PLAIN", ANN, [b"\0ann\0secret"]),
    ("PLAIN", Identity(user="ann", password="secret", authzid="bob"), [b"bob\0ann\0secret"]),
    ("PLAIN", Identity(user="änn", password="pässwörd"), ["\0änn\0pässwörd".encode()]),
    ("PLAIN", Identity(user="ann"), [b"\0ann\0"]),
    ("LOGIN", ANN, [None, b"ann", b"secret"]),
    ("LOGIN", Identity(user="ann"), [None, b"ann", b""]),
    ("XOAUTH2", TOKEN, [b"user=ann@example.com\1auth=Bearer ya29.x\1\1", b""]),
    (
        "OAUTHBEARER",
        TOKEN,
        [b"n,a=ann@example.com,\1host=mail.example\1port=587\1auth=Bearer ya29.x\1\1", b"\1"],
    ),
    ("OAUTHBEARER", Identity(token="t", host="h"), [b"n,,\1host=h\1auth=Bearer t\1\1", b"\1"]),
    ("EXTERNAL", Identity(), [b""]),
    ("EXTERNAL", Identity(authzid="bob"), [b"bob"]),
    ("ANONYMOUS", Identity(), [b""]),
    ("ANONYMOUS", Identity(user="sirhc"), [b"sirhc"]),
    (
        "OAUTHBEARER",
        Identity(user="ann", authzid="b=o,b", token="t", host="h"),
        [b"n,a=b=3Do=2Cb,\1host=h\1auth=Bearer t\1\1", b"\1"],
    ),
]


@pytest.mark.parametrize(("name", "who", "responses"), EXCHANGES)
def test_exchange(name: str, who: Identity, responses: list[bytes | None]) -> None:
    """Each mechanism says what its document has, in order, whatever the challenges say, and then no more."""
    assert said(name, who, *[b"User Name\0"] * 5) == responses


def test_cram_md5() -> None:
    """CRAM-MD5 answers the example of RFC 2195 section 2."""
    challenge = b"<1896.697170952@postoffice.reston.mci.net>"
    tim = Identity(user="tim", password="tanstaaftanstaaf")
    assert said("CRAM-MD5", tim, challenge, b"") == [None, b"tim b913a602c7eda7a495b4e6e7334d3890"]


SCRAMS = ("SCRAM-SHA-1", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-512", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256")
STRONG = ("SCRAM-SHA-512", "SCRAM-SHA-256", "SCRAM-SHA-1")
BY_NAME = ("CRAM-MD5", "DIGEST-MD5", "NTLM", "GSSAPI", "EXTERNAL", "ANONYMOUS")
CHOICES: list[tuple[tuple[str, ...], Proof, str | None, tuple[str, ...]]] = [
    (("LOGIN", "PLAIN"), "password", None, ("PLAIN", "LOGIN")),
    (("PLAIN", *SCRAMS, "LOGIN"), "password", None, (*STRONG, "PLAIN", "LOGIN")),
    (("SCRAM-SHA-1-PLUS",), "password", "SCRAM-SHA-1-PLUS", ()),
    ((*BY_NAME, "LOGIN"), "password", None, ("LOGIN",)),
    (BY_NAME, "password", None, ()),
    (BY_NAME, "none", None, ()),
    (("CRAM-MD5", "PLAIN"), "password", "cram-md5", ("CRAM-MD5",)),
    (("DIGEST-MD5", "PLAIN"), "password", "DIGEST-MD5", ("DIGEST-MD5",)),
    (("PLAIN",), "password", "LOGIN", ()),
    (("PLAIN", "LOGIN"), "password", "login", ("LOGIN",)),
    (("KERBEROS_V4", "SRP"), "password", None, ()),
    (("SRP", "PLAIN"), "password", "SRP", ()),
    (("GSSAPI", "PLAIN"), "password", "GSSAPI", ("GSSAPI",)),
    (("GSSAPI", "PLAIN"), "none", "GSSAPI", ("GSSAPI",)),
    (("EXTERNAL", "PLAIN"), "none", "external", ("EXTERNAL",)),
    (("ANONYMOUS",), "none", "ANONYMOUS", ("ANONYMOUS",)),
    (("PLAIN",), "none", "PLAIN", ()),
    (("XOAUTH2", "OAUTHBEARER", "PLAIN", *SCRAMS), "token", None, ("OAUTHBEARER", "XOAUTH2")),
    (("XOAUTH2", "PLAIN"), "password", None, ("PLAIN",)),
    (("PLAIN",), "token", None, ()),
    (("PLAIN", "XOAUTH2"), "token", "PLAIN", ()),
    (("PLAIN", "XOAUTH2"), "password", "XOAUTH2", ()),
    ((), "password", None, ()),
]


@pytest.mark.parametrize(("offered", "proof", "named", "chosen"), CHOICES)
def test_choice(offered: tuple[str, ...], proof: Proof, named: str | None, chosen: tuple[str, ...]) -> None:
    """The best first of those offered that fit what the caller has; one that is weak, or not known here, never."""
    assert choose(offered, proof=proof, named=named) == chosen


def test_choice_with_a_channel_binding() -> None:
    """Where there is a binding, the mechanisms that bind come before all others, the strongest first."""
    assert choose(SCRAMS, proof="password", named=None, bindable=True) == (
        "SCRAM-SHA-256-PLUS",
        "SCRAM-SHA-1-PLUS",
        *STRONG,
    )
    assert choose(SCRAMS, proof="password", named="scram-sha-1-plus", bindable=True) == ("SCRAM-SHA-1-PLUS",)


def test_identity_is_never_shown() -> None:
    """No text of who logs in is in a repr."""
    assert "secret" not in repr(ANN)
    assert "ya29" not in f"{TOKEN}"
