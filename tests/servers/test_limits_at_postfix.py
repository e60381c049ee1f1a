"""More recipients than a real Postfix takes in a transaction: each gets the mail once, by either client."""

import asyncio
from typing import Literal
from uuid import uuid4

import pytest

from smtpkit import Client, CommandSent, Outcome, SyncClient
from tests.servers.postfix import Postfix

pytestmark = pytest.mark.servers


def judge(postfix: Postfix, recipients: list[str], outcome: Outcome, verbs: list[str]) -> None:
    """All but the third were served, each once, over one session; two transactions at least were needed besides."""
    unknown = recipients[2]
    assert outcome.accepted == tuple(path for path in recipients if path != unknown)
    assert {path: reply.code for path, reply in outcome.refused.items()} == {unknown: 550}
    assert outcome.error is None
    for path in outcome.accepted:
        (mail,) = postfix.mail(path)
        assert b"\n.hello" in mail
    assert verbs.count("EHLO") == 1
    assert verbs.count("DATA") >= 3


def mail() -> tuple[bytes, list[str]]:
    """A mail for eight, the third of whom is unknown."""
    name = uuid4().hex
    people = [f"l{number}-{name}@example.test" for number in range(8)]
    people[2] = f"reject-{name}@example.test"
    return f"From: ann@example.test\r\nMessage-ID: <{name}@limits>\r\n\r\n.hello\r\n".encode(), people


@pytest.mark.parametrize("chunking", ["never", "always"])
def test_client(postfix: Postfix, chunking: Literal["never", "always"]) -> None:
    """The async client, by DATA and by BDAT."""
    octets, people = mail()
    verbs: list[str] = []

    async def send() -> Outcome:
        async with Client(f"smtp://127.0.0.1:{postfix.limited_port}", tls="none", chunking=chunking) as client:
            client.on(CommandSent, lambda event: verbs.append(event.text.split()[0].replace("BDAT", "DATA")))
            return await client.send(octets, "ann@example.test", people)

    judge(postfix, people, asyncio.run(send()), verbs)


def test_sync_client(postfix: Postfix) -> None:
    """The sync client."""
    octets, people = mail()
    verbs: list[str] = []
    with SyncClient(f"smtp://127.0.0.1:{postfix.limited_port}", tls="none") as client:
        client.on(CommandSent, lambda event: verbs.append(event.text.split()[0]))
        judge(postfix, people, client.send(octets, "ann@example.test", people), verbs)
