"""``smtpkit queue``: mails put into a directory, shown, and sent from there; what is printed, and the exit codes."""

import io
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

import smtpkit
from smtpkit.cli import queue
from smtpkit.cli.main import main
from smtpkit.cli.screen import Screen, span
from smtpkit.testing import Fault, Occurrence, Script, Server
from tests.terminal import Terminal, plain

RAW = b"From: Ann <ann@example.com>\r\nTo: bob@example.org\r\nMessage-ID: <1@example.com>\r\n\r\nas it is\r\n"
URL = ("--url", "smtp://127.0.0.1:9")  # where nobody is asked
Shown = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A directory for mails, and beside it a letter."""
    made = tmp_path / "letters"
    made.mkdir(mode=0o700)
    made.with_name("letter.eml").write_bytes(RAW)
    return str(made)


def _letter(folder: str) -> str:
    return str(Path(folder).with_name("letter.eml"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A running server, to which SMTPKIT_URL points."""
    replies = {"RCPT:no@example.org": "550 5.1.1 no \x1b[31msuch mailbox", "RCPT:full@example.org": "452 4.2.2 full"}
    with Server(Script(replies=replies)) as server:
        monkeypatch.setenv("SMTPKIT_URL", server.url)
        yield server


def _add(folder: str, *people: str) -> None:
    words = [word for person in people for word in ("-t", f"{person}@example.org")]
    assert main(["queue", "add", folder, _letter(folder), *words]) == 0


def _states(folder: str) -> list[str]:
    return sorted(file.suffix for file in Path(folder).iterdir())


# add ------------------------------------------------------------------------------------------------------------------


def test_add(folder: str, server: Server, capsys: Shown) -> None:
    """A mail is queued as it is, for whom its header says; the path is printed."""
    assert main(["queue", "add", folder, _letter(folder)]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == (f"{next(Path(folder).iterdir())}\n", "")
    assert out.endswith(".queued\n")
    assert main(["queue", "run", folder]) == 0
    (mail,) = server.received
    assert (mail.octets, mail.reverse_path, mail.paths) == (RAW, "ann@example.com", ("bob@example.org",))


def test_add_from_standard_input(folder: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard input is the default, and the envelope may be given."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(RAW), encoding="utf-8"))
    people = ["-t", "cy@example.org", "--to", "dan@example.org"]
    assert main(["queue", "add", folder, "--from", "eve@example.com", *people]) == 0
    assert main(["queue", "run", folder]) == 0
    (mail,) = server.received
    assert (mail.octets, mail.reverse_path) == (RAW, "eve@example.com")
    assert mail.paths == ("cy@example.org", "dan@example.org")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["add", "/nowhere", "{letter}"], 64, "spool '/nowhere': there is no such directory"),
        (["add", "{folder}", "/nowhere/letter.eml"], 65, "/nowhere/letter.eml"),
        (["add", "{folder}", "{letter}", "-t", "b ob@@"], 65, "'b ob@@'"),
        (["add"], 64, "arguments are required: DIR; see smtpkit queue add --help"),
        (["list", "/nowhere"], 64, "spool '/nowhere': there is no such directory"),
        (["run", "/nowhere", *URL], 64, "spool '/nowhere': there is no such directory"),
        (["run", "{folder}", "--attempts", "0", *URL], 64, "attempts 0: a whole number, at least 1"),
        (["run", "{folder}", "--first", "soon"], 64, "argument --first: 'soon': a number of seconds, or such as 90s"),
        (["run", "{folder}", "--connections", "0", *URL], 64, "connections"),
        (["run", "{folder}", "--interval", "5"], 64, "unrecognized arguments: --interval 5"),
        (["watch", "{folder}", "--wait"], 64, "unrecognized arguments: --wait"),
        (["watch", "{folder}", "--interval", "0", *URL], 64, "interval 0.0: seconds, more than 0"),
        (["run", "{folder}"], 64, "no server: give a url"),
        (["lsit", "{folder}"], 64, "queue 'lsit': add, list, run, watch; see smtpkit queue --help"),
    ],
)
def test_usage(words: list[str], code: int, told: str, folder: str, capsys: Shown) -> None:
    """A mistake is named in one line on standard error, and nothing is queued or sent."""
    assert main(["queue", *(word.format(folder=folder, letter=_letter(folder)) for word in words)]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("smtpkit: error: ")
    assert told in err
    assert err.count("\n") == 1
    assert _states(folder) == []


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"], *([deed, "--help"] for deed in queue.DEEDS)])
def test_help(words: list[str], capsys: Shown) -> None:
    """The verb explains its deeds, and each deed its options, in 80 columns."""
    assert main(["queue", *words]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: smtpkit queue {words[0] if len(words) > 1 else 'DEED'} DIR")
    assert "exit code" in shown
    assert max(map(len, shown.splitlines())) <= 80


# list -----------------------------------------------------------------------------------------------------------------


def _listed(**what: Any) -> smtpkit.Listed:
    values = {"path": "/x/1.queued", "state": "queued", "since": 900.0, "notes": {}, "size": 1234}
    people = {"sender": "ann@example.com", "recipients": ("bob@example.org",), "message_id": "<1@example.com>"}
    return smtpkit.Listed(**{**values, **people, **what})


FILES = [
    _listed(),
    _listed(
        since=1000 - 3 * 86400.0,
        until=1750.0,
        recipients=("a@x.org", "b@x.org"),
        notes={"attempts": 12, "said": "450 4.2.0 later"},
        message_id=None,
        sender="",
        size=5_000_000,
    ),
    _listed(path="/x/3.sending", state="in doubt", since=None),
    _listed(path="/x/4.failed", state="failed", notes={"attempts": 1, "said": "550 5.1.1 no \x1b[31m"}),
    smtpkit.Listed(path="/x/j.queued", state="queued", since=None, error=smtpkit.InvalidMail("j.queued: no mail")),
    _listed(path="/x/5.sending", state="sending"),
]


def test_table() -> None:
    """State, age, next attempt, attempts, recipients, size, sender and Message-ID stand in columns."""
    lines = queue.table(FILES, Screen(io.StringIO()), 1000.0)
    assert lines == [
        "STATE       AGE    NEXT  TRIED  TO    SIZE  FROM             MESSAGE-ID",
        "queued    2 min     now      0   1  1.2 kB  ann@example.com  <1@example.com>",
        "queued    3.0 d  12 min     12   2  5.0 MB  <>",
        "  450 4.2.0 later",
        "in doubt                     0   1  1.2 kB  ann@example.com  <1@example.com>",
        "  3.sending",
        "failed    2 min              1   1  1.2 kB  ann@example.com  <1@example.com>",
        "  4.failed",
        "  550 5.1.1 no \\x1b[31m",
        "queued                                      ?",
        "  j.queued: no mail",
        "sending   2 min              0   1  1.2 kB  ann@example.com  <1@example.com>",
        "3 queued, 1 in doubt, 1 failed, 1 sending",
    ]


def test_table_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal no line is wider than it, and colours change nothing else."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    screen = Screen(Terminal(), when="always")
    files = [*FILES, _listed(message_id=f"<{'x' * 80}@example.com>"), _listed(notes={"said": "no " * 40})]
    lines = queue.table(files, screen, 1000.0)
    assert max(len(plain(line)) for line in lines) == 60
    assert plain(lines[1]).startswith("queued    2 min     now")
    assert lines[1].startswith("\x1b[33mqueued\x1b[0m")


def test_list(folder: str, capsys: Shown) -> None:
    """The mails of a directory, and a sum; an empty one says so."""
    assert main(["queue", "list", folder]) == 0
    assert capsys.readouterr().out == "no mails\n"
    _add(folder)
    _add(folder, "a", "b")
    capsys.readouterr()
    assert main(["queue", "list", folder]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"queued  +\d+ s +now +0 +2 +\d+ B  ann@example.com  <1@example.com>", lines[2])
    assert lines[-1] == "2 queued"


def test_list_as_json(folder: str, capsys: Shown) -> None:
    """As JSON: an array of objects with all that is known."""
    _add(folder)
    (Path(folder) / "a.queued").write_bytes(b"junk")
    capsys.readouterr()
    assert main(["queue", "list", folder, "--json"]) == 0
    mail, junk = json.loads(capsys.readouterr().out)
    assert abs(mail.pop("since") - time.time()) < 60
    assert mail == {
        "path": str(next(path for path in Path(folder).iterdir() if path.stem != "a")),
        "state": "queued",
        "until": None,
        "from": "ann@example.com",
        "to": ["bob@example.org"],
        "size": len(RAW),
        "message_id": "<1@example.com>",
        "notes": {},
        "error": None,
    }
    assert "it is cut, or something else" in junk["error"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *[(0, "0 s"), (0.4, "0 s"), (42, "42 s"), (99.4, "99 s"), (99.5, "2 min"), (900, "15 min"), (3590, "1.0 h")],
        *[(12_600, "3.5 h"), (86_400, "1.0 d"), (432_000, "5.0 d")],
    ],
)
def test_span(seconds: float, text: str) -> None:
    """How long people wait is told in one unit."""
    assert span(seconds) == text


# run ------------------------------------------------------------------------------------------------------------------


def test_run(folder: str, server: Server, capsys: Shown) -> None:
    """A line for each mail, with what was said made harmless, and a sum; refused for some and sent to others is 1."""
    _add(folder)
    _add(folder, "cy", "no")
    _add(folder, "cy", "full")
    (Path(folder) / "junk.queued").write_bytes(b"junk")
    capsys.readouterr()
    assert main(["queue", "run", folder, "--connections", "1"]) == 1
    out, err = capsys.readouterr()
    lines = sorted(out.splitlines()[:-1])
    assert lines[0].startswith("failed    <1@example.com>  accepted for 1: <no@example.org> 550 5.1.1 no \\x1b[31msuch")
    assert lines[1].startswith("failed    junk.failed  junk.queued: it does not end as a mail")
    assert re.fullmatch(
        r"queued    <1@example.com>  accepted for 1, attempt 1, again in 1\d min: <full@example.org> 452 4.2.2 full",
        lines[2],
    )
    assert re.fullmatch(r"sent      <1@example.com>  accepted for 1: 250 2.0.0 accepted as \d", lines[3])
    assert out.splitlines()[-1] == "1 sent, 1 queued, 2 failed"
    assert err == ""
    assert main(["queue", "run", folder]) == 0
    assert capsys.readouterr().out == "nothing due\n"


@pytest.mark.parametrize(
    ("people", "options", "code", "left"),
    [
        (["cy"], [], 0, []),
        (["cy"], ["--keep"], 0, [".sent"]),
        (["no"], [], 69, [".failed"]),
        (["full"], [], 75, [".queued"]),
        (["full"], ["--attempts", "1"], 69, [".failed"]),
        (["full"], ["--maximum-age", "0s"], 69, [".failed"]),
        (["full", "cy"], ["--attempts", "2", "--wait", "--first", "0.01"], 69, [".failed"]),
    ],
)
@pytest.mark.usefixtures("server")
def test_exit_codes(people: list[str], options: list[str], code: int, left: list[str], folder: str) -> None:
    """The exit code says what became of the mails, the directory what is left."""
    _add(folder, *people)
    assert main(["queue", "run", folder, *options]) == code
    assert _states(folder) == left


@pytest.mark.parametrize(
    ("option", "code", "words"), [("hold", 79, ("in doubt", ".sending")), ("retry", 75, ("queued", ".queued"))]
)
def test_in_doubt(option: str, code: int, words: tuple[str, str], folder: str, server: Server) -> None:
    """What may have been accepted is in doubt, 79, or tried again."""
    server.scripts = (Script(replies={"END": Fault("close")}),)
    _add(folder)
    with redirect_stdout(io.StringIO()) as out:
        assert main(["queue", "run", folder, "--in-doubt", option]) == code
    assert _states(folder) == [words[1]]
    assert out.getvalue().splitlines()[-1] == f"1 {words[0]}"


def test_wait(folder: str, server: Server, capsys: Shown) -> None:
    """With --wait it goes on until all is settled; the sum counts each mail once."""
    server.scripts = (Script(replies={"RCPT": ["450 4.2.0 later", "450 4.2.0 later", "250 ok"]}),)
    _add(folder)
    assert main(["queue", "run", folder, "--wait", "--first", "0.01"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[-4:-1]] == ["queued", "queued", "sent"]
    assert out.splitlines()[-1] == "1 sent"


def test_no_server(folder: str, capsys: Shown) -> None:
    """Without a connection the mail is queued as it was, and the error is told: exit code 75."""
    _add(folder)
    capsys.readouterr()
    with Server() as server:
        url = server.url
    assert main(["queue", "run", folder, "--url", url]) == 75
    out, err = capsys.readouterr()
    assert out.startswith("queued    ")
    assert out.endswith("\n1 queued\n")
    assert err.startswith("smtpkit: error: ")
    assert err.count("\n") == 1
    assert _states(folder) == [".queued"]


def test_login_refused(folder: str, server: Server, capsys: Shown) -> None:
    """A refused login is exit code 77, and the password is not shown."""
    server.scripts = (Script(users={"ann": "right"}, require_auth=True),)
    _add(folder)
    url = server.url.replace("//", "//ann:wr0ng@") + "?allow_plaintext_auth=true"
    assert main(["queue", "run", folder, "--url", url, "--tls", "none", "-v"]) == 77
    out, err = capsys.readouterr()
    assert "wr0ng" not in out + err
    assert _states(folder) == [".queued"]


def test_run_as_json(folder: str, server: Server, capsys: Shown) -> None:
    """As JSON: an object for each attempt, a line each, and nothing else."""
    _add(folder, "cy", "full", "no")
    capsys.readouterr()
    assert main(["queue", "run", folder, "--json"]) == 75
    (told,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert told.pop("until") > time.time()
    assert told.pop("path").endswith(".queued")
    assert told == {
        "state": "queued",
        "message_id": "<1@example.com>",
        "attempts": 1,
        "accepted": ["cy@example.org"],
        "refused": {"full@example.org": "452 4.2.2 full", "no@example.org": "550 5.1.1 no \\x1b[31msuch mailbox"},
        "in_doubt": [],
        "error": None,
    }


def test_transcript(folder: str, server: Server, capsys: Shown) -> None:
    """The transcript goes to standard error."""
    _add(folder)
    assert main(["queue", "run", folder, "-v", "--hello", "client.example.com"]) == 0
    out, err = capsys.readouterr()
    assert "->  EHLO client.example.com\n" in err
    assert "EHLO" not in out


def test_nobody_reads_it(folder: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mails go out though whoever read the lines has left."""
    _add(folder)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdout", file)
        assert main(["queue", "run", folder]) == 0
    assert len(server.received) == 1


def test_fault_while_it_stops(folder: str, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: Shown) -> None:
    """What goes wrong after a signal is told all the same, and so by the exit code."""

    def stop(_: Occurrence) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return "450 4.2.0 later"

    def fail(*_: object, **__: object) -> None:
        raise smtpkit.SpoolError("the disk is full")

    server.scripts = (Script(replies={"RCPT": stop}),)
    monkeypatch.setattr("smtpkit.spool.Entry.served", fail)
    _add(folder)
    assert main(["queue", "watch", folder]) == 75
    assert "smtpkit: error: the disk is full\n" in capsys.readouterr().err
    assert _states(folder) == [".queued"]
