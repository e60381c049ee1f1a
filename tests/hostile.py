"""What the tests of threats share: a session over any stream in memory, streams no script can say, and searches."""

import base64
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from smtpkit.errors import InDoubt, Outcome
from smtpkit.observers import Observers
from smtpkit.options import OptionKeywords, Options
from smtpkit.session import Known, Session, World
from smtpkit.testing import Script
from smtpkit.transport.connect import run_inline
from tests.memory import MAIL, Talk
from tests.streams import MemoryStream, run

STAGES = ("greeting", "EHLO", "MAIL", "RCPT", "DATA", "END")  # the moments of a plain mail at which a server speaks
OPEN = 400_000  # octets of mail data that no piece and no buffer of ours holds


class Endless(MemoryStream):
    """A peer that says ``pattern`` without end, after a greeting as soon as it has heard something.

    ``received`` counts the octets that the client took.
    """

    def __init__(self, pattern: bytes, *, greeting: bytes = b"") -> None:
        super().__init__(lambda octets: b"", greeting=greeting)
        self._pattern = pattern
        self._polite = bool(greeting)

    def at_hand(self) -> bytes | None:
        if self.closed or self._arriving or (self._polite and not self.sent):
            return super().at_hand()
        self.received += len(self._pattern)
        return self._pattern

    async def receive(self) -> bytes:
        octets = self.at_hand()
        assert octets is not None
        return octets


class Altered(MemoryStream):
    """A stream in which the octets of the server at ``place`` are replaced by ``alter`` of that one octet."""

    place: int
    octets: bytes | None  # None: the octet itself, twice
    mask = 0
    _passed = 0

    def _perform(self, actions: Any) -> None:
        changed = []
        for action in actions:
            if type(action).__name__ == "Send":
                said, at = action.octets, self.place - self._passed
                self._passed += len(said)
                if 0 <= at < len(said):
                    octet = said[at]
                    new = bytes((octet ^ self.mask,)) if self.mask else said[at : at + 1]
                    extra = said[at : at + 1] if self.octets is None else self.octets
                    action = type(action)(said[:at] + new + extra + said[at + 1 :])
            changed.append(action)
        super()._perform(changed)


def altered(place: int, octets: bytes | None = b"", mask: int = 0) -> type[Altered]:
    """The class of a stream that flips the bits of ``mask`` in one octet and says ``octets`` behind it."""
    return type("AlteredHere", (Altered,), {"place": place, "octets": octets, "mask": mask})


def open_session(stream: MemoryStream, options: OptionKeywords | None = None) -> Session:
    """An open session over a stream in memory."""

    async def connect(target: object, deadline: float | None) -> MemoryStream:
        return stream

    chosen: OptionKeywords = {"hello": "client.example", "tls": "none"}
    session = Session(Options.of("smtp://127.0.0.1:25", **(chosen | (options or {}))), 1, Observers())
    return run(session.open(World(connect, run_inline, lambda: stream.clock), None, Known()))


def at_stage(stage: str, answer: Any, **script: Any) -> Script:
    """A script that says this at one stage and is good at all others."""
    if stage == "greeting":
        return Script(greeting=answer, **script)
    return Script(replies={stage: answer}, **script)


def agrees(talk: Talk, outcome: Outcome | None) -> None:
    """Hold a verdict against the server's record: never a false yes, never a false no."""
    received = {path for mail in talk.received for path in mail.paths}
    assert all(mail.octets == MAIL for mail in talk.received)
    if outcome is None:
        assert not received
        return
    assert set(outcome.accepted) <= received <= {*outcome.accepted, *outcome.in_doubt}
    assert not set(outcome.refused) & received
    assert isinstance(outcome.error, InDoubt) == bool(outcome.in_doubt)


def forms(secret: str) -> Iterator[str]:
    """The secret as it might be found: plain, quoted, in hexadecimal, and in base64 at each of its three alignments."""
    octets = secret.encode()
    yield secret
    yield quote(secret, safe="")
    yield octets.hex()
    yield secret.encode("utf-16-le").hex()
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + octets).decode()
        yield encoded[4 * bool(shift) : len(encoded) - 4].rstrip("=")  # the edges depend on what is around it


def found(secret: str, texts: Iterable[str]) -> list[str]:
    """The texts that give the secret away."""
    return [text for text in texts if any(form in text for form in forms(secret))]
