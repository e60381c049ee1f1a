"""Options: the URL, the keywords, TLS by scheme, what is refused at once, and that no secret shows."""

import copy
import dataclasses
import pickle
import ssl
import subprocess
import sys
import traceback
from typing import Any

import pytest

from smtpkit.errors import UsageError
from smtpkit.options import (
    PARAMETERS,
    SCHEMES,
    ClientCertificate,
    Credentials,
    Limits,
    OptionKeywords,
    Options,
    Proxy,
    Secret,
)

SECRET = "s3cr3t"


def refused(url: str | None, **keywords: Any) -> str:
    """The text of the UsageError that a URL and keywords raise, with everything a traceback shows."""
    with pytest.raises(UsageError) as caught:
        Options.of(url, **keywords)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


async def asynchronous(_: object) -> bool:
    """A policy that cannot be one."""
    return True


# Where to, and TLS.


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("smtp://mail.example.com", "mail.example.com", 25, "opportunistic"),
        ("smtp://u:p@mail.example.com", "mail.example.com", 25, "required"),
        ("SMTP://mail.example.com/", "mail.example.com", 25, "opportunistic"),
        ("smtp://mail.example.com:", "mail.example.com", 25, "opportunistic"),
        ("submission://mail.example.com", "mail.example.com", 587, "required"),
        ("smtps://mail.example.com", "mail.example.com", 465, "implicit"),
        ("submissions://u:p@mail.example.com:2465", "mail.example.com", 2465, "implicit"),
        ("lmtp://localhost", "localhost", 24, "opportunistic"),
        ("lmtp://u:p@localhost", "localhost", 24, "required"),
        ("smtp://[2001:db8::1]:2525", "2001:db8::1", 2525, "opportunistic"),
        ("smtp://[fe80::1%25eth0]", "fe80::1%eth0", 25, "opportunistic"),
        ("smtp://192.0.2.1?tls=required", "192.0.2.1", 25, "required"),
        ("smtps://h?tls=none", "h", 465, "none"),
        ("smtp://bücher.example", "bücher.example", 25, "opportunistic"),
        ("smtp://my_host.:26", "my_host.", 26, "opportunistic"),
    ],
)
def test_where_and_tls(url: str, host: str, port: int, tls: str) -> None:
    """The scheme says the port and when TLS begins; a login makes TLS required; IPv6 stands in brackets."""
    options = Options.of(url)
    assert (options.host, options.port, options.path, options.tls) == (host, port, None, tls)
    assert options.lmtp == url.startswith("lmtp")


def test_unix_socket() -> None:
    """LMTP over a unix socket has a path, no port and no TLS."""
    options = Options.of("lmtp+unix:///run/dovecot/my%20lmtp?timeout=5")
    assert (options.path, options.tls, options.lmtp) == ("/run/dovecot/my lmtp", "none", True)
    assert (options.host, options.port) == ("", 0)
    assert options.limits.timeout == 5


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a url it is taken from SMTPKIT_URL, read at the call; if that says nothing the error says what to set."""
    monkeypatch.delenv("SMTPKIT_URL", raising=False)
    assert "set SMTPKIT_URL" in refused(None)
    monkeypatch.setenv("SMTPKIT_URL", "")
    assert "set SMTPKIT_URL" in refused(None)
    monkeypatch.setenv("SMTPKIT_URL", "smtps://mail.example.com")
    assert Options.of().port == 465
    assert Options.of("smtp://other.example.com").host == "other.example.com"


# Parameters and keywords.

SAMPLES: dict[str, tuple[str, Any]] = {
    "mechanism": ("CRAM-MD5", "CRAM-MD5"),
    "authzid": ("b%40c+d", "b@c+d"),
    "connect": ("1.5", 1.5),
    "timeout": ("5", 5.0),
    "final": ("900", 900.0),
    "total": ("60", 60.0),
    "tls": ("implicit", "implicit"),
    "tls_name": ("mx.example.com", "mx.example.com"),
    "pins": (f"cert-sha256:{64 * 'a'},key-sha256:{64 * '0'}", (f"cert-sha256:{64 * 'a'}", f"key-sha256:{64 * '0'}")),
    "client_certificate": ("%2Fetc%2Fme.pem", ClientCertificate("/etc/me.pem")),
    "allow_plaintext_auth": ("true", True),
    "hello": ("[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
    "rate": ("1.5M", 1_500_000.0),
    "session_rate": ("100k", 100_000.0),
    "least_rate": ("100", 100.0),
    "mail_rate": ("0.5", 0.5),
    "domain_rate": ("20", 20.0),
    "domain_connections": ("2", 2),
    "chunking": ("never", "never"),
    "binary": ("true", True),
    "newlines": ("strict", "strict"),
    "on_refused": ("stop", "stop"),
    "connections": ("3", 3),
    "lifetime": ("600", 600.0),
    "idle": ("0.5", 0.5),
    "local_address": ("::1", "::1"),
    "local_port": ("2500", 2500),
    "family": ("ipv6", "ipv6"),
    "extensions": ("false", False),
    "reply_line": ("512", 512),
    "proxy": ("socks5h://b:p%2540@[::1]", Proxy("socks5h", "::1", 1080, "b", Secret("p@"))),
}


def value_of(options: Options, name: str) -> object:
    """The value of an option by its keyword."""
    for holder in (options, options.limits, options.credentials):
        if hasattr(holder, name):
            return getattr(holder, name)
    raise AssertionError(name)


@pytest.mark.parametrize("name", [name for name, row in PARAMETERS.items() if row.kind.read])
def test_each_parameter(name: str) -> None:
    """Each option of the table is read from the URL and is also a keyword with the same effect."""
    text, value = SAMPLES[name]
    by_url = Options.of(f"smtp://u:p@mail.example.com?{name}={text}")
    keyword: Any = {name: value}
    by_keyword = Options.of("smtp://u:p@mail.example.com", **keyword)
    assert value_of(by_url, name) == value
    assert by_url == by_keyword != Options.of("smtp://u:p@mail.example.com")


def test_the_table_is_the_keywords() -> None:
    """What is typed for users is exactly what the table knows, each with a meaning and a right default."""
    assert OptionKeywords.__annotations__.keys() == PARAMETERS.keys()
    for name, row in PARAMETERS.items():
        assert row.meaning, name
        assert not row.default or row.kind.right(row.default), name


def test_defaults() -> None:
    """The limits are those of RFC 5321 as the design has them, and the rest is the safe and usual choice."""
    options = Options.of("smtp://mail.example.com")
    assert options.limits == Limits(connect=30.0, timeout=60.0, final=600.0, total=None)
    assert (options.chunking, options.newlines, options.on_refused) == ("auto", "normalize", "continue")
    assert (options.connections, options.rate, options.hello, options.credentials) == (8, None, None, None)
    assert not options.allow_plaintext_auth
    assert not options.binary


def test_a_keyword_wins() -> None:
    """A keyword wins over the URL's parameter, also to say None, and also over its user and password."""
    options = Options.of("smtp://u:p@h?timeout=5&rate=10k", timeout=7, rate=None, password="q")
    assert (options.limits.timeout, options.rate) == (7, None)
    assert options.credentials == Credentials(user="u", password=Secret("q"))


@pytest.mark.parametrize(
    ("text", "rate"), [("100", 100.0), ("100k", 1e5), ("100K", 1e5), ("1.5M", 1.5e6), ("2g", 2e9), ("0.1k", 100.0)]
)
def test_rate_suffixes(text: str, rate: float) -> None:
    """In a URL the rate may have a suffix; k is 1000."""
    assert Options.of(f"smtp://h?rate={text}").rate == rate


def test_ssl_context_counts_by_identity() -> None:
    """Two contexts are two keys, the same one is one."""
    one, two = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    keys = [Options.of("smtps://h", ssl_context=context).key for context in (one, one, two, None)]
    assert len(set(keys)) == 3


def test_options_cost_no_heavy_import() -> None:
    """Making options imports neither ssl nor an event loop nor email."""
    code = (
        "import sys; from smtpkit.options import Options; Options.of('smtps://u:p@h?rate=1k'); "
        "sys.exit(not {'ssl', 'asyncio', 'anyio', 'email', 'logging'}.isdisjoint(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# What is refused.


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "empty"),
        ("mail.example.com", "begin with one of smtp://"),
        ("mail.example.com:25", "begin with one of"),
        ("stmp://h", "submission://, smtps://"),
        ("http://h", "begin with one of"),
        ("smtp:h", "begin with one of"),
        ("smtp://", "no host"),
        ("smtp://:25", "no host"),
        ("smtp://u:s3cr3t@", "no host"),
        ("smtp://h:0", "port must be a whole number from 1 to 65535"),
        ("smtp://h:65536", "port must be"),
        ("smtp://h:25a", "port must be"),
        ("smtp://h:²5", "port must be"),
        ("smtp://h:+25", "port must be"),
        ("smtp://h:" + "9" * 5000, "port must be"),
        ("smtp://::1", "IPv6 in brackets"),
        ("smtp://[::1", "IPv6 in brackets"),
        ("smtp://[::1]x", "IPv6 in brackets"),
        ("smtp://[192.0.2.1]", "in brackets there must be an IPv6 address"),
        ("smtp://[]", "in brackets"),
        ("smtp://a..b", "host must be a host name"),
        ("smtp://" + "a" * 64 + ".example", "host must be"),
        ("smtp://a%0d%0ab", "host must be"),
        ("smtp://a%00b", "host must be"),
        ("smtp://a%2fb", "host must be"),
        ("smtp://h\r\n", "control character"),
        ("smtp://h\0", "control character"),
        ("smtp:// h", "space"),
        ("smtp://h\ud800", "control character"),
        ("smtp://h/INBOX", "has a path"),
        ("smtp://h#x", "'#'"),
        ("smtp://u:s3cr3t/x@h", "'/' is %2F"),
        ("smtp://u:12/s3cr3t@h", "'/' is %2F"),
        ("smtp://u:s3cr3t?x@h", "%3A"),
        ("smtp://u:12?s3cr3t@h", "'?' is %3F"),
        ("smtp://u:12?s3cr3t@h=1", "'?' is %3F"),
        ("smtp://u:12#s3cr3t@h", "'#'"),
        ("smtp://u:s3cr3t%zz@h", "%25"),
        ("smtp://u:s3cr3t%ff@h", "percent-encoded UTF-8"),
        ("smtp://u:s3cr3t%0d%0a@h", "password must be"),
        ("smtp://u:s3cr3t%00@h", "password must be"),
        ("smtp://u%0a:s3cr3t@h", "user must be"),
        ("smtp://u:@h", "password must be"),
        ("smtp://u@h", "needs a password or a token"),
        ("smtp://:s3cr3t@h", "password needs a user"),
        ("smtp://h?mechanism=PLAIN", "needs a password or a token"),
        ("smtp://u:p@h?mechanism=PL%20AIN", "SASL mechanism"),
        ("smtp://h?timeout", "name=value"),
        ("smtp://h?timeout=5&timeout=6", "timeout is given twice"),
        ("smtp://h?timeot=5", "did you mean timeout?"),
        ("smtp://h?zzz=5", "known: mechanism, authzid, connect"),
        ("smtp://h?password=s3cr3t", "as a keyword, not in the url"),
        ("smtp://h?ssl_context=x", "as a keyword, not in the url"),
        ("smtp://h?host=x", "there is no option 'host'"),
        ("smtp://h?timeout=0", "timeout must be a positive number of seconds, or math.inf for no limit, not 0"),
        ("smtp://h?timeout=-1", "timeout must be"),
        ("smtp://h?timeout=nan", "timeout must be"),
        ("smtp://h?timeout=inf", "timeout must be"),
        ("smtp://h?timeout=1_0", "timeout must be"),
        ("smtp://h?timeout=5s", "timeout must be a positive number of seconds, or math.inf for no limit, not '5s'"),
        ("smtp://h?timeout=5k", "timeout must be"),
        ("smtp://h?total=", "total must be"),
        ("smtp://h?rate=fast", "rate must be a positive number of octets per second (in a URL also 100k or 1.5M)"),
        ("smtp://h?rate=0k", "rate must be"),
        ("smtp://h?rate=k", "rate must be"),
        ("smtp://h?tls=maybe", "tls must be one of none, opportunistic, required, implicit, not 'maybe'"),
        ("smtp://h?tls=NONE", "tls must be one of"),
        ("smtp://h?chunking=yes", "one of auto, always, never"),
        ("smtp://h?newlines=crlf", "one of normalize, strict"),
        ("smtp://h?on_refused=x", "one of continue, stop"),
        ("smtp://h?connections=0", "connections must be a whole number, 1 or more"),
        ("smtp://h?connections=1.5", "connections must be"),
        ("smtp://h?connections=%EF%BC%91", "connections must be"),
        ("smtp://h?allow_plaintext_auth=yes", "in a URL true or false"),
        ("smtp://h?local_address=here", "local_address must be an IP address"),
        ("smtp://h?local_port=70000", "local_port must be"),
        ("smtp://h?tls_name=a%20b", "tls_name must be a host name"),
        ("smtp://h?hello=", "hello must be a host name such as"),
        ("smtps://h?pins=", "pins must be cert-sha256: or key-sha256: and 64 hexadecimal digits"),
        ("smtps://h?pins=cert-sha256:12", "pins must be"),
        (f"smtps://h?pins=sha1:{64 * '0'}", "pins must be"),
        (f"smtps://h?pins=key-sha256:{64 * 'A'}", "in lower case"),
        (f"smtps://h?pins=key-sha256:{64 * 'a'},", "pins must be"),
        (f"smtp://h?pins=key-sha256:{64 * 'a'}", "pins mean nothing with tls='opportunistic'"),
        ("smtp://h?hello=a%0d%0aMAIL", "hello must be"),
        ("lmtp+unix://run/lmtp", "three slashes"),
        ("lmtp+unix://", "path must be the absolute path"),
        ("lmtp+unix:///", "path must be"),
        ("lmtp+unix:///a%00b", "path must be"),
        ("lmtp+unix:///s?tls_name=h", "mean nothing with tls='none'"),
    ],
)
def test_refused_urls(url: str, says: str) -> None:
    """What is wrong in a URL is refused at once, by name, with what would be right; a password's pieces never show."""
    assert says in refused(url)


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"timeot": 5}, "there is no option 'timeot' here; did you mean timeout?"),
        ({"prox": "socks5://p"}, "there is no option 'prox' here; did you mean proxy?"),
        ({"timeout": None}, "timeout must be"),
        ({"timeout": True}, "timeout must be"),
        ({"timeout": "5"}, "timeout must be"),
        ({"timeout": float("-inf")}, "timeout must be"),
        ({"connections": True}, "connections must be"),
        ({"connections": 2.0}, "connections must be"),
        ({"allow_plaintext_auth": 1}, "allow_plaintext_auth must be"),
        ({"tls": None}, "tls must be one of"),
        ({"tls": ["none"]}, "tls must be one of"),
        ({"ssl_context": True}, "ssl_context must be an ssl.SSLContext"),
        ({"pins": None}, "pins must be"),
        (
            {"client_certificate": ""},
            "client_certificate must be the path of a PEM file with a certificate and its key",
        ),
        ({"client_certificate": 5}, "client_certificate must be"),
        ({"client_certificate": ("me.pem",)}, "client_certificate must be"),
        ({"client_certificate": ("me.pem", None)}, "client_certificate must be"),
        ({"client_certificate": ("me.pem", "me.key", 5)}, "client_certificate must be"),
        ({"client_certificate": (SECRET, SECRET, SECRET, SECRET)}, "client_certificate must be"),
        ({"client_certificate": "me.pem", "tls": "none"}, "client_certificate means nothing with tls='none'"),
        (
            {"client_certificate": "me.pem", "tls": "required", "ssl_context": ssl.create_default_context()},
            "client_certificate and ssl_context exclude each other",
        ),
        ({"on_untrusted": True}, "on_untrusted must be a plain function (not async)"),
        ({"on_untrusted": asynchronous, "tls": "required"}, "not async"),
        ({"on_untrusted": bool}, "on_untrusted means nothing with tls='opportunistic'"),
        ({"on_untrusted": bool, "pins": "key-sha256:" + 64 * "0", "tls": "implicit"}, "exclude each other"),
        ({"pins": ["key-sha256:" + 64 * "0"], "tls": "required"}, "pins must be"),
        ({"pins": "key-sha256:" + 64 * "0", "tls": "none"}, "pins mean nothing with tls='none'"),
        (
            {"pins": "key-sha256:" + 64 * "0", "tls": "required", "ssl_context": ssl.create_default_context()},
            "pins, on_untrusted and ssl_context exclude each other",
        ),
        ({"local_address": 1}, "local_address must be"),
        ({"hello": 1}, "hello must be"),
        ({"hello": "a_b"}, "hello must be"),
        ({"hello": "-a.example"}, "hello must be"),
        ({"hello": "a.example."}, "hello must be"),
        ({"hello": "a" * 64}, "hello must be"),
        ({"hello": ".".join(["a" * 60] * 5)}, "hello must be"),
        ({"hello": "bücher.example"}, "hello must be"),
        ({"hello": "mail.example\n"}, "hello must be"),
        ({"hello": "[::1]"}, "hello must be"),
        ({"hello": "[IPv6:192.0.2.1]"}, "hello must be"),
        ({"hello": "[192.0.2.256]"}, "hello must be"),
        ({"hello": "[192.0.2.1"}, "hello must be"),
        ({"mechanism": 5, "user": "u", "password": "p"}, "mechanism must be"),
        ({"user": "u", "password": 5}, "password must be"),
        ({"user": "u", "password": "p", "token": "t"}, "password and token exclude each other"),
        ({"user": "u", "token": ""}, "token must be"),
        ({"user": "u", "token": SECRET + "\n"}, "token must be"),
        ({"user": "u", "password": SECRET + "\r"}, "password must be"),
        ({"user": "u", "password": SECRET, "tls": "none"}, "say allow_plaintext_auth=True"),
        ({"binary": True, "chunking": "never"}, "binary=True needs BDAT"),
        ({"user": "u", "password": SECRET, "tls": "opportunistic"}, "say allow_plaintext_auth=True"),
    ],
)
def test_refused_keywords(keywords: dict[str, Any], says: str) -> None:
    """What is wrong in a keyword is refused at once, by name; a secret is not shown."""
    assert says in refused("smtp://h", **keywords)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "needs a host and a port, or the path"),
        ({"host": "h"}, "needs a host and a port"),
        ({"port": 25}, "needs a host and a port"),
        ({"host": "h", "port": 25, "path": "/s"}, "mean nothing with the path"),
        ({"path": "/s", "local_address": "::1"}, "mean nothing with the path"),
        ({"path": "/s"}, "TLS over a unix socket needs tls_name"),
        ({"host": None, "port": 25}, "host must be"),
        ({"host": "h", "port": None}, "port must be"),
        ({"host": "h", "port": -1}, "port must be"),
        ({"host": "h", "port": 0.0}, "port must be"),
        ({"host": "h\nx", "port": 25}, "host must be"),
    ],
)
def test_direct_construction_is_checked_too(fields: dict[str, Any], says: str) -> None:
    """Options made without a URL keep the same rules, so that an Options that exists is valid."""
    with pytest.raises(UsageError, match=says):
        Options(**fields)


def test_url_must_be_text() -> None:
    """A url that is not a str is refused by its type, not shown."""
    assert "not bytes" in refused(b"smtp://u:s3cr3t@h")  # type: ignore[arg-type]  # what is shown here


@pytest.mark.parametrize("hello", ["localhost", "mail.example.com", "a-1.example", "[192.0.2.1]", "[IPv6:::1]"])
def test_right_hello_names(hello: str) -> None:
    """A domain and both kinds of address literal are right names for EHLO (RFC 5321 section 4.1.1.1)."""
    assert Options.of("smtp://h", hello=hello).hello == hello


# Logins and secrets.


def test_login_is_percent_decoded() -> None:
    """User and password are percent-decoded UTF-8; '+' is a plus; the last '@' ends the login."""
    login = Options.of("submission://ann%40example.com:p%3A%2F%40%25+%C3%A9@h").credentials
    assert login == Credentials(user="ann@example.com", password=Secret("p:/@%+é"))
    assert Options.of("submission://ann@example.com:pw@h").credentials == Credentials(
        user="ann@example.com", password=Secret("pw")
    )


def test_plaintext_is_the_users_word() -> None:
    """With allow_plaintext_auth a login may go without TLS."""
    assert Options.of("smtp://u:p@h?tls=none", allow_plaintext_auth=True).tls == "none"


def test_token() -> None:
    """A token may be a text, a Secret or a function, with or without a user."""
    assert Options.of("smtp://h", token="t", user="u").credentials == Credentials(user="u", token=Secret("t"))
    assert Options.of("smtp://h", token=lambda: "t").tls == "required"


class _Unhashable:
    __hash__ = None  # type: ignore[assignment]  # what is shown here

    def __call__(self) -> str:
        return "t"


def test_key() -> None:
    """What makes two sessions differ makes two keys; what does not, does not; every key is hashable."""
    base = Options.of("smtp://u:p@h")
    same = ["smtp://u:p@h:25?timeout=3", "smtp://u:p@h?rate=5&connections=2&chunking=never&mail_rate=1&session_rate=9"]
    other = [
        *("smtp://u:q@h", "smtp://v:p@h", "smtp://h", "smtp://u:p@i", "smtp://u:p@h:26", "lmtp://u:p@h:25"),
        *(
            "smtp://u:p@h?tls=implicit",
            "smtp://u:p@h?hello=x",
            "smtp://u:p@h?local_address=::1",
            "smtp://u:p@h?tls_name=x",
        ),
        *("smtp://u:p@h?mechanism=LOGIN", "smtp://u:p@h?authzid=w", "smtp://u:p@h?local_port=99", "lmtp+unix:///s"),
    ]
    assert {Options.of(url).key for url in same} == {base.key}
    assert len({base.key, *(Options.of(url).key for url in other)}) == len(other) + 1
    assert {Options.of("smtp://h", token=_Unhashable()).key}


def test_nothing_shows_a_secret() -> None:
    """Neither repr nor str nor format nor the shown URL holds a password or token."""
    password = Options.of(f"smtp://ann:{SECRET}@h")
    tokens = [Options.of("smtp://h", token=SECRET), Options(host="h", port=25, credentials=Credentials(token=SECRET))]
    for options in (password, *tokens):
        texts = [repr(options), str(options), f"{options}", options.shown, repr(options.credentials), str(options.key)]
        texts += [repr(dataclasses.asdict(options))] if options is password else []
        assert SECRET not in "".join(texts)
        assert "***" in options.shown
    assert "ann" in password.shown


def test_secret() -> None:
    """A Secret is equal by its text, hashes, pickles, copies and reveals only when asked."""
    secret = Secret(SECRET)
    assert secret == Secret(SECRET) != Secret("x")
    assert secret != SECRET
    assert len({secret, Secret(SECRET)}) == 1
    assert f"{secret} {secret!r} {secret!s}" == "*** *** ***"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(secret, protocol)).reveal() == SECRET
    assert copy.deepcopy(secret) == secret


def test_options_pickle_and_replace() -> None:
    """Options are plain values: they pickle, and a changed copy is checked again."""
    options = Options.of("submission://u:p@h")
    assert pickle.loads(pickle.dumps(options)) == options
    with pytest.raises(UsageError, match="allow_plaintext_auth"):
        dataclasses.replace(options, tls="none")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("smtp://h", "smtp://h"),
        ("smtp://ann%40x:p@h", "smtp://ann%40x:***@h"),
        ("submission://h", "submission://h"),
        ("submissions://h", "smtps://h"),
        ("smtp://h:2525", "smtp://h:2525?tls=opportunistic"),
        ("smtp://[fe80::1%25eth0]:26?tls=none", "smtp://[fe80::1%25eth0]:26?tls=none"),
        ("lmtp://h", "lmtp://h"),
        ("lmtp+unix:///run/my%20lmtp", "lmtp+unix:///run/my%20lmtp"),
    ],
)
def test_shown_is_a_url_again(url: str, shown: str) -> None:
    """The shown URL says where and how, and read again means the same server and TLS."""
    options = Options.of(url)
    assert options.shown == shown
    again = Options.of(options.shown)
    assert (again.host, again.port, again.path, again.tls) == (options.host, options.port, options.path, options.tls)


def test_every_scheme_is_shown_by_itself_or_its_twin() -> None:
    """Each scheme of the table round-trips through ``shown``."""
    for name, scheme in SCHEMES.items():
        options = Options.of(f"{name}://h" if scheme.port else f"{name}:///s")
        assert Options.of(options.shown) == options


def test_a_unix_socket_of_smtp_is_shown() -> None:
    """Options made directly may combine what no URL does; they are shown all the same."""
    assert Options(path="/s", tls="none").shown == "smtp+unix:///s?tls=none"
