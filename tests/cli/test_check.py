"""``smtpkit check``: the report for people and for programs."""

import io
import json
import re
from collections.abc import Iterator

import pytest

import smtpkit
from smtpkit.cli import arguments, check
from smtpkit.cli.main import main
from smtpkit.cli.screen import Screen
from smtpkit.testing import Script, Server

NAMES = tuple(("DNS", f"mx{number}.example.com") for number in range(9))
CERTIFICATE = {
    "subject": ((("commonName", "mx.example.com"),), (("organizationName", "Example Ltd"),)),
    "issuer": ((("organizationName", "Some CA"),),),
    "notAfter": "Jan 11 00:00:00 2030 GMT",
    "subjectAltName": NAMES,
}
EXPIRES = 1_894_320_000  # as seconds
REPORT = """\
submission://ann:***@mx.example.com

  address     192.0.2.1:587
  greeting    mx.example.com
              welcome \\x1b[2J
  TLS         TLSv1.3, TLS_AES_256_GCM_SHA384
  certificate mx.example.com, Example Ltd
              issued by Some CA
              for mx0.example.com, mx1.example.com, mx2.example.com,
              mx3.example.com, mx4.example.com, mx5.example.com,
              mx6.example.com, mx7.example.com and 1 more
              10 days left, until Jan 11 00:00:00 2030 GMT
  cert-sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
  login       PLAIN, accepted
              offered: PLAIN, LOGIN

  extensions
    SIZE 35882577                   mails up to 35.9 MB
    AUTH PLAIN LOGIN                login
    X-NEW yyyyyyyyyyyyyyyyyyyyyyy…
    LIMITS                          how much it takes in one session

  time
    connect           10.0 ms   ██████████
    tls               30.0 ms             ██████████████████████████████
    total             40.0 ms"""


def _report(**changes: object) -> smtpkit.Report:
    values: dict[str, object] = {
        "server": "submission://ann:***@mx.example.com",
        "address": "192.0.2.1:587",
        "greeting": "mx.example.com\nwelcome \x1b[2J",
        "extensions": {"SIZE": "35882577", "AUTH": "PLAIN LOGIN", "X-NEW": "y" * 40, "LIMITS": ""},
        "tls_version": "TLSv1.3",
        "cipher": "TLS_AES_256_GCM_SHA384",
        "verified": True,
        "resumed": False,
        "certificate": CERTIFICATE,
        "pins": ("cert-sha256:" + 4 * "0123456789abcdef", "key-sha256:" + 64 * "f"),
        "mechanisms": ("PLAIN", "LOGIN"),
        "mechanism": "PLAIN",
        "times": {"connect": 0.01, "tls": 0.03},
    }
    return smtpkit.Report(**(values | changes))  # type: ignore[arg-type]  # a table of values


def _shown(report: smtpkit.Report, *, now: float = EXPIRES - 9.5 * check.DAY) -> str:
    return "\n".join(check.lines(report, Screen(io.StringIO()), now))


def test_report() -> None:
    """All of it in 80 columns: server, TLS, certificate, login, extensions with their meaning, and times as bars."""
    shown = _shown(_report())
    assert shown == REPORT
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tls_version": None, "cipher": None}, "none: what is said can be read on its way"),
        ({"verified": False, "certificate": None}, "not verified: it may be anybody who answers"),
        ({"certificate": None}, "trusted for itself, whoever issued it\n  cert-sha256:0123"),
        ({"mechanism": None, "mechanisms": ()}, "not tried: the url has no user\n              offered: none"),
        ({"extensions": {}}, "extensions\n    none"),
        ({"certificate": {"notAfter": CERTIFICATE["notAfter"]}}, "certificate no name\n"),
        ({"times": {"connect": 0.0}}, "connect           0.00 ms   ▏"),
        ({"extensions": {"SIZE": ""}}, "SIZE                            says how large a mail may be"),
    ],
)
def test_what_is_missing(changes: dict[str, object], told: str) -> None:
    """What the server does not have is said."""
    assert told in _shown(_report(**changes))


@pytest.mark.parametrize(("days", "colour"), [(30, 32), (5, 33), (-1, 31)])
def test_days_left(days: float, colour: int) -> None:
    """Few days left are seen by their colour."""
    screen = Screen(io.StringIO(), when="always")
    shown = "\n".join(check.lines(_report(), screen, EXPIRES - days * check.DAY))
    assert f"\x1b[{colour}m{days} days left\x1b[0m" in shown


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A running server with STARTTLS and a login; the command line's client trusts its certificate."""
    with Server(Script(tls="starttls", users={"ann": "secret"})) as server:

        def trusting(url: str, **options: object) -> smtpkit.SyncClient:
            return smtpkit.SyncClient(url, ssl_context=server.client_context(), **options)  # type: ignore[arg-type]

        monkeypatch.setattr(arguments, "SyncClient", trusting)
        monkeypatch.setenv("SMTPKIT_URL", f"smtp://ann:secret@localhost:{server.port}")
        yield server


def test_check(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that lets us in is reported, with exit code 0; the password is not."""
    assert main(["check", "-v"]) == 0
    out, err = capsys.readouterr()
    assert "  certificate smtpkit TEST ONLY" in out
    assert re.search("^  cert-sha256:[0-9a-f]{64}$", out, re.MULTILINE)
    assert "  login       PLAIN, accepted" in out
    assert "~>  AUTH PLAIN ***" in err
    assert "secret" not in out + err


def test_json(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON: the report as it is."""
    assert main(["check", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["mechanism"], told["verified"], told["extensions"]["SIZE"]) == ("PLAIN", True, "52428800")
    assert told["times"].keys() >= {"connect", "greeting", "hello", "tls", "authentication"}


def test_login_refused(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong password is one line and exit code 77."""
    assert main(["check", "--url", f"smtp://ann:wrong@localhost:{server.port}"]) == 77
    assert capsys.readouterr().err.startswith("smtpkit: error: AUTH")


def test_not_to_be_trusted(server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A certificate that nobody vouches for ends it before the login: exit code 69."""
    monkeypatch.setattr(arguments, "SyncClient", smtpkit.SyncClient)
    assert main(["check"]) == 69
    assert "certificate" in capsys.readouterr().err
