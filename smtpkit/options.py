"""What the user chooses: frozen values, and their URL and environment form.

Each option is one row: a dataclass field with its default, what it must be (``Kind``) and what it means. The rows check
the values, read the URL's parameters and word the errors. Nothing here opens, resolves or connects; an Options that
exists is valid. Secrets are in no repr and in no error.
"""

import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from math import inf
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Self,
    TypeAlias,
    TypedDict,
    TypeGuard,
    Unpack,
    final,
    get_args,
)
from urllib.parse import quote, unquote

from smtpkit.errors import UsageError

if TYPE_CHECKING:
    from ssl import SSLContext

TLSMode = Literal["none", "opportunistic", "required", "implicit"]
Chunking = Literal["auto", "always", "never"]
Newlines = Literal["normalize", "strict"]
OnRefused = Literal["continue", "stop"]
ProxyScheme = Literal["socks4", "socks4a", "socks5", "socks5h", "http", "https"]
Family = Literal["any", "ipv4", "ipv6"]
SocketOption = tuple[int, int, int | bytes]  # level, option, value, as socket.setsockopt takes them


@final
class Secret:
    """A text that shows itself to nobody who does not ask by ``reveal()``."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text."""
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> tuple[type["Secret"], tuple[str]]:
        return Secret, (self._text,)


@dataclass(frozen=True, slots=True)
class Untrusted:
    """A certificate that does not verify, for ``on_untrusted`` to decide on.

    ``reason`` is why, in OpenSSL's words, and ``code`` its number (X509_V_ERR_…); it is that of an earlier connection,
    so decide on the certificate: who is on the way can make any reason come true. ``pins`` are the SHA-256 of the
    certificate and of its key, as the option ``pins`` takes them; ``der`` is the certificate itself, ``address`` that
    of who shows it.

    The function is called in a worker thread, by SyncClient in the caller's, within the limit for connecting; a client
    asks once about each certificate, and what the function raises comes out of the call that needed it.
    """

    server_name: str
    reason: str
    code: int
    pins: tuple[str, ...]
    der: bytes = field(repr=False)
    address: str
    tls_version: str
    cipher: str


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """Who we are in TLS: paths of a certificate (with its chain) and of its key (None: in the same file), in PEM."""

    certificate: str
    key: str | None = None
    password: Secret | None = None  # of the key

    @classmethod
    def of(cls, given: object) -> Self:
        """What a path, or a tuple of the certificate's path, the key's and perhaps its password, says."""
        if isinstance(given, cls):
            return given
        parts = given if isinstance(given, tuple) and len(given) in {2, 3} else (given,)
        password = parts[2] if len(parts) == 3 else None
        paths = [os.fspath(one) if isinstance(one, os.PathLike) else one for one in parts[:2]]
        secret = Secret(password) if isinstance(password, str) else password
        if not all(map(_is_text, paths)) or not (secret is None or _is_secret(secret)):
            raise _wrong("client_certificate", _CLIENT_CERTIFICATE, None)
        return cls(paths[0], paths[1] if len(paths) > 1 else None, secret)


_File: TypeAlias = str | os.PathLike[str]
ClientCertificateLike: TypeAlias = (
    ClientCertificate | _File | tuple[_File, _File] | tuple[_File, _File, str | Secret | None]
)
Token = str | Secret | Callable[[], str | Awaitable[str]]  # a function is asked for a fresh one at each login


# What a value must be.

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # controls, and what UTF-8 cannot say
_NOT_IN_HOST = re.compile(r"[\s/@?#%\[\]\\<>\"]")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"(?=.{{1,255}}\Z){_LABEL}(?:\.{_LABEL})*")  # RFC 5321 section 4.1.2
_MECHANISM = re.compile(r"[A-Za-z0-9_-]{1,20}")  # RFC 4422 section 3.1
_WITHOUT_SECRET = {"EXTERNAL", "ANONYMOUS", "GSSAPI"}  # mechanisms that need neither password nor token
_FIELD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[ \t!-~]*")  # RFC 9112 section 5
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,15})?", re.ASCII)
_PIN = re.compile(r"(?:cert|key)-sha256:[0-9a-f]{64}")
_FACTORS = {"k": 1e3, "m": 1e6, "g": 1e9}


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value must be, in words and as a check, and how it is read from a URL (None: it cannot stand there).

    ``read`` raises ValueError for what it cannot read. The default is always right.
    """

    wanted: str
    right: Callable[[object], bool]
    read: Callable[[str], object] | None = None
    secret: bool = False  # an error must not show it


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < inf


def _is_seconds(value: object) -> bool:
    return _is_number(value) or value == inf


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_port(value: object) -> bool:
    return _is_count(value) and value <= 65535


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value != "" and not _UNSAFE.search(value)


def _is_address(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(ip_address(value))
    except ValueError:
        return False


def _is_host(value: object) -> bool:
    if _is_address(value):
        return True
    if not _is_text(value) or ":" in value or _NOT_IN_HOST.search(value):
        return False
    return len(value) <= 255 and all(0 < len(label) <= 63 for label in value.removesuffix(".").split("."))


def _is_hello(value: object) -> bool:
    """Whether it is a Domain or address literal (RFC 5321 section 4.1.1.1)."""
    if not isinstance(value, str):
        return False
    if literal := re.fullmatch(r"\[(IPv6:)?([0-9A-Fa-f:.]+)\]", value):
        return _is_address(literal[2]) and (":" in literal[2]) == bool(literal[1])
    return _DOMAIN.fullmatch(value) is not None


def _is_mechanism(value: object) -> bool:
    return isinstance(value, str) and _MECHANISM.fullmatch(value) is not None


def _is_path(value: object) -> bool:
    return _is_text(value) and value.startswith("/") and not value.endswith("/")


def _is_secret(value: object) -> bool:
    return isinstance(value, Secret) and _is_text(value.reveal())


def _is_token(value: object) -> bool:
    return callable(value) or _is_secret(value) or _is_text(value)


def _is_proxy(value: object) -> bool:
    return isinstance(value, Proxy) or value == "system"


def _is_pins(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, str) and _PIN.fullmatch(one) for one in value)


def _is_client_certificate(value: object) -> bool:
    return isinstance(value, ClientCertificate)


def _is_policy(value: object) -> bool:
    from inspect import iscoroutinefunction

    return callable(value) and not iscoroutinefunction(value) and not iscoroutinefunction(type(value).__call__)


def _is_field_lines(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(line, str) and _FIELD.fullmatch(line) for line in value)


def _is_socket_options(value: object) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(one, tuple)
        and len(one) == 3
        and all(isinstance(number, int) for number in one[:2])
        and isinstance(one[2], int | bytes)
        for one in value
    )


def _is_context(value: object) -> bool:
    from ssl import SSLContext

    return isinstance(value, SSLContext)


def _read_number(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise ValueError
    return float(text)


def _read_rate(text: str) -> float:
    factor = _FACTORS.get(text[-1:].lower())
    return _read_number(text) if factor is None else round(_read_number(text[:-1]) * factor, 6)


def _read_count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError
    return int(text)


def _read_flag(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError
    return text == "true"


def _read_proxy(text: str) -> "Proxy | Literal['system']":
    return "system" if text == "system" else Proxy.of(text)


def _read_pins(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _choice(literal: object) -> Kind:
    choices = get_args(literal)
    return Kind("one of " + ", ".join(choices), lambda value: isinstance(value, str) and value in choices, str)


_SECONDS = Kind("a positive number of seconds, or math.inf for no limit", _is_seconds, _read_number)
_RATE = Kind("a positive number of octets per second (in a URL also 100k or 1.5M)", _is_number, _read_rate)
_COUNT = Kind("a whole number, 1 or more", _is_count, _read_count)
_PORT = Kind("a whole number from 1 to 65535", _is_port, _read_count)
_FLAG = Kind("True or False (in a URL true or false)", lambda value: isinstance(value, bool), _read_flag)
_HOST = Kind("a host name or an IP address", _is_host, str)
_ADDRESS = Kind("an IP address of this machine", _is_address, str)
_PATH = Kind("the absolute path of a unix socket", _is_path)
_HELLO = Kind("a host name such as mail.example.com, or an address literal such as [192.0.2.1]", _is_hello, str)
_NAME = Kind("a text that is not empty and has no control characters", _is_text, str)
_USER = Kind(_NAME.wanted, _is_text)
_SASL = Kind("the name of a SASL mechanism, such as PLAIN", _is_mechanism, str)
_SECRET = Kind(_NAME.wanted, _is_secret, secret=True)
_TOKEN = Kind(f"{_NAME.wanted}, or a function that returns one", _is_token, secret=True)
_CONTEXT = Kind("an ssl.SSLContext", _is_context)
_PINS = Kind(
    "cert-sha256: or key-sha256: and 64 hexadecimal digits in lower case, or a tuple of such texts (in a URL with "
    "commas)",
    _is_pins,
    _read_pins,
)
_CLIENT_CERTIFICATE = Kind(
    "the path of a PEM file with a certificate and its key, or a tuple (certificate, key[, password])",
    _is_client_certificate,
    str,
    secret=True,
)
_POLICY = Kind("a plain function (not async) that is given an Untrusted and returns True or False", _is_policy)
_FIELDS = Kind(
    'a tuple of header lines in ASCII, each "Name: value" without its line end', _is_field_lines, secret=True
)
_SOCKET_OPTIONS = Kind(
    "a tuple of (level, option, value), such as (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)", _is_socket_options
)
_PROXY = Kind(
    "a URL such as socks5h://user:password@host:1080, a Proxy, or 'system'", _is_proxy, _read_proxy, secret=True
)


def _row(kind: Kind, meaning: str) -> dict[str, Any]:
    return {"kind": kind, "meaning": meaning}


def _check(value: "Limits | Credentials | Proxy | Options") -> None:
    """Raise UsageError for the first field that is not what its row says."""
    for row in fields(value):
        kind, given, default = row.metadata.get("kind"), getattr(value, row.name), row.default
        if kind and not (type(given) is type(default) and given == default) and not kind.right(given):
            raise _wrong(row.name, kind, given)


def _wrong(name: str, kind: Kind, given: object) -> UsageError:
    return UsageError(f"{name} must be {kind.wanted}" + ("" if kind.secret else f", not {given!r}"))


# The options.


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait, in seconds (RFC 5321 section 4.5.3.2)."""

    connect: float = field(
        default=30.0, metadata=_row(_SECONDS, "name, connection, proxy, TLS, greeting; a free session")
    )
    timeout: float = field(default=60.0, metadata=_row(_SECONDS, "each reply, and each block written"))
    final: float = field(
        default=600.0, metadata=_row(_SECONDS, "the reply to the mail data; cutting it short makes duplicates")
    )
    total: float | None = field(default=None, metadata=_row(_SECONDS, "the whole of one call"))
    farewell: ClassVar[float] = 2.0  # for QUIT, whose reply is of no consequence

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """Who logs in: a user with a password, or a token; ``mechanism`` None chooses the best that the server offers.

    By name, EXTERNAL (a client certificate), ANONYMOUS and GSSAPI (a ticket that is there) need neither.
    """

    user: str | None = field(default=None, metadata=_row(_USER, "who logs in"))
    password: Secret | None = field(default=None, metadata=_row(_SECRET, "the user's password"))
    token: Token | None = field(  # not in the hash: a function need not have one
        default=None, hash=False, metadata=_row(_TOKEN, "an OAuth 2.0 access token, or what returns or awaits one")
    )
    mechanism: str | None = field(default=None, metadata=_row(_SASL, "the one SASL mechanism to use"))
    authzid: str | None = field(default=None, metadata=_row(_NAME, "whom to act as, if not the user"))

    def __post_init__(self) -> None:
        _check(self)
        if self.password is not None and self.token is not None:
            raise UsageError("password and token exclude each other")
        named = (self.mechanism or "").upper()
        if named == "APOP":
            raise UsageError("APOP is a login of POP3 and not of SMTP; without mechanism the best there is is used")
        if self.password is None and self.token is None and named not in _WITHOUT_SECRET:
            raise UsageError("a login (user, mechanism, authzid) needs a password or a token")
        if self.user is None and self.password is not None:
            raise UsageError("password needs a user")

    def __repr__(self) -> str:
        secret = "token=***, " if self.token is not None else "password=***, " if self.password is not None else ""
        return f"Credentials(user={self.user!r}, {secret}mechanism={self.mechanism!r}, authzid={self.authzid!r})"


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

    scheme: ProxyScheme = field(metadata=_row(_choice(ProxyScheme), "how the proxy is spoken to"))
    host: str = field(metadata=_row(_HOST, "the proxy"))
    port: int = field(metadata=_row(_PORT, "the proxy's port"))
    user: str | None = field(default=None, metadata=_row(_USER, "who logs in at the proxy"))
    password: Secret | None = field(default=None, metadata=_row(_SECRET, "that user's password"))
    headers: tuple[str, ...] = field(default=(), metadata=_row(_FIELDS, "header lines for CONNECT"))
    ssl_context: "SSLContext | None" = field(default=None, metadata=_row(_CONTEXT, "instead of the system's trust"))

    def __post_init__(self) -> None:
        try:
            _check(self)
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
            raise UsageError(f"proxy must be {_PROXY.wanted}, not {type(url).__name__}")
        parts = _URL.fullmatch(url) if _is_text(url) and " " not in url else None
        scheme = parts[1].lower() if parts else ""
        if not parts or scheme not in PROXY_PORTS or parts[4] not in {"", "/"} or parts[5] or parts[6]:
            raise UsageError(
                f"proxy must be a URL such as {_PROXY_EXAMPLE}, by one of {', '.join(PROXY_PORTS)}; in a password "
                "'/' is %2F, '?' is %3F, '#' is %23, '@' is %40, a space %20"
            )
        try:
            user, _, password = (parts[2] or "").partition(":")
            host, port = _read_authority(parts[3], PROXY_PORTS[scheme], _PROXY_EXAMPLE)
            user, password = _decode(user, "the user in the url"), _decode(password, "the password in the url")
        except UsageError as error:
            raise UsageError(f"proxy: {error}") from None
        secret = Secret(password) if password else None
        return cls(scheme, host, port, user or None, secret, headers, ssl_context)  # type: ignore[arg-type]  # checked

    def __str__(self) -> str:
        """The URL with the password masked, for people and logs."""
        login = f"{quote(self.user, safe='')}{':***' if self.password else ''}@" if self.user else ""
        return f"{self.scheme}://{login}{_authority(self.host)}:{self.port}"

    def __repr__(self) -> str:
        names = [line.partition(":")[0] for line in self.headers]
        return f"<Proxy {self}{' with ' + ', '.join(names) if names else ''}>"


@dataclass(frozen=True, slots=True)
class Options:
    """All that a client needs to know. Made by ``Options.of`` from a URL and keywords, or directly; valid either way.

    A server is a ``host`` and a ``port``, or the ``path`` of a unix socket. ``hello`` None is the address literal of
    the local end, ``local_port`` 0 any. Raises UsageError that names the option and says what would be right.
    """

    host: str = field(default="", metadata=_row(_HOST, "the server"))
    port: int = field(default=0, metadata=_row(_PORT, "the server's port"))
    path: str | None = field(default=None, metadata=_row(_PATH, "the server's unix socket"))
    lmtp: bool = field(default=False, metadata=_row(_FLAG, "LMTP (RFC 2033), not SMTP"))
    credentials: Credentials | None = None
    limits: Limits = field(default_factory=Limits)
    tls: TLSMode = field(
        default="required", metadata=_row(_choice(TLSMode), "whether and when TLS begins; see the URL")
    )
    ssl_context: "SSLContext | None" = field(default=None, metadata=_row(_CONTEXT, "instead of the system's trust"))
    tls_name: str | None = field(default=None, metadata=_row(_HOST, "the certificate's name, if not the host"))
    pins: tuple[str, ...] = field(
        default=(), metadata=_row(_PINS, "trust just these certificates or keys, whoever issued them to whatever name")
    )
    on_untrusted: Callable[[Untrusted], bool] | None = field(
        default=None, metadata=_row(_POLICY, "decides whether a certificate that does not verify is taken all the same")
    )
    client_certificate: ClientCertificate | None = field(
        default=None, metadata=_row(_CLIENT_CERTIFICATE, "shown to a server that asks for one, as EXTERNAL needs it")
    )
    allow_plaintext_auth: bool = field(default=False, metadata=_row(_FLAG, "let a login go unencrypted or unverified"))
    hello: str | None = field(default=None, metadata=_row(_HELLO, "the name for EHLO"))
    rate: float | None = field(
        default=None, metadata=_row(_RATE, "how fast mail data goes out at most, over all sessions together")
    )
    chunking: Chunking = field(default="auto", metadata=_row(_choice(Chunking), "BDAT instead of DATA"))
    binary: bool = field(
        default=False,
        metadata=_row(_FLAG, "attachments of a Message as they are, by BDAT, where BINARYMIME is offered"),
    )
    newlines: Newlines = field(default="normalize", metadata=_row(_choice(Newlines), "mend or refuse bare CR and LF"))
    on_refused: OnRefused = field(default="continue", metadata=_row(_choice(OnRefused), "when a recipient is refused"))
    connections: int = field(default=8, metadata=_row(_COUNT, "how many sessions at a time at most"))
    local_address: str | None = field(default=None, metadata=_row(_ADDRESS, "where connections come from"))
    local_port: int = field(default=0, metadata=_row(_PORT, "the port connections come from"))
    family: Family = field(default="any", metadata=_row(_choice(Family), "which addresses of the server are used"))
    socket_options: tuple[SocketOption, ...] = field(
        default=(), metadata=_row(_SOCKET_OPTIONS, "set before connecting, also to a proxy; they win over our own")
    )
    extensions: bool = field(default=True, metadata=_row(_FLAG, "say EHLO; else HELO, and no extension is used"))
    reply_line: int | None = field(
        default=None, metadata=_row(_COUNT, "octets that a line of a reply may have at most")
    )
    proxy: "Proxy | Literal['system'] | None" = field(
        default=None, metadata=_row(_PROXY, "the way to the server; 'system': what the environment says")
    )

    def __post_init__(self) -> None:
        _check(self)
        if self.path is None and not (self.host and self.port):
            raise UsageError("a server needs a host and a port, or the path of a unix socket")
        if self.path is not None and (self.host or self.port or self.local_address or self.local_port):
            raise UsageError("host, port, local_address and local_port mean nothing with the path of a unix socket")
        if self.local_address and self.family == ("ipv4" if ":" in self.local_address else "ipv6"):
            raise UsageError(f"local_address {self.local_address} is no {self.family} address, which family asks for")
        if self.lmtp and not self.extensions:
            raise UsageError("extensions: LMTP has none but LHLO, and no HELO; leave it True")
        if self.path is not None and self.proxy is not None:
            raise UsageError("proxy: a proxy cannot reach the path of a unix socket; leave one of them out")
        if self.proxy is not None and "%" in self.host:
            raise UsageError("proxy: the zone of an IPv6 address means nothing to a proxy; leave out '%' and the zone")
        if isinstance(self.proxy, Proxy) and self.proxy.scheme.startswith("socks4") and ":" in self.host:
            raise UsageError("proxy: SOCKS4 knows no IPv6; use socks5, or the server's name or IPv4 address")
        if self.path is not None and self.tls != "none" and self.tls_name is None:
            raise UsageError("TLS over a unix socket needs tls_name, the name in the server's certificate")
        if self.tls == "none" and (self.ssl_context is not None or self.tls_name is not None):
            raise UsageError("ssl_context and tls_name mean nothing with tls='none'; say tls='required'")
        if self.pins and self.tls in {"none", "opportunistic"}:
            raise UsageError(f"pins mean nothing with tls={self.tls!r}, which may do without TLS; say tls='required'")
        if self.on_untrusted is not None and self.tls in {"none", "opportunistic"}:
            raise UsageError(f"on_untrusted means nothing with tls={self.tls!r}, which verifies nobody")
        if [bool(self.pins), self.on_untrusted is not None, self.ssl_context is not None].count(True) > 1:
            raise UsageError("pins, on_untrusted and ssl_context exclude each other: each says whom to trust")
        if self.client_certificate is not None and self.tls == "none":
            raise UsageError("client_certificate means nothing with tls='none'; say tls='required'")
        if self.client_certificate is not None and self.ssl_context is not None:
            raise UsageError("client_certificate and ssl_context exclude each other: load it by load_cert_chain()")
        if self.binary and self.chunking == "never":
            raise UsageError("binary=True needs BDAT, which chunking='never' rules out; leave one of them out")
        if self.credentials and self.tls in {"none", "opportunistic"} and not self.allow_plaintext_auth:
            raise UsageError(
                f"with tls={self.tls!r} the login could be read on its way: "
                "use tls='required' or tls='implicit', or say allow_plaintext_auth=True"
            )

    @classmethod
    def of(cls, url: str | None = None, **keywords: Unpack["OptionKeywords"]) -> Self:
        """The options that a URL and keywords say; a keyword wins over the URL.

        ============================ ==== =====================================================
        ``smtp://``                    25 TLS required with a login, else opportunistic
        ``submission://``             587 TLS required
        ``smtps://, submissions://``  465 TLS implicit
        ``lmtp://``                    24 as ``smtp``
        ``lmtp+unix:///path``           - no TLS
        ============================ ==== =====================================================

        User and password stand before the host, percent-encoded; other options as ``?name=value&…``. None takes the
        URL from the environment, SMTPKIT_URL. Raises UsageError.
        """
        scheme, values = _read_url(url)
        for name in keywords:
            if name not in PARAMETERS:
                raise _unknown(name, PARAMETERS)
        values |= keywords
        for name in ("password", "token"):
            if isinstance(secret := values.get(name), str):
                values[name] = Secret(secret)
        if isinstance(proxy := values.get("proxy"), str):
            values["proxy"] = _read_proxy(proxy)
        if isinstance(pins := values.get("pins"), str):
            values["pins"] = (pins,)
        if (own := values.get("client_certificate")) is not None:
            values["client_certificate"] = ClientCertificate.of(own)
        limits = Limits(**_take(Limits, values))
        login = _take(Credentials, values)
        credentials = Credentials(**login) if any(value is not None for value in login.values()) else None
        values.setdefault("tls", scheme.default_tls(credentials))
        return cls(lmtp=scheme.lmtp, credentials=credentials, limits=limits, **values)

    @property
    def key(self) -> tuple[object, ...]:
        """All that makes two sessions differ; hashable. An SSL context and a function count by identity."""
        return (
            *(self.host, self.port, self.path, self.lmtp, self.credentials),
            *(self.tls, self.ssl_context, self.tls_name, self.pins, id(self.on_untrusted)),
            *(self.client_certificate, self.allow_plaintext_auth),
            *(self.hello, self.extensions, self.reply_line),
            *(self.local_address, self.local_port, self.family, self.socket_options, self.proxy),
        )

    @property
    def shown(self) -> str:
        """The URL of the server with the password or token masked, for people and logs."""
        scheme, tls, port = "lmtp" if self.lmtp else "smtp", f"?tls={self.tls}", f":{self.port}"
        for name, row in SCHEMES.items():
            if (row.lmtp, row.port, row.default_tls(self.credentials)) == (self.lmtp, self.port, self.tls):
                scheme, tls, port = name, "", ""
                break
        login = f"{quote(self.credentials.user or '', safe='')}:***@" if self.credentials else ""
        if self.path is not None:
            return f"{scheme.removesuffix('+unix')}+unix://{login}{quote(self.path)}{tls}"
        return f"{scheme}://{login}{_authority(self.host)}{port}{tls}"


class OptionKeywords(TypedDict, total=False):
    """The options as keywords, for ``**options: Unpack[OptionKeywords]``; what they mean is in ``PARAMETERS``."""

    user: str | None
    password: str | Secret | None
    token: Token | None
    mechanism: str | None
    authzid: str | None
    connect: float
    timeout: float
    final: float
    total: float | None
    tls: TLSMode
    ssl_context: "SSLContext | None"
    tls_name: str | None
    pins: str | tuple[str, ...]
    on_untrusted: Callable[[Untrusted], bool] | None
    client_certificate: ClientCertificateLike | None
    allow_plaintext_auth: bool
    hello: str | None
    rate: float | None
    chunking: Chunking
    binary: bool
    newlines: Newlines
    on_refused: OnRefused
    connections: int
    local_address: str | None
    local_port: int
    family: Family
    socket_options: tuple[SocketOption, ...]
    extensions: bool
    reply_line: int | None
    proxy: str | Proxy | None


class Parameter(NamedTuple):
    """What is known of one keyword: what it must be, its default, what it means."""

    kind: Kind
    default: object
    meaning: str


PARAMETERS = {
    row.name: Parameter(row.metadata["kind"], row.default, row.metadata["meaning"])
    for rows in (Credentials, Limits, Options)
    for row in fields(rows)
    if row.metadata and row.name not in {"host", "port", "path", "lmtp"}  # these only the URL says
}


# The URL.


class Scheme(NamedTuple):
    """What a URL's scheme says: the port (0: a unix socket), TLS (None: by the login), LMTP."""

    port: int
    tls: TLSMode | None = None
    lmtp: bool = False

    def default_tls(self, credentials: Credentials | None) -> TLSMode:
        """The TLS mode where none is given."""
        return self.tls or ("required" if credentials else "opportunistic")


SCHEMES = {
    "smtp": Scheme(25),
    "submission": Scheme(587, "required"),
    "smtps": Scheme(465, "implicit"),
    "submissions": Scheme(465, "implicit"),
    "lmtp": Scheme(24, lmtp=True),
    "lmtp+unix": Scheme(0, "none", lmtp=True),
}
PROXY_PORTS = {"socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080, "http": 8080, "https": 443}
_PROXY_EXAMPLE = "socks5h://user:password@proxy.example.com:1080"
_EXAMPLE = "submission://user:password@mail.example.com"
# RFC 3986 appendix B, cut where we need it. urlsplit() drops line ends silently and shows passwords in its errors.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(?:([^/?#]*)@)?([^/?#@]*)([^?#]*)(?:\?([^#]*))?(#.*)?")
_AUTHORITY = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::([^:]*))?")


def _read_url(url: str | None) -> tuple[Scheme, dict[str, Any]]:
    """The scheme, and the values by name. No error shows a piece of the URL that might belong to a password."""
    if url is None and not (url := os.environ.get("SMTPKIT_URL")):
        raise UsageError(f"no server: give a url such as {_EXAMPLE}, or set SMTPKIT_URL in the environment")
    if not isinstance(url, str):
        raise UsageError(f"url must be a str such as {_EXAMPLE}, not {type(url).__name__}")
    if not _is_text(url) or " " in url:
        raise UsageError("url has a space or control character, or is empty; in a password a space is %20")
    parts = _URL.fullmatch(url)
    scheme = SCHEMES.get(parts[1].lower()) if parts else None
    if not parts or not scheme:
        raise UsageError(f"url must begin with one of {', '.join(f'{name}://' for name in SCHEMES)}; e.g. {_EXAMPLE}")
    _, login, authority, path, query, fragment = parts.groups()
    if fragment:
        raise UsageError("url has a '#', which ends it; in a password it is %23")
    values: dict[str, Any] = {}
    if login is not None:
        user, colon, password = login.partition(":")
        values["user"] = _decode(user, "the user in the url") or None
        if colon:
            values["password"] = _decode(password, "the password in the url")
    if not scheme.port:
        if authority:
            raise UsageError("a lmtp+unix url names a path and no host: lmtp+unix:///run/lmtp.sock (three slashes)")
        values["path"] = _decode(path, "the path in the url")
    else:
        if path not in {"", "/"}:
            raise UsageError("url has a path, which means nothing here; in a password '/' is %2F")
        values["host"], values["port"] = _read_authority(authority, scheme.port)
    return scheme, values | _read_query(query or "")


def _read_authority(text: str, default_port: int, example: str = _EXAMPLE) -> tuple[str, int]:
    parts = _AUTHORITY.fullmatch(text)
    if not parts:
        raise UsageError("url: the host must be a name or an IP address, IPv6 in brackets: smtp://[2001:db8::1]:25")
    literal, name, port = parts.groups()
    if literal is not None and (":" not in literal or not _is_address(literal.replace("%25", "%"))):
        raise UsageError("url: in brackets there must be an IPv6 address")
    if not (host := _decode(name, "the host in the url") if literal is None else literal.replace("%25", "%")):
        raise UsageError(f"url has no host; an example: {example}")
    if port and not (port.isascii() and port.isdigit() and len(port) <= 5 and _is_port(int(port))):
        raise UsageError("url: the port must be a whole number from 1 to 65535; in a password ':' is %3A, '@' is %40")
    return host, int(port) if port else default_port


def _authority(host: str) -> str:
    return f"[{host.replace('%', '%25')}]" if ":" in host else host


def _read_query(query: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    known = {name: row for name, row in PARAMETERS.items() if row.kind.read}
    for pair in filter(None, query.split("&")):
        name, equals, text = pair.partition("=")
        if not name.isidentifier() or not equals:
            raise UsageError("url: what follows '?' must be name=value&name=value; in a password '?' is %3F")
        if name not in known:
            raise _unknown(name, known)
        if name in values:
            raise UsageError(f"url: {name} is given twice")
        kind, text = known[name].kind, _decode(text, f"{name} in the url")
        try:
            values[name] = kind.read(text) if kind.read else None
        except ValueError:
            raise _wrong(name, kind, text) from None
    return values


def _decode(text: str, what: str) -> str:
    try:
        if not re.search(r"%(?![0-9A-Fa-f]{2})", text):
            return unquote(text, errors="strict")
    except UnicodeDecodeError:  # it holds the text: no cause, no context
        pass
    raise UsageError(f"{what} is not percent-encoded UTF-8; a percent sign is %25")


def _unknown(name: str, known: dict[str, Parameter]) -> UsageError:
    from difflib import get_close_matches

    if name in PARAMETERS:
        hint = "give it as a keyword, not in the url; "
    else:
        hint = "".join(f"did you mean {close}? " for close in get_close_matches(name, known, 1))
    return UsageError(f"there is no option {name!r} here; {hint}known: {', '.join(known)}")


def _take(kind: type[Limits | Credentials], values: dict[str, Any]) -> dict[str, Any]:
    """Take out of ``values`` what belongs to ``kind``."""
    return {row.name: values.pop(row.name) for row in fields(kind) if row.name in values}
