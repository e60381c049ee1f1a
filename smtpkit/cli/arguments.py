"""What the verbs' command lines have in common: the parser, the options of a connection, and the client they make."""

import argparse
import subprocess
from collections.abc import Callable
from typing import Any, NoReturn

from smtpkit import Client, SyncClient, UsageError
from smtpkit.cli.exits import TABLE, USAGE
from smtpkit.cli.screen import Screen, escape


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the exit code for usage; the exit codes stand below its help."""

    def __init__(self, verb: str, description: str, *, usage: str, epilog: str = TABLE) -> None:
        super().__init__(
            f"smtpkit {verb}",
            usage=usage,
            description=description,
            epilog=epilog,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30),
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and where to read what would be right."""
        self.exit(USAGE, f"smtpkit: error: {escape(message)}; see {self.prog} --help\n")


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which server, and how to reach it."""
    group = parser.add_argument_group("the server")
    group.add_argument("--url", help="submission://user:password@mail.example.com; default: SMTPKIT_URL")
    group.add_argument("--tls", choices=("none", "opportunistic", "required", "implicit"), help="default: by the url")
    group.add_argument("--hello", metavar="NAME", help="the name for EHLO; default: the address of this end")
    group.add_argument("--timeout", metavar="SECONDS", type=float, help="for each reply and each block; default: 60")
    secret = group.add_mutually_exclusive_group()
    secret.add_argument("--password-command", metavar="CMD", help="what prints the password, as a shell command")
    secret.add_argument("--token-command", metavar="CMD", help="what prints an OAuth 2.0 token, as a shell command")


def add_output(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options that say what is shown."""
    group = parser.add_argument_group("what is shown")
    group.add_argument("-v", "--transcript", action="store_true", help="all that is said, on standard error")
    group.add_argument("--json", action="store_true", help="the result as one JSON object")
    add_colour(group)
    return group


def add_colour(group: argparse._ActionsContainer) -> None:
    """Add the option about colour."""
    group.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="default: auto")


def make_client(chosen: argparse.Namespace, **more: Any) -> SyncClient:
    """The client that the command line asks for; ``more`` are further options of the verb. Raises UsageError."""
    return SyncClient(chosen.url, **client_options(chosen, **more))


def client_options(chosen: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """The options of a client that the command line asks for. Raises UsageError."""
    options: dict[str, Any] = {"tls": chosen.tls, "hello": chosen.hello, "timeout": chosen.timeout, **more}
    if chosen.password_command:
        options["password"] = _answer(chosen.password_command, "--password-command")
    if chosen.token_command:
        options["token"] = _asking(chosen.token_command)
    return {name: value for name, value in options.items() if value is not None}


def transcribe(client: SyncClient | Client, screen: Screen) -> None:
    """Show all that the client says and hears."""
    from smtpkit import Event
    from smtpkit.cli.transcript import Transcript

    client.on(Event, Transcript(screen))


def _asking(command: str) -> Callable[[], str]:
    return lambda: _answer(command, "--token-command")


def _answer(command: str, option: str) -> str:
    """The first line that a command prints. What it says on standard error is shown by the terminal, not by us."""
    done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, check=False)  # noqa: S602 - the user's own words
    if done.returncode:
        raise UsageError(f"{option}: the command failed with exit code {done.returncode}")
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    if not lines or not lines[0]:
        raise UsageError(f"{option}: the command printed nothing")
    return lines[0]
