"""What reads files that anybody may have written: a data file for salvage, the file of keys, lines of records."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Final, cast

from streamstore import CorruptRecordError, StorageError, StreamStore
from streamstore.cli.ending import CommandError
from streamstore.cli.lines import NEWLINE, read_lines, record_data
from streamstore.cli.verify import LineComparison
from streamstore.model import HashKeyRange, ListShardsResult, Record, SequenceNumberRange, Shard
from streamstore.pages import (
    META_PAGES,
    DamagedPageError,
    PageFile,
    page_bytes_of,
    parse_free_pages,
    parse_metas,
    parse_overflow,
    parse_page,
    parse_tree,
)
from streamstore.salvage import salvage_store
from streamstore.wire.credentials import CredentialsError, load_credentials
from tools.torture.targets.target import BrokenLawError, Pieces, Target, written

__all__ = ["TARGETS"]

NOW_MS: Final = 1_700_000_000_000
DATA_FILE: Final = "data.mdb"
PRIVATE: Final = 0o600
PAGE_BYTES: Final = 4_096
HEADER_BYTES: Final = 16
RECORDS: Final = tuple((b"data %d " % number * (1 + number % 5), f"key {number}") for number in range(30))
LARGE_RECORD: Final = (b"large " * 2_000, "large")
ACTIONS: Final = ("PutRecord", "PutRecords", "GetRecords")
KEYS: Final = b"""[keys.AKIDCOLLECTOR]
secret_access_key = "at-least-sixteen-characters"
streams = ["clicks", "orders-*"]
actions = ["PutRecord", "Put*"]
read_only = false
session_token = "sixteen-characters-or-more"
expires = 2030-01-01T00:00:00Z
"""


def _look_at_pages(data: bytes) -> None:
    """Read the bytes as a data file, in the way that salvage does."""
    _with_file(data, _walk)


def _with_file(data: bytes, look: Callable[[Path], None]) -> None:
    descriptor = os.memfd_create("input", os.MFD_CLOEXEC)
    try:
        os.fchmod(descriptor, PRIVATE)
        os.write(descriptor, data)
        look(Path(f"/proc/self/fd/{descriptor}"))
    finally:
        os.close(descriptor)


def _walk(path: Path) -> None:
    with PageFile(path) as pages:
        for snapshot in pages.snapshots():
            pages.visited_again()
            trees = [node.tree for node in pages.nodes(snapshot.main, "names") if node.tree is not None]
            free = pages.free_pages(snapshot)
            for tree in trees:
                for _ in pages.nodes(tree, "tree"):
                    pass
            for _ in pages.nodes_elsewhere(free):
                pass
        for _ in pages.nodes_elsewhere(set()):
            pass


def _look_at_salvage(data: bytes) -> None:
    """Salvage a store whose file was overwritten in some places: what comes out is sound, and was there before."""
    folder = _folder()
    source, target = folder / "source", folder / "target"
    source.mkdir(exist_ok=True)
    (source / DATA_FILE).write_bytes(_overwritten(_sound_file(), Pieces(data)))
    with suppress(StorageError):
        result = salvage_store(source, target)
        unsound = [finding for finding in result.findings if "not sound" in finding]
        if unsound or not _records(target) <= {*RECORDS, LARGE_RECORD}:
            raise BrokenLawError(f"records were invented, or {unsound}")
    for path in (source, target):
        _remove(path)


def _overwritten(content: bytes, pieces: Pieces) -> bytes:
    """Return the file with bytes put in some places, and perhaps cut off."""
    changed = bytearray(content)
    if pieces.number() % 8 == 1:
        del changed[int.from_bytes(pieces.fixed(2), "big") * len(changed) // 2**16 :]
    while (piece := pieces.piece()) and changed:
        start = (pieces.number() * PAGE_BYTES + int.from_bytes(pieces.fixed(2), "big") % PAGE_BYTES) % len(changed)
        changed[start : start + len(piece)] = piece
    return bytes(changed)


def _records(path: Path) -> set[tuple[bytes, str]]:
    """Return what is in a store that may have known losses."""
    records: set[tuple[bytes, str]] = set()
    with StreamStore(path, read_only=True, clock=lambda: NOW_MS) as store:
        for name in store.list_streams().stream_names:
            for shard in store.list_shards(name).shards:
                start: int | None = 0
                while start is not None:
                    start = _read_on(store, (name, shard.shard_id), start, records)
    return records


def _read_on(store: StreamStore, place: tuple[str, str], start: int, records: set[tuple[bytes, str]]) -> int | None:
    """Add the records up to the next loss. Return the number behind that, or None at the end."""
    try:
        for record in store.read(*place, starting_sequence_number=str(start)):
            records.add((record.data, record.partition_key))
    except CorruptRecordError as error:
        return int(error.last_sequence_number) + 1
    return None


@cache
def _sound_file() -> bytes:
    """Return the data file of a store up to its last page that is used, made once in the process that looks."""
    path = _folder() / "sound"
    with StreamStore(path, sync="off", clock=lambda: NOW_MS) as store:
        store.create_stream("s", shard_count=2)
        store.put_records("s", RECORDS)
        store.put_record("s", *LARGE_RECORD)
        store.register_stream_consumer("s", "c")
    content = (path / DATA_FILE).read_bytes().rstrip(b"\0")
    _remove(path)
    return content.ljust(-(-len(content) // PAGE_BYTES) * PAGE_BYTES, b"\0")


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp())


def _remove(path: Path) -> None:
    if path.exists():
        for each in path.iterdir():
            each.unlink()
        path.rmdir()


def _page_seeds() -> Sequence[bytes]:
    return [_sound_file()]


def _salvage_seeds() -> Sequence[bytes]:
    pages = len(_sound_file()) // PAGE_BYTES
    return [b"\0", *(written(0, b"\xff" * 40, page, 0, 0) for page in range(pages)), written(1, 128, 0)]


def _look_at_proof(data: bytes) -> None:
    """What LMDB is let touch, or not: a page, one of the list of free pages, the meta pages, and what is on them."""
    content = data[1:]
    number = int.from_bytes(content[:8], "little")
    with suppress(DamagedPageError, ValueError):
        match data[0] % 6 if data else 0:
            case 0 | 1 as is_free_list:
                page = parse_page(content, number, is_free_list=bool(is_free_list))
                if len(set(page.keys)) < len(page.keys):
                    raise BrokenLawError(f"a page with a key twice was taken: {page}")
            case 2:
                older, newer = parse_metas(content, page_bytes_of(content))
                if newer.commit_number - older.commit_number != 1:
                    raise BrokenLawError(f"meta pages were taken of the commits {older} and {newer}")
            case 3:
                parse_tree(content)
            case 4:
                if len(free := parse_free_pages(content, 2**20)) != len(set(free)):
                    raise BrokenLawError(f"a free page was taken twice: {free}")
            case _:
                parse_overflow(content[:HEADER_BYTES], number)


def _proof_seeds() -> Sequence[bytes]:
    """Return each kind of page, and each value that says where pages are, of a store that has a branch."""
    path = _folder() / "proved"
    with StreamStore(path, sync="off", clock=lambda: NOW_MS) as store:
        store.create_stream("s", shard_count=1)
        for _ in range(4):
            store.put_records("s", [(bytes(300), "key")] * 100)
        store.put_record("s", *LARGE_RECORD)
    content = (path / DATA_FILE).read_bytes()
    _remove(path)
    _, meta = parse_metas(content, PAGE_BYTES)
    seeds = [b"\2" + content[: 2 * PAGE_BYTES]]
    for number in range(META_PAGES, meta.last_page + 1):
        page = content[number * PAGE_BYTES : (number + 1) * PAGE_BYTES]
        with suppress(DamagedPageError):
            values = list(parse_page(page, number).values.values())
            seeds += [b"\0" + page, *(b"\3" + value for value in values)]
        with suppress(DamagedPageError):
            parse_overflow(page[:HEADER_BYTES], number)
            seeds.append(b"\5" + page[:HEADER_BYTES])
    assert meta.free.root is not None
    free = content[meta.free.root * PAGE_BYTES : (meta.free.root + 1) * PAGE_BYTES]
    values = list(parse_page(free, meta.free.root, is_free_list=True).values.values())
    return [*seeds, b"\1" + free, *(b"\4" + value for value in values)]


def _look_at_credentials(data: bytes) -> None:
    _with_file(data, _load_credentials)


def _load_credentials(path: Path) -> None:
    try:
        keys = load_credentials(path, ACTIONS)
    except CredentialsError as error:
        str(error)
        return
    if not keys or any(name != key.access_key_id for name, key in keys.items()):
        raise BrokenLawError(f"a file without keys was taken: {keys}")


def _look_at_lines(data: bytes) -> None:
    """Lines of the command: those that are taken make up the file again."""
    try:
        lines = list(read_lines(BytesIO(data)))
    except CommandError:
        return
    if b"".join(lines) != data:
        raise BrokenLawError("the lines are not the file")
    if any(NEWLINE in record_data(line) for line in lines):
        raise BrokenLawError("a record has a newline")


class _Stream:
    """As much of a store as is compared with a file: one shard."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records

    def list_shards(self, stream_name: str) -> ListShardsResult:
        del stream_name
        numbers = SequenceNumberRange("0")
        return ListShardsResult((Shard("shard-000000", HashKeyRange(0, 1), numbers),), None)

    def read(self, stream_name: str, shard_id: str) -> Iterator[Record]:
        del stream_name, shard_id
        return iter(self._records)


def _look_at_comparison(data: bytes) -> None:
    """A file beside a stream whose partition keys may be anything: they are the same, or that is said."""
    pieces = Pieces(data)
    records: list[Record] = []
    while key := pieces.piece():
        records.append(Record(str(len(records)), key.decode("utf-8", "replace"), pieces.piece(), NOW_MS))
    lines = list(read_lines(BytesIO(pieces.rest())))
    try:
        compared = list(LineComparison(cast(StreamStore, _Stream(records)), "s").compare(lines))
    except CommandError:
        return
    if compared != lines or [record.data for record in records] != [record_data(line) for line in lines]:
        raise BrokenLawError(f"{records} are not {lines}")


TARGETS: Final = (
    Target("pages", _look_at_pages, _page_seeds, bytes_max=2**17, ci_executions=300),
    Target("proof", _look_at_proof, _proof_seeds, bytes_max=2 * PAGE_BYTES + 1),
    Target("salvage", _look_at_salvage, _salvage_seeds, ci_executions=30),
    Target("credentials", _look_at_credentials, lambda: [KEYS], bytes_max=1_024, ci_executions=2_000),
    Target("lines", _look_at_lines, lambda: [b"one\ntwo\r\n\nfour"], ci_executions=2_000),
    Target("comparison", _look_at_comparison, lambda: [written(b"1", b"one", b"2", b"two", b"") + b"one\ntwo\n"]),
)
