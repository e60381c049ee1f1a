"""The laws of the house, read from the syntax tree: who imports whom, who renders, who writes, what no room may hold.

A room is a module or a folder directly below ``smtpkit``; ``protocol.reply`` is one too, since errors speak of replies.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import smtpkit

HOME = Path(smtpkit.__file__).parent

# The ladder, from the bottom. Imports go down, or sideways on one rung.
LADDER = (
    {"protocol.reply"},
    {"errors", "events", "options", "pace", "throttle", "window"},
    {"protocol"},
    {"message"},
    {"channel", "observers", "telling", "transport"},
    {"session"},
    {"pool", "spool", "retry", "turns"},
    {"bulk", "ledger", "worker"},
    {"client", "sync_client"},
    {"component", "testing"},
    {"cli", "contrib"},
    {"__init__", "__main__"},
)
RUNG = {room: number for number, rung in enumerate(LADDER) for room in rung}

# What a room may import of this library, where that is less than the ladder allows.
ONLY: dict[str, set[str]] = {
    "protocol.reply": {"protocol.reply"},
    "protocol": {"protocol", "protocol.reply", "errors"},
    "message": {"message", "protocol", "protocol.reply", "errors", "events", "options"},
    "transport": {"transport", "errors", "events", "options"},  # knows not that it carries SMTP
    "testing": {"testing", "__init__"},  # a second opinion: shares no code that parses or renders
    "cli": {"cli", "testing", "__init__"},  # public names only
    "contrib": {"contrib", "testing", "__init__"},
    "__main__": {"cli"},
}

# What a room may not import from elsewhere: no clock, no chance, no I/O, no loop.
_LOOPS = {"anyio", "asyncio", "trio", "sniffio"}
_WORLD = {"ssl", "socket", "select", "selectors", "os", "io", "pathlib", "subprocess", "sqlite3", "tempfile"}
_WHIMS = {"logging", "threading", "time", "datetime", "random", "secrets", "uuid"}
NEVER: dict[str, set[str]] = {
    "errors": _LOOPS | _WORLD | _WHIMS,
    "events": _LOOPS | _WORLD | _WHIMS,
    "throttle": _LOOPS | _WORLD | _WHIMS,
    "window": _LOOPS | _WORLD | _WHIMS,
    "pace": _LOOPS | _WORLD | _WHIMS,
    "turns": _LOOPS | _WORLD | _WHIMS,
    "protocol.reply": _LOOPS | _WORLD | _WHIMS,
    "protocol": _LOOPS | _WORLD | _WHIMS | {"email"},
    "message": _LOOPS | {"ssl", "socket", "select", "selectors"},
    "channel": _LOOPS | _WORLD | _WHIMS,
    "pool": {"ssl", "socket", "pathlib", "sqlite3"},
    "bulk": {"ssl", "socket"},
    "ledger": {"ssl", "socket"},
    "retry": {"ssl", "socket"},
    "spool": {"ssl", "socket"},
    "client": {"ssl", "socket"},
}

# What opens nothing, although it lives where things are opened.
CODECS = {"io.IncrementalNewlineDecoder"}

WITHOUT_CODES = ("channel", "pace", "turns", "pool", "bulk", "ledger", "retry", "client", "sync_client")

# The files that hold the two caches: TLS contexts; a loop's receive buffer.
CACHES = {"transport/tls.py", "transport/asyncio_stream.py"}


def _files() -> list[Path]:
    return sorted(HOME.rglob("*.py"))


def _name(file: Path) -> str:
    return file.relative_to(HOME).as_posix()


def _room(module: str) -> str:
    """The room of a module named below ``smtpkit``: "" is the package itself."""
    if module == "protocol.reply":
        return module
    return module.partition(".")[0] or "__init__"


def _module(file: Path) -> str:
    parts = file.relative_to(HOME).with_suffix("").parts
    return ".".join(parts if parts[-1] != "__init__" or len(parts) == 1 else parts[:-1])


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def _is_module(dotted: str) -> bool:
    path = HOME.parent.joinpath(*dotted.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def _imports(file: Path) -> Iterator[str]:
    """The full names of the modules imported anywhere in a file, under ``if`` and inside functions too."""
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_name(file)}:{node.lineno}: a relative import"
            assert node.module is not None
            for alias in node.names:
                if f"{node.module}.{alias.name}" in CODECS:
                    continue
                inner = f"{node.module}.{alias.name}"
                ours = node.module.partition(".")[0] == "smtpkit"
                yield inner if ours and _is_module(inner) else node.module


def _ours(file: Path) -> set[str]:
    """The rooms that a file imports."""
    names = [name for name in _imports(file) if name.partition(".")[0] == "smtpkit"]
    return {_room(name.partition(".")[2]) for name in names}


def _docstrings(tree: ast.Module) -> set[ast.AST]:
    """All strings that stand alone: docstrings, and the like."""
    return {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def _literals(file: Path) -> Iterator[tuple[int, object]]:
    """The line and value of each constant but docstrings."""
    tree = _tree(file)
    silent = _docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node not in silent:
            yield node.lineno, node.value


def _in_rooms(*rooms: str) -> list[Path]:
    return [file for file in _files() if _room(_module(file)) in rooms]


def _each(files: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("file", files, ids=_name)


def test_every_room_has_its_place() -> None:
    """Each module and folder that exists stands on the ladder, so that no law below passes it by."""
    assert {_room(_module(file)) for file in _files()} <= RUNG.keys()
    assert (ONLY.keys() | NEVER.keys() | set(WITHOUT_CODES)) <= RUNG.keys()


def test_the_core_is_there() -> None:
    """The files that the laws name exist: a law about a file that was renamed would hold for nothing."""
    named = {"channel.py", "protocol/command.py", "protocol/reply.py", "transport/stream.py", "errors.py", *CACHES}
    assert named <= {_name(file) for file in _files()}


@_each(_files())
def test_imports_go_down_the_ladder(file: Path) -> None:
    """A file imports from its own rung or from below, under ``TYPE_CHECKING`` and inside functions too."""
    room = _room(_module(file))
    wrong = {other for other in _ours(file) if RUNG[other] > RUNG[room] and other not in ONLY.get(room, ())}
    assert not wrong


@_each(_in_rooms(*ONLY))
def test_rooms_that_may_import_little(file: Path) -> None:
    """The protocol knows errors alone, transport no SMTP, testing nothing that parses, the faces public names."""
    assert _ours(file) <= ONLY[_room(_module(file))]


@_each(_in_rooms(*NEVER))
def test_rooms_without_the_world(file: Path) -> None:
    """The core reads no clock, throws no dice, opens nothing and knows no loop; the pool knows no TLS."""
    foreign = {name.partition(".")[0] for name in _imports(file)}
    assert not foreign & NEVER[_room(_module(file))]


@_each(_in_rooms("protocol"))
def test_protocol_opens_nothing(file: Path) -> None:
    """No ``open``, ``input`` or ``print`` in the protocol, and nothing asynchronous."""
    for node in ast.walk(_tree(file)):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"open", "input", "print", "exec", "eval", "__import__"}


@_each(_in_rooms(*WITHOUT_CODES))
def test_no_reply_codes(file: Path) -> None:
    """The driver decides nothing by a reply's code, and neither does the pool: no code is named, none is looked at."""
    codes = [(line, value) for line, value in _literals(file) if type(value) is int and 200 <= value <= 599]
    texts = [
        (line, value)
        for line, value in _literals(file)
        if isinstance(value, str | bytes)
        and re.fullmatch(r"[2-5]\d\d", str(value, "latin-1") if isinstance(value, bytes) else value)
    ]
    looks = [node.lineno for node in ast.walk(_tree(file)) if isinstance(node, ast.Attribute) and node.attr == "code"]
    assert not codes + texts
    assert not looks


_VERBS = "EHLO|HELO|LHLO|STARTTLS|AUTH|MAIL|RCPT|DATA|BDAT|RSET|NOOP|QUIT|VRFY|EXPN|HELP|XCLIENT"
_SPOKEN = re.compile(rf"(?:{_VERBS})(?: .*)?\r\n|(?:MAIL FROM|RCPT TO):.*", re.DOTALL | re.IGNORECASE)


@_each([file for file in _files() if _room(_module(file)) != "testing"])
def test_one_function_renders_a_command(file: Path) -> None:
    """No literal outside command.py holds a command line, and inside it only ``line`` puts an end to one.

    The response to a SASL challenge is no command: base64 and ``*`` cannot hold what ``line`` refuses.
    """
    for line, value in _literals(file):
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        assert not (isinstance(text, str) and _SPOKEN.match(text)), f"line {line}: {text!r}"
    if _name(file) == "protocol/command.py":
        nodes = [node for node in ast.walk(_tree(file)) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        allowed = [
            range(node.lineno, (node.end_lineno or 0) + 1) for node in nodes if node.name in {"line", "Response"}
        ]
        ends = [line for line, value in _literals(file) if value in {b"\r\n", "\r\n", b"*\r\n"}]
        assert ends
        assert all(any(line in lines for lines in allowed) for line in ends)


_OUTLETS = {"send", "sendall", "sendto", "sendmsg", "write", "writelines", "send_all"}
_STREAMS = re.compile(r"stream|transport|sock|writer|wire", re.IGNORECASE)


@_each(_files())
def test_only_the_channel_writes_to_a_stream(file: Path) -> None:
    """Nobody but the channel, and the transports below it, calls what puts octets on a stream."""
    room = _room(_module(file))
    if room in {"channel", "transport", "testing"}:  # testing has sockets of its own
        return
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Attribute) and node.attr in _OUTLETS:
            assert not _STREAMS.search(_last_name(node.value)), f"line {node.lineno}"


def _last_name(node: ast.expr) -> str:
    """``self._stream`` is named ``_stream``; ``stream()`` ``stream``; what has no name is ""."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=inner) | ast.Await(value=inner) | ast.Subscript(value=inner):
            return _last_name(inner)
    return ""


def test_the_channel_writes_in_one_place() -> None:
    """All that is said passes one ``send``."""
    tree = _tree(HOME / "channel.py")
    sends = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in _OUTLETS]
    assert len([node for node in sends if _STREAMS.search(_last_name(node.value))]) == 1


@_each(_in_rooms("cli", "contrib", "testing"))
def test_faces_use_public_names(file: Path) -> None:
    """What is built on the library takes from it only what ``smtpkit.__all__`` names, as a user would."""
    public = {*smtpkit.__all__, "testing", "__version__"}
    for node in ast.walk(_tree(file)):
        match node:
            case ast.ImportFrom(module="smtpkit", names=names):
                assert {alias.name for alias in names} <= public
            case ast.Attribute(value=ast.Name(id="smtpkit"), attr=name):
                assert name in public, f"line {node.lineno}"


# Names that the vendor's documentation coined; words that anybody might use (Timeout, User) are left out.
_VENDOR = re.compile(
    r"(?i:\bip\W{0,2}works\b|\bn\s?/\s?software|nsoftware)|"
    r"\b(?:MailServer|SendTo|BCc|FirewallHost|OtherHeaders|PITrail|ProcessQueue|QueueDir|MessageText|SSLCert(?:Store|Subject|Encoded|StorePassword|StoreType)|"
    r"mail_server|send_to|b_cc|firewall_host|other_headers|on_pi_trail|process_queue|queue_dir)\b"
)


@_each([file for file in _files() if _room(_module(file)) != "component"])
def test_vendor_names_live_in_the_component(file: Path) -> None:
    """The names of the documented component are found in ``component/`` and nowhere else, comments included."""
    assert not _VENDOR.search(file.read_text(encoding="utf-8"))


_MUTABLE_CALLS = {
    "list", "dict", "set", "bytearray", "defaultdict", "deque", "Counter", "OrderedDict", "local", "Lock", "count",
    "WeakKeyDictionary", "WeakValueDictionary", "WeakSet", "ContextVar",
}  # fmt: skip
_MUTATORS = {
    "append", "appendleft", "extend", "insert", "add", "update", "setdefault", "pop", "popleft", "popitem", "remove",
    "discard", "clear", "sort", "reverse",
}  # fmt: skip
_DISPLAYS = ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp


def _module_bindings(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield name, value


def _mutable(value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        return _last_name(value.func) in _MUTABLE_CALLS
    return isinstance(value, _DISPLAYS)


def _changes(tree: ast.Module, names: set[str]) -> Iterator[tuple[int, str]]:
    """Where a function changes what the module binds."""
    for node in ast.walk(tree):
        match node:
            case ast.Global(names=changed):
                yield from ((node.lineno, name) for name in changed)
            case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()) if name in names:
                yield node.lineno, name
            case ast.AugAssign(target=ast.Name(id=name)) if name in names:
                yield node.lineno, name
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=verb)) if (
                name in names and verb in _MUTATORS
            ):
                yield node.lineno, name


@_each([file for file in _files() if _name(file) not in CACHES])
def test_no_module_holds_state(file: Path) -> None:
    """What a module binds is a constant: tables are named in capitals and nobody changes them; nothing is cached.

    The two caches (TLS contexts, a loop's receive buffer) are the only exceptions.
    """
    tree = _tree(file)
    tables = {name for name, value in _module_bindings(tree) if _mutable(value)}
    assert all(name.isupper() or name.startswith("__") for name in tables)
    assert not list(_changes(tree, tables))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = {_last_name(decorator) for decorator in node.decorator_list}
            assert not decorators & {"cache", "lru_cache"}, node.name
            defaults = [*node.args.defaults, *node.args.kw_defaults]
            assert not any(default is not None and _mutable(default) for default in defaults), node.name


@pytest.mark.parametrize("name", sorted(CACHES))
def test_one_cache_each(name: str) -> None:
    """A file that may cache holds one cache, no more."""
    tree = _tree(HOME / name)
    bound = {binding for binding, value in _module_bindings(tree) if _mutable(value) and not binding.startswith("__")}
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    cached = {
        node.name for node in functions for one in node.decorator_list if _last_name(one) in {"cache", "lru_cache"}
    }
    changed = {binding for _, binding in _changes(tree, bound)}
    assert len(changed | cached | {binding for binding in bound if not binding.isupper()}) <= 1


def test_no_room_for_odds_and_ends() -> None:
    """No file is named for what it is not: utils, base, manager, helpers, common, misc."""
    vague = {"utils", "util", "base", "manager", "helpers", "helper", "common", "misc"}
    assert not [_name(file) for file in _files() if set(file.stem.strip("_").split("_")) & vague]


def test_nothing_is_hidden_from_coverage() -> None:
    """No line asks to be left out of the measurement."""
    asking = re.compile(r"pragma" + r":\s*no\s?(cover|branch)")
    assert not [_name(file) for file in _files() if asking.search(file.read_text(encoding="utf-8"))]


def test_foreign_imports_are_declared() -> None:
    """What is imported from elsewhere is the standard library or a dependency that every installation has."""
    declared = {"anyio", "h11", "idna", "python_socks", "smtpkit"} | sys.stdlib_module_names
    # Where they are what calls us; and what an extra brings.
    present = {
        "transport": {"trio"},
        "testing": {"pytest", "_pytest"},
        "protocol": {"spnego"},
        "cli": {"jinja2", "rich"},
    }
    for file in _files():
        room = _room(_module(file))
        if room != "contrib":
            names = {name.partition(".")[0] for name in _imports(file)}
            assert names <= declared | present.get(room, set()), _name(file)
