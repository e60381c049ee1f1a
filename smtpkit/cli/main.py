"""The command line's entrance: finds the verb, runs it, and turns what went wrong into one line and an exit code."""

import sys
from collections.abc import Sequence

VERBS = {
    "demo": "send mails to a server of its own and show what happens",
    "send": "send a mail",
    "bulk": "send a mail to everybody in a file, merged with what stands there",
    "queue": "keep mails in a directory, and send them from there until they are taken",
    "check": "connect, log in, and report what the server can do",
    "reference": "print the reference page of the documented SMTP class",
}

HELP = """\
smtpkit: send mail by SMTP, exactly, fast and safely.

  smtpkit VERB [OPTION]...        or: python -m smtpkit VERB [OPTION]...

{verbs}

  smtpkit VERB --help   the options of a verb
  smtpkit --version

The server is given by --url, or by SMTPKIT_URL in the environment:

  submission://user:password@mail.example.com     port 587, STARTTLS
  smtps://user:password@mail.example.com          port 465, TLS at once
  smtp://localhost                                port 25, TLS if offered

Two examples:

  smtpkit demo
  smtpkit send -f ann@example.com -t bob@example.org --subject Hi -b 'See you at noon.'
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, by default this process's; return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:  # argparse: after --help, and after an error it has told
        return int(end.code or 0)
    except BrokenPipeError:  # whoever read us has had enough
        sys.stdout = None  # else the interpreter complains when it flushes at its end
        return 141


def _run(words: list[str]) -> int:
    verb = words[0] if words else "--help"
    if verb in {"-h", "--help", "help"}:
        print(HELP.format(verbs="\n".join(f"  {name:<11}{meaning}" for name, meaning in VERBS.items())), end="")
        return 0
    if verb in {"-V", "--version"}:
        from importlib import metadata

        try:
            print(f"smtpkit {metadata.version('smtpkit-client')}")
        except metadata.PackageNotFoundError:
            print("smtpkit, a checkout that is not installed")
        return 0
    if verb not in VERBS:
        from difflib import get_close_matches

        hint = "".join(f"; did you mean {close}?" for close in get_close_matches(verb, VERBS, 1))
        return _fail(f"there is no verb {verb!r}{hint}", 64)
    return _perform(verb, words[1:])


def _perform(verb: str, words: list[str]) -> int:
    from importlib import import_module

    from smtpkit import SMTPError
    from smtpkit.cli.exits import INVALID, code_of

    try:
        code: int = import_module(f"smtpkit.cli.{verb}").main(words)
        return code
    except SMTPError as error:
        return _fail(str(error), code_of(error))
    except BrokenPipeError:
        raise
    except (OSError, UnicodeDecodeError) as error:  # a file that the command line names
        return _fail(str(error), INVALID)


def _fail(message: str, code: int) -> int:
    from smtpkit.cli.screen import Screen, escape

    screen = Screen(sys.stderr)
    screen.line(f"{screen.paint('smtpkit: error:', 'red', 'bold')} {escape(message)}")
    return code
