"""The SASL mechanisms there are, which of them fit, and those of a few lines; ``mechanism`` says how they are used."""

import hmac
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from smtpkit.protocol.digest_md5 import digest_md5
from smtpkit.protocol.mechanism import Identity, Mechanism
from smtpkit.protocol.negotiated import gssapi, ntlm
from smtpkit.protocol.scram import scram

Proof = Literal["password", "token", "none"]  # what a caller has, or a mechanism needs
_Responses = Generator[bytes | None, bytes, None]


def plain(who: Identity) -> _Responses:
    """PLAIN (RFC 4616)."""
    yield f"{who.authzid}\0{who.user}\0{who.password or ''}".encode()


def login(who: Identity) -> _Responses:
    """LOGIN (draft-murchison-sasl-login): user and password, in the order asked."""
    yield None
    yield who.user.encode()
    yield (who.password or "").encode()


def cram_md5(who: Identity) -> _Responses:
    """CRAM-MD5 (RFC 2195)."""
    challenge = yield None
    digest = hmac.new((who.password or "").encode(), challenge, "md5").hexdigest()
    yield f"{who.user} {digest}".encode()


def xoauth2(who: Identity) -> _Responses:
    """XOAUTH2, as Google and Microsoft document it; an error challenge is answered with nothing."""
    yield f"user={who.user}\1auth=Bearer {who.token}\1\1".encode()
    yield b""


def oauthbearer(who: Identity) -> _Responses:
    """OAUTHBEARER (RFC 7628); an error challenge is answered with ^A (section 3.2.3)."""
    name = (who.authzid or who.user).replace("=", "=3D").replace(",", "=2C")
    port = f"\1port={who.port}" if who.port else ""
    yield f"n,{f'a={name}' if name else ''},\1host={who.host}{port}\1auth=Bearer {who.token}\1\1".encode()
    yield b"\1"


def external(who: Identity) -> _Responses:
    """EXTERNAL (RFC 4422 appendix A): the server knows who we are, by the certificate we showed."""
    yield who.authzid.encode()


def anonymous(who: Identity) -> _Responses:
    """ANONYMOUS (RFC 4505); the user is no more than a trace, such as an address to complain to."""
    yield who.user.encode()


@dataclass(frozen=True, slots=True)
class Row:
    """One mechanism: its generator, what it needs of its caller, and when it may be used.

    ``mutual``: it must have ended when the server says yes, since it waits for the server's proof. ``bound``: it needs
    a channel binding. ``by_name_only``: never chosen, only named.
    """

    mechanism: Callable[[Identity], Mechanism]
    needs: Proof = "password"
    mutual: bool = False
    bound: bool = False
    by_name_only: bool = False


def _scram(digest: str, *, plus: bool = False) -> Row:
    return Row(partial(scram, digest, plus=plus), mutual=True, bound=plus)


# In order of preference.
MECHANISMS = {
    "SCRAM-SHA-512-PLUS": _scram("sha512", plus=True),
    "SCRAM-SHA-256-PLUS": _scram("sha256", plus=True),
    "SCRAM-SHA-1-PLUS": _scram("sha1", plus=True),
    "SCRAM-SHA-512": _scram("sha512"),
    "SCRAM-SHA-256": _scram("sha256"),
    "SCRAM-SHA-1": _scram("sha1"),
    "OAUTHBEARER": Row(oauthbearer, "token"),
    "XOAUTH2": Row(xoauth2, "token"),
    "PLAIN": Row(plain),
    "LOGIN": Row(login),
    "CRAM-MD5": Row(cram_md5, by_name_only=True),
    "DIGEST-MD5": Row(digest_md5, mutual=True, by_name_only=True),
    "NTLM": Row(ntlm, by_name_only=True),
    "GSSAPI": Row(gssapi, "none", mutual=True, by_name_only=True),
    "EXTERNAL": Row(external, "none", by_name_only=True),
    "ANONYMOUS": Row(anonymous, "none", by_name_only=True),
}


def choose(offered: tuple[str, ...], *, proof: Proof, named: str | None, bindable: bool = False) -> tuple[str, ...]:
    """The mechanisms to try, best first: those offered that fit what the caller has, or of them the one named.

    ``bindable``: there is a channel binding.
    """
    fitting = {
        name: row
        for name, row in MECHANISMS.items()
        if name in offered and row.needs in (proof, "none") and bindable >= row.bound
    }
    if named is not None:
        return tuple(name for name in fitting if name == named.upper())
    return tuple(name for name, row in fitting.items() if not row.by_name_only)
