"""A scripted SMTP and LMTP server for tests and demonstrations: a second opinion that shares no code with the client.

``Server`` serves sockets from a thread of its own; ``Dialogue`` is the same server without I/O; ``Script`` tells what it
does, ``Received`` and ``Session`` what it saw. A pytest plugin gives ``smtpkit_server`` and ``smtpkit_outbox``.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smtpkit.testing.dialogue import Dialogue
    from smtpkit.testing.outlet import Close, Cut, Deaf, Reset, Send, Stall, StartTLS, Wait
    from smtpkit.testing.script import Fault, Line, Occurrence, Received, Recipient, Script, Session
    from smtpkit.testing.server import Server

__all__ = (
    "Close",
    "Cut",
    "Deaf",
    "Dialogue",
    "Fault",
    "Line",
    "Occurrence",
    "Received",
    "Recipient",
    "Reset",
    "Script",
    "Send",
    "Server",
    "Session",
    "Stall",
    "StartTLS",
    "Wait",
)

_SCRIPT = frozenset({"Fault", "Line", "Occurrence", "Received", "Recipient", "Script", "Session"})


def __getattr__(name: str) -> object:
    # pytest imports this package in every run of everybody who has it installed: asyncio and ssl wait until they are used.
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "server" if name == "Server" else "script" if name in _SCRIPT else "dialogue"
    value: object = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value
