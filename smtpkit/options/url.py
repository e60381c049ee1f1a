"""The URL of a server: its schemes, how it is read, and what is wrong with it; no error shows a piece of a password."""

import os
import re
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

from smtpkit.errors import UsageError
from smtpkit.options.kinds import Parameter, is_address, is_port, is_text, wrong

TLSMode = Literal["none", "opportunistic", "required", "implicit"]


class Scheme(NamedTuple):
    """What a URL's scheme says: the port (0: a unix socket), TLS (None: by the login), LMTP."""

    port: int
    tls: TLSMode | None = None
    lmtp: bool = False

    def default_tls(self, *, login: bool) -> TLSMode:
        """The TLS mode where none is given."""
        return self.tls or ("required" if login else "opportunistic")


SCHEMES = {
    "smtp": Scheme(25),
    "submission": Scheme(587, "required"),
    "smtps": Scheme(465, "implicit"),
    "submissions": Scheme(465, "implicit"),
    "lmtp": Scheme(24, lmtp=True),
    "lmtp+unix": Scheme(0, "none", lmtp=True),
}
_EXAMPLE = "submission://user:password@mail.example.com"
# RFC 3986 appendix B, cut where we need it. urlsplit() drops line ends silently and shows passwords in its errors.
URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(?:([^/?#]*)@)?([^/?#@]*)([^?#]*)(?:\?([^#]*))?(#.*)?")
_AUTHORITY = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::([^:]*))?")


def read_url(url: str | None, parameters: dict[str, Parameter]) -> tuple[Scheme, dict[str, Any]]:
    """The scheme, and the values by name, of a URL or else of SMTPKIT_URL. Raises UsageError."""
    if url is None and not (url := os.environ.get("SMTPKIT_URL")):
        raise UsageError(f"no server: give a url such as {_EXAMPLE}, or set SMTPKIT_URL in the environment")
    if not isinstance(url, str):
        raise UsageError(f"url must be a str such as {_EXAMPLE}, not {type(url).__name__}")
    if not is_text(url) or " " in url:
        raise UsageError("url has a space or control character, or is empty; in a password a space is %20")
    parts = URL.fullmatch(url)
    scheme = SCHEMES.get(parts[1].lower()) if parts else None
    if not parts or not scheme:
        raise UsageError(f"url must begin with one of {', '.join(f'{name}://' for name in SCHEMES)}; e.g. {_EXAMPLE}")
    _, login, authority, path, query, fragment = parts.groups()
    if fragment:
        raise UsageError("url has a '#', which ends it; in a password it is %23")
    values: dict[str, Any] = {}
    if login is not None:
        user, colon, password = login.partition(":")
        values["user"] = decode(user, "the user in the url") or None
        if colon:
            values["password"] = decode(password, "the password in the url")
    if not scheme.port:
        if authority:
            raise UsageError("a lmtp+unix url names a path and no host: lmtp+unix:///run/lmtp.sock (three slashes)")
        values["path"] = decode(path, "the path in the url")
    else:
        if path not in {"", "/"}:
            raise UsageError("url has a path, which means nothing here; in a password '/' is %2F")
        values["host"], values["port"] = read_authority(authority, scheme.port)
    return scheme, values | _read_query(query or "", parameters)


def read_authority(text: str, default_port: int, example: str = _EXAMPLE) -> tuple[str, int]:
    """The host and the port of ``host:port``. Raises UsageError."""
    parts = _AUTHORITY.fullmatch(text)
    if not parts:
        raise UsageError("url: the host must be a name or an IP address, IPv6 in brackets: smtp://[2001:db8::1]:25")
    literal, name, port = parts.groups()
    if literal is not None and (":" not in literal or not is_address(literal.replace("%25", "%"))):
        raise UsageError("url: in brackets there must be an IPv6 address")
    if not (host := decode(name, "the host in the url") if literal is None else literal.replace("%25", "%")):
        raise UsageError(f"url has no host; an example: {example}")
    if port and not (port.isascii() and port.isdigit() and len(port) <= 5 and is_port(int(port))):
        raise UsageError("url: the port must be a whole number from 1 to 65535; in a password ':' is %3A, '@' is %40")
    return host, int(port) if port else default_port


def authority(host: str) -> str:
    """A host as it stands in a URL."""
    return f"[{host.replace('%', '%25')}]" if ":" in host else host


def _read_query(query: str, parameters: dict[str, Parameter]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    known = {name: row for name, row in parameters.items() if row.kind.read}
    for pair in filter(None, query.split("&")):
        name, equals, text = pair.partition("=")
        if not name.isidentifier() or not equals:
            raise UsageError("url: what follows '?' must be name=value&name=value; in a password '?' is %3F")
        if name not in known:
            raise unknown(name, known, parameters)
        if name in values:
            raise UsageError(f"url: {name} is given twice")
        kind, text = known[name].kind, decode(text, f"{name} in the url")
        try:
            values[name] = kind.read(text) if kind.read else None
        except ValueError:
            raise wrong(name, kind, text) from None
    return values


def decode(text: str, what: str) -> str:
    """Percent-encoded text, decoded. Raises UsageError."""
    try:
        if not re.search(r"%(?![0-9A-Fa-f]{2})", text):
            return unquote(text, errors="strict")
    except UnicodeDecodeError:  # it holds the text: no cause, no context
        pass
    raise UsageError(f"{what} is not percent-encoded UTF-8; a percent sign is %25")


def unknown(name: str, known: dict[str, Parameter], parameters: dict[str, Parameter]) -> UsageError:
    """The error for a name that is none of the ``known``; ``parameters`` are all there are."""
    from difflib import get_close_matches

    if name in parameters:
        hint = "give it as a keyword, not in the url; "
    else:
        hint = "".join(f"did you mean {close}? " for close in get_close_matches(name, known, 1))
    return UsageError(f"there is no option {name!r} here; {hint}known: {', '.join(known)}")
