"""A scripted SMTP and LMTP server for tests and demonstrations: a second opinion that shares no code with the client.

``Server`` serves sockets from a thread of its own; ``Dialogue`` is the same server without I/O; ``Script`` tells what
it does, ``Received`` and ``Session`` what it saw. A pytest plugin gives ``smtpkit_server`` and ``smtpkit_outbox``.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smtpkit.testing.dialogue import Dialogue
    from smtpkit.testing.outlet import Action, Close, Cut, Deaf, Reset, Send, Stall, StartTLS, Wait
    from smtpkit.testing.script import Answer, Fault, Line, Occurrence, Received, Recipient, Reply, Script, Session
    from smtpkit.testing.server import Server

__all__ = (
    "Action",
    "Answer",
    "Close",
    "Cut",
    "Deaf",
    "Dialogue",
    "Fault",
    "Line",
    "Occurrence",
    "Received",
    "Recipient",
    "Reply",
    "Reset",
    "Script",
    "Send",
    "Server",
    "Session",
    "Stall",
    "StartTLS",
    "Wait",
)

_MODULE_OF = {"Server": "server", "Dialogue": "dialogue"} | dict.fromkeys(
    ("Answer", "Fault", "Line", "Occurrence", "Received", "Recipient", "Reply", "Script", "Session"), "script"
)


def __getattr__(name: str) -> object:
    # pytest imports this package in every run of everybody who has it: asyncio and ssl wait until they are used.
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_MODULE_OF.get(name, 'outlet')}"), name)
    globals()[name] = value
    return value
