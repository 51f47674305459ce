"""The walls of the house: who may import whom, who may read the clock, and what may lie where.

A room that is not in ``MAY_IMPORT`` fails the first test: whoever adds one decides here what it may see.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "streamstore"

FOUNDATIONS = {"errors", "limits", "dialect", "model"}
VALIDATORS = {"validate", "validate_consumers", "validate_reading", "validate_settings"}
PURE_RULES = VALIDATORS | {"routing", "iterator", "shard_filter", "read_quota"}
ENGINE_ROOMS = {
    "engine",
    "environment",
    "memory_map",
    "transaction",
    "proof",
    "ranges",
    "free_pages",
    "hidden_commit",
    "page_reader",
    "library",
    "folder",
    "process",
    "room",
    "sections",
}  # one environment, its file
IN_A_TRANSACTION = {
    "checkpoints",
    "consumers",
    "idempotency",
    "losses",
    "streams",
    "reading",
    "retention",
    "shards",
    "reshard",
    "settings",
}
FORMAT = {"databases", "disk_format"}  # what the bytes of the file mean
WAITING = {"watch", "feed", "following"}  # for the next commit, and going on from there

# What each room may import of the package. Nothing else, whatever the need: move the code instead.
MAY_IMPORT = {
    "errors": set[str](),
    "limits": set[str](),
    "dialect": {"limits"},
    "model": {"limits"},
    "validate": FOUNDATIONS | {"routing"},
    "validate_consumers": FOUNDATIONS | {"validate"},
    "validate_reading": FOUNDATIONS | {"validate"},
    "validate_settings": FOUNDATIONS | {"validate"},
    "routing": FOUNDATIONS,
    "iterator": FOUNDATIONS,
    "shard_filter": FOUNDATIONS,
    "read_quota": FOUNDATIONS | {"sections"},
    "sections": set[str](),
    "databases": {"model"},
    "disk_format": {"databases", "limits", "model"},
    "engine": {"databases", "errors", "limits", "model"} | ENGINE_ROOMS,
    "environment": {
        "databases",
        "errors",
        "folder",
        "hidden_commit",
        "library",
        "limits",
        "model",
        "page_reader",
        "process",
        "proof",
        "room",
    },
    "memory_map": {"environment", "errors", "library", "room"},
    "transaction": {"databases", "environment", "errors", "library", "proof", "room"},
    "proof": {"databases", "errors", "free_pages", "page_reader", "pages", "ranges"},
    "free_pages": {"page_reader", "pages"},
    "hidden_commit": {"databases", "free_pages", "page_reader", "pages"},
    "page_reader": {"errors", "pages"},
    "ranges": set[str](),
    "library": {"errors", "sections"},
    "folder": {"errors", "sections"},
    "process": {"engine", "errors", "folder", "sections"},
    "room": {"folder", "library"},
    "consumers": FOUNDATIONS | FORMAT | {"transaction"},
    "idempotency": FOUNDATIONS | FORMAT | {"transaction"},
    "losses": FOUNDATIONS | FORMAT | {"transaction"},
    "streams": FOUNDATIONS | {"routing", *FORMAT, "transaction", "consumers", "idempotency", "losses"},
    "reading": FOUNDATIONS | FORMAT | {"transaction", "losses", "streams"},
    "retention": FOUNDATIONS | FORMAT | {"transaction", "losses", "streams", "reading"},
    "checkpoints": FOUNDATIONS | FORMAT | {"transaction", "consumers", "reading"},
    "shards": FOUNDATIONS | FORMAT | {"transaction", "idempotency", "losses", "streams", "retention"},
    "reshard": FOUNDATIONS | {"routing", "transaction", "streams"},
    "settings": FOUNDATIONS | {"transaction", "streams", "reshard"},
    "receipt": {"sections"},
    "request": {"errors", "limits", "receipt", "sections", "shards"},
    "writer": FOUNDATIONS | {"engine", "library", "process", "request", "sections", "shards", "transaction"},
    "apart": {"errors"},
    "pages": set[str](),
    "remains": FORMAT | {"model"},
    "salvage": FOUNDATIONS
    | IN_A_TRANSACTION
    | ENGINE_ROOMS
    | {"check", *FORMAT, "pages", "remains", "routing", "validate_settings"},
    "check": FOUNDATIONS | IN_A_TRANSACTION | {"apart", *FORMAT, "engine", "transaction"},
    "backup": FOUNDATIONS | ENGINE_ROOMS | {"apart", "check"},
    "ingest": FOUNDATIONS | IN_A_TRANSACTION | {"request", "validate", "writer"},
    "watch": FOUNDATIONS | {"engine", "library", "request", "sections"},
    "feed": {"request", "watch"},
    "following": FOUNDATIONS | {"transaction", "streams", "reading"},
    "tail": FOUNDATIONS | WAITING,
    "consumer": FOUNDATIONS | WAITING | {"checkpoints", "shards", "tail"},
    "subscribe": FOUNDATIONS | WAITING | {"iterator", "reading", "sections"},
    "opened": FOUNDATIONS
    | ENGINE_ROOMS
    | {"backup", "request", "subscribe", *VALIDATORS, "read_quota", "streams", "shards", "writer", "watch"},
    "control": FOUNDATIONS | PURE_RULES | IN_A_TRANSACTION | {"transaction", "opened"},
    "settings_control": FOUNDATIONS | PURE_RULES | IN_A_TRANSACTION | {"transaction", "control"},
    "consumer_control": FOUNDATIONS | PURE_RULES | IN_A_TRANSACTION | {"transaction", "settings_control"},
    "store": FOUNDATIONS
    | PURE_RULES
    | IN_A_TRANSACTION
    | WAITING
    | {"transaction", "ingest", "consumer", "tail", "subscribe", "request", "consumer_control"},
    "mailbox": {"errors", "request", "sections", "writer"},
    "aio": FOUNDATIONS | {"opened", "consumer", "feed", "mailbox", "request", "shards", "store", "tail"},
    "__init__": {"errors", "model", "check", "salvage", "consumer", "feed", "store", "aio"},
}
MAY_IMPORT_FROM_OUTSIDE = {
    "engine": {"lmdb"},
    "environment": {"lmdb"},
    "memory_map": {"lmdb"},
    "transaction": {"lmdb"},
    "library": {"lmdb"},
    "databases": {"isal"},
    "disk_format": {"msgpack"},
}
INSTALLED_WITH_THE_CORE = {"lmdb", "msgpack"}
CLI_MAY_IMPORT_FROM_OUTSIDE = {"typer", "rich"}

# The rooms of the wire see the front door of the store, its foundations and its rules, and the rooms named here.
WIRE_SEES = FOUNDATIONS | VALIDATORS | {"__init__"}
WIRE_MAY_IMPORT = {
    "http": set[str](),
    "shapes": set[str](),
    "members": {"shapes"},
    "inputs": {"shapes"},
    "refusal": set[str](),
    "validation": {"refusal", "shapes"},
    "protocol": {"http", "refusal", "shapes"},
    "arguments": {"refusal"},
    "record_actions": {"arguments", "members", "refusal"},
    "stream_actions": {"arguments", "members", "refusal"},
    "side_actions": {"arguments", "members", "refusal"},
    "actions": {"arguments", "inputs", "record_actions", "shapes", "side_actions", "stream_actions"},
    "words": {"arguments", "members", "refusal"},
    "consumer_transitions": {"arguments", "side_actions"},
    "transitions": {"arguments", "consumer_transitions", "stream_actions"},
    "eventstream": {"members", "protocol", "refusal"},
    "dispatch": {
        "actions",
        "arguments",
        "eventstream",
        "http",
        "protocol",
        "refusal",
        "shard_traffic",
        "transitions",
        "validation",
        "words",
    },
    "app": {"dispatch", "http"},
    "denial": {"refusal"},
    "signature": {"denial", "http"},
    "credentials": {"denial"},
    "authorization": {"credentials", "denial", "dispatch", "http", "signature"},
    "counts": set[str](),
    "metrics": {"counts"},
    "shard_traffic": {"arguments", "counts", "record_actions", "shapes"},
    "access_log": {"http"},
    "service": {"access_log", "http", "metrics", "protocol", "refusal"},
    "connection": {"http"},
    "http1": {"connection", "http"},
    "http2": {"connection", "http"},
    "listener": {"connection", "http", "http1", "http2"},
    "notify": set[str](),
    "supervisor": set[str](),
    "serve": {
        "access_log",
        "actions",
        "authorization",
        "counts",
        "credentials",
        "dispatch",
        "http",
        "listener",
        "metrics",
        "notify",
        "service",
        "shard_traffic",
        "supervisor",
    },
    "prepared": {"http"},
    "in_process": {"dispatch", "http", "prepared"},
    "in_process_aio": {"dispatch", "http", "prepared"},
    "fixtures": {"in_process"},
    "__init__": {"app", "dispatch", "http", "in_process", "in_process_aio", "refusal"},
}
WIRE_MAY_IMPORT_FROM_OUTSIDE = {
    "protocol": {"cbor2", "msgspec"},
    "shapes": {"pybase64"},
    "counts": {"msgspec"},
    "metrics": {"prometheus_client"},
    "http1": {"httptools"},
    "http2": {"h2", "hpack", "hyperframe"},
    "serve": {"uvloop"},
    "prepared": {"botocore"},
    "in_process": {"boto3", "botocore", "mypy_boto3_kinesis"},
    "in_process_aio": {"aiobotocore", "botocore", "types_aiobotocore_kinesis"},
    "fixtures": {"mypy_boto3_kinesis", "pytest"},
}
CLI_SEES_OF_THE_WIRE = {"serve"}

CLOCKS = {
    "time": {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "localtime", "gmtime"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}
MAY_READ_CLOCKS = {
    "opened": {"time.time_ns", "time.perf_counter"},  # the clock of the service, and how long its commits take
    "memory_map": {"time.monotonic"},  # how long to wait for reads to end, on a full disk
    "folder": {"time.monotonic"},  # how long to wait for another process to open or leave
    "authorization": {"datetime.now"},  # when a signature is too old
    "serve": {"time.perf_counter"},  # how long an answer takes
}

BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}
TOP_LEVEL = {"pyproject.toml", "README.md", "streamstore", "tests", "benchmarks", "tools"}
TEST_SUPPORT = {
    "__init__",
    "conftest",
    "reference",
    "damage",
    "children",
    "commits",
    "interrupts",
    "signing",
    "wire",
    "wire_fuzz",
}

Source = tuple[str, ast.Module, str]


def source_of(path: Path) -> Source:
    text = path.read_text(encoding="utf-8")
    return path.relative_to(ROOT).as_posix(), ast.parse(text), text


CORE = [source_of(path) for path in sorted(PACKAGE.glob("*.py"))]
WIRE = [source_of(path) for path in sorted((PACKAGE / "wire").rglob("*.py"))]
CLI = [source_of(path) for path in sorted((PACKAGE / "cli").rglob("*.py"))]
TESTS = [source_of(path) for path in sorted((ROOT / "tests").glob("*.py"))]


def name_of(source: Source) -> str:
    return source[0]


def room_of(source: Source) -> str:
    return Path(source[0]).stem


def imported(module: ast.Module) -> Iterator[str]:
    """Yield the dotted name of everything that is imported; a name out of a package counts as one of its modules."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""
            if node.module == "streamstore":
                yield from (f"streamstore.{alias.name}" for alias in node.names)


def rooms_imported(module: ast.Module) -> set[str]:
    parts = [name.split(".") for name in imported(module)]
    rooms = {part[1] if len(part) > 1 else "__init__" for part in parts if part[0] == "streamstore"}
    return rooms & (MAY_IMPORT.keys() | {"cli", "wire"})


def wire_rooms_imported(module: ast.Module) -> set[str]:
    parts = [name.split(".") for name in imported(module) if name.startswith("streamstore.wire")]
    return {part[2] if len(part) > 2 else "__init__" for part in parts}


def imported_from_outside(module: ast.Module) -> set[str]:
    tops = {name.split(".")[0] for name in imported(module)}
    return tops - set(sys.stdlib_module_names) - {"streamstore"}


def imported_if_installed(module: ast.Module) -> set[str]:
    """Return what is imported from outside inside a try that goes on without it."""
    tries = [node for node in ast.walk(module) if isinstance(node, ast.Try)]
    return {
        name
        for node in tries
        if any(isinstance(handler.type, ast.Name) and handler.type.id == "ImportError" for handler in node.handlers)
        for name in imported_from_outside(ast.Module(body=node.body, type_ignores=[]))
    }


def clocks_read(module: ast.Module) -> set[str]:
    names = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.attr in CLOCKS.get(node.value.id, set())
    }
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            names |= {f"time.{alias.name}" for alias in node.names}
    return names


def tracked_files() -> list[str]:
    """Return the files of the repository; outside of one, those that are no products of the tools."""
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git here")
    return listed.splitlines()


def test_every_room_has_its_walls() -> None:
    assert {room_of(source) for source in CORE} == MAY_IMPORT.keys()


@pytest.mark.parametrize("source", CORE, ids=name_of)
def test_no_room_imports_through_a_wall(source: Source) -> None:
    assert rooms_imported(source[1]) - MAY_IMPORT[room_of(source)] == set()


@pytest.mark.parametrize("source", CORE, ids=name_of)
def test_only_the_rooms_of_the_engine_import_lmdb_and_only_the_format_msgpack(source: Source) -> None:
    assert imported_from_outside(source[1]) - MAY_IMPORT_FROM_OUTSIDE.get(room_of(source), set()) == set()


def test_the_core_installs_lmdb_and_msgpack_and_nothing_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {re.split(r"[^a-z]", package)[0] for package in project["dependencies"]} == INSTALLED_WITH_THE_CORE


@pytest.mark.parametrize("source", CORE, ids=name_of)
def test_the_core_goes_on_without_what_it_does_not_install(source: Source) -> None:
    optional = imported_from_outside(source[1]) - INSTALLED_WITH_THE_CORE
    assert optional <= imported_if_installed(source[1])


@pytest.mark.parametrize("source", CLI, ids=name_of)
def test_the_command_sees_the_front_door_only(source: Source) -> None:
    assert rooms_imported(source[1]) <= {"__init__", "cli", "wire"}
    assert wire_rooms_imported(source[1]) <= CLI_SEES_OF_THE_WIRE
    assert imported_from_outside(source[1]) <= CLI_MAY_IMPORT_FROM_OUTSIDE


def test_every_room_of_the_wire_has_its_walls() -> None:
    assert {room_of(source) for source in WIRE} == WIRE_MAY_IMPORT.keys()


@pytest.mark.parametrize("source", WIRE, ids=name_of)
def test_the_wire_sees_the_front_door_and_foundations_only(source: Source) -> None:
    assert rooms_imported(source[1]) - {"wire"} <= WIRE_SEES
    assert wire_rooms_imported(source[1]) <= WIRE_MAY_IMPORT[room_of(source)]
    assert imported_from_outside(source[1]) <= WIRE_MAY_IMPORT_FROM_OUTSIDE.get(room_of(source), set())


@pytest.mark.parametrize("walls", [MAY_IMPORT, WIRE_MAY_IMPORT], ids=["core", "wire"])
def test_the_walls_are_without_a_circle(walls: dict[str, set[str]]) -> None:
    """Rooms of the engine may see each other; all other rooms stand above what they import."""
    above: dict[str, set[str]] = {room: seen - ENGINE_ROOMS - {room} for room, seen in walls.items()}
    while ground := [room for room, seen in above.items() if not seen]:
        above = {room: seen - set(ground) for room, seen in above.items() if room not in ground}
    assert above == {}


@pytest.mark.parametrize("source", CORE + WIRE, ids=name_of)
def test_only_the_operations_read_the_clock(source: Source) -> None:
    assert clocks_read(source[1]) - MAY_READ_CLOCKS.get(room_of(source), set()) == set()


@pytest.mark.parametrize("source", CORE + WIRE + CLI, ids=name_of)
def test_no_type_is_any(source: Source) -> None:
    names = {node.id for node in ast.walk(source[1]) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(source[1]) if isinstance(node, ast.Attribute)}
    names |= {alias.name for node in ast.walk(source[1]) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert "Any" not in names


@pytest.mark.parametrize("source", CORE + WIRE, ids=name_of)
def test_the_package_prints_nothing(source: Source) -> None:
    calls = [node.func for node in ast.walk(source[1]) if isinstance(node, ast.Call)]
    assert "print" not in {call.id for call in calls if isinstance(call, ast.Name)}
    assert "sys.stdout" not in source[2]
    assert "sys.stderr" not in source[2]


@pytest.mark.parametrize("source", CORE + WIRE + CLI, ids=name_of)
def test_nothing_is_left_to_do(source: Source) -> None:
    assert re.findall(r"\b(TODO|FIXME|XXX|HACK)\b", source[2]) == []


@pytest.mark.parametrize("source", CORE + WIRE + CLI, ids=name_of)
def test_every_module_says_what_it_is_for(source: Source) -> None:
    assert ast.get_docstring(source[1])


@pytest.mark.parametrize("source", TESTS, ids=name_of)
def test_every_test_module_is_named_as_one_and_says_what_it_is_for(source: Source) -> None:
    room = room_of(source)
    assert room.startswith("test_") or room in TEST_SUPPORT
    assert room == "__init__" or ast.get_docstring(source[1])


@pytest.mark.parametrize("source", TESTS, ids=name_of)
def test_the_name_of_a_test_states_a_law(source: Source) -> None:
    """A law is a sentence: ``test_put`` is none."""
    functions = [node.name for node in ast.walk(source[1]) if isinstance(node, ast.FunctionDef)]
    assert [name for name in functions if name.startswith("test_") and name.count("_") < 3] == []


def test_no_module_is_named_after_nothing() -> None:
    stems = {part.removesuffix(".py") for name in tracked_files() for part in Path(name).parts}
    assert stems & BANNED_NAMES == set()


def test_the_top_of_the_repository_holds_what_it_must_and_nothing_else() -> None:
    tops = {Path(name).parts[0] for name in tracked_files()}
    assert {top for top in tops if not top.startswith(".")} == TOP_LEVEL
