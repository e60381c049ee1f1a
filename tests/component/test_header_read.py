"""The header as it is read back: once for all its fields, and without the body of a large Message."""

import itertools
import tracemalloc

import pytest

from smtpkit import ComponentError
from tests.component.ways import make


def test_all_fields_are_of_one_header(monkeypatch: pytest.MonkeyPatch) -> None:
    """Going through the fields writes the header once, and not anew, with another Message-ID, for each."""
    numbers = itertools.count()
    monkeypatch.setattr("smtpkit.message.header.message_id", lambda domain: f"<{next(numbers)}@{domain}>")
    smtp = make("blocking", None)
    assert list(iter(smtp.message_header_field)) == ["From", "To", "Date", "Message-ID"]
    assert list(iter(smtp.message_header_value))[3] == "<1@example.com>"
    assert smtp.message_header_value[3] == "<2@example.com>"


@pytest.mark.parametrize("head", [b"Subject: a\r\n b\r\n\r\n", b"Subject: a\n b\n\n", b"Subject: a\r b\r\r"])
def test_a_large_message_is_not_copied_for_its_header(head: bytes) -> None:
    """Whatever its line ends are, the header is found where it is; the body is left alone."""
    smtp = make("blocking", None)
    smtp.message = head + b"x" * 10_000_000
    assert smtp.message_headers_string == "Subject: a\r\n b\r\n"
    tracemalloc.start()
    try:
        assert smtp.message_header_value[0] == "a b"
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
@pytest.mark.parametrize("field", ["Bcc: e@x.example", "BCC :", "bcc\t:", "Resent-Bcc: e@x.example", "bCC:"])
def test_a_blind_copy_in_message_is_refused_wherever(end: str, field: str) -> None:
    """With each line end, first, last, folded or alone, read back or sent."""
    smtp = make("blocking", None)
    for lines in ([field], ["X: 1", field], [field, " folded"], ["X: 1", " folded", field, "Y: 2"]):
        smtp.message = "".join(f"{line}{end}" for line in (*lines, "", "body")).encode()
        for read in (lambda: smtp.message_headers_string, smtp.send):
            with pytest.raises(ComponentError, match="blind copies"):
                read()
