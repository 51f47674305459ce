"""What a store tells of its commits and of its file, for those who watch over it."""

import threading
from pathlib import Path

import pytest

from streamstore import (
    CommitReport,
    InvalidArgumentException,
    ProvisionedThroughputExceededException,
    StoreClosedError,
    StreamStore,
)
from tests.conftest import Clock, open_store


class Reports(list[CommitReport]):
    """What was told, and a way to wait for it: who commits tells behind its answers."""

    def __init__(self, store: StreamStore) -> None:
        super().__init__()
        self._told = threading.Semaphore(0)
        store.observe_commits(self._tell)

    def _tell(self, report: CommitReport) -> None:
        self.append(report)
        self._told.release()

    def next(self) -> CommitReport:
        assert self._told.acquire(timeout=60)
        return self.pop(0)


def test_every_commit_is_told_with_what_it_stored(store: StreamStore) -> None:
    store.create_stream("clicks")
    reports = Reports(store)
    store.put_record("clicks", b"12345", "k")
    store.put_records("clicks", [(b"123", "k"), (b"", "kk")])
    one, two = reports.next(), reports.next()
    assert one[:4] == (1, 1, 0, 5)
    assert two[:4] == (1, 2, 0, 6)
    assert one.seconds > 0


def test_a_record_that_is_refused_for_its_quota_is_told_as_throttled_and_not_as_stored(store: StreamStore) -> None:
    store.create_stream("clicks", write_quota_kb_per_sec=128)
    store.put_record("clicks", bytes(131_072), "k")
    reports = Reports(store)
    with pytest.raises(ProvisionedThroughputExceededException):
        store.put_record("clicks", b"1", "k")
    store.put_records("clicks", [(b"1", "k"), (b"2", "k"), (b"3", "k")])
    assert reports.next()[:4] == (1, 0, 1, 0)
    assert reports.next()[1:3] == (0, 3)


def test_a_put_that_is_made_again_is_not_told_as_stored(store: StreamStore) -> None:
    store.create_stream("clicks")
    store.put_record("clicks", b"1", "k", idempotency_key="once")
    reports = Reports(store)
    store.put_record("clicks", b"1", "k", idempotency_key="once")
    assert reports.next().records == 0


def test_a_store_that_is_only_read_has_no_commits_to_tell(store: StreamStore, store_path: Path, clock: Clock) -> None:
    store.create_stream("clicks")
    store.close()
    with open_store(store_path, clock, read_only=True) as reader, pytest.raises(InvalidArgumentException):
        reader.observe_commits(print)


def test_the_file_and_its_readers_are_shown(store: StreamStore, store_path: Path) -> None:
    store.create_stream("clicks")
    info = store.storage_info()
    assert info.file_bytes == (store_path / "data.mdb").stat().st_size
    assert info.map_bytes >= info.file_bytes
    assert info.reader_slots_used >= 1
    store.close()
    with pytest.raises(StoreClosedError):
        store.storage_info()


def test_the_lags_of_a_stream_are_those_of_the_consumers_that_keep_a_place(store: StreamStore) -> None:
    store.create_stream("clicks")
    store.register_stream_consumer("clicks", "only-registered")
    assert store.describe_consumer_lags("clicks") == {}
    with store.consumer("clicks", "billing"):
        pass
    store.put_record("clicks", b"1", "k")
    lags = store.describe_consumer_lags("clicks")
    assert lags == {"billing": store.describe_consumer_lag("clicks", "billing")}
    assert lags["billing"].record_count == 1
