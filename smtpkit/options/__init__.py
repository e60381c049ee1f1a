"""What the user chooses: frozen values, and their URL and environment form.

Each option is one row: a dataclass field with its default, what it must be (``Kind``) and what it means. The rows check
the values, read the URL's parameters and word the errors. Nothing here opens, resolves or connects; an Options that
exists is valid. Secrets are in no repr and in no error.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypedDict, Unpack
from urllib.parse import quote

from smtpkit.errors import UsageError
from smtpkit.options.kinds import (
    ADDRESS,
    CONTEXT,
    COUNT,
    FLAG,
    HELLO,
    HOST,
    MAILS,
    NAME,
    PATH,
    PORT,
    RATE,
    SASL,
    SECONDS,
    SECRET,
    SOCKET_OPTIONS,
    TOKEN,
    USER,
    Parameter,
    Secret,
    SocketOption,
    Token,
    check,
    choice,
    row,
)
from smtpkit.options.proxy import PROXY, PROXY_PORTS, Proxy, ProxyScheme, read_proxy
from smtpkit.options.trust import (
    CLIENT_CERTIFICATE,
    PINS,
    POLICY,
    ClientCertificate,
    ClientCertificateLike,
    Untrusted,
)
from smtpkit.options.url import SCHEMES, TLSMode, authority, read_url, unknown

if TYPE_CHECKING:
    from ssl import SSLContext

Chunking = Literal["auto", "always", "never"]
Newlines = Literal["normalize", "strict"]
OnRefused = Literal["continue", "stop"]
Family = Literal["any", "ipv4", "ipv6"]

__all__ = (
    "PARAMETERS",
    "PROXY_PORTS",
    "SCHEMES",
    "Chunking",
    "ClientCertificate",
    "ClientCertificateLike",
    "Credentials",
    "Family",
    "Limits",
    "Newlines",
    "OnRefused",
    "OptionKeywords",
    "Options",
    "Proxy",
    "ProxyScheme",
    "Secret",
    "SocketOption",
    "TLSMode",
    "Token",
    "Untrusted",
)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait, in seconds (RFC 5321 section 4.5.3.2)."""

    connect: float = field(
        default=30.0, metadata=row(SECONDS, "name, connection, proxy, TLS, greeting; a free session")
    )
    timeout: float = field(default=60.0, metadata=row(SECONDS, "each reply, and each block written"))
    final: float = field(
        default=600.0, metadata=row(SECONDS, "the reply to the mail data; cutting it short makes duplicates")
    )
    total: float | None = field(default=None, metadata=row(SECONDS, "the whole of one call"))
    farewell: ClassVar[float] = 2.0  # for QUIT, whose reply is of no consequence

    def __post_init__(self) -> None:
        check(self)


_WITHOUT_SECRET = {"EXTERNAL", "ANONYMOUS", "GSSAPI"}  # mechanisms that need neither password nor token


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """Who logs in: a user with a password, or a token; ``mechanism`` None chooses the best that the server offers.

    By name, EXTERNAL (a client certificate), ANONYMOUS and GSSAPI (a ticket that is there) need neither.
    """

    user: str | None = field(default=None, metadata=row(USER, "who logs in"))
    password: Secret | None = field(default=None, metadata=row(SECRET, "the user's password"))
    token: Token | None = field(  # not in the hash: a function need not have one
        default=None, hash=False, metadata=row(TOKEN, "an OAuth 2.0 access token, or what returns or awaits one")
    )
    mechanism: str | None = field(default=None, metadata=row(SASL, "the one SASL mechanism to use"))
    authzid: str | None = field(default=None, metadata=row(NAME, "whom to act as, if not the user"))

    def __post_init__(self) -> None:
        check(self)
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


@dataclass(frozen=True, slots=True)
class Options:
    """All that a client needs to know. Made by ``Options.of`` from a URL and keywords, or directly; valid either way.

    A server is a ``host`` and a ``port``, or the ``path`` of a unix socket. ``hello`` None is the address literal of
    the local end, ``local_port`` 0 any. Raises UsageError that names the option and says what would be right.
    """

    host: str = field(default="", metadata=row(HOST, "the server"))
    port: int = field(default=0, metadata=row(PORT, "the server's port"))
    path: str | None = field(default=None, metadata=row(PATH, "the server's unix socket"))
    lmtp: bool = field(default=False, metadata=row(FLAG, "LMTP (RFC 2033), not SMTP"))
    credentials: Credentials | None = None
    limits: Limits = field(default_factory=Limits)
    tls: TLSMode = field(default="required", metadata=row(choice(TLSMode), "whether and when TLS begins; see the URL"))
    ssl_context: "SSLContext | None" = field(default=None, metadata=row(CONTEXT, "instead of the system's trust"))
    tls_name: str | None = field(default=None, metadata=row(HOST, "the certificate's name, if not the host"))
    pins: tuple[str, ...] = field(
        default=(), metadata=row(PINS, "trust just these certificates or keys, whoever issued them to whatever name")
    )
    on_untrusted: Callable[[Untrusted], bool] | None = field(
        default=None, metadata=row(POLICY, "decides whether a certificate that does not verify is taken all the same")
    )
    client_certificate: ClientCertificate | None = field(
        default=None, metadata=row(CLIENT_CERTIFICATE, "shown to a server that asks for one, as EXTERNAL needs it")
    )
    allow_plaintext_auth: bool = field(default=False, metadata=row(FLAG, "let a login go unencrypted or unverified"))
    hello: str | None = field(default=None, metadata=row(HELLO, "the name for EHLO"))
    rate: float | None = field(
        default=None, metadata=row(RATE, "how fast mail data goes out at most, over all sessions together")
    )
    session_rate: float | None = field(default=None, metadata=row(RATE, "the same for each session"))
    least_rate: float | None = field(
        default=None, metadata=row(RATE, "what a server must take of mail data at least, on average, after 10 seconds")
    )
    mail_rate: float | None = field(default=None, metadata=row(MAILS, "how many mails begin at most"))
    domain_rate: float | None = field(
        default=None, metadata=row(MAILS, "the same for each recipient domain, as long as it refuses none for now")
    )
    domain_connections: int | None = field(
        default=None, metadata=row(COUNT, "how many mails to one recipient domain are under way at a time at most")
    )
    chunking: Chunking = field(default="auto", metadata=row(choice(Chunking), "BDAT instead of DATA"))
    binary: bool = field(
        default=False,
        metadata=row(FLAG, "attachments of a Message as they are, by BDAT, where BINARYMIME is offered"),
    )
    newlines: Newlines = field(default="normalize", metadata=row(choice(Newlines), "mend or refuse bare CR and LF"))
    on_refused: OnRefused = field(default="continue", metadata=row(choice(OnRefused), "when a recipient is refused"))
    connections: int = field(default=8, metadata=row(COUNT, "how many sessions at a time at most"))
    lifetime: float = field(default=300.0, metadata=row(SECONDS, "how long a session is used for further mails"))
    idle: float = field(default=60.0, metadata=row(SECONDS, "how long a session may have rested that is used again"))
    local_address: str | None = field(default=None, metadata=row(ADDRESS, "where connections come from"))
    local_port: int = field(default=0, metadata=row(PORT, "the port connections come from"))
    family: Family = field(default="any", metadata=row(choice(Family), "which addresses of the server are used"))
    socket_options: tuple[SocketOption, ...] = field(
        default=(), metadata=row(SOCKET_OPTIONS, "set before connecting, also to a proxy; they win over our own")
    )
    extensions: bool = field(default=True, metadata=row(FLAG, "say EHLO; else HELO, and no extension is used"))
    reply_line: int | None = field(default=None, metadata=row(COUNT, "octets that a line of a reply may have at most"))
    proxy: "Proxy | Literal['system'] | None" = field(
        default=None, metadata=row(PROXY, "the way to the server; 'system': what the environment says")
    )

    def __post_init__(self) -> None:
        check(self)
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
        for name in ("rate", "session_rate"):
            most: float | None = getattr(self, name)
            if self.least_rate is not None and most is not None and self.least_rate > most:
                raise UsageError(f"least_rate {self.least_rate} is more than {name} {most} lets out; say less")
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
        scheme, values = read_url(url, PARAMETERS)
        for name in keywords:
            if name not in PARAMETERS:
                raise unknown(name, PARAMETERS, PARAMETERS)
        values |= keywords
        for name in ("password", "token"):
            if isinstance(secret := values.get(name), str):
                values[name] = Secret(secret)
        if isinstance(proxy := values.get("proxy"), str):
            values["proxy"] = read_proxy(proxy)
        if isinstance(pins := values.get("pins"), str):
            values["pins"] = (pins,)
        if (own := values.get("client_certificate")) is not None:
            values["client_certificate"] = ClientCertificate.of(own)
        limits = Limits(**_take(Limits, values))
        login = _take(Credentials, values)
        credentials = Credentials(**login) if any(value is not None for value in login.values()) else None
        values.setdefault("tls", scheme.default_tls(login=credentials is not None))
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
        login = self.credentials is not None
        for name, one in SCHEMES.items():
            if (one.lmtp, one.port, one.default_tls(login=login)) == (self.lmtp, self.port, self.tls):
                scheme, tls, port = name, "", ""
                break
        user = f"{quote(self.credentials.user or '', safe='')}:***@" if self.credentials else ""
        if self.path is not None:
            return f"{scheme.removesuffix('+unix')}+unix://{user}{quote(self.path)}{tls}"
        return f"{scheme}://{user}{authority(self.host)}{port}{tls}"


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
    session_rate: float | None
    least_rate: float | None
    mail_rate: float | None
    domain_rate: float | None
    domain_connections: int | None
    chunking: Chunking
    binary: bool
    newlines: Newlines
    on_refused: OnRefused
    connections: int
    lifetime: float
    idle: float
    local_address: str | None
    local_port: int
    family: Family
    socket_options: tuple[SocketOption, ...]
    extensions: bool
    reply_line: int | None
    proxy: str | Proxy | None


PARAMETERS = {
    row.name: Parameter(row.metadata["kind"], row.default, row.metadata["meaning"])
    for rows in (Credentials, Limits, Options)
    for row in fields(rows)
    if row.metadata and row.name not in {"host", "port", "path", "lmtp"}  # these only the URL says
}


def _take(kind: type[Limits | Credentials], values: dict[str, Any]) -> dict[str, Any]:
    """Take out of ``values`` what belongs to ``kind``."""
    return {row.name: values.pop(row.name) for row in fields(kind) if row.name in values}
