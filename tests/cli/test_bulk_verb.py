"""``smtpkit bulk``: a mail for each row, what is told of it, and the exit code."""

import csv
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smtpkit.cli import bulk
from smtpkit.cli.main import main
from smtpkit.testing import Fault, Occurrence, Script, Server
from tests.terminal import Terminal, plain

Shown = pytest.CaptureFixture[str]

NO = "550 5.1.1 <no@example.org> no \x1b[31msuch <script>alert(1)</script> mailbox"
REPLIES: dict[str, Any] = {"RCPT:no@example.org": NO, "RCPT:full@example.org": "452 4.2.2 mailbox full"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A running server, to which SMTPKIT_URL points; two people do not get their mail."""
    with Server(Script(replies=REPLIES)) as server:
        monkeypatch.setenv("SMTPKIT_URL", server.url)
        yield server


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of its own to work in, with a template."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mail.txt").write_text("Subject: Hello {name}\nTo: {name} <{email}>\n\nDear {name}\n")
    return tmp_path


def _rows(*people: str, name: str = "N") -> None:
    with Path("rows.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("email", "name"), *((f"{one}@example.org", name) for one in people)])


def _bulk(*words: str) -> int:
    return main(["bulk", "rows.csv", "-f", "news@example.com", "--template", "mail.txt", *words])


def _json(capsys: Shown) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def test_all_accepted(server: Server, capsys: Shown) -> None:
    """Each row is a mail to its recipient, merged; without a terminal there is a sum and no more."""
    _rows(*"abcde")
    assert _bulk() == 0
    assert sorted(mail.paths for mail in server.received) == [(f"{one}@example.org",) for one in "abcde"]
    assert {str(mail.message()["Subject"]) for mail in server.received} == {"Hello N"}
    assert {mail.reverse_path for mail in server.received} == {"news@example.com"}
    assert len({mail.message()["Message-ID"] for mail in server.received}) == 5
    out, err = capsys.readouterr()
    assert out.splitlines()[:2] == ["accepted            5", "refused             0"]
    assert out.splitlines()[-1].startswith("5 of 5 mails, 0 s, ")
    assert err == ""


def test_json_lines_and_html(server: Server) -> None:
    """Rows may be JSON lines, the recipient in another column; HTML and attachments go along."""
    Path("rows.jsonl").write_text('{"mail": "b@example.org", "email": "x", "name": "<B>"}\n')
    Path("page.html").write_text("<p>{name}</p>")
    Path("a.csv").write_text("1,2\n")
    words = ["--template", "mail.txt", "--html", "page.html", "-a", "a.csv", "--to-column", "mail"]
    Path("mail.txt").write_text("Subject: Hi\n\n{name}\n")
    assert main(["bulk", "rows.jsonl", "-f", "news@example.com", *words]) == 0
    (received,) = server.received
    parts = [part for part in received.message().walk() if not part.is_multipart()]
    assert received.paths == ("b@example.org",)
    assert [part.get_content_type() for part in parts] == ["text/plain", "text/html", "text/csv"]
    assert str(parts[1].get_content()).strip() == "<p>&lt;B&gt;</p>"


def test_some_refused(server: Server, capsys: Shown) -> None:
    """Who is refused is counted, by the server's words made harmless: exit code 1; the others get their mail."""
    _rows("a", "no", "full", "b")
    assert _bulk("--failed", "failed.csv") == 1
    assert len(server.received) == 2
    out, err = capsys.readouterr()
    assert "refused             1" in out
    assert "deferred            1" in out
    assert "1  550 5.1.1 … no … …… mailbox" in out
    assert "452 4.2.2 mailbox full" in out
    assert err == "smtpkit: the same command with --resume sends what is left\n"
    with Path("failed.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert sorted((row["recipient"], row["line"], row["what"]) for row in found) == [
        ("full@example.org", "4", "deferred"),
        ("no@example.org", "3", "refused"),
    ]


@pytest.mark.parametrize(
    ("people", "code"),
    [
        ("ab", 0),
        (["a", "full"], 75),
        (["a", "no"], 1),
        (["no"], 69),
        (["no", "full"], 1),
        (["x y"], 65),
        (["a", "x y"], 1),
    ],
)
def test_exit_codes(people: list[str], code: int, server: Server, capsys: Shown) -> None:
    """The exit code is that of the worst outcome, and it is in the JSON too."""
    _rows(*people)
    assert _bulk("--json") == code
    told = _json(capsys)
    assert told["exit_code"] == code
    assert (told["total"], told["left"], told["end"]) == (len(people), 0, "finished")
    assert told["accepted"] == len(server.received)


def test_in_doubt(server: Server, capsys: Shown) -> None:
    """A mail that may have been accepted outweighs all: exit code 79."""
    server.scripts = (Script(replies={**REPLIES, "END": [Fault("close"), "250 ok"]}), Script(replies=REPLIES))
    _rows("a", "no", "b")
    assert _bulk("--json") == 79
    told = _json(capsys)
    assert (told["in_doubt"], told["refused"], told["accepted"]) == (1, 1, 1)


def test_a_value_that_cannot_be_sent(server: Server, capsys: Shown) -> None:
    """A row whose value would end a header line costs its own mail, and adds nothing to any."""
    with Path("rows.csv").open("w", encoding="utf-8", newline="") as file:
        evil = "x\r\nBcc: eve@example.net"
        csv.writer(file).writerows([("email", "name"), ("a@example.org", evil), ("b@example.org", "B")])
    assert _bulk("--json") == 1
    told = _json(capsys)
    assert (told["invalid"], told["accepted"]) == (1, 1)
    assert [mail.paths for mail in server.received] == [("b@example.org",)]
    assert b"eve@" not in server.received[0].octets


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--template", "missing.txt"], 65, "missing.txt"),
        (["--html", "missing.html"], 65, "missing.html"),
        (["--report", "missing/report.html"], 65, "missing/report.html"),
        (["--failed", "missing/failed.csv"], 65, "missing/failed.csv"),
        (["--to-column", "mail"], 65, "rows.csv, line 2: row 1 has no mail; it has email, name"),
        (["-f", "news"], 65, "sender 'news'"),
        (["--connections", "0"], 64, "connections"),
        (["--rate", "fast"], 64, "argument --rate: invalid float value: 'fast'"),
        (["--connections"], 64, "expected one argument"),
    ],
)
def test_what_is_wrong_is_told_first(words: list[str], code: int, told: str, server: Server, capsys: Shown) -> None:
    """A mistake is named, and nothing is sent."""
    _rows("a")
    assert _bulk(*words) == code
    assert told in capsys.readouterr().err
    assert not server.sessions


def test_unknown_field(server: Server, capsys: Shown) -> None:
    """A field that a row does not have stops the job before anything is sent, also when it is the last row."""
    Path("rows.jsonl").write_text('{"email": "a@example.org", "name": "A"}\n{"email": "b@example.org"}\n')
    assert main(["bulk", "rows.jsonl", "-f", "news@example.com", "--template", "mail.txt"]) == 65
    assert capsys.readouterr().err == "smtpkit: error: rows.jsonl, line 2: row 2 has no name; it has email\n"
    assert not server.sessions


def test_template_that_would_look_further(server: Server, capsys: Shown) -> None:
    """A template that asks for more than a value is refused before anything is sent."""
    _rows("a")
    Path("mail.txt").write_text("Subject: Hi\n\n{name.__class__.__mro__}\n")
    assert _bulk() == 65
    assert "mail.txt, line 3: '{name.__class__.__mro__}' is no field" in capsys.readouterr().err
    assert not server.sessions


def test_dry_run(server: Server, capsys: Shown) -> None:
    """A rehearsal shows the first mail, counts the others, names the rows that cannot be sent, and sends nothing."""
    _rows("a", "b", "x y", "c")
    before = sorted(Path().iterdir())
    assert _bulk("--dry-run", "--report", "report.html") == 65
    out, err = capsys.readouterr()
    assert "To: N <a@example.org>\n" in out
    assert out.endswith("3 mails, 1 rows that cannot be sent; nothing was sent\n")
    assert err.startswith("invalid  rows.csv, line 4: ")
    assert not server.sessions
    assert sorted(Path().iterdir()) == before
    _rows("a", "b")
    assert _bulk("--dry-run", "--json") == 0
    assert _json(capsys) == {"mails": 2, "invalid": 0, "exit_code": 0}


def test_dry_run_of_many_bad_rows(capsys: Shown) -> None:
    """Of many rows that cannot be sent the first ten are named."""
    _rows(*["x y"] * 25)
    assert _bulk("--dry-run") == 65
    assert capsys.readouterr().err.splitlines()[-1] == "and 15 more rows"


def test_report(server: Server) -> None:
    """The report is a page in which the server's words are only words."""
    _rows("a", "no", "full")
    assert _bulk("--report", "report.html") == 1
    text = Path("report.html").read_text(encoding="utf-8")
    assert "rows.csv" in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<script" not in text
    assert "\x1b" not in text
    assert server.url in text


def test_transcript(server: Server, capsys: Shown) -> None:
    """What is said can be followed, on standard error."""
    _rows("a")
    assert _bulk("-v") == 0
    assert "RCPT TO:<a@example.org>" in capsys.readouterr().err


def test_nobody_there(capsys: Shown) -> None:
    """A server that was never there ends the job at once: nobody is refused, and all can be sent later."""
    _rows(*"abcdefgh")
    assert _bulk("--url", "smtp://127.0.0.1:1", "--json", "--report", "report.html") == 75
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["end"] == "stopped"
    assert told["refused"] == 0
    assert err.startswith("smtpkit: error: ")
    assert "stopped" in Path("report.html").read_text(encoding="utf-8")


def test_login_refused(server: Server, capsys: Shown) -> None:
    """A login that is refused ends the job: waiting makes no difference to it."""
    server.scripts = (Script(users={"ann": "right"}, require_auth=True),)
    _rows(*(f"p{number}" for number in range(100)))
    url = f"smtp://ann:wrong@127.0.0.1:{server.port}?tls=none&allow_plaintext_auth=true"
    assert _bulk("--url", url, "--json") == 77
    told = _json(capsys)
    assert (told["end"], told["refused"], told["accepted"]) == ("stopped", 0, 0)
    assert told["left"] > 0
    assert len(server.sessions) < 50


def test_a_server_that_goes_away(server: Server, capsys: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """While sessions end at the greeting the job waits between its attempts, and goes on when there is one again."""
    waits: list[float] = []
    wait = bulk.Bulk._wait

    async def counted(self: bulk.Bulk) -> None:
        waits.append(time.monotonic())
        monkeypatch.setattr(bulk, "LONGEST_WAIT", 0.01)
        await wait(self)

    monkeypatch.setattr(bulk.Bulk, "_wait", counted)
    shut = Script(greeting="421 4.3.2 closing")
    server.scripts = (Script(close_after=frozenset({"END"})), *[shut] * 150, Script())
    _rows(*(f"p{number}" for number in range(900)))
    assert _bulk("--json", "--connections", "1") == 75
    told = _json(capsys)
    assert 1 < len(waits) < 150
    assert told["end"] == "finished"
    assert told["refused"] == 0
    assert told["accepted"] + told["deferred"] == 900
    assert 0 < told["deferred"] <= 151


def test_patience_ends(server: Server, capsys: Shown) -> None:
    """A server that stays away ends the job, with what it said last."""
    server.scripts = (Script(greeting="421 4.3.2 closing"),)
    _rows(*(f"p{number}" for number in range(200)))
    assert _bulk("--patience", "0", "--connections", "1") == 75
    out, err = capsys.readouterr()
    assert "closing" in err
    assert " left, " in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(number: signal.Signals, server: Server, capsys: Shown) -> None:
    """A signal ends it in order: what is in flight is settled, nothing more is taken, and the report is written."""

    def answer(occurrence: Occurrence) -> str:
        if occurrence.count == 20:
            os.kill(os.getpid(), number)
        time.sleep(0.002)
        return "250 2.0.0 ok"

    server.scripts = (Script(replies={"END": answer}),)
    _rows(*(f"p{number}" for number in range(2000)))
    assert _bulk("--json", "--report", "report.html") == 128 + number
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["end"] == "interrupted"
    assert 20 <= told["accepted"] < 1500
    assert told["accepted"] == len(server.received)
    assert told["left"] == 2000 - told["accepted"]
    assert "stopping" in err
    assert "interrupted" in Path("report.html").read_text(encoding="utf-8")


def test_interrupted_twice(server: Server, capsys: Shown) -> None:
    """A second signal ends it at once; what was in flight is told as in doubt."""
    pressed = threading.Event()

    def answer(occurrence: Occurrence) -> Fault:
        if not pressed.is_set():
            pressed.set()
            os.kill(os.getpid(), signal.SIGINT)
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        return Fault("stall")

    server.scripts = (Script(replies={"END": answer}),)
    _rows(*(f"p{number}" for number in range(50)))
    assert _bulk("--json") == 130
    told = _json(capsys)
    assert (told["end"], told["accepted"]) == ("interrupted", 0)
    assert told["in_doubt"] >= 1


def test_on_a_terminal(server: Server, monkeypatch: pytest.MonkeyPatch, capsys: Shown) -> None:
    """On a terminal the progress is seen while it runs, and nothing of it is left; the sum stands below."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(bulk, "FRAME", 0.001)
    file = Terminal()
    monkeypatch.setattr(sys, "stderr", file)
    _rows(*(f"p{number}" for number in range(200)))
    assert _bulk("--color", "never") == 0
    assert "200 accepted" in plain(file.getvalue()) or "%" in plain(file.getvalue())
    assert file.getvalue().endswith("\r\x1b[K")
    assert "accepted          200" in capsys.readouterr().out


def test_nobody_reads(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mails go out, and the exit code is right, though whoever read the transcript has left."""
    reader, writer = os.pipe()
    os.close(reader)
    _rows("a", "b")
    with os.fdopen(writer, "w", encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stderr", file)
        assert _bulk("-v") == 0
    assert len(server.received) == 2


# Again ----------------------------------------------------------------------------------------------------------------


def test_a_ledger_is_not_overwritten(server: Server, capsys: Shown) -> None:
    """Where a run is written down already, nobody is sent to again unless that is asked for by name."""
    _rows("a", "b")
    assert _bulk() == 0
    capsys.readouterr()
    assert _bulk() == 64
    assert capsys.readouterr().err.startswith("smtpkit: error: rows.csv.run: the ledger of an earlier run; --resume")
    assert len(server.received) == 2
    assert _bulk("--ledger", "another.run") == 0
    assert len(server.received) == 4


def test_resume_of_what_is_done(server: Server, capsys: Shown) -> None:
    """A run that was finished is not begun again: nothing is sent, and the sum is the same."""
    _rows("a", "no", "b")
    assert _bulk("--resume", "--json") == 1  # where there is no ledger, it begins one
    first = _json(capsys)
    assert _bulk("--resume", "--json", "--report", "report.html") == 1
    second = _json(capsys)
    assert len(server.received) == 2
    assert [second[name] for name in ("accepted", "refused", "left")] == [2, 1, 0]
    assert (first["before"], second["before"], second["sessions"]) == (0, 3, 0)
    assert first["replies"] == second["replies"]
    assert "3 of these were settled by earlier runs" in Path("report.html").read_text(encoding="utf-8")


def test_resume_after_a_signal(server: Server, capsys: Shown) -> None:
    """A job that was interrupted goes on where it was: everybody gets the mail, and nobody twice."""

    def answer(occurrence: Occurrence) -> str:
        if occurrence.count == 30:
            os.kill(os.getpid(), signal.SIGTERM)
        return "250 2.0.0 ok"

    server.scripts = (Script(replies={"END": answer}),)
    _rows(*(f"p{number}" for number in range(1000)))
    assert _bulk("--json") == 143
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert err.endswith("smtpkit: the same command with --resume sends what is left\n")
    assert 30 <= told["accepted"] == len(server.received) < 1000
    assert _bulk("--json", "--resume") == 0
    again = _json(capsys)
    assert (again["accepted"], again["before"], again["left"]) == (1000, told["accepted"], 0)
    assert sorted(mail.paths[0] for mail in server.received) == sorted(
        f"p{number}@example.org" for number in range(1000)
    )


def _once(answer: str | Fault, seen: list[str]) -> Any:
    """What answers the first mail data so, and accepts all others; the Message-IDs of all are in ``seen``."""

    def choose(occurrence: Occurrence) -> str | Fault:
        assert occurrence.mail is not None
        seen.append(str(occurrence.mail.message()["Message-ID"]))
        return answer if len(seen) == 1 else "250 2.0.0 ok"

    return choose


def test_resume_of_what_was_deferred(server: Server, capsys: Shown) -> None:
    """Who was refused for now is sent to again, by the Message-ID that the mail had; who was served is not."""
    seen: list[str] = []
    server.scripts = (Script(replies={"END": _once("451 4.3.0 later", seen)}),)
    _rows("a", "b")
    assert _bulk("--failed", "failed.csv") == 75
    assert "1  451 4.3.0 later" in capsys.readouterr().out
    assert _bulk("--resume", "--failed", "failed.csv", "--json") == 0
    assert _json(capsys)["before"] == 1
    assert (seen[2], len(set(seen)), len(server.received)) == (seen[0], 2, 2)
    assert len(Path("failed.csv").read_text(encoding="utf-8").splitlines()) == 2


@pytest.mark.parametrize(("choice", "code", "mails"), [("hold", 79, 1), ("retry", 0, 2)])
def test_resume_of_what_is_in_doubt(choice: str, code: int, mails: int, server: Server, capsys: Shown) -> None:
    """What may have been accepted is held, or sent again by the Message-ID it had, as the command says."""
    seen: list[str] = []
    server.scripts = (Script(replies={"END": _once(Fault("close"), seen)}),)
    _rows("a")
    assert _bulk() == 79
    assert _bulk("--resume", "--in-doubt", choice, "--json") == code
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["in_doubt"] == (choice == "hold")
    assert (len(seen), len(set(seen))) == (mails, 1)


def test_other_rows(server: Server, capsys: Shown) -> None:
    """A ledger of other rows is told from its own, and nothing is sent."""
    _rows("a", "full")
    assert _bulk() == 75
    _rows("full", "a")
    assert _bulk("--resume") == 64
    assert "'row 1' is for other recipients than this ledger says" in capsys.readouterr().err
    assert len(server.received) == 1


def test_no_ledger(server: Server, capsys: Shown) -> None:
    """A file that is no ledger is never written to."""
    _rows("a")
    assert _bulk("--resume", "--ledger", "mail.txt") == 64
    assert "mail.txt" in capsys.readouterr().err
    assert Path("mail.txt").read_text().startswith("Subject:")
    assert not server.sessions


def test_rates(server: Server, capsys: Shown) -> None:
    """``--rate`` and ``--domain-rate`` keep the mails apart, over several sessions too, and hold none back."""
    _rows(*(f"p{number}" for number in range(60)))
    assert _bulk("--rate", "400", "--domain-rate", "300", "--connections", "4", "--json") == 0
    told = _json(capsys)
    assert told["accepted"] == 60
    assert told["took"] >= 59 / 300
