"""Drives a procedure by hand: answers its steps from a list, and keeps what it said. No channel, no loop, no socket."""

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from smtpkit.protocol.command import Command, Greeting, Quit
from smtpkit.protocol.reply import Reply
from smtpkit.protocol.steps import Hear, Lost, Pass, Procedure, Run, Say, Secure, Step, Transfer, Transferred

T = TypeVar("T")
Answer = str | Transferred | Lost


def reply(text: str) -> Reply:
    """A reply from its lines, code and separator included."""
    lines = text.split("\n")
    return Reply(int(lines[0][:3]), tuple(line[4:] for line in lines))


@dataclass
class Talk(Generic[T]):
    """What came of a procedure: what it said, line by line, and what it returned or raised."""

    said: list[str] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    heard: list[Reply] = field(default_factory=list)
    most: int = 0  # commands unheard at once
    owed: int = 0  # replies
    left: list[Answer] = field(default_factory=list)  # answers nobody asked for
    result: Any = None
    error: Exception | None = None

    @property
    def of(self) -> T:
        """What it returned; raises what it raised."""
        if self.error is not None:
            raise self.error
        result: T = self.result
        return result


def drive(procedure: Procedure[T], *answers: Answer, lose: tuple[int, Lost] | None = None) -> Talk[T]:
    """Run a procedure to its end. Each Hear takes an answer, each Transfer one if it is next in line.
    QUIT is answered in any case.

    ``lose``: that Lost is thrown at the step of that number. A procedure may hear only what is owed, says nothing after
    Pass, and returns only when nothing is owed or the channel is over.
    """
    talk: Talk[T] = Talk(left=list(answers))
    value: Any = None
    passed = over = False
    try:
        while True:
            if isinstance(value, Lost):
                over = True
                step = procedure.throw(value)
            else:
                step = procedure.send(value)
            assert not over, "a step after the end of the channel"
            talk.steps.append(step)
            value = None
            if lose is not None and len(talk.steps) - 1 == lose[0]:
                value = lose[1]
                continue
            match step:
                case Say(commands=commands):
                    assert not passed, "said after Pass"
                    for command in commands:
                        talk.commands.append(command)
                        talk.said += [] if isinstance(command, Greeting) else [command.render().decode()[:-2]]
                        talk.owed += 1
                    talk.most = max(talk.most, talk.owed)
                case Hear(most=most):
                    assert talk.owed, "hears what nobody owes"
                    quitting = isinstance(talk.commands[-1], Quit) and not talk.left
                    answer = "221 bye" if quitting else talk.left.pop(0)
                    talk.owed -= 1
                    assert not isinstance(answer, Transferred), "heard where a transfer was expected"
                    value = reply(answer) if isinstance(answer, str) else answer
                    if not isinstance(value, Lost):
                        talk.heard.append(value)
                        value = [value] if most else value
                case Transfer(mail_data=data, chunked=chunked, due=due):
                    assert not passed, "said after Pass"
                    form = "BDAT" if chunked else "DATA"
                    talk.said.append(f"<{form} {'?' if data.size is None else data.size}>")
                    value = Transferred(due)
                    if talk.left and not isinstance(talk.left[0], str):
                        answered = talk.left.pop(0)
                        value = answered
                    talk.owed += value.due if isinstance(value, Transferred) else 0
                case Pass():
                    passed = True
                    talk.said.append("<pass>")
                case Run(function=function):
                    value = function()
                case Secure():
                    assert not talk.owed, "TLS while a reply is owed"
                    talk.said.append("<TLS>")
    except StopIteration as stop:
        talk.result = stop.value
        assert over or not talk.owed, "returned while a reply is owed"
    except (AssertionError, IndexError):
        raise
    except Exception as error:  # noqa: BLE001  what the procedure raised is what the test asks about
        talk.error = error
    return talk
