"""Timeout, ConnectionTimeout and AbsoluteTimeout: which wait runs under which limit, and what its end is called.

No test waits long: deadlines are compared with a clock of the test's own, or the clock is ten seconds late.
"""

import time
from math import inf
from typing import Any

import pytest

from smtpkit import ComponentError
from smtpkit.component.choices import limits
from smtpkit.testing import Fault, Script, Server
from smtpkit.transport.anyio_stream import AnyioSocketStream
from smtpkit.transport.asyncio_stream import AsyncioStream
from smtpkit.transport.blocking_stream import BlockingStream
from tests.component.ways import WAYS, call, make, run

STREAMS = (BlockingStream, AsyncioStream, AnyioSocketStream)


@pytest.mark.parametrize(
    ("timeout", "connection", "connect", "each"),
    [(60, 0, 60, 60), (0, 0, inf, inf), (0, 5, 5, inf), (7, 5, 5, 7), (5, 7, 7, 5), (1, 1, 1, 1)],
)
def test_the_limits(timeout: int, connection: int, connect: float, each: float) -> None:
    """ConnectionTimeout is for connecting, or Timeout where it is 0; Timeout is for each wait; 0 is no limit."""
    smtp = make("blocking", None)
    smtp.timeout = timeout
    smtp.config(f"ConnectionTimeout={connection}")
    found = limits(smtp, smtp._settings)
    assert (found.connect, found.timeout, found.final) == (connect, each, each)


class Clock:
    """What a component and its streams take for the time: it goes on by hand, and by what is slept.

    ``deadlines``: when there was a wait for octets, and its deadline.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began = time.monotonic()
        self.passed = 0.0
        self.deadlines: list[tuple[float, float | None]] = []

        async def sleep_until(stream: object, when: float) -> None:
            self.passed = max(self.passed, when - self.began)

        for kind in STREAMS:
            monkeypatch.setattr(kind, "now", lambda stream: self.now())
            monkeypatch.setattr(kind, "receive", self._noting(kind.receive))
            monkeypatch.setattr(kind, "sleep_until", sleep_until)

    def now(self) -> float:
        return self.began + self.passed

    def used_by(self, smtp: Any) -> Any:
        """Let a component use it."""
        smtp._work._world = smtp._work._world._replace(now=self.now)
        return smtp

    def _noting(self, receive: Any) -> Any:
        async def noting(stream: Any) -> Any:
            self.deadlines.append((self.now(), stream.deadline))
            return await receive(stream)

        return noting


@WAYS
@pytest.mark.parametrize(
    ("settings", "open_by", "each"),
    [
        (("Timeout=0",), None, None),
        (("Timeout=60",), 60, 60),
        (("Timeout=60", "ConnectionTimeout=90"), 90, 60),
        (("Timeout=0", "ConnectionTimeout=90"), 90, None),
    ],
)
def test_each_wait_has_its_limit(
    way: str, settings: tuple[str, ...], open_by: float | None, each: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connecting ends by one moment, at the greeting and EHLO too; after that each wait begins a limit of its own."""
    clock = Clock(monkeypatch)
    with Server() as server:

        async def scenario() -> None:
            smtp = clock.used_by(make(way, server))
            _set(smtp, settings)
            smtp.on_pi_trail = lambda e: setattr(clock, "passed", clock.passed + 40)
            await call(smtp.connect)
            opening = clock.deadlines[:]
            clock.deadlines.clear()
            await call(smtp.send)
            assert len(opening) >= 2
            by = inf if open_by is None else clock.began + open_by
            assert (
                [deadline or inf for _, deadline in opening]
                == [
                    by,  # the greeting
                    *(min(by, at + (each or inf)) for at, _ in opening[1:]),
                ]
            )
            assert clock.deadlines
            for at, deadline in clock.deadlines:
                assert deadline == (None if each is None else at + each)
            await call(smtp.disconnect)

        run(way, scenario)
        assert len(server.received) == 1


@WAYS
@pytest.mark.parametrize("timeout", [60, 0])
def test_absolute_timeout_is_of_the_whole(way: str, timeout: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With AbsoluteTimeout every wait of a method ends by the same moment, and the next method begins anew; 0: none."""
    clock = Clock(monkeypatch)
    with Server() as server:

        async def scenario() -> None:
            smtp = clock.used_by(make(way, server))
            _set(smtp, (f"Timeout={timeout}", "ConnectionTimeout=3600", "AbsoluteTimeout=True"))
            smtp.on_pi_trail = lambda e: setattr(clock, "passed", clock.passed + 1)
            for method in (smtp.connect, smtp.send, smtp.send):
                clock.deadlines.clear()
                began = clock.now()
                await call(method)
                assert len(clock.deadlines) >= 2
                wanted = {began + timeout} if timeout else {None} if method != smtp.connect else {began + 3600}
                assert {deadline for _, deadline in clock.deadlines} == wanted
            await call(smtp.disconnect)

        run(way, scenario)
        assert len(server.received) == 2


def _set(smtp: Any, settings: tuple[str, ...]) -> None:
    for setting in settings:
        if setting.startswith("Timeout="):
            smtp.timeout = int(setting.partition("=")[2])
        else:
            smtp.config(setting)


STALLS: dict[str, Any] = {
    "greeting": {"greeting": Fault("stall")},
    "EHLO": {"replies": {"EHLO": Fault("stall")}},
    "MAIL": {"replies": {"MAIL": Fault("stall")}},
    "DATA": {"replies": {"DATA": Fault("stall")}},
    "END": {"replies": {"END": Fault("stall")}},
    "mail data": {"faults": (Fault("deaf", before=100_000),)},
}


@WAYS
@pytest.mark.parametrize(
    ("settings", "stall", "error"),
    [
        (("Timeout=10",), "greeting", (201, "connect")),
        (("Timeout=3600", "ConnectionTimeout=10"), "greeting", (201, "connect")),
        (("Timeout=0", "ConnectionTimeout=10"), "EHLO", (201, "connect")),
        (("Timeout=10", "ConnectionTimeout=3600"), "MAIL", (201, "timeout")),
        (("Timeout=10", "ConnectionTimeout=3600"), "DATA", (201, "timeout")),
        (("Timeout=10",), "mail data", (201, "timeout")),
        (("Timeout=10",), "END", (162, "final")),
        (("Timeout=10", "ConnectionTimeout=3600", "AbsoluteTimeout=True"), "greeting", (201, "total")),
        (("Timeout=10", "ConnectionTimeout=3600", "AbsoluteTimeout=True"), "MAIL", (201, "total")),
    ],
)
def test_a_limit_that_runs_out(
    way: str, settings: tuple[str, ...], stall: str, error: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the limit; behind the last octet the mail is in doubt, before it is not; the next mail goes."""
    code, limit = error
    late = [9.95 if limit in {"connect", "total"} else 0.0]  # else from where the server stalls
    for kind in STREAMS:
        monkeypatch.setattr(kind, "now", lambda stream: time.monotonic() - late[0])
    with Server(Script(**STALLS[stall]), Script()) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            smtp._work._world = smtp._work._world._replace(now=lambda: time.monotonic() - late[0])
            _set(smtp, settings)

            def arrive(event: Any) -> None:
                if getattr(event, "message", stall).startswith(stall):
                    late[0] = 9.95

            hook = {"END": "end_transfer", "mail data": "transfer"}.get(stall, "pi_trail")
            setattr(smtp, f"on_{hook}", arrive)
            if stall == "mail data":
                smtp.message_text = ("x" * 78 + "\r\n") * 100_000
                smtp.config("OutBufferSize=16384")
            with pytest.raises(ComponentError, match=f"{limit} limit ran out") as caught:
                await call(smtp.send)
            assert caught.value.code == code
            outcome = caught.value.outcome
            assert (outcome.in_doubt if outcome is not None else ()) == (("bob@example.com",) if code == 162 else ())
            assert not smtp.connected
            setattr(smtp, f"on_{hook}", None)
            smtp.message_text, smtp.timeout = "short", 0
            smtp.config("ConnectionTimeout=0")
            await call(smtp.send)

        run(way, scenario)
        assert len(server.received) == 1


@WAYS
def test_absolute_timeout_in_a_throttled_pause(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends a mail that MaxTransferRate makes too long, before it is sent whole; Timeout alone does not."""
    clock = Clock(monkeypatch)
    with Server() as server:

        async def scenario() -> None:
            smtp = clock.used_by(make(way, server))
            _set(smtp, ("Timeout=60", "MaxTransferRate=1", "AbsoluteTimeout=True"))
            with pytest.raises(ComponentError, match="total limit ran out") as caught:
                await call(smtp.send)
            assert caught.value.code == 201
            assert caught.value.outcome is not None
            assert not caught.value.outcome.in_doubt
            assert clock.passed == pytest.approx(60)
            smtp.config("AbsoluteTimeout=False")
            await call(smtp.send)
            assert clock.passed > 180

        run(way, scenario)
        assert len(server.received) == 1
