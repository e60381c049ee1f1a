"""The entrance of the command line: verbs, help, one line for what went wrong, and exit codes."""

import subprocess
import sys
import types
from pathlib import Path

import pytest

import smtpkit
from smtpkit.cli import exits
from smtpkit.cli.main import VERBS, main

NOT_NOW = smtpkit.Reply(451, ("4.3.0 later",))
NEVER = smtpkit.Reply(550, ("5.7.1 never",))


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "smtpkit", *arguments]
    home = Path(smtpkit.__file__).parents[1]
    return subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=50, check=False)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Without a verb, or asked for help, it shows the verbs and two examples, in 80 columns by 24 lines or so."""
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert all(f"  {verb} " in shown for verb in VERBS)
    assert "smtpkit send -f" in shown
    lines = shown.splitlines()
    assert len(lines) < 30
    assert max(map(len, lines)) <= 88


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each verb explains its options, and what its exit code means."""
    assert main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: smtpkit {verb}")
    assert "exit code" in shown


def test_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells the version of the distribution; a checkout that is not installed has none."""
    from importlib import metadata

    monkeypatch.setattr(metadata, "version", {"smtpkit-client": "1.2.3"}.__getitem__)
    assert main(["--version"]) == 0

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert main(["-V"]) == 0
    assert capsys.readouterr().out == "smtpkit 1.2.3\nsmtpkit, a checkout that is not installed\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["sned"], "there is no verb 'sned'; did you mean send?"),
        (["\x1b[2J"], "there is no verb '\\x1b[2J'"),
        (["check", "--urls", "x"], "unrecognized arguments: --urls x; see smtpkit check --help"),
        (["check", "--tls", "maybe"], "argument --tls: invalid choice: 'maybe'"),
        (["check"], "no server: give a url"),
        (["check", "--url", "http://x"], "url must begin with one of"),
    ],
)
def test_usage_errors(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake on the command line is one line that says what is wrong, and exit code 64."""
    assert main(words) == 64
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"smtpkit: error: {told}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (smtpkit.UsageError("x"), 64),
        (smtpkit.InvalidMail("x"), 65),
        (FileNotFoundError(2, "No such file or directory", "a.pdf"), 65),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), 65),
        (smtpkit.SenderRefused(NEVER, "MAIL"), 69),
        (smtpkit.RecipientsRefused({"b@x.org": NEVER}), 69),
        (smtpkit.DataRefused(NEVER, "DATA"), 69),
        (smtpkit.NotSupported("x", extension="SMTPUTF8"), 69),
        (smtpkit.TLSError("x"), 69),
        (smtpkit.SenderRefused(NOT_NOW, "MAIL"), 75),
        (smtpkit.RecipientsRefused({"a@x.org": NEVER, "b@x.org": NOT_NOW}), 75),
        (smtpkit.ServiceClosing(smtpkit.Reply(421, ("bye",)), "MAIL"), 75),
        (smtpkit.ConnectError("x"), 75),
        (smtpkit.ProxyError("x"), 75),
        (smtpkit.ChannelLost("x"), 75),
        (smtpkit.TimedOut("x", limit="timeout"), 75),
        (smtpkit.ProtocolViolation("x"), 76),
        (smtpkit.AuthenticationRefused(NEVER, "AUTH"), 77),
        (smtpkit.AuthenticationRefused(NOT_NOW, "AUTH"), 75),
        (smtpkit.InDoubt("x"), 79),
        (smtpkit.ChannelLost("x", outcome=smtpkit.Outcome(in_doubt=("b@x.org",))), 79),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 141),
    ],
    ids=repr,
)
def test_errors(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each class of error has its exit code and is told in one line; an interruption is quiet."""

    def fail(words: list[str]) -> int:
        raise error

    stdout = sys.stdout
    monkeypatch.setitem(sys.modules, "smtpkit.cli.check", types.SimpleNamespace(main=fail))
    try:
        assert main(["check"]) == code
    finally:
        sys.stdout = stdout
    told = capsys.readouterr().err
    assert told == "" if code >= 130 else (told.startswith("smtpkit: error: ") and told.count("\n") == 1)


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (smtpkit.Outcome(accepted=("a@x.org",)), 0),
        (smtpkit.Outcome(accepted=("a@x.org",), refused={"b@x.org": NEVER}), 1),
        (smtpkit.Outcome(error=smtpkit.DataRefused(NOT_NOW, "DATA")), 75),
        (smtpkit.Outcome(accepted=("a@x.org",), in_doubt=("b@x.org",)), 79),
    ],
)
def test_outcomes(outcome: smtpkit.Outcome, code: int) -> None:
    """What became of a mail has an exit code; in doubt outweighs all."""
    assert exits.code_of(outcome) == code


def test_every_code_is_in_the_table() -> None:
    """The table in the help names every exit code there is."""
    codes = {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    assert all(f"\n{code:>5}   " in exits.TABLE for code in codes)


def test_as_a_module() -> None:
    """``python -m smtpkit`` is the same program."""
    done = _run("sned")
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr == "smtpkit: error: there is no verb 'sned'; did you mean send?\n"


def test_help_is_light() -> None:
    """Help is there at once: no mail, no TLS, no loop is loaded for it."""
    code = "import sys; from smtpkit.cli.main import main; main([]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    loaded = set(done.stdout.rpartition("\n\n")[2].split())
    assert not loaded & {"argparse", "asyncio", "anyio", "email", "ssl", "smtpkit.client"}
