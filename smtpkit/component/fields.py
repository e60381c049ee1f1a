"""The rows of which the component's table is made: Field, Setting, Fact, Order, Indexed and Hook.

A row holds the documented name, what a value must be, the default and the meaning; from it come the checks, the static
types, ``help()``, the other spellings and the reference page. Values live in their table, by documented name.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from inspect import iscoroutinefunction, isfunction
from operator import index
from typing import TYPE_CHECKING, Any, Generic, Never, Self, TypeVar, overload

from smtpkit.component.errors import VALUE, ComponentError

T = TypeVar("T")

_UNSAFE = {*map(chr, range(32)), "\x7f"} - {"\t"}
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """What a value must be: in words, as a check that returns it, and how a text says it (ValueError if not)."""

    wanted: str
    right: Callable[[Any], T]
    read: Callable[[str], T]
    show: Callable[[T], str] = str
    hidden: bool = False  # no error shows it


def _is_text(value: Any) -> str:
    if not isinstance(value, str) or not _UNSAFE.isdisjoint(value):
        raise ValueError
    return value


def _is_lines(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError
    return value


def _is_octets(value: Any) -> bytes | str:
    if isinstance(value, str):
        return _is_lines(value)
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    raise ValueError


def _is_flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if number(value) not in {0, 1}:
        raise ValueError
    return bool(number(value))


def _read_flag(text: str) -> bool:
    if text.lower() not in _FLAGS:
        raise ValueError
    return _FLAGS[text.lower()]


def number(value: Any) -> int:
    """The int that a value is: one of numpy's too, and no bool."""
    with suppress(TypeError):
        if not isinstance(value, bool):
            return index(value)
    raise ValueError


def read_number(text: str) -> int:
    """The number that a text is: digits, and nothing else that Python would take."""
    if not re.fullmatch("-?[0-9]{1,10}", text):
        raise ValueError
    return int(text)


def whole(low: int, high: int = 2**31 - 1, *, what: str = "a whole number") -> Kind[int]:
    """A whole number within limits."""

    def right(value: Any) -> int:
        if not low <= number(value) <= high:
            raise ValueError
        return number(value)

    return Kind(f"{what} from {low} to {high}", right, lambda text: right(read_number(text)))


def choice(**meanings: int) -> Kind[int]:
    """A number that stands for something."""

    def right(value: Any) -> int:
        if number(value) not in meanings.values():
            raise ValueError
        return number(value)

    words = ", ".join(f"{number} {name}" for name, number in meanings.items())
    return Kind(f"one of {words}", right, lambda text: right(read_number(text)))


TEXT: Kind[str] = Kind("a text without line ends and other controls", _is_text, _is_text)
LINES: Kind[str] = Kind("a text without NUL", _is_lines, _is_lines)
OCTETS: Kind[bytes | str] = Kind("octets, or a text", _is_octets, _is_octets, show=str)
FLAG: Kind[bool] = Kind("True or False", _is_flag, _read_flag)
SECRET: Kind[str] = replace(TEXT, hidden=True)
SECRET_LINES: Kind[str] = replace(LINES, hidden=True)


class Table:
    """What has rows. Its values are kept by documented name; what is not there has its default."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def _check_change(self, row: "Row[Any]") -> None:
        """Raise ComponentError where the row's value must not change now."""

    if not TYPE_CHECKING:  # else a checker would take any name

        def __setattr__(self, name: str, value: object) -> None:
            if not name.startswith("_") and not hasattr(type(self), name):
                from difflib import get_close_matches

                near = get_close_matches(name, [row.name for row in self.rows()], 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise AttributeError(f"{type(self).__name__} has no property {name!r}{hint}")
            super().__setattr__(name, value)

    @classmethod
    def rows(cls) -> "list[Row[Any]]":
        """The rows, in the order in which they stand."""
        found: dict[str, Row[Any]] = {}
        for owner in reversed(cls.__mro__):
            found |= {name: row for name, row in vars(owner).items() if isinstance(row, Row) and row.name == name}
        return list(found.values())


class Row(Generic[T]):
    """One row. ``name`` is its attribute; ``documented`` the name in the documents. Reading it gives a T."""

    access = "read, write"
    name: str

    def __init__(self, documented: str, kind: Kind[Any], default: Any, meaning: str) -> None:
        self.documented = documented
        self.kind = kind
        self.default = default
        self.meaning = meaning
        self.__doc__ = f"{documented}: {meaning} ({kind.wanted}; default {default!r})"

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, table: None, owner: type) -> Self: ...
    @overload
    def __get__(self, table: Table, owner: type) -> T: ...
    def __get__(self, table: Table | None, owner: type) -> Self | T:
        return self if table is None else self._read(table)

    def _read(self, table: Any) -> T:
        """The value; as it was set, or the default, where a row does not find it in another way."""
        value: T = table._values.get(self.documented, self.default)  # noqa: SLF001  the table's own rows
        return value

    @property
    def spelling(self) -> str:
        """The attribute without the underscore that keeps it apart from a keyword."""
        return self.name.rstrip("_")

    def checked(self, value: Any) -> Any:
        """The value, if it is what the row wants. Raises ComponentError."""
        try:
            return self.kind.right(value)
        except ValueError:
            shown = "" if self.kind.hidden else f", not {value!r:.80}"
            raise ComponentError(VALUE, f"{self.documented} must be {self.kind.wanted}{shown}") from None

    def said(self, text: str) -> Any:
        """The value that a text says. Raises ComponentError."""
        try:
            return self.kind.read(text)
        except ValueError:
            return self.checked(text)


class Field(Row[T]):
    """A property that can be set.

    ``fixed`` is the error's number where it cannot change while connected; ``setting``: ``config`` knows it too.
    ``then`` is called with the table and the value after a change; ``reads`` gives what is read for the value kept.
    """

    def __init__(
        self,
        documented: str,
        kind: Kind[T],
        default: T,
        meaning: str,
        *,
        fixed: int | None = None,
        setting: bool = False,
        then: Callable[[Any, T], None] | None = None,
        reads: Callable[[Any, T], T] | None = None,
    ) -> None:
        super().__init__(documented, kind, default, meaning)
        self.fixed = fixed
        self.setting = setting
        self._then = then
        self._reads = reads

    def _read(self, table: Any) -> T:
        kept = super()._read(table)
        return kept if self._reads is None else self._reads(table, kept)

    def __set__(self, table: Table, value: T) -> None:
        value = self.checked(value)
        table._check_change(self)  # noqa: SLF001
        table._values[self.documented] = value  # noqa: SLF001
        if self._then is not None:
            self._then(table, value)


class Setting(Field[T]):
    """A setting: reached by ``config("Name=Value")``, kept in the table of settings."""


class Fact(Row[T]):
    """A property that can only be read: ``look`` finds it."""

    access = "read"

    def __init__(self, documented: str, kind: Kind[T], default: T, meaning: str, look: Callable[[Any], T]) -> None:
        super().__init__(documented, kind, default, meaning)
        self._look = look

    def _read(self, table: Any) -> T:
        return self._look(table)

    def __set__(self, table: Table, value: Never) -> None:
        raise AttributeError(f"{self.documented} can only be read")


class Order(Row[Never]):
    """A property that can only be set: setting it does something."""

    access = "write"

    def _read(self, table: Any) -> Never:  # noqa: ARG002
        raise AttributeError(f"{self.documented} can only be set; the answer is in last_reply")

    def __set__(self, table: Any, value: str) -> None:
        table._obey(self.checked(value))  # noqa: SLF001


class Items(Sequence[T]):
    """The values of an indexed property: as long as its records, each of them checked when it is set."""

    def __init__(self, row: "Indexed[T]", table: Any) -> None:
        self._row = row
        self._table = table

    def __len__(self) -> int:
        return len(self._row.records(self._table))

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: Any) -> Any:
        found = self._at(index)
        if isinstance(index, slice):
            return [getattr(record, self._row.attribute) for record in found]
        return getattr(found, self._row.attribute)

    def __setitem__(self, index: int, value: T) -> None:
        if not self._row.writable:
            raise AttributeError(f"{self._row.documented} can only be read")
        setattr(self._at(index), self._row.attribute, self._row.checked(value))

    def _at(self, index: Any) -> Any:
        records = self._row.records(self._table)
        try:
            return records[index]
        except IndexError:
            raise IndexError(f"{self._row.documented}[{index}]: its count is {len(records)}") from None

    def __iter__(self) -> Iterator[T]:
        return iter(self[:])  # of one header, and not of one for each of its fields

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as a list

    def __repr__(self) -> str:
        return repr(list(self))


class Indexed(Row[Items[T]]):
    """A property with an index: an attribute of each of the ``records``."""

    def __init__(
        self,
        documented: str,
        kind: Kind[T],
        default: T,
        meaning: str,
        *,
        records: Callable[[Any], Sequence[Any]],
        attribute: str,
        writable: bool = True,
    ) -> None:
        super().__init__(documented, kind, default, meaning)
        self.records = records
        self.attribute = attribute
        self.writable = writable
        self.access = "read, write, indexed" if writable else "read, indexed"

    def _read(self, table: Any) -> Items[T]:
        return Items(self, table)

    def __set__(self, table: Table, value: Never) -> None:
        raise AttributeError(f"{self.documented} is set one by one: {self.name}[0] = …")


Handler = Callable[[T], object]


class Hook(Row[Handler[T] | None]):
    """An event's handler: a plain function that takes the event, or None."""

    access = "event"

    def __init__(self, documented: str, event: type[T], meaning: str) -> None:
        wanted = f"a plain function that takes one {event.__name__}, or None"
        super().__init__(documented, Kind(wanted, _is_handler, _no_text), None, meaning)
        self.event = event

    def __set__(self, table: Table, value: "Handler[T] | None") -> None:
        table._values[self.documented] = self.checked(value)  # noqa: SLF001


def _is_handler(value: Any) -> Any:
    if value is not None and (not callable(value) or iscoroutinefunction(value)):
        raise ValueError
    return value


def _no_text(text: str) -> Any:
    raise ValueError(text)


C = TypeVar("C", bound=type[Table])


def spell(cls: C) -> C:
    """Give each row and each method its other spellings: the documented one, and ``get_x`` and ``set_x``.

    A method is documented where it has an attribute of that name.
    """
    for row in cls.rows():
        setattr(cls, row.documented if not isinstance(row, Hook) else f"On{row.documented}", row)
        for name, accessor in _accessors(row):
            if name not in vars(cls):
                accessor.__name__, accessor.__doc__ = name, row.__doc__
                setattr(cls, name, accessor)
    for method in methods(cls):
        setattr(cls, method.__dict__["documented"], method)
    return cls


def methods(cls: type) -> list[Callable[..., Any]]:
    """The documented methods of a class, in the order in which they stand."""
    found = [member for owner in reversed(cls.__mro__) for member in vars(owner).values()]
    return list(dict.fromkeys(member for member in found if isfunction(member) and "documented" in vars(member)))


def document(method: Callable[..., Any], name: str) -> None:
    """Mark a method as a documented one, by its name: ``process_queue`` is documented as ProcessQueue."""
    method.__name__ = name
    method.__dict__["documented"] = "".join(word.capitalize() for word in name.split("_"))


def _accessors(row: Row[Any]) -> Iterator[tuple[str, Callable[..., Any]]]:
    if isinstance(row, Indexed):
        yield f"get_{row.spelling}", lambda table, index: getattr(table, row.name)[index]
        if row.writable:
            yield f"set_{row.spelling}", lambda table, index, value: getattr(table, row.name).__setitem__(index, value)
        return
    if "read" in row.access or isinstance(row, Hook):
        yield f"get_{row.spelling}", lambda table: getattr(table, row.name)
    if "write" in row.access or isinstance(row, Hook):
        yield f"set_{row.spelling}", lambda table, value: setattr(table, row.name, value)


def check_unconnected(row: Row[Any], *, connected: bool) -> None:
    """Raise ComponentError for a row that cannot change while connected."""
    fixed = getattr(row, "fixed", None)
    if fixed is not None and connected:
        raise ComponentError(fixed, f"{row.documented} cannot change while connected; disconnect first")
