"""The verb ``reference``: prints the page of the documented class, as its table has it."""

from collections.abc import Sequence

from smtpkit import SMTP
from smtpkit.cli.arguments import Parser


def main(arguments: Sequence[str]) -> int:
    """Print the page; return the exit code."""
    parser = Parser(
        "reference",
        "Print the reference of smtpkit.SMTP and smtpkit.AsyncSMTP, as Markdown.",
        usage="smtpkit reference",
    )
    parser.parse_args(arguments)
    print(SMTP.reference())
    return 0
