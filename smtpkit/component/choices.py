"""From the properties and settings to the library's options: server, TLS, login, firewall, limits, socket."""

from math import inf
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from smtpkit.component.errors import NO_SERVER, VALUE, ComponentError
from smtpkit.errors import NotSupported
from smtpkit.options import PARAMETERS, Credentials, Limits, Options, Proxy, Secret, SocketOption

if TYPE_CHECKING:
    from ssl import SSLContext

    from smtpkit.component.settings import Settings
    from smtpkit.component.table import Properties

MECHANISMS = {1: "CRAM-MD5", 2: "NTLM", 4: "PLAIN", 5: "DIGEST-MD5", 6: "GSSAPI", 7: "XOAUTH2"}
IMPLICIT_TLS = 465
FIREWALLS = {1: "http", 2: "socks4", 3: "socks5", 10: "socks4a"}
_RESOLVED_THERE = {"socks4": "socks4a", "socks5": "socks5h"}


class Trust(NamedTuple):
    """What the constructor is told: whom to trust, and whether a login may be read on its way."""

    ssl_context: "SSLContext | None" = None
    allow_plaintext_auth: bool = False


def limits(table: "Properties", settings: "Settings") -> Limits:
    """How long to wait."""
    seconds = table.timeout or inf
    return Limits(connect=settings.connection_timeout or seconds, timeout=seconds, final=seconds)


def options(table: "Properties", settings: "Settings", trust: Trust, verified: "SSLContext", host_name: str) -> Options:
    """The options of a session. ``verified`` is the context for who gave none. Raises ComponentError, UsageError."""
    name = table.mail_server
    if not name:
        raise ComponentError(NO_SERVER, "MailServer is not set; it is the name or address of the server")
    remote = name.startswith("*")
    login = credentials(table, settings)
    tls: Literal["none", "opportunistic", "required", "implicit"] = "opportunistic"
    if table.mail_port == IMPLICIT_TLS:
        tls = "implicit"
    elif login is not None and not trust.allow_plaintext_auth:
        tls = "required"
    hello = settings.hello or (host_name if "." in host_name else "")
    return Options(
        host=name.removeprefix("*"),
        port=table.mail_port,
        credentials=login,
        limits=limits(table, settings),
        tls=tls,
        ssl_context=trust.ssl_context or verified,
        allow_plaintext_auth=trust.allow_plaintext_auth,
        hello=hello if hello and PARAMETERS["hello"].kind.right(hello) else None,
        local_address=table._values.get("LocalHost") or None,  # noqa: SLF001  what was set, not what is read
        local_port=settings._values.get("LocalPort", 0),  # noqa: SLF001
        family="ipv6" if settings.use_ipv6 else "any",
        socket_options=tuple(socket_options(settings)),
        extensions=table.allow_extensions,
        reply_line=settings.max_line_length,
        proxy=proxy(table, settings, remote=remote),
        connections=1,
    )


def credentials(table: "Properties", settings: "Settings") -> Credentials | None:
    """Who logs in, if User is set. Raises ComponentError, NotSupported."""
    if not table.user:
        return None
    if not table.allow_extensions:
        raise NotSupported("User is set, and a login needs AllowExtensions=True", extension="AUTH")
    mechanism = MECHANISMS.get(table.auth_mechanism)
    identity = settings.authorization_identity
    if mechanism == "XOAUTH2":
        token = identity[7:].strip() if identity[:7].lower() == "bearer " else identity
        if not token:
            raise ComponentError(VALUE, 'AuthorizationIdentity is not set; for XOAUTH2 it is "Bearer " and the token')
        return Credentials(user=table.user, token=Secret(token), mechanism=mechanism)
    if not table.password and mechanism != "GSSAPI":
        raise ComponentError(VALUE, "Password is not set, and User is")
    secret = Secret(table.password) if table.password else None
    return Credentials(user=table.user, password=secret, mechanism=mechanism, authzid=identity or None)


def proxy(table: "Properties", settings: "Settings", *, remote: bool) -> "Proxy | Literal['system'] | None":
    """The firewall to go through. ``remote``: it is to resolve the server's name. Raises ComponentError, UsageError."""
    scheme = FIREWALLS.get(table.firewall_type)
    if remote and scheme is None:
        raise ComponentError(VALUE, "MailServer begins with '*', which needs a firewall that resolves its name")
    if scheme is None:
        return "system" if table.firewall_auto_detect else None
    if not (table.firewall_host and table.firewall_port):
        raise ComponentError(VALUE, "FirewallType is set, and FirewallHost or FirewallPort is not")
    if remote:
        scheme = _RESOLVED_THERE.get(scheme, scheme)
    headers = tuple(filter(None, settings.firewall_data.replace("\r\n", "\n").split("\n")))
    chosen: Any = scheme
    return Proxy(
        chosen,
        table.firewall_host,
        table.firewall_port,
        table.firewall_user or None,
        Secret(table.firewall_password) if table.firewall_password else None,
        headers,
    )


def socket_options(settings: "Settings") -> list[SocketOption]:
    """What the socket is told before it connects."""
    import socket

    from smtpkit.transport.socket_stream import LINGER

    kept = settings._values  # noqa: SLF001  what was set, not what the socket has made of it
    tcp, level = socket.IPPROTO_TCP, socket.SOL_SOCKET
    found: list[SocketOption] = [(tcp, socket.TCP_NODELAY, int(settings.tcp_no_delay))]
    for name, option in (("InBufferSize", socket.SO_RCVBUF), ("OutBufferSize", socket.SO_SNDBUF)):
        if size := kept.get(name, 0):
            found.append((level, option, size))
    idle, interval = settings.keep_alive_time, settings.keep_alive_interval
    if settings.tcp_keep_alive or idle or interval:
        found.append((level, socket.SO_KEEPALIVE, 1))
    if idle:
        found.append((tcp, socket.TCP_KEEPIDLE, -(-idle // 1000)))
    if interval:
        found.append((tcp, socket.TCP_KEEPINTVL, -(-interval // 1000)))
    if not settings.linger or settings.linger_time:
        found.append((level, socket.SO_LINGER, LINGER.pack(1, settings.linger_time if settings.linger else 0)))
    return found
