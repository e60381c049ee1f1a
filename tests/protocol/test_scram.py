"""SCRAM: the examples of the RFCs, an independent server, and every way in which a server can be wrong."""

import base64
import hashlib
import hmac
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scramp import ScramException, ScramMechanism

from smtpkit.errors import AuthenticationRefused, ProtocolViolation, SMTPError, UsageError
from smtpkit.protocol.mechanism import Binding, Identity
from smtpkit.protocol.procedures import authenticate
from smtpkit.protocol.scram import FEWEST, MOST, saslprep, scram
from smtpkit.protocol.steps import Run
from tests.driver import Talk, drive

NAMES = tuple(f"SCRAM-SHA-{size}{plus}" for size in (1, 256, 512) for plus in ("", "-PLUS"))
SHA1 = Identity(user="user", password="pencil", nonce="fyko+d2lbbFgONRv9qkxdawL")
SHA256 = Identity(user="user", password="pencil", nonce="rOprNGfwEbeRWgbNEkqO")
BINDING = Binding("tls-server-end-point", bytes(range(32)))  # scramp knows no tls-exporter


def b64(text: str | bytes) -> str:
    """Base64, as it stands on the wire."""
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


# RFC 5802 section 5; RFC 7677 section 3: what the server says, and what we say to it.
EXAMPLES = {
    "SCRAM-SHA-1": (
        SHA1,
        "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
        "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
        "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
    ),
    "SCRAM-SHA-256": (
        SHA256,
        "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    ),
}
FIRST, FINAL = EXAMPLES["SCRAM-SHA-1"][2], EXAMPLES["SCRAM-SHA-1"][4]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str) -> None:
    """The examples of the RFCs, octet for octet; the server's proof has an empty response (RFC 4954 section 4)."""
    who, ours, first, reply, final = EXAMPLES[name]
    talk = drive(authenticate(name, who), f"334 {b64(first)}", f"334 {b64(final)}", "235 2.7.0 ok")
    assert talk.of is None
    assert talk.said == [f"AUTH {name} {b64(ours)}", b64(reply), ""]


@pytest.mark.parametrize("name", EXAMPLES)
def test_proof_with_the_last_reply(name: str) -> None:
    """A server may prove itself in the text of its 235; nothing more is said then."""
    who, _, first, reply, final = EXAMPLES[name]
    talk = drive(authenticate(name, who), f"334 {b64(first)}", f"235 2.7.0 {b64(final)}")
    assert talk.of is None
    assert talk.said[1:] == [b64(reply)]


def test_iterations_are_run() -> None:
    """The iterations are a step to run, whose result is taken back; no secret is in its repr."""
    talk = drive(authenticate("SCRAM-SHA-1", SHA1), f"334 {b64(FIRST)}", "535 no")
    assert [type(step).__name__ for step in talk.steps] == ["Say", "Hear", "Run", "Say", "Hear"]
    assert "pencil" not in repr(talk.steps)


def _reply(text: str) -> object:
    from tests.driver import reply

    return reply(text)


def first(nonce: str = "fyko+d2lbbFgONRv9qkxdawLxyz", salt: bytes = b"s" * 8, count: object = 4096) -> str:
    """A server's first message."""
    return f"r={nonce},s={b64(salt)},i={count}"


WRONG_FIRST = {
    "the nonce is ours and no more": first("fyko+d2lbbFgONRv9qkxdawL"),
    "the nonce is another": first("fyko+d2lbbFgONRv9qkxdaw0xyz"),
    "the nonce is a piece of ours": first("fyko"),
    "the nonce is ours behind another": first("xfyko+d2lbbFgONRv9qkxdawL"),
    "the nonce is empty": first(""),
    "the nonce has octets that none has": first("fyko+d2lbbFgONRv9qkxdawL\x7f"),
    "too few iterations": first(count=FEWEST - 1),
    "one iteration": first(count=1),
    "no iterations": first(count=0),
    "iterations below nothing": first(count=-4096),
    "too many iterations": first(count=MOST + 1),
    "2**31 iterations": first(count=2**31),
    "iterations without end": first(count="9" * 400),
    "iterations in words": first(count="many"),
    "iterations with a zero in front": first(count="04096"),
    "iterations in other digits": first(count="٤٠٩٦"),
    "no salt": first(salt=b""),
    "a short salt": first(salt=b"1234567"),
    "salt that is not base64": "r=fyko+d2lbbFgONRv9qkxdawLxyz,s=QSXCR+Q6sek8bf9,i=4096",
    "salt with a mark within": "r=fyko+d2lbbFgONRv9qkxdawLxyz,s=QSXC=Q6sek8bf92,i=4096",
    "a mandatory extension": f"m=x,{first()}",
    "another order": "s=QSXCR+Q6sek8bf92,r=fyko+d2lbbFgONRv9qkxdawLxyz,i=4096",
    "no iterations named": "r=fyko+d2lbbFgONRv9qkxdawLxyz,s=QSXCR+Q6sek8bf92",
    "an extension without a value": first() + ",x=",
    "more behind it": first() + "\n",
    "nothing": "",
    "the final message": FINAL,
}


@pytest.mark.parametrize("case", WRONG_FIRST)
def test_wrong_first_message(case: str) -> None:
    """A first message that is wrong is given up with ``*``: no proof leaves, and nothing was computed."""
    talk = drive(authenticate("SCRAM-SHA-1", SHA1), f"334 {b64(WRONG_FIRST[case])}", "501 5.7.0 given up")
    assert type(talk.error) is ProtocolViolation
    assert talk.said[1:] == ["*"]
    assert not any(isinstance(step, Run) for step in talk.steps)


@pytest.mark.parametrize("count", [FEWEST, MOST])
def test_bounds_of_iterations(count: int) -> None:
    """The bounds themselves are right; so are extensions that may be ignored."""
    mechanism = scram("sha1", SHA1)
    next(mechanism)
    assert isinstance(mechanism.send(first(count=count).encode() + b",x=y,z=1"), Run)
    mechanism.close()


WRONG_FINAL = {
    "a wrong signature": f"v={b64(bytes(20))}",
    "a short signature": f"v={b64(bytes(19))}",
    "no base64": "v=rmF9pqV8S7suAoZWja4dJRkFsKQ",
    "an empty signature": "v=",
    "nothing": "",
    "something else": "x=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
    "an extension without a value": f"{FINAL},x=",
    "its first message again": FIRST,
}


@pytest.mark.parametrize("case", WRONG_FINAL)
def test_wrong_signature(case: str) -> None:
    """A server that cannot prove that it knows the password is no good, though it says yes (RFC 5802 section 9)."""
    final = WRONG_FINAL[case]
    talk = drive(authenticate("SCRAM-SHA-1", SHA1), f"334 {b64(FIRST)}", f"334 {b64(final)}", "235 2.7.0 ok")
    assert type(talk.error) is ProtocolViolation
    assert talk.said[2:] == ["*"]
    talk = drive(authenticate("SCRAM-SHA-1", SHA1), f"334 {b64(FIRST)}", f"235 {b64(final)}")
    assert type(talk.error) is ProtocolViolation


@pytest.mark.parametrize("text", ["2.7.0 ok", "2.7.0 Accepted", "", f"ok {b64(FIRST)}", f"{b64(FINAL)} ok", "é="])
@pytest.mark.parametrize("heard", [0, 1])
def test_yes_without_a_signature(text: str, heard: int) -> None:
    """235 without the server's signature is no login, at the beginning of the exchange or at its end."""
    talk = drive(authenticate("SCRAM-SHA-1", SHA1), *[f"334 {b64(FIRST)}"][:heard], f"235 {text}")
    assert type(talk.error) is ProtocolViolation
    assert "235" not in str(talk.error)


def test_a_challenge_after_the_proof() -> None:
    """After the server's proof there is nothing more to say."""
    answers = (f"334 {b64(FIRST)}", f"334 {b64(FINAL)}", "334 ", "501 x")
    talk = drive(authenticate("SCRAM-SHA-1", SHA1), *answers)
    assert type(talk.error) is ProtocolViolation
    assert talk.said[2:] == ["", "*"]


@pytest.mark.parametrize("heard", [0, 1])
def test_server_error(heard: int) -> None:
    """An error that the server tells (``e=``) has an empty response; the refusal that follows has it to look at."""
    before = [f"334 {b64(FIRST)}"][:heard]
    error = f"334 {b64('e=invalid-proof')}"
    talk = drive(authenticate("SCRAM-SHA-1", SHA1), *before, error, "535 5.7.8 no")
    assert isinstance(talk.of, AuthenticationRefused)
    assert talk.of.challenge == b"e=invalid-proof"
    assert talk.said[-1] == ""
    for answers in (["235 ok"], [f"334 {b64(FINAL)}", "501 x"]):
        talk = drive(authenticate("SCRAM-SHA-1", SHA1), *before, error, *answers)
        assert type(talk.error) is ProtocolViolation


HEADERS = [
    (Identity(user="ann", password="p"), False, "n,,n=ann,r="),
    (Identity(user="ann", password="p", authzid="bob"), False, "n,a=bob,n=ann,r="),
    (Identity(user="a=n,n", password="p", authzid="b,=b"), False, "n,a=b=2C=3Db,n=a=3Dn=2Cn,r="),
    (Identity(user="ann", password="p", binding=BINDING), False, "y,,n=ann,r="),
    (Identity(user="ann", password="p", binding=BINDING), True, "p=tls-server-end-point,,n=ann,r="),
    (Identity(user="ann", password="p", authzid="bob", binding=BINDING), True, "p=tls-server-end-point,a=bob,n=ann,r="),
    (Identity(user="Ⅸ\u00ad", password="p"), False, "n,,n=IX,r="),
]


@pytest.mark.parametrize(("who", "plus", "said"), HEADERS)
def test_first_message(who: Identity, said: str, *, plus: bool) -> None:
    """The first message: whether it binds or could (RFC 5802 section 6), whom to act as, and the name, escaped."""
    assert next(scram("sha256", who, plus=plus)) == said.encode()


def test_what_is_bound() -> None:
    """What the last message repeats is the header, and behind it the binding's octets where it binds."""
    for plus, bound in ((False, b"y,,"), (True, b"p=tls-server-end-point,," + BINDING.octets)):
        mechanism = scram("sha1", Identity(user="u", password="p", nonce="n", binding=BINDING), plus=plus)
        next(mechanism)
        run = mechanism.send(f"r=nx,s={b64(bytes(8))},i=4096".encode())
        assert isinstance(run, Run)
        final = mechanism.send(run.function())
        assert isinstance(final, bytes)
        assert final.startswith(f"c={b64(bound)},r=nx,p=".encode())


# scramp as the server


def judged(name: str, who: Identity, password: str, *, binding: Binding | None = None) -> Talk[Any]:
    """One exchange with scramp as the server, which knows the user by this password."""
    base = ScramMechanism(name.removesuffix("-PLUS"))
    known = base.make_auth_info(password, iteration_count=4096)
    server = ScramMechanism(name).make_server(
        lambda user: known if user == saslprep(who.user, "user") else None,
        channel_binding=None if binding is None else tuple(binding),
    )
    talk: Talk[Any] = Talk()
    exchange = authenticate(name, who)
    value: Any = None
    try:
        while True:
            step = exchange.send(value)
            talk.steps.append(step)
            match type(step).__name__:
                case "Say":
                    talk.said.append(step.commands[0].render().decode().rstrip())  # type: ignore[union-attr]
                    value = None
                case "Run":
                    value = step.function()  # type: ignore[union-attr]
                case _:
                    value = _reply(_answer(server, talk.said))
    except StopIteration as stop:
        talk.result = stop.value
    except SMTPError as error:
        talk.error = error
    return talk


def _answer(server: Any, said: list[str]) -> str:
    octets = base64.b64decode(said[-1].rpartition(" ")[2])
    try:
        match len(said):
            case 1:
                server.set_client_first(octets.decode())
                return f"334 {b64(server.get_server_first())}"
            case 2:
                server.set_client_final(octets.decode())
                return f"334 {b64(server.get_server_final())}"
        return "235 2.7.0 ok"
    except (ScramException, KeyError, TypeError):
        return "535 5.7.8 no"


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(
    st.text(st.sampled_from("abc,=é ÅIX\u00aaßß"), min_size=1, max_size=8),
    st.text(st.characters(min_codepoint=33, max_codepoint=0x21F, exclude_categories=("C", "Zs")), min_size=1),
)
def test_against_scramp(name: str, user: str, password: str) -> None:
    """An independent server takes us in for the right password, however spelled, and refuses us for another."""
    binding = BINDING if name.endswith("PLUS") else None
    who = partial(Identity, user=user, nonce="n0nce-of-ours", binding=binding)
    try:
        saslprep(password, "password")
        saslprep(user, "user")
    except UsageError:
        return
    talk = judged(name, who(password=password), password, binding=binding)
    assert talk.of is None
    talk = judged(name, who(password=password + "!"), password, binding=binding)
    assert isinstance(talk.of, AuthenticationRefused)
    assert len(talk.said) <= 3


@pytest.mark.parametrize("name", NAMES[1::2])
def test_another_binding(name: str) -> None:
    """Who sits between two TLS channels has two bindings, and is refused."""
    who = Identity(user="ann", password="p", nonce="n0nce", binding=BINDING)
    talk = judged(name, who, "p", binding=Binding("tls-server-end-point", bytes(32)))
    assert isinstance(talk.of, AuthenticationRefused)
    talk = judged(name, who, "p", binding=Binding("tls-unique", BINDING.octets))
    assert isinstance(talk.of, AuthenticationRefused)


def test_removed_offer_is_noticed() -> None:
    """A server that binds refuses who says that it did not seem to: its offer was removed on the way (section 6)."""
    who = Identity(user="ann", password="p", nonce="n0nce", binding=BINDING)
    first_message = next(scram("sha256", who))
    assert isinstance(first_message, bytes)
    known = ScramMechanism("SCRAM-SHA-256").make_auth_info("p", iteration_count=4096)
    server = ScramMechanism("SCRAM-SHA-256-PLUS").make_server(lambda _: known, channel_binding=tuple(BINDING))
    with pytest.raises(ScramException, match="channel-binding"):
        server.set_client_first(first_message.decode())


# SASLprep

PREPARED = [
    ("I\u00adX", "IX"),  # RFC 4013 section 3
    ("user", "user"),
    ("USER", "USER"),
    ("\u00aa", "a"),
    ("\u2168", "IX"),
    ("a b", "a b"),
    ("a\u00a0b", "a b"),
    ("\u0627\u0628", "\u0627\u0628"),
    ("p\u00e4ss", "p\u00e4ss"),
    ("pa\u0308ss", "p\u00e4ss"),
    ("\u0221", "\u0221"),  # not assigned in Unicode 3.2: a query may have it
]


@pytest.mark.parametrize(("text", "prepared"), PREPARED)
def test_saslprep(text: str, prepared: str) -> None:
    """The examples of RFC 4013 section 3, and one of each of its mappings."""
    assert saslprep(text, "user") == prepared


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\u00ad",
        "\u0007",
        "\u0627\u0031",
        "a\u0627",
        "\u0627a\u0627",
        "\ue000",
        "\ufdd0",
        "\ufffd",
        "\u2ff0",
        "\u206e",
    ],
)
def test_saslprep_refuses(text: str) -> None:
    """What RFC 4013 prohibits, and what is nothing once it is prepared, is the caller's mistake, and is not shown."""
    for who in (Identity(user="ann", password=text), Identity(user=text, password="secret")):
        with pytest.raises(UsageError) as caught:
            next(scram("sha1", who))
        assert not text or repr(text)[1:-1] not in str(caught.value)
        assert "secret" not in str(caught.value)


def test_a_fast_hash_is_what_hashlib_says() -> None:
    """The salted password is PBKDF2 of hashlib, with the block size of the hash (RFC 5802 section 3, Hi)."""
    mechanism = scram("sha512", Identity(user="u", password="p\u00e4ss", nonce="n"))
    next(mechanism)
    run = mechanism.send(f"r=nx,s={b64(bytes(8))},i=4096".encode())
    assert isinstance(run, Run)
    assert run.function() == hashlib.pbkdf2_hmac("sha512", "p\u00e4ss".encode(), bytes(8), 4096)


def test_bound_by_the_exporter() -> None:
    """Bound by tls-exporter (RFC 9266), the proof and the server's signature are those of RFC 5802's formulas."""
    binding = Binding("tls-exporter", bytes(range(100, 132)))
    ours = "n=user,r=rOprNGfwEbeRWgbNEkqO"
    challenge = first("rOprNGfwEbeRWgbNEkqOserver", b"saltsalt", 4096)
    bound = b64(b"p=tls-exporter,," + binding.octets)
    without_proof = f"c={bound},r=rOprNGfwEbeRWgbNEkqOserver"
    salted = hashlib.pbkdf2_hmac("sha256", b"pencil", b"saltsalt", 4096)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    authenticated = f"{ours},{challenge},{without_proof}".encode()
    signature = hmac.digest(hashlib.sha256(client_key).digest(), authenticated, "sha256")
    proof = bytes(one ^ other for one, other in zip(client_key, signature, strict=True))
    final = f"v={b64(hmac.digest(hmac.digest(salted, b'Server Key', 'sha256'), authenticated, 'sha256'))}"
    exchange = authenticate("SCRAM-SHA-256-PLUS", replace(SHA256, binding=binding))
    talk = drive(exchange, f"334 {b64(challenge)}", f"334 {b64(final)}", "235 2.7.0 ok")
    assert talk.of is None
    assert talk.said == [
        f"AUTH SCRAM-SHA-256-PLUS {b64('p=tls-exporter,,' + ours)}",
        b64(f"{without_proof},p={b64(proof)}"),
        "",
    ]
