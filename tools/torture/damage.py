"""Damage to the files of a closed store: what is changed, in which page, and whom that may cost a record."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from streamstore.databases import RECORDS_DATABASE_PREFIX
from streamstore.pages import parse_metas, parse_page, parse_tree

__all__ = ["KINDS", "Change", "Damage", "change_lock_file"]

PAGE_BYTES: Final = 4096
SECTOR_BYTES: Final = 512
HEADER_BYTES: Final = 16
NODE_HEAD_BYTES: Final = 8
NAME: Final = b"streams"
"""Of a database that each store has."""
ROOT_PLACE: Final = 128
COMMIT_PLACE: Final = 144
"""Where a meta page says on which page the list of databases begins, and of which commit it is."""
META_BYTES: Final = 200
FLIPS_MAX: Final = 8

Change = Callable[[bytearray, random.Random, int], None]
"""Changes the bytes of a data file, which are so many."""


class Damage(NamedTuple):
    """What was done to a file."""

    kind: str
    content: bytes
    pages: frozenset[int]
    """The pages that are not what they were."""

    @classmethod
    def of(cls, kind: str, original: bytes, dice: random.Random) -> "Damage":
        changed = bytearray(original)
        KINDS[kind](changed, dice, len(original))
        content = bytes(changed)
        starts = range(0, len(original), PAGE_BYTES)
        pages = {
            start // PAGE_BYTES
            for start in starts
            if content[start : start + PAGE_BYTES] != original[start : start + PAGE_BYTES]
        }
        return cls(kind, content, frozenset(pages))


def change_lock_file(path: Path, dice: random.Random) -> None:
    """Leave any lock file, or none: nobody has the store open, so it says nothing."""
    size_bytes = dice.choice((0, 1, 64, 4096, 65_536, 131_072, 200_000))
    content = dice.choice((bytes(size_bytes), dice.randbytes(size_bytes), b"\xff" * size_bytes))
    if dice.random() < 0.9:
        path.write_bytes(content)


def _flip(data: bytearray, place: int, dice: random.Random) -> None:
    data[place] ^= 1 << dice.randrange(8)


def _flip_anywhere(data: bytearray, dice: random.Random, file_bytes: int) -> None:
    _flip(data, dice.randrange(file_bytes), dice)


def _flip_some(data: bytearray, dice: random.Random, file_bytes: int) -> None:
    for _ in range(dice.randint(2, FLIPS_MAX)):
        _flip(data, dice.randrange(file_bytes), dice)


def _flip_in_header(data: bytearray, dice: random.Random, file_bytes: int) -> None:
    _flip(data, _page(dice, file_bytes) + dice.randrange(HEADER_BYTES), dice)


def _flip_in_offsets(data: bytearray, dice: random.Random, file_bytes: int) -> None:
    """Hit what says where the keys of a page are."""
    start = _page(dice, file_bytes)
    lower = int.from_bytes(data[start + 12 : start + 14], "little")
    _flip(data, start + dice.randrange(HEADER_BYTES, max(HEADER_BYTES + 1, min(lower, PAGE_BYTES))), dice)


def _flip_in_node(data: bytearray, dice: random.Random, file_bytes: int) -> None:
    """Hit the head of a key: its size, that of its value, or the number of a page."""
    _flip(data, min(_node(data, dice, _page(dice, file_bytes)) + dice.randrange(24), file_bytes - 1), dice)


def _flip_in_key(data: bytearray, dice: random.Random, file_bytes: int) -> None:
    """Hit a key that is in use, and none of a record: what numbers there are, its shard's counter knows."""
    _, meta = parse_metas(bytes(data[: 2 * PAGE_BYTES]), PAGE_BYTES)
    assert meta.main.root is not None
    start = meta.main.root * PAGE_BYTES
    names = parse_page(bytes(data[start : start + PAGE_BYTES]), meta.main.root)
    roots = [
        root
        for place, value in names.values.items()
        if not names.keys[place].startswith(RECORDS_DATABASE_PREFIX) and (root := parse_tree(value).root) is not None
    ]
    node = _node(data, dice, dice.choice(roots) * PAGE_BYTES)
    key_bytes = int.from_bytes(data[node + 6 : node + 8], "little")
    _flip(data, min(node + NODE_HEAD_BYTES + dice.randrange(max(1, key_bytes)), file_bytes - 1), dice)


def _flip_in_meta_page(data: bytearray, dice: random.Random, file_bytes: int) -> None:
    del file_bytes
    _flip(data, dice.randrange(2) * PAGE_BYTES + dice.randrange(META_BYTES), dice)


def _lead_to_old_list(data: bytearray, dice: random.Random, file_bytes: int) -> None:
    """Have the newer meta page lead to a list of databases that an earlier commit has left, as a flipped bit may."""
    pages = [
        start // PAGE_BYTES for start in range(0, file_bytes, PAGE_BYTES) if NAME in data[start : start + PAGE_BYTES]
    ]
    commits = [int.from_bytes(data[start + COMMIT_PLACE :][:8], "little") for start in (0, PAGE_BYTES)]
    place = commits.index(max(commits)) * PAGE_BYTES + ROOT_PLACE
    data[place : place + 8] = dice.choice(pages).to_bytes(8, "little")


def _zero_sector(data: bytearray, dice: random.Random, file_bytes: int) -> None:
    start = dice.randrange(0, file_bytes, SECTOR_BYTES)
    data[start : start + SECTOR_BYTES] = bytes(SECTOR_BYTES)


def _zero_page(data: bytearray, dice: random.Random, file_bytes: int) -> None:
    start = _page(dice, file_bytes)
    data[start : start + PAGE_BYTES] = bytes(PAGE_BYTES)


def _overwrite_sector(data: bytearray, dice: random.Random, file_bytes: int) -> None:
    start = dice.randrange(0, file_bytes, SECTOR_BYTES)
    data[start : start + SECTOR_BYTES] = dice.randbytes(SECTOR_BYTES)


def _overwrite_run(data: bytearray, dice: random.Random, file_bytes: int) -> None:
    """Overwrite several pages that follow each other."""
    start = _page(dice, file_bytes)
    size_bytes = min(dice.randint(1, 8) * PAGE_BYTES, file_bytes - start)
    data[start : start + size_bytes] = dice.choice((bytes, dice.randbytes))(size_bytes)


def _misplace(unit_bytes: int) -> Change:
    def misplace(data: bytearray, dice: random.Random, file_bytes: int) -> None:
        """Write what belongs into one place into another."""
        source, target = (dice.randrange(0, file_bytes, unit_bytes) for _ in range(2))
        data[target : target + unit_bytes] = data[source : source + unit_bytes]

    return misplace


def _exchange(unit_bytes: int) -> Change:
    def exchange(data: bytearray, dice: random.Random, file_bytes: int) -> None:
        one, other = (dice.randrange(0, file_bytes, unit_bytes) for _ in range(2))
        kept = data[one : one + unit_bytes]
        data[one : one + unit_bytes] = data[other : other + unit_bytes]
        data[other : other + unit_bytes] = kept

    return exchange


def _cut(data: bytearray, dice: random.Random, file_bytes: int) -> None:
    del data[dice.randrange(file_bytes) :]


def _cut_at_page(data: bytearray, dice: random.Random, file_bytes: int) -> None:
    del data[_page(dice, file_bytes) :]


def _leave(data: bytearray, dice: random.Random, file_bytes: int) -> None:
    """Change nothing: of the lock file only."""


def _node(data: bytearray, dice: random.Random, start: int) -> int:
    """Return where the page that starts there says that some key is."""
    lower = int.from_bytes(data[start + 12 : start + 14], "little")
    place = dice.choice(range(start + HEADER_BYTES, start + max(HEADER_BYTES + 2, min(lower, PAGE_BYTES) & ~1), 2))
    return start + int.from_bytes(data[place : place + 2], "little") % PAGE_BYTES


def _page(dice: random.Random, file_bytes: int) -> int:
    return dice.randrange(0, file_bytes, PAGE_BYTES)


KINDS: Final[dict[str, Change]] = {
    "flipped bit": _flip_anywhere,
    "flipped bits": _flip_some,
    "flipped bit in the header of a page": _flip_in_header,
    "flipped bit in the offsets of a page": _flip_in_offsets,
    "flipped bit in the head of a key": _flip_in_node,
    "flipped bit in a key": _flip_in_key,
    "flipped bit in a meta page": _flip_in_meta_page,
    "old list of databases": _lead_to_old_list,
    "zeroed sector": _zero_sector,
    "zeroed page": _zero_page,
    "overwritten sector": _overwrite_sector,
    "overwritten pages": _overwrite_run,
    "misplaced sector": _misplace(SECTOR_BYTES),
    "misplaced page": _misplace(PAGE_BYTES),
    "exchanged sectors": _exchange(SECTOR_BYTES),
    "exchanged pages": _exchange(PAGE_BYTES),
    "truncation": _cut,
    "truncation at a page": _cut_at_page,
    "another lock file": _leave,
}
assert os.sysconf("SC_PAGE_SIZE") == PAGE_BYTES, "the damage is made for pages of this size"
