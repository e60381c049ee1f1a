"""A thousand messages, read by two readers that are not ours: what was put in is what they find."""

import base64
import json
import os
import shutil
import subprocess
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from tests.message.written import Written, lines, written

MANY = 1000
JUDGE = "postal-mime@4"


@pytest.fixture(scope="module")
def mails() -> list[tuple[Written, bytes]]:
    """The messages, and their octets."""
    return [(one, one.message.as_bytes()) for one in map(written, range(MANY))]


@pytest.fixture(scope="module")
def postal_mime(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where postal-mime is installed, once; skips where there is no npm, but never in CI."""
    cached = pytestconfig.pluginmanager.hasplugin("cacheprovider")
    make = pytestconfig.cache.mkdir if cached else tmp_path_factory.mktemp
    folder = Path(os.environ.get("POSTAL_MIME") or make("postal-mime"))
    if (folder / "node_modules" / "postal-mime").is_dir():
        return folder
    if shutil.which("npm") is None or shutil.which("node") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("the second reader needs node and npm")
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder), JUDGE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    if done.returncode:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"npm cannot install {JUDGE}: {done.stderr[-300:]}")
    return folder


def test_the_standard_library_reads_what_was_put_in(mails: list[tuple[Written, bytes]]) -> None:
    """Subject, addresses, texts, names, types and octets, by Python's own parser."""
    for one, octets in mails:
        parsed = message_from_bytes(octets, policy=policy.default)
        assert isinstance(parsed, EmailMessage)
        assert str(parsed["Subject"] or "") == one.subject
        assert [(who.display_name, who.addr_spec) for who in parsed["From"].addresses] == [one.sender]
        assert [(who.display_name, who.addr_spec) for who in parsed["To"].addresses] == one.to
        texts, attached, content_ids = {}, [], []
        for part in parsed.walk():
            if part.is_multipart():
                continue
            if part.get_content_disposition() is None:
                texts[part.get_content_subtype()] = lines(part.get_content())
                continue
            attached.append((part.get_filename(), part.get_content_type(), part.get_payload(decode=True)))
            content_ids.append(part["Content-ID"] and str(part["Content-ID"]).strip("<>"))
        assert texts == {kind: text for kind, text in (("plain", one.text), ("html", one.html)) if text is not None}
        assert attached == one.attached
        assert content_ids == one.content_ids


def test_postal_mime_reads_what_was_put_in(mails: list[tuple[Written, bytes]], postal_mime: Path) -> None:
    """The same, by a reader from another house."""
    given = json.dumps([base64.b64encode(octets).decode() for _, octets in mails])
    command = ["node", str(Path(__file__).with_name("postal_mime.mjs")), str(postal_mime)]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=50, check=True)
    read: list[dict[str, Any]] = json.loads(done.stdout)
    assert len(read) == MANY
    for (one, _), found in zip(mails, read, strict=True):
        assert (found.get("subject") or "") == one.subject
        assert (found["from"]["name"], found["from"]["address"]) == one.sender
        assert [(who["name"], who["address"]) for who in found["to"]] == one.to
        for kind, text in (("text", one.text), ("html", one.html)):
            if text is not None:
                assert lines(found[kind]) == text.removeprefix("\ufeff")  # which it takes for a mark
        attached = [
            (part["filename"], part["mimeType"], base64.b64decode(part["content"])) for part in found["attachments"]
        ]
        assert attached == one.attached
        assert [(part.get("contentId") or "").strip("<>") or None for part in found["attachments"]] == one.content_ids
