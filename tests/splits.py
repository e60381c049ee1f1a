"""Ways to cut octets into the pieces in which they may arrive."""

from collections.abc import Iterator


def octet_by_octet(octets: bytes) -> list[bytes]:
    """Each octet by itself."""
    return [octets[at : at + 1] for at in range(len(octets))]


def splits(octets: bytes) -> Iterator[list[bytes]]:
    """The octets whole, octet by octet, with empty pieces between them, and cut in two at every place."""
    yield [octets]
    yield octet_by_octet(octets)
    yield [piece for octet in octet_by_octet(octets) for piece in (octet, b"")]
    for at in range(1, len(octets)):
        yield [octets[:at], octets[at:]]


def cut(octets: bytes, places: list[int]) -> list[bytes]:
    """The octets cut at these places, whatever they are: they count modulo the length, in any order."""
    ends = sorted({place % (len(octets) + 1) for place in places} | {len(octets)})
    return [octets[start:end] for start, end in zip([0, *ends], ends, strict=False)]
