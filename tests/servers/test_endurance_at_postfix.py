"""Five thousand mails through the pool to a real Postfix: each is delivered once, which its Message-ID shows."""

import re
import time
from collections import Counter
from pathlib import Path
from uuid import uuid4

import pytest

from smtpkit import Client, Mail
from tests.servers.postfix import Postfix

pytestmark = pytest.mark.servers

COUNT = 5000
PATIENCE = 200  # seconds that Postfix has to deliver


def delivered(postfix: Postfix, name: str) -> list[int]:
    """The numbers of the mails of that name in the mailbox, as often as they are there."""
    own = re.compile(rf"^Message-ID: <{name}-(\d+)@many>$".encode(), re.MULTILINE)
    files = Path(postfix.directory / "mail/all/new").glob("*")
    return [int(found[1]) for file in files if (found := own.search(file.read_bytes()))]


@pytest.mark.timeout(300)
@pytest.mark.asyncio
@pytest.mark.parametrize("connections", [1, 8])
async def test_five_thousand(postfix: Postfix, connections: int) -> None:
    """Every outcome says accepted, and every Message-ID is there once."""
    name = uuid4().hex
    octets = f"From: ann@example.test\r\nMessage-ID: <{name}-%d@many>\r\n\r\n" + "a line of a mail\r\n" * 20
    items = [
        Mail((octets % number).encode(), f"s{number}@example.test", ["many@example.test"]) for number in range(COUNT)
    ]
    client = Client(f"smtp://127.0.0.1:{postfix.port}", tls="none", connections=connections)
    async with client, client.send_many(items, window=32) as outcomes:
        settled = [outcome async for outcome in outcomes]
    assert Counter(id(outcome.item) for outcome in settled) == Counter(map(id, items))
    assert [outcome.error for outcome in settled if outcome.error] == []
    until = time.monotonic() + PATIENCE
    while len(found := delivered(postfix, name)) < COUNT and time.monotonic() < until:
        time.sleep(2)  # noqa: ASYNC251  the client is closed, and nobody else is there
    assert Counter(found) == Counter(range(COUNT))
