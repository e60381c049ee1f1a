"""The pool: who may use which session.

It decides synchronously: one method grants what can be granted and returns what is to be closed. Waiters are served in
order; the session used last is used first; a dead or broken one is never handed out.
"""

from collections import deque
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Poolable(Protocol):
    """What the pool asks of a session."""

    @property
    def usable(self) -> bool:
        """May it be used for the next mail? Looks whether it has ended meanwhile."""

    @property
    def broken(self) -> bool:
        """Is it out of step, or over, as far as is known?"""


S = TypeVar("S", bound=Poolable)


class Bell(Protocol):
    """What wakes a waiter: an event of the loop's world."""

    def set(self) -> object:
        """Wake whoever waits."""


class Request(Generic[S]):
    """One wish for a session with a key. ``granted``: it holds a place; ``session`` None: one must be opened."""

    __slots__ = ("bell", "granted", "key", "session")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.granted = False
        self.session: S | None = None
        self.bell: Bell | None = None


class Pool(Generic[S]):
    """At most ``size`` sessions at once, busy ones and idle ones together."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._idle: list[tuple[Hashable, S]] = []  # the one used last is last
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

    def ask(self, request: Request[S]) -> list[S]:
        """Enter a request. Returns the sessions to close."""
        self._requests.append(request)
        return self._grant()

    def opened(self, request: Request[S], session: S) -> None:
        """Say which session was opened for a request."""
        request.session = self._busy[request] = session

    def give_back(self, request: Request[S]) -> list[S]:
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
                self._idle.append((request.key, session))
        return close + self._grant() if self._requests else close

    def empty(self) -> tuple[list[S], list[S]]:
        """Forget all sessions. Returns the idle and the busy ones."""
        idle = [session for _, session in self._idle]
        busy = [session for session in self._busy.values() if session is not None]
        self._idle.clear()
        return idle, busy

    def _grant(self) -> list[S]:
        """Serve the requests in order, as far as it goes. Returns the sessions to close."""
        close: list[S] = []
        while self._requests:
            request = self._requests[0]
            session = self._find(request.key, close)
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

    def _find(self, key: Hashable, close: list[S]) -> S | None:
        """Take out the idle session of this key that was used last; set aside those that have died."""
        for place in range(len(self._idle) - 1, -1, -1):
            if self._idle[place][0] == key:
                session = self._idle.pop(place)[1]
                if session.usable:
                    return session
                close.append(session)
        return None

    def __repr__(self) -> str:
        return f"<Pool: {len(self._busy)} busy, {len(self._idle)} idle, {len(self._requests)} waiting, of {self.size}>"
