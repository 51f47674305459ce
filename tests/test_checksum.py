"""The checksum of ISA-L, which the extra ``fast`` brings, is that of zlib: a store cannot tell who wrote it."""

import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamstore import StreamStore
from streamstore.check import check_store
from tests import children

WITHOUT_ISAL = 'import sys; sys.modules["isal"] = sys.modules["isal.isal_zlib"] = None\n'
PUT_AND_READ = """
import sys
from streamstore import StreamStore
from streamstore.databases import (CRC_MODULE)

with StreamStore(sys.argv[1]) as store:
    store.put_records("s", [(bytes([length % 251]) * length, "key") for length in range(500)])
    print(CRC_MODULE, sum(len(record.data) for record in store.read("s", "shard-000000")))
"""
BYTES_A_CHILD = sum(range(500))


@given(st.binary(max_size=5_000), st.integers(0, 2**32 - 1), st.integers(0, 70))
def test_both_checksums_agree_on_all_bytes(data: bytes, start: int, offset: int) -> None:
    isal_zlib = pytest.importorskip("isal.isal_zlib")
    part = memoryview(data)[offset:]  # ISA-L goes its own ways for short ends and odd addresses
    assert isal_zlib.crc32(part, start) == zlib.crc32(part, start)


def test_both_checksums_agree_on_all_lengths() -> None:
    isal_zlib = pytest.importorskip("isal.isal_zlib")
    data = bytes(number * 37 % 256 for number in range(3_000))
    for length in range(len(data)):
        assert isal_zlib.crc32(data[:length], length) == zlib.crc32(data[:length], length)
    assert isal_zlib.crc32(bytes(2**20), 1) == zlib.crc32(bytes(2**20), 1)


def test_a_store_written_with_either_checksum_is_read_with_the_other(store_path: Path) -> None:
    pytest.importorskip("isal.isal_zlib")
    with StreamStore(store_path) as store:
        store.create_stream("s")
    for stored, (blocked, module) in enumerate(
        [(WITHOUT_ISAL, "zlib"), ("", "isal.isal_zlib"), (WITHOUT_ISAL, "zlib")], start=1
    ):
        printed = children.run(children.code(blocked + PUT_AND_READ, store_path))
        assert printed.split() == [module, str(stored * BYTES_A_CHILD)]
    assert check_store(store_path) == []
