"""The README's programs run as they stand there, but for the server's URL."""

import re
from pathlib import Path

import pytest

from smtpkit.testing import Server

README = Path(__file__).parent.parent / "README.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=["async", "many", "run", "sync", "documented", "testing"])
def test_program(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of the README sends its mail (that of the documented class without its login)."""
    monkeypatch.chdir(tmp_path)
    Path("report.pdf").write_bytes(b"%PDF-1.7")
    Path("letter.eml").write_bytes(b"From: ann@example.com\r\nTo: bob@example.com\r\n\r\nHello\r\n")
    with Server() as server:
        ours = re.sub(r'"\w+://ann:secret@mail\.example\.com"', repr(server.url), program)
        ours = ours.replace('"mail.example.com", 587', f'"{server.host}", {server.port}')
        ours = ours.replace('smtp.user, smtp.password = "ann", "secret"', "")
        exec(compile(ours, "README.md", "exec"), {"__name__": "__main__"})
        assert len(server.received) == (0 if "Server(" in program else 3 if "send_many" in program else 1)
