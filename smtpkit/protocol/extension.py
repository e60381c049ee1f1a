"""Extensions: what EHLO offered, and what the server said of each."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from smtpkit.protocol.reply import Reply

MOST_KEYWORDS = 256
LONGEST_ARGUMENT = 128  # octets kept of the argument of a keyword nobody here knows
_KNOWN = {"AUTH", "SIZE", "LIMITS"}
_LIMIT = re.compile(r"(MAILMAX|RCPTMAX|RCPTDOMAINMAX)=([1-9][0-9]{0,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Extensions:
    """The extensions of a session: keyword in capitals to argument text.

    Tolerant (RFC 5321 section 4.1.1.1): case, blanks, and ``AUTH=LOGIN`` beside ``AUTH`` are taken as meant. ``size``
    is the largest mail taken, in octets; None where no limit is known (RFC 1870). ``limits`` are those of RFC 9422 that
    are known here, by name: MAILMAX (of MAIL in a session), RCPTMAX (of RCPT in a transaction), RCPTDOMAINMAX (of
    different domains in a session); what is malformed or unknown is ignored, and of one said twice the lower counts.
    """

    keywords: Mapping[str, str] = field(default_factory=dict)
    size: int | None = field(init=False)
    limits: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        text = self.keywords.get("SIZE", "").split(" ", 1)[0]
        size = min(int(text[:20]), 2**63 - 1) if text.isascii() and text.isdigit() else 0
        object.__setattr__(self, "size", size or None)
        object.__setattr__(self, "limits", _limits(self.keywords.get("LIMITS", "")))

    @classmethod
    def of(cls, reply: Reply) -> "Extensions":
        """What a positive reply to EHLO or LHLO offers; its first line is the server's name."""
        keywords: dict[str, str] = {}
        for line in reply.lines[1:]:
            keyword, _, argument = line.strip().partition(" ")
            keyword, equals, old_argument = keyword.upper().partition("=")
            if equals:
                argument = f"{old_argument} {argument}"
            if not keyword or (keyword not in keywords and len(keywords) == MOST_KEYWORDS):
                continue
            argument = f"{keywords.get(keyword, '')} {argument}".strip()
            keywords[keyword] = argument if keyword in _KNOWN else argument[:LONGEST_ARGUMENT]
        return cls(keywords)

    def __contains__(self, keyword: object) -> bool:
        return keyword in self.keywords

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """The SASL mechanisms offered, in capitals, each once, in the server's order."""
        return tuple(dict.fromkeys(self.keywords.get("AUTH", "").upper().split()))


def _limits(text: str) -> dict[str, int]:
    """The limits in the argument of LIMITS."""
    limits: dict[str, int] = {}
    for word in text.upper().split():
        if found := _LIMIT.fullmatch(word):
            limits[found[1]] = min(int(found[2]), limits.get(found[1], int(found[2])))
    return limits


NOTHING = Extensions()
