"""What the server does, as values, and the outlet through which all that it says must pass: there faults happen."""

from dataclasses import dataclass

from smtpkit.testing.script import Answer, Fault, Line, Script, Session


@dataclass(frozen=True, slots=True)
class Send:
    """Write these octets."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class StartTLS:
    """Begin TLS here, before anything that follows."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Close:
    """End the stream in order."""


@dataclass(frozen=True, slots=True)
class Cut:
    """End the stream without close_notify."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Send a TCP RST."""


@dataclass(frozen=True, slots=True)
class Stall:
    """Nothing more will be said; go on reading."""


@dataclass(frozen=True, slots=True)
class Deaf:
    """Nothing more will be said; stop reading, keep the connection."""


Action = Send | StartTLS | Wait | Close | Cut | Reset | Stall | Deaf

_FAULTS: dict[str, type[Close | Cut | Reset | Deaf]] = {
    "close": Close,
    "cut": Cut,
    "reset": Reset,
    "deaf": Deaf,
}


class Outlet:
    """Collects actions; what is said in one go becomes one Send. Does the faults where their octet is reached.

    ``over``: nothing more will happen. ``mute``: nothing more will be said, though all goes on.
    """

    __slots__ = ("_actions", "_drip", "_faults", "_octets", "_sent", "_session", "mute", "over")

    def __init__(self, script: Script, session: Session) -> None:
        self.over = False
        self.mute = False
        self._session = session
        self._drip = script.drip
        self._faults = sorted((f for f in script.faults if f.after is not None), key=lambda f: f.after or 0)
        self._actions: list[Action] = []
        self._octets = bytearray()
        self._sent = 0

    def say(self, answer: Answer) -> None:
        """Say a reply, do a fault, or keep silent."""
        if isinstance(answer, Fault):
            self.fault(answer)
        elif answer is not None:
            self.emit(_render(answer))

    def emit(self, octets: bytes) -> None:
        """Say octets, as far as the faults let them leave."""
        while self._faults and not (self.over or self.mute):
            fault = self._faults[0]
            assert fault.after is not None
            due = fault.after - self._sent
            if due > len(octets):
                break
            self._put(octets[:due])
            octets = octets[due:]
            del self._faults[0]
            self.fault(fault)
        self._put(octets)

    def _put(self, octets: bytes) -> None:
        if not octets or self.over or self.mute:
            return
        self._sent += len(octets)
        self._octets += octets
        secured = self._session.secured
        self._session.transcript += [Line("S", line, secured) for line in octets.splitlines()]

    def fault(self, fault: Fault) -> None:
        """Let go wrong what the fault says."""
        if fault.kind == "garbage":
            if not (self.over or self.mute):
                self._octets += fault.octets
        elif fault.kind == "stall":
            self.act(Stall())
            self.mute = True
        else:
            self.end(_FAULTS[fault.kind]())

    def act(self, action: Action) -> None:
        """Do this after what has been said."""
        if not self.over:
            self.flush()
            self._actions.append(action)

    def end(self, action: Close | Cut | Reset | Deaf) -> None:
        """Do this as the last thing."""
        self.act(action)
        self.over = True
        self._session.closed = not isinstance(action, Deaf)

    def flush(self) -> None:
        """End the write here: what is said next is another one."""
        octets = bytes(self._octets)
        self._octets.clear()
        if self._drip:
            for octet in octets:
                self._actions += (Wait(self._drip), Send(bytes((octet,))))
        elif octets:
            self._actions.append(Send(octets))

    def drain(self) -> list[Action]:
        """All that is to be done by now."""
        self.flush()
        actions, self._actions = self._actions, []
        return actions


def _render(answer: str | bytes) -> bytes:
    """The octets of a reply: the code goes before each line, unless the lines have it already."""
    if isinstance(answer, bytes):
        return answer
    first, *others = answer.split("\n")
    code = first[:3]
    if others and not others[0].startswith((code + "-", code + " ")):
        texts = [first[4:], *others]
        lines = [f"{code}-{text}" for text in texts]
        lines[-1] = f"{code} {texts[-1]}"
    else:
        lines = [first, *others]
    return "".join(f"{line}\r\n" for line in lines).encode("utf-8", "surrogateescape")
