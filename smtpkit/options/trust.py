"""Whom to trust beyond the system's authorities, and who we are: pins, the user's own word, a client certificate."""

import os
import re
from dataclasses import dataclass, field
from typing import Self, TypeAlias

from smtpkit.options.kinds import Kind, Secret, is_secret, is_text, wrong


@dataclass(frozen=True, slots=True)
class Untrusted:
    """A certificate that does not verify, for ``on_untrusted`` to decide on.

    ``reason`` is why, in OpenSSL's words, and ``code`` its number (X509_V_ERR_…); it is that of an earlier connection,
    so decide on the certificate: who is on the way can make any reason come true. ``pins`` are the SHA-256 of the
    certificate and of its key, as the option ``pins`` takes them; ``der`` is the certificate itself, ``address`` that
    of who shows it.

    The function is called in a worker thread, by SyncClient in the caller's, within the limit for connecting; a client
    asks once about each certificate, and what the function raises comes out of the call that needed it.
    """

    server_name: str
    reason: str
    code: int
    pins: tuple[str, ...]
    der: bytes = field(repr=False)
    address: str
    tls_version: str
    cipher: str


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """Who we are in TLS: paths of a certificate (with its chain) and of its key (None: in the same file), in PEM."""

    certificate: str
    key: str | None = None
    password: Secret | None = None  # of the key

    @classmethod
    def of(cls, given: object) -> Self:
        """What a path, or a tuple of the certificate's path, the key's and perhaps its password, says."""
        if isinstance(given, cls):
            return given
        parts = given if isinstance(given, tuple) and len(given) in {2, 3} else (given,)
        password = parts[2] if len(parts) == 3 else None
        paths = [os.fspath(one) if isinstance(one, os.PathLike) else one for one in parts[:2]]
        secret = Secret(password) if isinstance(password, str) else password
        if not all(map(is_text, paths)) or not (secret is None or is_secret(secret)):
            raise wrong("client_certificate", CLIENT_CERTIFICATE, None)
        return cls(paths[0], paths[1] if len(paths) > 1 else None, secret)


_File: TypeAlias = str | os.PathLike[str]
ClientCertificateLike: TypeAlias = (
    ClientCertificate | _File | tuple[_File, _File] | tuple[_File, _File, str | Secret | None]
)
_PIN = re.compile(r"(?:cert|key)-sha256:[0-9a-f]{64}")


def _is_pins(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, str) and _PIN.fullmatch(one) for one in value)


def _is_client_certificate(value: object) -> bool:
    return isinstance(value, ClientCertificate)


def _is_policy(value: object) -> bool:
    from inspect import iscoroutinefunction

    return callable(value) and not iscoroutinefunction(value) and not iscoroutinefunction(type(value).__call__)


def _read_pins(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


PINS = Kind(
    "cert-sha256: or key-sha256: and 64 hexadecimal digits in lower case, or a tuple of such texts (in a URL with "
    "commas)",
    _is_pins,
    _read_pins,
)
CLIENT_CERTIFICATE = Kind(
    "the path of a PEM file with a certificate and its key, or a tuple (certificate, key[, password])",
    _is_client_certificate,
    str,
    secret=True,
)
POLICY = Kind("a plain function (not async) that is given an Untrusted and returns True or False", _is_policy)
