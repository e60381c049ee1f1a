"""MaxTransferRate over sockets, on a clock that goes on only by what is slept; each write is noted."""

import time
from bisect import bisect_left
from random import Random
from typing import Any

import pytest

from smtpkit.protocol.mail_data import END_MARK
from smtpkit.testing import Script, Server
from smtpkit.transport.anyio_stream import AnyioSocketStream
from smtpkit.transport.asyncio_stream import AsyncioStream
from smtpkit.transport.blocking_stream import BlockingStream
from tests.component.ways import WAYS, call, make, run

RATES = (1_000, 33_333, 1_000_000, 10_000_000)


class Clock:
    """What the streams take for the time; sleeps are late by up to 2 ms. ``written``: when, and how many octets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time = time.monotonic()
        self.written: list[tuple[float, int]] = []
        random = Random(6)

        async def sleep_until(stream: object, when: float) -> None:
            self.time = max(self.time, when + random.uniform(0, 0.002))

        for kind in (BlockingStream, AsyncioStream, AnyioSocketStream):
            monkeypatch.setattr(kind, "now", lambda stream: self.time)
            monkeypatch.setattr(kind, "sleep_until", sleep_until)
            monkeypatch.setattr(kind, "send", self._noting(kind.send))

    def _noting(self, send: Any) -> Any:
        async def noting(stream: object, octets: bytes) -> None:
            self.written.append((self.time, len(octets)))
            await send(stream, octets)

        return noting


@WAYS
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("idle", [0.0, 3600.0])
def test_max_transfer_rate(way: str, rate: int, idle: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mails of two seconds each: the mean is within 0.5 % of the rate, and the worst second at most 1.03 times it."""
    with Server(Script(keep="digest")) as server:
        clock = Clock(monkeypatch)

        async def scenario() -> None:
            smtp = make(way, server)
            smtp.config(f"MaxTransferRate={rate}")
            smtp.message_text = ("x" * 48 + "\r\n") * (2 * rate // 50)
            await call(smtp.connect)
            for _ in range(2):
                clock.time += idle
                said: list[int] = []  # how many writes came before the mail
                smtp.on_start_transfer = lambda e, said=said: said.append(len(clock.written))
                await call(smtp.send)
                _judge(clock.written[said[0] - 1 :], rate)
            await call(smtp.disconnect)

        run(way, scenario)
        assert [mail.size for mail in server.received] == [server.received[0].size] * 2
        assert server.received[0].size > 2 * rate * 0.99


def _judge(written: list[tuple[float, int]], rate: int) -> None:
    times = [at for at, _ in written]
    sums = [0]
    for _, octets in written:
        sums.append(sums[-1] + octets)
    worst = max(sums[bisect_left(times, at + 1)] - sums[index] for index, at in enumerate(times))
    assert worst <= rate * 1.03 + len(END_MARK)
    assert 1.9 < times[-1] - times[0] < 2.4
    assert (sums[-1] - sums[1]) / (times[-1] - times[0]) == pytest.approx(rate, rel=0.005, abs=0)


@WAYS
def test_no_limit(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """0 is no limit: nothing is slept, and the mail goes in large pieces."""
    with Server(Script(keep="digest")) as server:
        clock = Clock(monkeypatch)

        async def scenario() -> None:
            smtp = make(way, server)
            smtp.message_text = ("x" * 78 + "\r\n") * 20_000
            began = clock.time
            await call(smtp.send)
            assert clock.time == began
            assert len(clock.written) < 40

        run(way, scenario)
        assert server.received[0].size > 1_600_000
