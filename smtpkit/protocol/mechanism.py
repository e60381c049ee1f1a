"""What every SASL mechanism is given, and how it is talked to.

A mechanism is a generator that knows nothing of SMTP. It yields responses and is sent challenges, both decoded:

* the first value is the initial response; None there means that the server speaks first;
* ``Run`` is something heavy: what comes back is its result;
* it is sent None when the server says yes; one that must first see a proof raises ProtocolViolation then;
* it returns None when it has no more to say, and ``b""`` when the challenge was the proof it waited for: such a one is
  answered by an empty response (RFC 4954 section 4).

It raises ProtocolViolation for a challenge that is wrong, and UsageError for what its caller did wrong.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, NamedTuple

from smtpkit.protocol.steps import Run

Mechanism = Generator[bytes | Run | None, Any, bytes | None]


class Binding(NamedTuple):
    """What ties a login to the TLS it goes through: the type, such as "tls-exporter", and its octets (RFC 5056)."""

    kind: str
    octets: bytes


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """Who logs in: user, password or token, and whom to act as. All text; never shown.

    ``nonce`` is made anew for each exchange: printable ASCII without comma and quote, 18 random octets or more.
    ``service`` is the server's in SASL's registry. ``binding`` is None where there is no TLS to bind to.
    """

    user: str = ""
    password: str | None = None
    token: str | None = None
    authzid: str = ""
    host: str = ""
    port: int | None = None
    service: str = "smtp"
    nonce: str = ""
    binding: Binding | None = None
