"""SASL mechanisms as generators: they yield responses and are sent challenges, both decoded.

The first value yielded is the initial response; ``None`` means that the server speaks first. A generator that returns
has no more to say. Challenges are answered by their order, never by their text. A mechanism knows nothing of SMTP.
"""

import hmac
from collections.abc import Callable, Generator
from dataclasses import dataclass

Mechanism = Generator[bytes | None, bytes, None]


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """Who logs in: user, password or token, and whom to act as. All text; never shown."""

    user: str = ""
    password: str | None = None
    token: str | None = None
    authzid: str = ""
    host: str = ""
    port: int | None = None


def plain(who: Identity) -> Mechanism:
    """PLAIN (RFC 4616)."""
    yield f"{who.authzid}\0{who.user}\0{who.password or ''}".encode()


def login(who: Identity) -> Mechanism:
    """LOGIN (draft-murchison-sasl-login): user and password, in the order asked."""
    yield None
    yield who.user.encode()
    yield (who.password or "").encode()


def cram_md5(who: Identity) -> Mechanism:
    """CRAM-MD5 (RFC 2195)."""
    challenge = yield None
    digest = hmac.new((who.password or "").encode(), challenge, "md5").hexdigest()
    yield f"{who.user} {digest}".encode()


def xoauth2(who: Identity) -> Mechanism:
    """XOAUTH2, as Google and Microsoft document it; an error challenge is answered with nothing."""
    yield f"user={who.user}\1auth=Bearer {who.token}\1\1".encode()
    yield b""


def oauthbearer(who: Identity) -> Mechanism:
    """OAUTHBEARER (RFC 7628); an error challenge is answered with ^A (section 3.2.3)."""
    name = (who.authzid or who.user).replace("=", "=3D").replace(",", "=2C")
    port = f"\1port={who.port}" if who.port else ""
    yield f"n,{f'a={name}' if name else ''},\1host={who.host}{port}\1auth=Bearer {who.token}\1\1".encode()
    yield b"\1"


@dataclass(frozen=True, slots=True)
class Row:
    """One mechanism: its generator, whether it proves a password or a token, and whether it shows the secret."""

    mechanism: Callable[[Identity], Mechanism]
    by_token: bool
    plaintext: bool
    by_name_only: bool = False


# In order of preference.
MECHANISMS = {
    "OAUTHBEARER": Row(oauthbearer, by_token=True, plaintext=True),
    "XOAUTH2": Row(xoauth2, by_token=True, plaintext=True),
    "PLAIN": Row(plain, by_token=False, plaintext=True),
    "LOGIN": Row(login, by_token=False, plaintext=True),
    "CRAM-MD5": Row(cram_md5, by_token=False, plaintext=False, by_name_only=True),
}


def choose(offered: tuple[str, ...], *, token: bool, named: str | None) -> tuple[str, ...]:
    """The mechanisms to try, best first: those offered that fit what the caller has, or of them the one named."""
    fitting = [name for name, row in MECHANISMS.items() if name in offered and row.by_token == token]
    if named is not None:
        return tuple(name for name in fitting if name == named.upper())
    return tuple(name for name in fitting if not MECHANISMS[name].by_name_only)
