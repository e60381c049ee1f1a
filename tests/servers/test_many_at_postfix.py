"""Many mails over one session with a real Postfix: all arrive once, in order, each under its own envelope."""

import re
import time
from collections import defaultdict
from typing import Literal
from uuid import uuid4

import pytest

from smtpkit import Client, CommandSent, Mail, RecipientsRefused, SenderRefused, SyncClient
from tests.servers.postfix import Postfix

pytestmark = pytest.mark.servers

COUNT = 1000


def mails(name: str) -> list[Mail]:
    """Mails told apart by their Message-ID.

    Every seventh has a refused recipient besides, every eleventh that alone, every thirteenth a refused sender.
    """
    made = []
    for number in range(COUNT):
        sender = f"{'refused' if number % 13 == 5 else 's'}{number}@example.test"
        recipients = [f"r{number}@example.test"] * (number % 11 != 3) + [f"reject{number}@example.test"] * (
            number % 7 == 2 or number % 11 == 3
        )
        octets = f"From: ann@example.test\r\nMessage-ID: <{name}-{number}@many>\r\n\r\n.{number}\r\n.\r\nRSET\r\n"
        made.append(Mail(octets.encode(), sender, recipients))
    return made


def due(number: int) -> tuple[str, set[str]] | None:
    """The envelope under which a mail is to arrive, if it is."""
    if number % 13 == 5 or number % 11 == 3:
        return None
    return f"s{number}@example.test", {f"r{number}@example.test"}


def arrived(postfix: Postfix, name: str) -> list[tuple[int, str, set[str]]]:
    """Number, sender and recipients of each mail, in the order in which Postfix took them, once all are delivered."""
    until = time.monotonic() + 100
    while True:
        numbers: dict[str, int] = {}
        senders: dict[str, str] = {}
        recipients = defaultdict[str, set[str]](set)
        for queue, what in re.findall(r"postfix/\w+\[\d+\]: (\w+): (.*)", postfix.log):
            if found := re.match(rf"message-id=<{name}-(\d+)@many>", what):
                assert queue not in numbers
                numbers[queue] = int(found[1])
            elif found := re.match(r"from=<(.*?)>, size=", what):
                senders[queue] = found[1]
            elif found := re.match(r"to=<(.*?)>.* status=sent", what):
                recipients[queue].add(found[1])
        if all(queue in senders and recipients[queue] for queue in numbers) or time.monotonic() > until:
            return [(number, senders.get(queue, ""), recipients[queue]) for queue, number in numbers.items()]
        time.sleep(0.2)


def judge(postfix: Postfix, name: str, errors: list[Exception | None]) -> None:
    """Everything that should have arrived has, once, in order, under its own envelope; the outcomes say so."""
    assert len(errors) == COUNT
    for number, error in enumerate(errors):
        if number % 13 == 5:
            assert isinstance(error, SenderRefused)
        elif number % 11 == 3:
            assert isinstance(error, RecipientsRefused)
        else:
            assert error is None
    expected = [(number, *envelope) for number in range(COUNT) if (envelope := due(number)) is not None]
    assert arrived(postfix, name) == expected


@pytest.mark.timeout(150)
@pytest.mark.parametrize("chunking", ["never", "auto"])
@pytest.mark.asyncio
async def test_a_thousand_by_client(postfix: Postfix, chunking: Literal["never", "auto"]) -> None:
    """The async client: by DATA, one deep, and by BDAT, windows of 32; refusals sprinkled in touch only their own."""
    name = uuid4().hex
    items = mails(name)
    verbs = defaultdict[str, int](int)

    def count(event: CommandSent) -> None:
        verbs[event.text.partition(" ")[0]] += 1

    url = f"smtp://127.0.0.1:{postfix.port}"
    async with Client(url, tls="none", chunking=chunking) as client:
        client.on(CommandSent, count)
        async with client.send_many(items, window=32, sessions=1) as outcomes:
            settled = [outcome async for outcome in outcomes]
    assert verbs["EHLO"] == 1
    assert verbs["BDAT"] == (0 if chunking == "never" else COUNT)  # the first went by DATA, and there was a probe
    by_item = {id(outcome.item): outcome for outcome in settled}
    judge(postfix, name, [by_item[id(item)].error for item in items])


@pytest.mark.timeout(150)
@pytest.mark.parametrize("chunking", ["never", "auto"])
def test_a_thousand_by_sync_client(postfix: Postfix, chunking: Literal["never", "auto"]) -> None:
    """The sync client, from a generator; outcomes come in the order of the mails."""
    name = uuid4().hex
    items = mails(name)
    with (
        SyncClient(f"smtp://127.0.0.1:{postfix.port}", tls="none", chunking=chunking) as client,
        client.send_many(iter(items), window=32) as outcomes,
    ):
        settled = list(outcomes)
    assert [outcome.item for outcome in settled] == items
    judge(postfix, name, [outcome.error for outcome in settled])
