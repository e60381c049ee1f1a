"""NTLM and Kerberos, by pyspnego: each step may look into files or ask a KDC, so each is a ``Run``.

pyspnego is not installed with the library but with its extras ``ntlm`` and ``kerberos``; it is imported when needed.
"""

from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from smtpkit.errors import ProtocolViolation, SMTPError, UsageError
from smtpkit.protocol.mechanism import Identity, Mechanism
from smtpkit.protocol.steps import Run

_NO_LAYER = 1  # RFC 4752 section 3.3


def ntlm(who: Identity) -> Mechanism:
    r"""NTLM (MS-SMTPNTLM): ours, the server's challenge, ours. The user may be ``DOMAIN\name``."""
    context = yield from _done(partial(_context, who, "ntlm"), UsageError)
    challenge = yield (yield from _done(context.step, UsageError))
    yield (yield from _done(partial(context.step, challenge), ProtocolViolation))
    return None


def gssapi(who: Identity) -> Mechanism:
    """GSSAPI (RFC 4752): Kerberos V5, with a ticket that is there or, given a password, with one that is got now.

    No security layer: octets are protected by TLS or not at all.
    """
    context = yield from _done(partial(_context, who, "kerberos"), UsageError)
    challenge = yield (yield from _done(context.step, UsageError))
    while not context.complete:
        token = yield from _done(partial(context.step, _due(challenge)), ProtocolViolation)
        challenge = yield token or b""
    yield (yield from _done(partial(_layer, context, _due(challenge), who.authzid), ProtocolViolation))
    return None


def _done(step: Callable[[], Any], blame: type[SMTPError]) -> Generator[Run, Any, Any]:
    """The result of a step that is run; ``blame`` is raised for what pyspnego raises."""

    def guarded() -> object:
        try:
            return step()
        except ImportError as error:
            return UsageError(f"NTLM needs smtpkit-client[ntlm], GSSAPI needs smtpkit-client[kerberos]: {error}")
        except SMTPError as error:
            return error
        except Exception as error:  # noqa: BLE001  pyspnego lets out whatever its parsers run into
            told = blame(f"the login cannot go on: {error}")
            told.__cause__ = error
            return told

    result = yield Run(guarded)  # an error comes back as a value, so that the exchange can be given up in order
    if isinstance(result, SMTPError):
        raise result
    return result


def _context(who: Identity, protocol: str) -> Any:
    """The client's side of an exchange."""
    import spnego

    return spnego.client(who.user or None, who.password, hostname=who.host, service=who.service, protocol=protocol)


def _due(challenge: bytes | None) -> bytes | None:
    """The challenge, None where it is empty. Raises ProtocolViolation for a yes in its place."""
    if challenge is None:
        raise ProtocolViolation("GSSAPI: the server says yes and has not proved who it is")
    return challenge or None


def _layer(context: Any, challenge: bytes | None, authzid: str) -> bytes:
    """The answer to the layers that are offered: none, and whom to act as."""
    offered = context.unwrap(challenge or b"").data
    if len(offered) != 4 or not offered[0] & _NO_LAYER:
        raise ProtocolViolation("GSSAPI: the server insists on a security layer")
    answer: bytes = context.wrap(bytes((_NO_LAYER, 0, 0, 0)) + authzid.encode(), encrypt=False).data
    return answer
