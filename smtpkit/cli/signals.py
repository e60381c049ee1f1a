"""Signals, for the verbs that work for long: the first ends the work in order, the second at once."""

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from smtpkit.cli.screen import Screen

if TYPE_CHECKING:
    import anyio.abc


class Heed:
    """Waits for SIGINT and SIGTERM; the first calls ``stop``. ``heard`` are those that came."""

    def __init__(self, stop: Callable[[], object], errors: Screen) -> None:
        self.heard: list[int] = []
        self._stop = stop
        self._errors = errors

    async def __call__(self, scope: Any, *, task_status: "anyio.abc.TaskStatus[None]") -> None:
        """Wait for them; ``scope`` is cancelled by the second."""
        import anyio

        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                self.heard.append(number)
                if len(self.heard) > 1:
                    scope.cancel()
                    return
                self._stop()
                self._errors.line("smtpkit: stopping; what is in flight is finished, another signal ends at once")
