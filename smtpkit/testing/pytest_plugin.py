"""Fixtures for pytest: ``smtpkit_server``, a running server, and ``smtpkit_outbox``, where mail sent by default lands.

pytest loads this in every run of everybody who has the package, so what is heavy is imported within the fixtures.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

import pytest

if TYPE_CHECKING:
    from smtpkit.testing.script import Received
    from smtpkit.testing.server import Server


class Outbox(Sequence["Received"]):
    """The mails that were sent to ``url`` so far, oldest first; it grows as they come."""

    def __init__(self, server: "Server") -> None:
        self.server = server
        self.url = server.url

    def __len__(self) -> int:
        return len(self.server.received)

    @overload
    def __getitem__(self, index: int) -> "Received": ...
    @overload
    def __getitem__(self, index: slice) -> "list[Received]": ...
    def __getitem__(self, index: int | slice) -> "Received | list[Received]":
        return self.server.received[index]

    def __repr__(self) -> str:
        return f"<Outbox {self.url}: {len(self)} mails>"


@pytest.fixture
def smtpkit_server() -> "Iterator[Server]":
    """A running server with STARTTLS and the user ``tester``, password ``secret``."""
    from smtpkit.testing.script import Script
    from smtpkit.testing.server import Server

    with Server(Script(tls="starttls", users={"tester": "secret"})) as server:
        yield server


@pytest.fixture
def smtpkit_outbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Outbox]:
    """What has been sent to a running server, to which SMTPKIT_URL points for the time of the test."""
    from smtpkit.testing.server import Server

    with Server() as server:
        monkeypatch.setenv("SMTPKIT_URL", server.url)
        yield Outbox(server)
