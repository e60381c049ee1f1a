"""What ``import smtpkit`` gives, and what it does not load."""

import inspect
import subprocess
import sys

import pytest

import smtpkit


def test_all_names_are_there() -> None:
    """Each name of ``__all__`` can be had, once, and ``dir`` shows it."""
    assert len(set(smtpkit.__all__)) == len(smtpkit.__all__)
    assert [name for name in smtpkit.__all__ if not hasattr(smtpkit, name)] == []
    assert set(smtpkit.__all__) <= set(dir(smtpkit))


def test_no_name_besides() -> None:
    """What ``dir`` shows without an underscore is in ``__all__``, or is a room that was imported."""
    shown = {name for name in dir(smtpkit) if not name.startswith(("_", "@"))}  # "@": of pytest's own making
    rooms = {name.split(".")[1] for name in sys.modules if name.startswith("smtpkit.")}
    assert shown - rooms - {"TYPE_CHECKING", "Any"} <= set(smtpkit.__all__)


def test_unknown_name() -> None:
    """A name that is not public is an AttributeError that names it."""
    with pytest.raises(AttributeError, match="no attribute 'nothing_like_this'"):
        _ = smtpkit.nothing_like_this


@pytest.mark.parametrize("name", smtpkit.__all__)
def test_public_names_are_documented(name: str) -> None:
    """Each public name says what it is, in words of its own and not its base's."""
    thing = getattr(smtpkit, name)
    if inspect.isclass(thing) or inspect.isroutine(thing):
        text = thing.__doc__ or ""
        assert text.strip()
        assert not text.startswith(f"{name}("), "the text that dataclass makes"


@pytest.mark.parametrize("name", smtpkit.__all__)
def test_public_methods_are_documented(name: str) -> None:
    """Each public method and property of a public class says what it does; an overriding one may inherit it."""
    thing = getattr(smtpkit, name)
    if inspect.isclass(thing):
        members = [member for member in vars(thing) if not member.startswith("_")]
        kinds = {member: inspect.getattr_static(thing, member) for member in members}
        methods = [member for member, kind in kinds.items() if inspect.isroutine(kind) or isinstance(kind, property)]
        assert [method for method in methods if not inspect.getdoc(getattr(thing, method))] == []


def _loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter holds after a statement, which it did not hold before."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*sorted(set(sys.modules) - before))"
    # -S: no site packages' start files, which may import anything; so the path is handed over.
    run = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(run.stdout.split())


HEAVY = ("email", "ssl", "socket", "asyncio", "anyio", "trio", "sqlite3", "python_socks", "h11", "idna", "logging")


def test_import_is_light() -> None:
    """``import smtpkit`` loads no mail parser, no TLS, no loop and no database: each waits until it is needed."""
    assert _loaded_by("import smtpkit").isdisjoint(HEAVY)


@pytest.mark.parametrize("name", ["Reply", "SMTPError", "Outcome", "TransferProgress"])
def test_values_are_light(name: str) -> None:
    """To catch an error or to name an event costs none of them either."""
    assert _loaded_by(f"import smtpkit; smtpkit.{name}").isdisjoint({"email", "ssl", "asyncio", "anyio", "sqlite3"})
