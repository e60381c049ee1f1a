"""The exporter's value by the formulas of RFC 8446, from the secrets that a server wrote down (``keylog_filename``)."""

import hashlib
import hmac
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from smtpkit.transport import exporter

_SPEC = find_spec("_ssl")
PROVEN = (
    sys.platform == "linux"
    and f"{sys.implementation.cache_tag}{sys.abiflags}" in exporter.PROVEN
    and _SPEC is not None
    and _SPEC.has_location
)
needs_exporter = pytest.mark.skipif(not PROVEN, reason="the exporter of this Python's ssl cannot be reached")


def bindings(log: Path) -> dict[str, bytes]:
    """What "tls-exporter" is in each session of the log, in their order, by the client's random octets."""
    lines = [line.split(" ") for line in log.read_text().splitlines()]
    return {line[1]: _binding(bytes.fromhex(line[2])) for line in lines if line[0] == "EXPORTER_SECRET"}


def _binding(secret: bytes) -> bytes:
    digest = "sha384" if len(secret) == 48 else "sha256"
    nothing = hashlib.new(digest).digest()
    derived = _expand(secret, b"EXPORTER-Channel-Binding", nothing, len(secret), digest)
    return _expand(derived, b"exporter", nothing, 32, digest)


def _expand(secret: bytes, label: bytes, context: bytes, length: int, digest: str) -> bytes:
    """HKDF-Expand-Label (section 7.1), of no more than one block."""
    label = b"tls13 " + label
    info = length.to_bytes(2) + bytes([len(label)]) + label + bytes([len(context)]) + context
    return hmac.digest(secret, info + b"\1", digest)[:length]
