"""The pool: who may use which session.

It decides synchronously: one method grants what can be granted and returns what is to be closed. Waiters are served in
order; the session used last is used first; a dead or broken one is never handed out. Time is passed in, and what a
session is too old for is decided when one is asked for: there is no task and no timer here. Sessions are retired by
time and not by a count of mails, by which the slowest server would end with most of the traffic.
"""

from collections import deque
from collections.abc import Hashable
from math import inf
from typing import Generic, Protocol, TypeVar


class Poolable(Protocol):
    """What the pool asks of a session."""

    @property
    def usable(self) -> bool:
        """May it be used for the next mail? Looks whether it has ended meanwhile."""

    @property
    def broken(self) -> bool:
        """Is it out of step, or over, as far as is known?"""

    @property
    def spent(self) -> bool:
        """Shall no further mail begin in it, by the server's limits or since it went wrong?"""

    @property
    def began(self) -> float:
        """When it was opened."""


S = TypeVar("S", bound=Poolable)


class Bell(Protocol):
    """What wakes a waiter: an event of the loop's world."""

    def set(self) -> object:
        """Wake whoever waits."""


def retired(session: Poolable, rested: float, now: float, *, lifetime: float, idle: float) -> bool:
    """Is a session that has rested since ``rested`` no longer to be used for another mail? All in seconds."""
    return now - rested >= idle or now - session.began >= lifetime or session.spent


def counted(number: int, noun: str) -> str:
    """``1 session``, ``2 sessions``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


class Request(Generic[S]):
    """One wish for a session with a key. ``granted``: it holds a place; ``session`` None: one must be opened."""

    __slots__ = ("bell", "granted", "key", "session")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.granted = False
        self.session: S | None = None
        self.bell: Bell | None = None


class Pool(Generic[S]):
    """At most ``size`` sessions at once, busy ones and idle ones together.

    ``lifetime`` and ``idle``: after how many seconds since it was opened, or last used, a session is retired.
    """

    def __init__(self, size: int, *, lifetime: float = inf, idle: float = inf) -> None:
        self.size = size
        self._lifetime = lifetime
        self._longest = idle
        self._idle: list[tuple[Hashable, S, float]] = []  # and since when; the one used last is last
        self._busy: dict[Request[S], S | None] = {}
        self._requests: deque[Request[S]] = deque()

    @property
    def is_empty(self) -> bool:
        """Does it hold no session, and does nobody wait for one?"""
        return not (self._idle or self._busy or self._requests)

    @property
    def crowded(self) -> bool:
        """Does anybody wait for a session?"""
        return bool(self._requests)

    @property
    def free(self) -> int:
        """How many sessions could be had now, without waiting for somebody to give one back."""
        return self.size - len(self._busy) - len(self._requests)

    def ask(self, request: Request[S], now: float) -> list[S]:
        """Enter a request. Returns the sessions to close."""
        self._requests.append(request)
        return self._grant(now)

    def opened(self, request: Request[S], session: S) -> None:
        """Say which session was opened for a request."""
        request.session = self._busy[request] = session

    def give_back(self, request: Request[S], now: float) -> list[S]:
        """Take a request back, granted or not; its session is kept unless broken. Returns the sessions to close."""
        if not request.granted:
            self._requests.remove(request)
            return []
        close = []
        session = self._busy.pop(request)
        if session is not None:
            if session.broken:
                close.append(session)
            else:
                self._idle.append((request.key, session, now))
        return close + self._grant(now) if self._requests else close

    def empty(self) -> tuple[list[S], list[S]]:
        """Forget all sessions. Returns the idle and the busy ones."""
        idle = [session for _, session, _ in self._idle]
        busy = [session for session in self._busy.values() if session is not None]
        self._idle.clear()
        return idle, busy

    def _grant(self, now: float) -> list[S]:
        """Serve the requests in order, as far as it goes. Returns the sessions to close."""
        close: list[S] = []
        while self._idle and now - self._idle[0][2] >= self._longest:
            close.append(self._idle.pop(0)[1])
        while self._requests:
            request = self._requests[0]
            session = self._find(request.key, now, close)
            if session is None and len(self._busy) + len(self._idle) >= self.size:
                if not self._idle:
                    break
                close.append(self._idle.pop(0)[1])
            self._requests.popleft()
            request.granted, request.session = True, session
            self._busy[request] = session
            if request.bell is not None:
                request.bell.set()
        return close

    def _find(self, key: Hashable, now: float, close: list[S]) -> S | None:
        """Take out the idle session of this key that was used last; set aside those that have died or are retired."""
        for place in range(len(self._idle) - 1, -1, -1):
            if self._idle[place][0] == key:
                _, session, rested = self._idle.pop(place)
                old = retired(session, rested, now, lifetime=self._lifetime, idle=self._longest)
                if not old and session.usable:
                    return session
                close.append(session)
        return None

    def __repr__(self) -> str:
        return f"<Pool: {self}>"

    def __str__(self) -> str:
        """Its state in words."""
        busy, waiting = counted(len(self._busy), "session"), counted(len(self._requests), "task")
        return f"{busy} busy, {len(self._idle)} idle, {waiting} waiting, at most {self.size}"
