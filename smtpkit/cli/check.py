"""``smtpkit check``: connect and log in as a mail would, and report what the server showed."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from textwrap import wrap
from typing import Any

from smtpkit import Report
from smtpkit.cli.arguments import Parser, add_connection, add_output, make_client, transcribe
from smtpkit.cli.screen import Screen, Style, duration, escape, volume

MEANINGS = {
    "8BITMIME": "8-bit text as it is",
    "ATRN": "hands over mail to who dials in",
    "AUTH": "login",
    "BINARYMIME": "binary parts as they are",
    "BURL": "takes mail by an IMAP URL",
    "CHECKPOINT": "goes on where a transfer broke off",
    "CHUNKING": "mail data in counted chunks (BDAT)",
    "DELIVERBY": "deadlines for delivery",
    "DSN": "delivery notifications on request",
    "ENHANCEDSTATUSCODES": "replies with precise codes",
    "ETRN": "starts its queue on request",
    "EXPN": "shows the members of lists",
    "FUTURERELEASE": "delivery at a later time",
    "HELP": "explains itself",
    "LIMITS": "how much it takes in one session",
    "MT-PRIORITY": "priorities",
    "MTRK": "tracking",
    "NO-SOLICITING": "refuses marked advertising",
    "PIPELINING": "many commands in one go",
    "REQUIRETLS": "TLS all the way, on request",
    "RRVS": "asks since when a mailbox has its owner",
    "SIZE": "says how large a mail may be",
    "SMTPUTF8": "addresses in any script",
    "STARTTLS": "TLS on request",
    "VRFY": "tells whether a user exists",
    "XCLIENT": "lets a proxy say who the client is",
}
DAY = 86_400.0  # seconds


def main(arguments: Sequence[str]) -> int:
    """Check a server and print the report; return the exit code."""
    parser = Parser(
        "check",
        "Connect, begin TLS, log in; report what the server showed. No mail is sent.",
        usage="smtpkit check [OPTION]...",
    )
    add_connection(parser)
    add_output(parser)
    chosen = parser.parse_args(arguments)
    with make_client(chosen) as client:
        if chosen.transcript:
            transcribe(client, Screen(sys.stderr, when=chosen.color))
        report = client.check()
    if chosen.json:
        print(json.dumps(asdict(report), default=dict))
    else:
        screen = Screen(when=chosen.color)
        for line in lines(report, screen, _now()):
            screen.line(line)
    return 0


def _now() -> float:
    import time

    return time.time()


def lines(report: Report, screen: Screen, now: float) -> Iterator[str]:
    """The report as lines; ``now`` is seconds since 1970."""
    yield screen.paint(escape(report.server), "bold")
    yield ""
    yield _row(screen, "address", report.address)
    yield _row(screen, "greeting", *report.greeting.split("\n"))
    yield from _tls(report, screen, now)
    yield _row(screen, "login", *_login(report))
    yield ""
    yield screen.paint("  extensions", "bold")
    for keyword, argument in report.extensions.items():
        shown = escape(f"{keyword} {argument}".rstrip())
        if len(shown) > 30:
            shown = f"{shown[:29]}…"
        yield f"    {shown:<31} {screen.paint(_meaning(keyword, argument), 'dim')}".rstrip()
    if not report.extensions:
        yield screen.paint("    none", "dim")
    yield ""
    yield from _times(report, screen)


def _row(screen: Screen, name: str, *texts: str) -> str:
    """A name and its text, or texts below one another."""
    rows = [f"{'' if number else name:<12}{escape(text)}" for number, text in enumerate(texts)]
    rows[0] = screen.paint(rows[0][:12], "dim") + rows[0][12:]
    return "\n".join(f"  {row}" for row in rows)


def _login(report: Report) -> Iterator[str]:
    offered = ", ".join(report.mechanisms) or "none"
    yield f"{report.mechanism}, accepted" if report.mechanism else "not tried: the url has no user"
    yield f"offered: {offered}"


def _tls(report: Report, screen: Screen, now: float) -> Iterator[str]:
    if report.tls_version is None:
        yield _row(screen, "TLS", "none: what is said can be read on its way")
        return
    yield _row(screen, "TLS", f"{report.tls_version}, {report.cipher}")
    if not report.verified:
        yield _row(screen, "certificate", "not verified: it may be anybody who answers")
    elif not report.certificate:
        yield _row(screen, "certificate", "trusted for itself, whoever issued it")
    else:
        yield from _verified(report.certificate, screen, now)
    yield from (f"  {pin}" for pin in report.pins[:1])  # in one line, to be copied into pins


def _verified(certificate: Mapping[str, Any], screen: Screen, now: float) -> Iterator[str]:
    names = [str(name) for _, name in certificate.get("subjectAltName", ())] or ["no name"]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    yield _row(
        screen,
        "certificate",
        _distinguished(certificate, "subject"),
        f"issued by {_distinguished(certificate, 'issuer')}",
        *wrap(f"for {', '.join(names[:8])}{more}", screen.width - 14),
    )
    left = (_seconds(certificate["notAfter"]) - now) / DAY
    style: Style = "green" if left >= 14 else "yellow" if left >= 3 else "red"
    yield f"{'':14}{screen.paint(f'{left:,.0f} days left', style)}, until {certificate['notAfter']}"


def _distinguished(certificate: Mapping[str, Any], field: str) -> str:
    """The common name, and the organisation where there is one."""
    parts = {key: value for part in certificate.get(field, ()) for key, value in part}
    named = [parts[key] for key in ("commonName", "organizationName") if key in parts]
    return ", ".join(named) or "no name"


def _seconds(text: str) -> float:
    import ssl

    return ssl.cert_time_to_seconds(text)


def _meaning(keyword: str, argument: str) -> str:
    if keyword == "SIZE" and argument.isascii() and argument.isdigit() and int(argument):
        return f"mails up to {volume(int(argument))}"
    return MEANINGS.get(keyword, "")


def _times(report: Report, screen: Screen) -> Iterator[str]:
    yield screen.paint("  time", "bold")
    total = sum(report.times.values())
    width = max(screen.width - 40, 20)
    before = 0.0
    for stage, seconds in report.times.items():
        indent = int(before / total * width) if total else 0
        stripe = screen.stripe(seconds / total if total else 0, width)
        before += seconds
        yield f"    {stage:<16}{duration(seconds):>9}   {' ' * indent}{screen.paint(stripe, 'cyan')}"
    yield f"    {'total':<16}{screen.paint(f'{duration(total):>9}', 'bold')}"
