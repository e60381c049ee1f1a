"""What is read from a certificate itself: its pins, and the hash that ties a login to it (RFC 5929 section 4)."""

import hashlib
from typing import NamedTuple

# The hash function of each signature algorithm, by object identifier; instead of MD5 and SHA-1 it is SHA-256.
_HASHES = {
    "1.2.840.113549.1.1.4": "sha256",  # RSA with MD5
    "1.2.840.113549.1.1.5": "sha256",  # RSA with SHA-1
    "1.2.840.113549.1.1.14": "sha224",
    "1.2.840.113549.1.1.11": "sha256",
    "1.2.840.113549.1.1.12": "sha384",
    "1.2.840.113549.1.1.13": "sha512",
    "1.2.840.10040.4.3": "sha256",  # DSA with SHA-1
    "2.16.840.1.101.3.4.3.1": "sha224",
    "2.16.840.1.101.3.4.3.2": "sha256",
    "1.2.840.10045.4.1": "sha256",  # ECDSA with SHA-1
    "1.2.840.10045.4.3.1": "sha224",
    "1.2.840.10045.4.3.2": "sha256",
    "1.2.840.10045.4.3.3": "sha384",
    "1.2.840.10045.4.3.4": "sha512",
}
_PSS = "1.2.840.113549.1.1.10"  # the hash function is among its parameters (RFC 4055 section 3.1)
_PSS_HASHES = {
    "1.3.14.3.2.26": "sha256",  # SHA-1
    "2.16.840.1.101.3.4.2.4": "sha224",
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
}
_OBJECT_IDENTIFIER, _FIRST = 0x06, 0xA0  # tags of DER (X.690)


def end_point(der: bytes) -> bytes | None:
    """The hash of a certificate in DER by its signature's hash function; None where that has none, as Ed25519."""
    try:
        name = _hash_name(der)
    except (IndexError, ValueError):
        return None
    return None if name is None else hashlib.new(name, der).digest()


def pins_of(der: bytes) -> tuple[str, ...]:
    """What the option ``pins`` may hold for a certificate: itself, and its public key (SubjectPublicKeyInfo).

    Only itself, where it is not written in DER and its key cannot be found.
    """
    itself = f"cert-sha256:{hashlib.sha256(der).hexdigest()}"
    try:
        fields = _values(_values(_values(der)[0].octets)[0].octets)
        key = fields[6 if fields[0].tag == _FIRST else 5].whole  # the first is the version, or left out (RFC 5280 4.1)
    except (IndexError, ValueError):
        return (itself,)
    return itself, f"key-sha256:{hashlib.sha256(key).hexdigest()}"


class _Value(NamedTuple):
    tag: int
    octets: bytes
    whole: bytes  # with tag and length


def _hash_name(der: bytes) -> str | None:
    certificate = _values(_values(der)[0].octets)
    algorithm, *parameters = _values(certificate[1].octets)
    name = _identifier(algorithm)
    if name != _PSS:
        return _HASHES.get(name)
    for value in _values(parameters[0].octets):
        if value.tag == _FIRST:
            return _PSS_HASHES.get(_identifier(_values(_values(value.octets)[0].octets)[0]))
    return "sha256"  # the default is SHA-1


def _values(der: bytes) -> list[_Value]:
    """The values that stand one after another. Raises IndexError, ValueError."""
    found: list[_Value] = []
    at = 0
    while at < len(der):
        start, tag, size, at = at, der[at], der[at + 1], at + 2
        if size >= 0x80:
            many = size & 0x7F
            size, at = int.from_bytes(der[at : at + many]), at + many
        if at + size > len(der):
            raise ValueError
        found.append(_Value(tag, der[at : at + size], der[start : at + size]))
        at += size
    return found


def _identifier(value: _Value) -> str:
    """An object identifier as dotted numbers."""
    if value.tag != _OBJECT_IDENTIFIER:
        raise ValueError
    numbers = [0]
    for octet in value.octets:
        numbers[-1] = numbers[-1] << 7 | octet & 0x7F
        if octet < 0x80:
            numbers.append(0)
    first = min(numbers[0] // 40, 2)
    return ".".join(str(number) for number in (first, numbers[0] - 40 * first, *numbers[1:-1]))
