"""NTLM and Kerberos: each step is run, errors give the exchange up in order, and a missing extra is named."""

import base64
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
import spnego
from spnego.exceptions import InvalidTokenError

from smtpkit.errors import AuthenticationRefused, ProtocolViolation, UsageError
from smtpkit.protocol.mechanism import Identity
from smtpkit.protocol.procedures import authenticate
from smtpkit.protocol.steps import Run
from tests.driver import Talk, drive

ANN = Identity(user="ann", password="secret", host="mail.example")


def b64(octets: bytes) -> str:
    """Base64, as it stands on the wire."""
    return base64.b64encode(octets).decode()


@dataclass
class Wrapped:
    """What a context gives for octets it wraps or unwraps."""

    data: bytes


@dataclass
class Context:
    """A context that takes so many steps, each answered by its number, and unwraps to what is given."""

    steps: int
    offered: bytes = b"\x07\x00\x10\x00"
    silent: bool = False  # the last step has nothing to say
    fails: int = 0  # at this step
    taken: list[bytes | None] = field(default_factory=list)
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return len(self.taken) == self.steps

    def step(self, token: bytes | None = None) -> bytes | None:
        self.taken.append(token)
        if len(self.taken) == self.fails:
            raise InvalidTokenError(context_msg="no good")
        return None if self.complete and self.silent else b"token %d" % len(self.taken)

    def unwrap(self, octets: bytes) -> Wrapped:
        assert octets == b"layers"
        return Wrapped(self.offered)

    def wrap(self, octets: bytes, *, encrypt: bool) -> Wrapped:
        assert not encrypt
        return Wrapped(b"wrapped " + octets)


def talk(name: str, context: Context, who: Identity, *answers: str) -> Talk[AuthenticationRefused | None]:
    """One exchange with a context that is a double."""

    def client(user: str | None, password: str | None, **more: str) -> Context:
        context.made = {"user": user, "password": password, **more}
        return context

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spnego, "client", client)
        return drive(authenticate(name, who), *answers)


def test_gssapi() -> None:
    """The context's tokens, then no security layer and whom to act as (RFC 4752 section 3.1)."""
    context = Context(2, silent=True)
    who = Identity(host="mail.example", authzid="bob")
    said = talk("GSSAPI", context, who, f"334 {b64(b'theirs')}", f"334 {b64(b'layers')}", "235 ok")
    assert said.of is None
    assert said.said == [f"AUTH GSSAPI {b64(b'token 1')}", "", b64(b"wrapped \x01\x00\x00\x00bob")]
    assert context.taken == [None, b"theirs"]
    assert context.made == {
        "user": None,
        "password": None,
        "hostname": "mail.example",
        "service": "smtp",
        "protocol": "kerberos",
    }
    assert sum(isinstance(step, Run) for step in said.steps) == 4


def test_gssapi_in_more_steps() -> None:
    """A context may need more than one token, and its last one may have something to say."""
    context = Context(3)
    answers = [f"334 {b64(octets)}" for octets in (b"one", b"", b"layers")]
    said = talk("GSSAPI", context, ANN, *answers, "235 ok")
    assert said.of is None
    assert context.taken == [None, b"one", None]
    assert said.said[-1] == b64(b"wrapped \x01\x00\x00\x00")


@pytest.mark.parametrize("offered", [b"\x06\x00\x10\x00", b"\x01\x00\x10", b"", b"\x01\x00\x00\x00\x00"])
def test_gssapi_with_a_layer(offered: bytes) -> None:
    """A server that insists on a security layer, or offers nothing that can be read, is given up."""
    context = Context(2, offered)
    said = talk("GSSAPI", context, ANN, f"334 {b64(b'theirs')}", f"334 {b64(b'layers')}", "501 x")
    assert type(said.error) is ProtocolViolation
    assert said.said[-1] == "*"


@pytest.mark.parametrize("heard", [0, 1])
def test_gssapi_yes_too_early(heard: int) -> None:
    """235 before the server has proved who it is is no login."""
    said = talk("GSSAPI", Context(2), ANN, *[f"334 {b64(b'theirs')}"] * heard, "235 ok")
    assert type(said.error) is ProtocolViolation


def test_gssapi_challenged_again() -> None:
    """After the layers there is nothing more to say."""
    answers = [f"334 {b64(octets)}" for octets in (b"theirs", b"layers", b"more")]
    said = talk("GSSAPI", Context(2), ANN, *answers, "501 x")
    assert type(said.error) is ProtocolViolation
    assert said.said[-1] == "*"


def test_gssapi_refused() -> None:
    """A refusal is a refusal."""
    said = talk("GSSAPI", Context(2), ANN, f"334 {b64(b'theirs')}", "535 no")
    assert isinstance(said.of, AuthenticationRefused)


@pytest.mark.parametrize("name", ["NTLM", "GSSAPI"])
def test_no_first_token(name: str) -> None:
    """Without a ticket, or with a user that cannot be, nothing is said, and the error is the caller's."""
    said = talk(name, Context(2, fails=1), ANN)
    assert type(said.error) is UsageError
    assert "no good" in str(said.error)
    assert not said.said


@pytest.mark.parametrize("name", ["NTLM", "GSSAPI"])
def test_bad_token(name: str) -> None:
    """A token that cannot be is given up with ``*``."""
    said = talk(name, Context(2, fails=2), ANN, f"334 {b64(b'theirs')}", "501 x")
    assert type(said.error) is ProtocolViolation
    assert isinstance(said.error.__cause__, InvalidTokenError)
    assert said.said[-1] == "*"


def test_ntlm() -> None:
    """Ours, the server's, ours; then the server decides, and has no more to ask."""
    for last, result in (("235 ok", None), ("535 no", 535)):
        context = Context(2)
        said = talk("NTLM", context, ANN, f"334 {b64(b'theirs')}", last)
        assert (said.of and said.of.reply.code) == result
        assert said.said == [f"AUTH NTLM {b64(b'token 1')}", b64(b"token 2")]
        assert context.made["protocol"] == "ntlm"
    said = talk("NTLM", Context(2), ANN, f"334 {b64(b'theirs')}", "334 ", "501 x")
    assert type(said.error) is ProtocolViolation


def test_ntlm_with_pyspnego(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """A server of pyspnego's takes us in for the right password, and only for it."""
    users = tmp_path / "users"
    users.write_text("EXAMPLE:ann:secret\n")
    monkeypatch.setenv("NTLM_USER_FILE", str(users))
    for password, good in (("secret", True), ("wrong", False)):
        server = spnego.server(protocol="ntlm")
        exchange = authenticate("NTLM", Identity(user="EXAMPLE\\ann", password=password, host="mail.example"))
        said = _through(exchange, server)
        assert (said is None) == good


def _through(exchange: Any, server: Any) -> Any:
    from tests.driver import reply

    said: list[Any] = []
    value: Any = None
    try:
        while True:
            step = exchange.send(value)
            value = None
            match type(step).__name__:
                case "Run":
                    value = step.function()
                case "Say":
                    said += step.commands
                case "Hear":
                    octets = base64.b64decode(said[-1].render().decode().split()[-1])
                    try:
                        token = server.step(octets)
                        value = reply("235 ok" if server.complete else f"334 {b64(token)}")
                    except spnego.exceptions.SpnegoError:
                        value = reply("535 no")
    except StopIteration as stop:
        return stop.value


@pytest.mark.parametrize("name", ["NTLM", "GSSAPI"])
def test_without_pyspnego(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the error names it, before anything is said."""
    for module in ("spnego", "spnego.exceptions"):
        monkeypatch.setitem(sys.modules, module, None)
    said = drive(authenticate(name, ANN))
    assert type(said.error) is UsageError
    assert "smtpkit-client[ntlm]" in str(said.error)
    assert not said.said


def test_without_the_system_s_kerberos(monkeypatch: pytest.MonkeyPatch) -> None:
    """With pyspnego alone Kerberos is missing, and the error names its extra."""

    def client(*_: object, **__: object) -> Context:
        raise ImportError("GSSAPIProxy requires the Python gssapi library")

    monkeypatch.setattr(spnego, "client", client)
    said = drive(authenticate("GSSAPI", ANN))
    assert type(said.error) is UsageError
    assert "smtpkit-client[kerberos]" in str(said.error)
