"""A server that drops, resets, stalls and leaves at random: of each mail, what the client says is what is so.

The seed stands in the name of the test and in every message. What fails under one may be run again with it.
"""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Literal

import anyio
import anyio.lowlevel
import pytest

from smtpkit import Client, Mail, Outcome, SMTPError, SyncClient
from smtpkit.options import OptionKeywords
from tests.chaos import Chaos, judge, mails

Chunking = Literal["auto", "always", "never"]
LIMITS: OptionKeywords = {"tls": "none", "timeout": 0.1, "final": 0.1, "connect": 0.3}


async def send_each(client: Client, items: list[Mail]) -> list[tuple[Mail, Outcome]]:
    """One task for each mail, all at once."""
    found: list[tuple[Mail, Outcome]] = []

    async def one(mail: Mail) -> None:
        outcome: Outcome | None
        try:
            outcome = await client.send(*mail)
        except SMTPError as error:
            outcome = error.outcome
        assert outcome is not None
        found.append((mail, outcome))

    async with anyio.create_task_group() as tasks:
        for mail in items:
            tasks.start_soon(one, mail)
    return found


async def by_tasks(seed: int, count: int, *, chunking: Chunking = "auto", rate: float = 0.01) -> Counter[str]:
    """What became of so many mails, each sent by a task of its own, over 20 sessions."""
    items = mails(count)
    options: OptionKeywords = {
        **LIMITS,
        "connect": 4,
        "connections": 20,
        "chunking": chunking,
    }  # the last waits longest
    with Chaos(seed, rate=rate) as server:
        async with Client(server.url, **options) as client:
            outcomes = await send_each(client, items)
            assert "0 sessions busy" in repr(client)
            assert "0 tasks waiting" in repr(client)
    assert len(server.failed) > count * rate / 2
    return judge(server, items, outcomes, bdat=chunking == "always")


async def one_by_one(items: list[Mail]) -> AsyncIterator[Mail]:
    """An input that gives the loop a turn before each mail."""
    for item in items:
        await anyio.lowlevel.checkpoint()
        yield item


async def by_many(
    seed: int,
    count: int,
    *,
    connections: int = 1,
    chunking: Chunking = "auto",
    window: int = 16,
    rate: float = 0.01,
    listed: bool = True,
) -> Counter[str]:
    """What became of so many mails sent by ``send_many``."""
    items = mails(count)
    options: OptionKeywords = {**LIMITS, "connections": connections, "chunking": chunking}
    with Chaos(seed, rate=rate) as server:
        async with Client(server.url, **options) as client:
            source = items if listed else one_by_one(items)
            async with client.send_many(source, window=window) as outcomes:
                settled = [(outcome.item, outcome) async for outcome in outcomes]
            assert outcomes.unsent == outcomes.unread == []
            assert "0 sessions busy" in repr(client)
            assert "0 tasks waiting" in repr(client)
    assert len(server.failed) > count * rate / 2
    return judge(server, items, settled, bdat=chunking != "never")


def is_telling(found: Counter[str], *, doubt: bool = True, unsent: bool = True) -> bool:
    """Is there something of everything, and is enough of it good? Else a test has shown little.

    Not ``unsent``: where a mail goes by another session when its own is not to be had, each may have been sent.
    """
    kinds = {"accepted", "refused"}
    kinds |= {"in doubt, accepted", "in doubt, not accepted"} if doubt else set()
    kinds |= {"not sent"} if unsent else set()
    return kinds <= set(found) and found["accepted"] > found.total() / 4


@pytest.mark.asyncio
@pytest.mark.parametrize("chunking", ["auto", "always"])
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_thousand_tasks(seed: int, chunking: Chunking) -> None:
    """A thousand tasks over twenty sessions: none lost, none twice, in doubt only what nobody can know."""
    assert is_telling(await by_tasks(seed, 1000, chunking=chunking)), f"seed {seed}"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])
@pytest.mark.parametrize("seed", [4, 5])
async def test_many_tasks_on_trio(seed: int, anyio_backend: str) -> None:
    """The same on trio."""
    assert is_telling(await by_tasks(seed, 500), doubt=False), f"seed {seed}"


@pytest.mark.timeout(180)
@pytest.mark.asyncio
@pytest.mark.parametrize(("connections", "chunking"), [(1, "auto"), (8, "auto"), (8, "never")])
@pytest.mark.parametrize("seed", [1])
async def test_five_thousand_mails(seed: int, chunking: Chunking, connections: int) -> None:
    """Five thousand by one ``send_many``: each has one outcome, and it is true."""
    found = await by_many(seed, 5000, connections=connections, chunking=chunking)
    assert is_telling(found, unsent=False), f"seed {seed}: {found}"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])
@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("seed", [4, 5])
async def test_many_mails_on_trio(seed: int, connections: int, anyio_backend: str) -> None:
    """The same on trio, from an async input."""
    found = await by_many(seed, 1000, connections=connections, listed=False)
    assert is_telling(found, unsent=False), f"seed {seed}: {found}"


@pytest.mark.anyio
@pytest.mark.parametrize("seed", [6, 7])
async def test_seldom_faults_and_a_wide_window(seed: int) -> None:
    """Where faults are seldom the window opens wide, so that each of them is about many mails."""
    found = await by_many(seed, 2000, connections=4, window=64, rate=0.001)
    assert found["accepted"] > 500, f"seed {seed}"
    assert found["in doubt, not accepted"], f"seed {seed}"


@pytest.mark.parametrize("seed", [8, 9])
def test_sync_client(seed: int) -> None:
    """The sync client by a blocking socket, one by one and by ``send_many``."""
    items = mails(600)
    settled: list[tuple[Mail, Outcome]] = []
    with Chaos(seed) as server, SyncClient(server.url, **LIMITS) as client:
        for mail in items[:200]:
            outcome: Outcome | None
            try:
                outcome = client.send(*mail)
            except SMTPError as error:
                outcome = error.outcome
            assert outcome is not None
            settled.append((mail, outcome))
        with client.send_many(items[200:]) as outcomes:
            settled += [(outcome.item, outcome) for outcome in outcomes]
    assert judge(server, items, settled, bdat=True)["accepted"] > 150, f"seed {seed}"
