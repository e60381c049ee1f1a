"""Extensions: what a reply to EHLO offers, taken as it is meant, and never more than is bearable."""

import pytest

from smtpkit.protocol.extension import LONGEST_ARGUMENT, MOST_KEYWORDS, NOTHING, Extensions
from smtpkit.protocol.reply import Reply


def offered(*lines: str) -> Extensions:
    """What a reply of these lines offers, the first being the server's name."""
    return Extensions.of(Reply(250, ("mail.example", *lines)))


OFFERS = [
    ((), {}),
    (("PIPELINING",), {"PIPELINING": ""}),
    (("pipelining", "8bitmime"), {"PIPELINING": "", "8BITMIME": ""}),
    (("SIZE 1000",), {"SIZE": "1000"}),
    (("  SIZE   1000  ",), {"SIZE": "1000"}),
    (("", "  "), {}),
    (("=LOGIN",), {}),
    (("AUTH PLAIN LOGIN", "AUTH=PLAIN LOGIN"), {"AUTH": "PLAIN LOGIN PLAIN LOGIN"}),
    (("AUTH=LOGIN",), {"AUTH": "LOGIN"}),
    (("LIMITS RCPTMAX=20 MAILMAX=5",), {"LIMITS": "RCPTMAX=20 MAILMAX=5"}),
    (("X-THING a", "X-THING b"), {"X-THING": "a b"}),
    (("HELP", "HELP"), {"HELP": ""}),
]


@pytest.mark.parametrize(("lines", "keywords"), OFFERS)
def test_offers(lines: tuple[str, ...], keywords: dict[str, str]) -> None:
    """Case, blanks, the old form of AUTH and a keyword said twice are taken as they are meant."""
    assert dict(offered(*lines).keywords) == keywords


def test_first_line_offers_nothing() -> None:
    """The server's name is not a keyword, whatever it is."""
    assert "STARTTLS" not in Extensions.of(Reply(250, ("STARTTLS", "HELP")))
    assert "HELP" in Extensions.of(Reply(250, ("STARTTLS", "HELP")))


def test_membership() -> None:
    """A keyword is offered or it is not; nothing is offered after HELO."""
    assert "DSN" in offered("dsn")
    assert "DSN" not in NOTHING


SIZES = [
    ((), None),
    (("SIZE",), None),
    (("SIZE 0",), None),
    (("SIZE 35882577",), 35882577),
    (("SIZE=35882577",), 35882577),
    (("SIZE 100 200",), 100),
    (("SIZE 100", "SIZE 200"), 100),
    (("SIZE x",), None),
    (("SIZE -5",), None),
    (("SIZE 1_000",), None),
    (("SIZE \u0665\u0665",), None),
    (("SIZE ²",), None),
    (("SIZE 99999999999999999999999",), 2**63 - 1),
    (("SIZE " + "9" * 12_000,), 2**63 - 1),
]


@pytest.mark.parametrize(("lines", "size"), SIZES)
def test_size(lines: tuple[str, ...], size: int | None) -> None:
    """A limit is a number over 0; anything else is no limit known (RFC 1870 section 4)."""
    assert offered(*lines).size == size


def test_mechanisms() -> None:
    """The mechanisms come in the server's order, each once, from both forms of AUTH."""
    assert offered("AUTH=LOGIN plain", "AUTH  CRAM-MD5 LOGIN").mechanisms == ("LOGIN", "PLAIN", "CRAM-MD5")
    assert offered("AUTH").mechanisms == ()
    assert NOTHING.mechanisms == ()


def test_bounds() -> None:
    """So many keywords are kept and no more, but what is said again of one of them still counts."""
    keywords = [f"X{number}" for number in range(MOST_KEYWORDS - 1)]
    extensions = offered(*keywords, "SIZE", "PIPELINING", "SIZE 5")
    assert len(extensions.keywords) == MOST_KEYWORDS
    assert "PIPELINING" not in extensions
    assert extensions.size == 5


def test_arguments_are_cut() -> None:
    """What is said of an unknown keyword is kept up to a length, in one line or in many; of a known one, all."""
    assert len(offered("X-THING " + "x" * 500).keywords["X-THING"]) == LONGEST_ARGUMENT
    assert len(offered(*["X-THING " + "x" * 100] * 9).keywords["X-THING"]) == LONGEST_ARGUMENT
    assert len(offered("AUTH " + " ".join(f"MECHANISM{n}" for n in range(99))).mechanisms) == 99


LIMITS = [
    ((), {}),
    (("LIMITS",), {}),
    (("LIMITS MAILMAX=5 RCPTMAX=20 RCPTDOMAINMAX=1",), {"MAILMAX": 5, "RCPTMAX": 20, "RCPTDOMAINMAX": 1}),
    (("limits rcptmax=20",), {"RCPTMAX": 20}),
    (("LIMITS RCPTMAX=999999",), {"RCPTMAX": 999_999}),
    (("LIMITS RCPTMAX=1000000 MAILMAX=3",), {"MAILMAX": 3}),
    (("LIMITS RCPTMAX=0 MAILMAX=01",), {}),
    (("LIMITS RCPTMAX=-5 MAILMAX= RCPTDOMAINMAX",), {}),
    (("LIMITS RCPTMAX=\u0665 MAILMAX=5x",), {}),
    (("LIMITS XRCPTMAX=5 RCPTMAX.=5 SOMETHING=else MAILMAX=7 FLAG",), {"MAILMAX": 7}),
    (("LIMITS RCPTMAX=20 RCPTMAX=10", "LIMITS RCPTMAX=30"), {"RCPTMAX": 10}),
]


@pytest.mark.parametrize(("lines", "limits"), LIMITS)
def test_limits(lines: tuple[str, ...], limits: dict[str, int]) -> None:
    """Three limits are known, of one to six digits and over 0; the rest is ignored (RFC 9422)."""
    assert offered(*lines).limits == limits
