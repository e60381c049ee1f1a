"""How the project is written: sentences where they are owed, and nothing of the machine it was written on."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import smtpkit

ROOT = Path(__file__).parent.parent
PACKAGE = Path(smtpkit.__file__).parent
TEXTS = {".py", ".md", ".toml", ".txt", ".json", ".cfg", ".yml", ".yaml", ".sh", ""}


def _below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") and path.name not in {".ci", ".gitignore"}:
            continue  # caches, version control, environments
        if path.is_dir() and path.name not in {"__pycache__", "build", "dist"} and not path.name.endswith(".egg-info"):
            yield from _below(path)
        elif path.is_file():
            yield path


# Where the installed package is under test, it does not lie below the project's root.
FILES = [*_below(ROOT), *([] if PACKAGE.is_relative_to(ROOT) else _below(PACKAGE))]
SOURCES = [file for file in FILES if file.suffix == ".py"]
TESTS = [file for file in SOURCES if file.name.startswith("test_") and file.is_relative_to(ROOT / "tests")]


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT if file.is_relative_to(ROOT) else PACKAGE.parent))


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def test_something_is_judged() -> None:
    """The package, the tests and this file are among what is judged."""
    assert {PACKAGE / "errors.py", ROOT / "pyproject.toml", Path(__file__)} <= set(FILES)


@pytest.mark.parametrize("file", TESTS, ids=_name)
def test_every_test_has_its_sentence(file: Path) -> None:
    """A test says in a sentence what it shows."""
    functions = [node for node in ast.walk(_tree(file)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    tests = [node for node in functions if node.name.startswith("test_")]
    silent = [node.name for node in tests if len((ast.get_docstring(node) or "").split()) < 3]
    assert not silent


@pytest.mark.parametrize("file", SOURCES, ids=_name)
def test_every_module_has_its_sentence(file: Path) -> None:
    """A module starts by saying what it is."""
    text = ast.get_docstring(_tree(file)) or ""
    assert len(text.split()) >= 3
    assert re.search(r"[.:]", text)


def test_test_names_are_unique() -> None:
    """No two test files share a base name, and no test function hides another of its file."""
    names = [file.name for file in TESTS]
    assert sorted(set(names)) == sorted(names)
    for file in TESTS:
        functions = [node for node in _tree(file).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        tests = [node.name for node in functions if node.name.startswith("test_")]
        assert sorted(set(tests)) == sorted(tests), _name(file)


# Spelled in pieces, so that this file may be judged too.
_STRAY = re.compile(
    "|".join(
        (
            rf"/{'work'}/|/{'root'}/|/{'home'}/\w",
            r"[A-Z]:\\" + "Users",
            rf"\b(?:{'helper'} {'agent'}|{'sub'}-?{'agent'}|{'language'} {'model'}|{'int'}egrator)s?\b",
            rf"\b{'NOTES'}\.md\b|\b{'DESIGN'}\.md\b|\b{'sha' + 'red'}/(?:study|spec|servers|DESIGN)",
            rf"\b(?:{'TO' + 'DO'}|{'FIX' + 'ME'}|{'X' * 3})\b",
        )
    )
)


@pytest.mark.parametrize("file", [file for file in FILES if file.suffix in TEXTS], ids=_name)
def test_files_speak_of_the_project_only(file: Path) -> None:
    """No path of a machine, no word about how the work was shared out, nothing put off."""
    found = _STRAY.search(file.read_text(encoding="utf-8", errors="replace"))
    assert found is None, found


def test_readme_installs_from_the_checkout() -> None:
    """The public index holds somebody else's package of that name, so nobody is sent there."""
    wrong = re.compile(r"pip3? install (?:-U |--upgrade )?['\"]?smtpkit\b")
    pages = [file for file in FILES if file.suffix == ".md" and file.is_relative_to(ROOT)]
    assert ROOT / "README.md" in pages
    assert not [_name(file) for file in pages if wrong.search(file.read_text(encoding="utf-8"))]


def test_readme_names_both_commands() -> None:
    """The two commands that .ci/run takes from the README stand there."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "pip install -e . && python -m smtpkit demo" in readme
    assert "pip install -e '.[test]' && pytest" in readme
