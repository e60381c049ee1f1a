"""The value that says which proxy to go through."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import quote

from smtpkit.errors import UsageError
from smtpkit.options.kinds import CONTEXT, FIELDS, HOST, PORT, SECRET, USER, Kind, Secret, check, choice, is_text, row
from smtpkit.options.url import URL, authority, decode, read_authority

if TYPE_CHECKING:
    from ssl import SSLContext

ProxyScheme = Literal["socks4", "socks4a", "socks5", "socks5h", "http", "https"]
PROXY_PORTS = {"socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080, "http": 8080, "https": 443}
_EXAMPLE = "socks5h://user:password@proxy.example.com:1080"


@dataclass(frozen=True, slots=True, repr=False)
class Proxy:
    """A way to the server through another machine; nothing else is tried if it fails. Raises UsageError.

    ============= ===== ==================================================================
    ``socks4``     1080 the server's name is resolved here, to IPv4; a user, no password
    ``socks4a``    1080 the proxy resolves it; a user, no password
    ``socks5``     1080 it is resolved here
    ``socks5h``    1080 the proxy resolves it
    ``http``       8080 CONNECT; the proxy resolves it
    ``https``       443 the same, and TLS with the proxy before anything is said
    ============= ===== ==================================================================

    ``headers`` are sent with CONNECT. TLS with an ``https`` proxy is always verified, by ``ssl_context`` or the
    system's trust, and has nothing to do with the TLS with the server.
    """

    scheme: ProxyScheme = field(metadata=row(choice(ProxyScheme), "how the proxy is spoken to"))
    host: str = field(metadata=row(HOST, "the proxy"))
    port: int = field(metadata=row(PORT, "the proxy's port"))
    user: str | None = field(default=None, metadata=row(USER, "who logs in at the proxy"))
    password: Secret | None = field(default=None, metadata=row(SECRET, "that user's password"))
    headers: tuple[str, ...] = field(default=(), metadata=row(FIELDS, "header lines for CONNECT"))
    ssl_context: "SSLContext | None" = field(default=None, metadata=row(CONTEXT, "instead of the system's trust"))

    def __post_init__(self) -> None:
        try:
            check(self)
        except UsageError as error:
            raise UsageError(f"proxy: {error}") from None
        login = (self.user or "", self.password.reveal() if self.password else "")
        names = {line.partition(":")[0].lower() for line in self.headers}
        if self.password and not self.user:
            raise UsageError("proxy: password needs a user")
        if self.scheme.startswith("socks"):
            if self.headers:
                raise UsageError("proxy: headers mean nothing to SOCKS; they need an http or https proxy")
            if self.password and self.scheme.startswith("socks4"):
                raise UsageError("proxy: SOCKS4 knows a user and no password; use socks5 or socks5h")
            if not all(len(text) <= 255 and text.isascii() for text in login):
                raise UsageError("proxy: SOCKS takes a user and a password of at most 255 ASCII characters each")
        elif ":" in login[0]:
            raise UsageError("proxy: the user must have no ':', which Basic authentication cannot say (RFC 7617)")
        if self.ssl_context and self.scheme != "https":
            raise UsageError("proxy: ssl_context is for TLS with an https proxy; the server's is an option of its own")
        if names & {"host", "content-length", "transfer-encoding"}:
            raise UsageError("proxy: headers must not hold Host, Content-Length or Transfer-Encoding")
        if self.user and "proxy-authorization" in names:
            raise UsageError("proxy: user and a Proxy-Authorization header exclude each other")

    @classmethod
    def of(cls, url: str, *, headers: tuple[str, ...] = (), ssl_context: "SSLContext | None" = None) -> Self:
        """The proxy that a URL says, with user and password percent-encoded: ``socks5h://user:password@host:1080``."""
        if not isinstance(url, str):
            raise UsageError(f"proxy must be {PROXY.wanted}, not {type(url).__name__}")
        parts = URL.fullmatch(url) if is_text(url) and " " not in url else None
        scheme = parts[1].lower() if parts else ""
        if not parts or scheme not in PROXY_PORTS or parts[4] not in {"", "/"} or parts[5] or parts[6]:
            raise UsageError(
                f"proxy must be a URL such as {_EXAMPLE}, by one of {', '.join(PROXY_PORTS)}; in a password "
                "'/' is %2F, '?' is %3F, '#' is %23, '@' is %40, a space %20"
            )
        try:
            user, _, password = (parts[2] or "").partition(":")
            host, port = read_authority(parts[3], PROXY_PORTS[scheme], _EXAMPLE)
            user, password = decode(user, "the user in the url"), decode(password, "the password in the url")
        except UsageError as error:
            raise UsageError(f"proxy: {error}") from None
        secret = Secret(password) if password else None
        return cls(scheme, host, port, user or None, secret, headers, ssl_context)  # type: ignore[arg-type]  # checked

    def __str__(self) -> str:
        """The URL with the password masked, for people and logs."""
        login = f"{quote(self.user, safe='')}{':***' if self.password else ''}@" if self.user else ""
        return f"{self.scheme}://{login}{authority(self.host)}:{self.port}"

    def __repr__(self) -> str:
        names = [line.partition(":")[0] for line in self.headers]
        return f"<Proxy {self}{' with ' + ', '.join(names) if names else ''}>"


def _is_proxy(value: object) -> bool:
    return isinstance(value, Proxy) or value == "system"


def read_proxy(text: str) -> "Proxy | Literal['system']":
    """What a text says: 'system', or a URL. Raises UsageError."""
    return "system" if text == "system" else Proxy.of(text)


PROXY = Kind(
    "a URL such as socks5h://user:password@host:1080, a Proxy, or 'system'", _is_proxy, read_proxy, secret=True
)
