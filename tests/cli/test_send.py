"""``smtpkit send``: the mail that the options describe, what is told of its fate, and the exit code."""

import io
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import smtpkit
from smtpkit.cli import arguments, send
from smtpkit.cli.main import main
from smtpkit.cli.screen import Screen
from smtpkit.testing import Fault, Occurrence, Script, Server
from tests.terminal import Terminal, plain

RAW = b"From: ann@example.com\r\nTo: bob@example.org\r\nSubject: raw\r\n\r\nas it is\r\n"
PEOPLE = ("-f", "ann@example.com", "-t", "bob@example.org")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A running server, to which SMTPKIT_URL points."""
    with Server(Script(replies={"RCPT:no@example.org": "550 5.1.1 no \x1b[31msuch mailbox"})) as server:
        monkeypatch.setenv("SMTPKIT_URL", server.url)
        yield server


def _stdin(monkeypatch: pytest.MonkeyPatch, octets: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(octets), encoding="utf-8"))


def test_composed_mail(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every option about the content ends up in the mail; Bcc only in the envelope."""
    (tmp_path / "page.html").write_text("<p>Größe", encoding="utf-8")
    (tmp_path / "a.csv").write_bytes(b"1,2\n")
    words = ["--cc", "Carol <carol@example.org>", "--bcc", "dan@example.org", "--subject", "Größe", "-b", "text"]
    words += ["--html", f"@{tmp_path / 'page.html'}", "-a", str(tmp_path / "a.csv"), "--header", "X-One: 1"]
    assert main(["send", *PEOPLE, *words]) == 0
    (received,) = server.received
    message = received.message()
    assert received.paths == ("bob@example.org", "carol@example.org", "dan@example.org")
    assert (message["Subject"], message["X-One"], message["Bcc"]) == ("Größe", "1", None)
    kinds = [part.get_content_type() for part in message.walk() if not part.is_multipart()]
    assert kinds == ["text/plain", "text/html", "text/csv"]
    out, err = capsys.readouterr()
    assert out.splitlines()[:3] == [
        "accepted  bob@example.org",
        "accepted  carol@example.org",
        "accepted  dan@example.org",
    ]
    assert out.splitlines()[3].strip() == "250 2.0.0 accepted as 1"
    assert err == ""


def test_body_and_html(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text may come from standard input, and HTML from the command line."""
    _stdin(monkeypatch, "Grüße\n".encode())
    assert main(["send", *PEOPLE, "-b", "-", "--html", "<p>hi"]) == 0
    parts = [part for part in server.received[0].message().walk() if not part.is_multipart()]
    assert [str(part.get_content()).strip() for part in parts] == ["Grüße", "<p>hi"]


@pytest.mark.parametrize("source", ["@file", "-", "@-"])
def test_raw_mail(source: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole mail is sent as it is, from a file or from standard input; its header says for whom."""
    (tmp_path / "mail.eml").write_bytes(RAW)
    _stdin(monkeypatch, RAW)
    assert main(["send", "--data", source.replace("file", str(tmp_path / "mail.eml"))]) == 0
    assert (server.received[0].octets, server.received[0].paths) == (RAW, ("bob@example.org",))


def test_raw_mail_to_others(server: Server, tmp_path: Path) -> None:
    """Sender and recipients given here are the envelope of a whole mail."""
    (tmp_path / "mail.eml").write_bytes(RAW)
    words = ["-f", "eve@example.com", "-t", "carol@example.org", "--bcc", "dan@example.org"]
    assert main(["send", "--data", f"@{tmp_path / 'mail.eml'}", *words]) == 0
    assert server.received[0].reverse_path == "eve@example.com"
    assert server.received[0].paths == ("carol@example.org", "dan@example.org")


def test_some_refused(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """Who is refused is told with the server's words, made harmless; the others get the mail: exit code 1."""
    assert main(["send", *PEOPLE, "-t", "no@example.org"]) == 1
    out, err = capsys.readouterr()
    assert "refused   no@example.org  550 5.1.1 no \\x1b[31msuch mailbox\n" in out
    assert err == ""


def test_all_refused(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody gets the mail there is an error, and the code for it."""
    assert main(["send", "-f", "ann@example.com", "-t", "no@example.org"]) == 69
    out, err = capsys.readouterr()
    assert out.startswith("refused   no@example.org")
    assert err == "smtpkit: error: <no@example.org> 550 5.1.1 no \\x1b[31msuch mailbox\n"


def test_in_doubt(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the connection is lost before the final reply, that is said, and exit code 79."""
    server.scripts = (Script(replies={"END": Fault("close")}),)
    assert main(["send", *PEOPLE]) == 79
    out, err = capsys.readouterr()
    assert out == "in doubt  bob@example.org\n"
    assert err.startswith("smtpkit: error: ")


def test_json(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON: one object with all that is known."""
    assert main(["send", *PEOPLE, "-t", "no@example.org", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["accepted"] == ["bob@example.org"]
    assert told["refused"]["no@example.org"]["enhanced"] == "5.1.1"
    assert told["reply"] == {"code": 250, "enhanced": "2.0.0", "lines": ["2.0.0 accepted as 1"]}
    assert (told["in_doubt"], told["error"], told["exit_code"]) == ([], None, 1)
    assert main(["send", "-f", "ann@example.com", "-t", "no@example.org", "--json"]) == 69
    told = json.loads(capsys.readouterr().out)
    assert (told["error"]["kind"], told["error"]["transient"]) == ("RecipientsRefused", False)


def test_transcript(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """The transcript goes to standard error, the result to standard output."""
    assert main(["send", *PEOPLE, "-v", "--hello", "client.example.com", "--timeout", "9", "--rate", "1M"]) == 0
    out, err = capsys.readouterr()
    assert "->  EHLO client.example.com\n" in err
    assert "<-  250 2.0.0 accepted as 1\n" in err
    assert out.startswith("accepted  bob@example.org\n")


def test_dsn(server: Server) -> None:
    """Notifications are asked for each recipient."""
    assert main(["send", *PEOPLE, "--dsn", "success,delay"]) == 0
    assert server.received[0].recipients[0].parameters["NOTIFY"] == "SUCCESS,DELAY"


def test_nobody_reads_the_transcript(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mail goes out, and its exit code is right, though whoever read the transcript has left."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stderr", file)
        assert main(["send", *PEOPLE, "-v"]) == 0
    assert len(server.received) == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-t", "b@example.org"], "--from is missing"),
        (["-f", "a@example.com"], "--to is missing"),
        (["--data", "mail.eml"], "--data wants @FILE, such as @mail.eml"),
        (["--data", "@x", "--subject", "s", "-b", "b"], "--data is the whole mail, so --subject, --body cannot"),
        ([*PEOPLE, "--header", "X-One"], "argument --header: 'X-One' is not of the form 'Name: value'"),
        ([*PEOPLE, "--header", "X-A: 1", "--header", "x-a: 2"], "--header x-a is given twice"),
        ([*PEOPLE, "--dsn", "sometimes"], "argument --dsn: 'sometimes'"),
        ([*PEOPLE, "--rate", "fast"], "argument --rate: 'fast'"),
        ([*PEOPLE, "--rate", "-5"], "rate must be a positive number"),
    ],
)
def test_usage(words: list[str], told: str, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake is named, and nothing is sent."""
    assert main(["send", *words]) == 64
    assert told in capsys.readouterr().err
    assert not server.sessions


@pytest.mark.parametrize(
    "words",
    [["--data", "@/nowhere/mail.eml"], [*PEOPLE, "-a", "/nowhere/a.pdf"], [*PEOPLE, "--html", "@/nowhere/a.html"]],
)
def test_missing_file(words: list[str], server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not there is named: exit code 65."""
    assert main(["send", *words]) == 65
    err = capsys.readouterr().err
    assert err.startswith("smtpkit: error: ")
    assert "/nowhere/" in err


def test_invalid_mail(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """An address that is none is told in one line: exit code 65."""
    assert main(["send", "-f", "ann@example.com", "-t", "b ob@@"]) == 65
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture
def secure_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A running server with STARTTLS and logins; the command line's client trusts its certificate."""
    script = Script(tls="starttls", users={"ann": "pass word"}, tokens={"ann": "tok"}, require_auth=True)
    with Server(script) as server:

        def trusting(url: str, **options: object) -> smtpkit.SyncClient:
            return smtpkit.SyncClient(url, ssl_context=server.client_context(), **options)  # type: ignore[arg-type]

        monkeypatch.setattr(arguments, "SyncClient", trusting)
        yield server


@pytest.mark.parametrize(
    ("option", "secret", "mechanism"),
    [("--password-command", "pass word", b"AUTH PLAIN"), ("--token-command", "tok", b"AUTH OAUTHBEARER")],
)
def test_secret_of_a_command(option: str, secret: str, mechanism: bytes, secure_server: Server) -> None:
    """A password or a token is the first line that a command prints."""
    url = f"smtp://ann@localhost:{secure_server.port}"
    command = f'"{sys.executable}" -c "print({secret!r}); print(1)"'
    assert main(["send", *PEOPLE, "--url", url, option, command]) == 0
    assert secure_server.received[0].user == "ann"
    assert any(line.startswith(mechanism) for line in secure_server.sessions[0].said("C"))


def test_secret_is_not_shown(secure_server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong password is refused with code 77, and is in nothing that is printed."""
    url = f"smtp://ann:wr0ng%20word@localhost:{secure_server.port}"
    assert main(["send", *PEOPLE, "--url", url, "-v"]) == 77
    out, err = capsys.readouterr()
    assert "~>  AUTH PLAIN ***" in err
    assert "wr0ng" not in out + err


@pytest.mark.parametrize(
    ("command", "told"),
    [("exit 3", "the command failed with exit code 3"), ("exit 0", "the command printed nothing"), ("echo", "nothing")],
)
def test_command_fails(command: str, told: str, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that fails, or says nothing, is named as the cause."""
    assert main(["send", *PEOPLE, "--password-command", command]) == 64
    err = capsys.readouterr().err
    assert err.startswith("smtpkit: error: --password-command: ")
    assert err.endswith(f"{told}\n")
    assert not server.received


def _interrupt(_: Occurrence) -> None:
    """Say nothing, and press Ctrl-C a moment later, when the client waits for the reply."""
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()


@pytest.mark.parametrize(("moment", "told"), [("MAIL", ""), ("END", "the mail may have been accepted")])
def test_interrupted(moment: str, told: str, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C ends it with 130 and without a word, unless the mail is in doubt."""
    server.scripts = (Script(replies={moment: _interrupt}),)
    assert main(["send", *PEOPLE]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert (told in err) if told else err == ""


def _progress(file: Terminal) -> str:
    show = send.Progress(Screen(file))
    show(smtpkit.TransferStarted(size=1000, at=1.0, session=1))
    for at, done in ((1.1, 100), (1.4, 400), (1.41, 410), (1.9, 1000)):
        show(smtpkit.TransferProgress(done=done, size=1000, rate=1000.0, at=at, session=1))
    show(smtpkit.TransferEnded(done=1000, took=1.0, at=2.0, session=1))
    show(smtpkit.Settled(outcome=smtpkit.Outcome(), at=2.1, session=1))
    return file.getvalue()


def test_progress() -> None:
    """A transfer that takes long is a line redrawn at most every few hundredths, then erased."""
    frames = plain(_progress(Terminal())).split("\r")
    assert [frame.split()[1] for frame in frames if frame] == ["40%", "100%", "100%"]
    assert "0.6 s left" in frames[0]
    assert "awaiting reply" in frames[2]
    assert frames[-1] == ""
    assert all(len(frame) < 80 for frame in frames)


def test_quick_transfer_shows_nothing() -> None:
    """What is over at once is not worth a line."""
    file = Terminal()
    show = send.Progress(Screen(file))
    show(smtpkit.TransferStarted(size=None, at=1.0, session=1))
    show(smtpkit.TransferProgress(done=10, size=None, rate=1.0, at=1.1, session=1))
    show(smtpkit.TransferEnded(done=10, took=0.1, at=1.1, session=1))
    assert file.getvalue() == ""


def test_progress_of_unknown_size() -> None:
    """Without a size there is no bar, but what went out and how fast."""
    event = smtpkit.TransferProgress(done=5_000_000, size=None, rate=1e6, at=1.0, session=1)
    assert send.progress_line(Screen(io.StringIO()), event) == "  5.0 MB  1.0 MB/s"


def test_progress_on_a_terminal(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a slow transfer is seen, and nothing of it is left."""
    monkeypatch.setenv("TERM", "xterm")
    file = Terminal()
    monkeypatch.setattr(sys, "stderr", file)
    (tmp_path / "mail.eml").write_bytes(RAW + b"x\r\n" * 100_000)
    assert main(["send", "--data", f"@{tmp_path / 'mail.eml'}", "--rate", "500k"]) == 0
    assert "100%" in file.getvalue()
    assert file.getvalue().endswith("\r\x1b[K")
