"""A disk that is full to its last block: refused and told, trimmed, and written on, without more space or a restart."""

from pathlib import Path
from typing import Final

import pytest

from streamstore.check import check_store
from tests.children import code, run

FILL: Final = """
import resource, sys
from streamstore import StoreFullError, StreamStore

HOUR_MS = 3_600_000
now_ms = 1_700_000_000_000
path, limit_bytes, record_bytes, batch_records, cycles = sys.argv[1], *map(int, sys.argv[2:])
hard_limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
with StreamStore(path, sync="off", clock=lambda: now_ms) as store:
    store.create_stream("s", shard_count=2, retention_hours=24)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard_limit))
    for _ in range(cycles):
        stored = 0
        for count in (batch_records, 1):
            try:
                while True:
                    store.put_records("s", [(bytes(record_bytes), str(stored + place)) for place in range(count)])
                    stored += count
            except StoreFullError:
                pass
        now_ms += 24 * HOUR_MS + 1
        print(stored, store.trim("s").record_count)
"""


@pytest.mark.parametrize(
    ("record_bytes", "batch_records"), [(100, 50), (1_000, 1), (1_000, 50), (10_000, 1), (10_000, 20), (300_000, 1)]
)
def test_a_full_disk_is_trimmed_and_filled_again(tmp_path: Path, record_bytes: int, batch_records: int) -> None:
    limit_bytes, cycles = 2_000_000, 4
    printed = run(code(FILL, tmp_path / "store", limit_bytes, record_bytes, batch_records, cycles))
    told = [[int(word) for word in line.split()] for line in printed.splitlines()]
    assert len(told) == cycles
    for stored, trimmed in told:
        assert stored == trimmed
        assert stored * record_bytes > limit_bytes // 4
    assert check_store(tmp_path / "store") == []


PUT_ON: Final = """
import resource, sys
from streamstore import StoreFullError, StreamStore

now_ms = 1_700_000_000_000
hard_limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
with StreamStore(sys.argv[1], sync="off", clock=lambda: now_ms) as store:
    store.create_stream("s", retention_hours=1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard_limit))
    try:
        while True:
            store.put_record("s", bytes(int(sys.argv[2])), "key")
    except StoreFullError:
        now_ms += 3_600_001
    for _ in range(300):
        store.put_record("s", bytes(int(sys.argv[2])), "key")
    print(len(list(store.read("s", "shard-000000"))))
"""


@pytest.mark.parametrize("record_bytes", [100, 1_000, 3_000])
def test_puts_alone_make_room_of_what_has_expired(tmp_path: Path, record_bytes: int) -> None:
    assert run(code(PUT_ON, tmp_path / "store", record_bytes)) == "300\n"
    assert check_store(tmp_path / "store") == []
