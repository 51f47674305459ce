"""What is measured, against whom, and the bars: data only. The first row of a case is ours."""

from dataclasses import dataclass
from typing import Final, Literal

from benchmarks.competitors import BareFile, BareLmdb, PersistQueue, RocksDb, SqliteConnections, SqliteWalFull
from benchmarks.contenders import AsyncStreamstore, Contender, FourShards, Streamstore
from benchmarks.growth import GetTrial, MemoryTrial, OpenTrial, PutTrial, in_store_of
from benchmarks.served import (
    Kinesalite,
    Moto,
    ServedByAllCpus,
    ServedSigned,
    ServedStreamstore,
    ServedToH2load,
    ServedWithRetryKeys,
    over_connections,
    over_http,
)
from benchmarks.trials import (
    BATCH_RECORDS,
    IN_FLIGHT,
    PAGE_RECORDS,
    TASKS,
    THREADS,
    StartTrial,
    disk,
    in_batches,
    in_tasks,
    in_threads,
    not_waiting,
    one_by_one,
    puts,
    reader_elsewhere,
    reads,
    waiting_reader,
)

__all__ = ["CASES", "Bar", "Case", "Row"]


@dataclass(frozen=True, slots=True)
class Row:
    """One contender in a case. ``records``: how many a turn. ``how``: what it does otherwise than the case says."""

    name: str
    kind: type[Contender]
    start: StartTrial
    records: int
    producers: int = 1
    how: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """What the median must reach: of the ratio to ``baseline``, round by round, or of the figure if that is None."""

    contender: str
    relation: Literal[">=", "<="]
    limit: float
    baseline: str | None = None

    def is_reached(self, median: float) -> bool:
        return median >= self.limit if self.relation == ">=" else median <= self.limit

    def __str__(self) -> str:
        of = "" if self.baseline is None else f" x {self.baseline}"
        return f"{self.contender} {self.relation} {self.limit:g}{of}"


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison: rows equal in durability and payload, and in batch and producers where they do not say other.

    ``once``: the figure does not vary, so there is one turn instead of rounds. ``long``: takes minutes.
    """

    name: str
    title: str
    unit: str
    durability: str
    payload_bytes: int
    batch_records: int
    producers: str
    rows: tuple[Row, ...]
    bars: tuple[Bar, ...]
    less_is_better: bool = False
    once: bool = False
    long: bool = False


OURS: Final = "streamstore"
LMDB: Final = "bare py-lmdb"
SQLITE: Final = "SQLite WAL FULL"
SQLITE_CONNECTIONS: Final = f"SQLite, {THREADS} connections"
SQLITE_THREADS: Final = f"SQLite, {THREADS} threads"
SQLITE_WAITING: Final = "SQLite, waiting"
ROCKSDB: Final = "RocksDB sync"
ROCKSDB_THREADS: Final = f"RocksDB, {THREADS} threads"
ROCKSDB_WAITING: Final = "RocksDB, waiting"
PERSIST_QUEUE: Final = "persist-queue"
FILE: Final = "bare file"

SERVED: Final = "streamstore serve"
SERVED_BY_ALL_CPUS: Final = "ours, all CPUs"
SERVED_WITH_RETRY_KEYS: Final = "ours, retry keys"
SERVED_SIGNED: Final = "ours, signed"
IN_PROCESS: Final = "ours, in process"
KINESALITE: Final = "kinesalite"
MOTO: Final = "moto server"
HTTP_2: Final = "HTTP/2"
HTTP_2_SHARED: Final = "HTTP/2, 1 connection"
HTTP_1_1: Final = "HTTP/1.1"
CONNECTIONS: Final = 64

PAYLOAD_BYTES: Final = 1024
SMALL_PAYLOAD_BYTES: Final = 100
DISK_RECORDS: Final = 1_000_000
FEW_RECORDS: Final = 10_000
MANY_RECORDS: Final = 10_000_000
FEW: Final = f"{FEW_RECORDS:,} records"
MANY: Final = f"{MANY_RECORDS:,} records"

EACH_RECORD: Final = "each record is synced to the device before it is acknowledged"
EACH_OF_OURS: Final = f"{EACH_RECORD} by ours; the others keep records in memory only"
EACH_BATCH: Final = "each batch is synced to the device before it is acknowledged"
ONE: Final = "1 producer"


def threads_row(name: str, kind: type[Contender], start: StartTrial, how: str = "") -> Row:
    return Row(name, kind, start, records=THREADS * 20, producers=THREADS, how=how)


def served_rows(connections: int) -> tuple[Row, ...]:
    """The servers. A turn of theirs is a time; ``records`` says nothing but how many records wait at once."""
    return tuple(
        Row(name, kind, over_http(kind), connections, producers=connections, how=how)
        for name, kind, how in (
            (SERVED, ServedStreamstore, ""),
            (SERVED_BY_ALL_CPUS, ServedByAllCpus, "with --processes, one for each CPU"),
            (SERVED_WITH_RETRY_KEYS, ServedWithRetryKeys, "with amz-sdk-invocation-id, as SDKs send it"),
            (SERVED_SIGNED, ServedSigned, "with --credentials, each signature verified"),
            (KINESALITE, Kinesalite, "3.3.3 from npm"),
            (MOTO, Moto, "5.2.5 from PyPI"),
        )
    )


def h2load_row(name: str, start: StartTrial, how: str = "") -> Row:
    return Row(name, ServedToH2load, start, CONNECTIONS, producers=CONNECTIONS, how=how)


def disk_rows() -> tuple[Row, ...]:
    return (
        Row(OURS, FourShards, disk(FourShards), DISK_RECORDS),
        Row(LMDB, BareLmdb, disk(BareLmdb), DISK_RECORDS, how="one shard"),
        Row(SQLITE, SqliteWalFull, disk(SqliteWalFull), DISK_RECORDS, how="one table"),
        Row(ROCKSDB, RocksDb, disk(RocksDb), DISK_RECORDS, how="one column family"),
        Row(FILE, BareFile, disk(BareFile), DISK_RECORDS, how="one file"),
    )


CASES: Final = (
    Case(
        name="put_record",
        title="put_record, 1 producer",
        unit="records/s",
        durability=EACH_RECORD,
        payload_bytes=PAYLOAD_BYTES,
        batch_records=1,
        producers=ONE,
        rows=(
            Row(OURS, Streamstore, puts(Streamstore, one_by_one), 600),
            Row(LMDB, BareLmdb, puts(BareLmdb, one_by_one), 600),
            Row(SQLITE, SqliteWalFull, puts(SqliteWalFull, one_by_one), 600),
            Row(ROCKSDB, RocksDb, puts(RocksDb, one_by_one), 600),
            Row(PERSIST_QUEUE, PersistQueue, puts(PersistQueue, one_by_one), 600),
            Row(FILE, BareFile, puts(BareFile, one_by_one), 600),
        ),
        bars=(Bar(OURS, ">=", 0.9, LMDB),),
    ),
    Case(
        name="put_record_threads",
        title=f"put_record, {THREADS} threads",
        unit="records/s",
        durability=EACH_RECORD,
        payload_bytes=PAYLOAD_BYTES,
        batch_records=1,
        producers=f"{THREADS} threads",
        rows=(
            Row(OURS, Streamstore, puts(Streamstore, in_threads), THREADS * 100, THREADS),
            threads_row(LMDB, BareLmdb, puts(BareLmdb, in_threads)),
            threads_row(SQLITE, SqliteWalFull, puts(SqliteWalFull, in_threads), "one connection behind a lock"),
            Row(
                SQLITE_CONNECTIONS,
                SqliteConnections,
                puts(SqliteConnections, in_threads),
                records=THREADS * 5,
                producers=THREADS,
                how="one for each thread",
            ),
            threads_row(ROCKSDB, RocksDb, puts(RocksDb, in_threads)),
            threads_row(PERSIST_QUEUE, PersistQueue, puts(PersistQueue, in_threads)),
            threads_row(FILE, BareFile, puts(BareFile, in_threads), "behind a lock"),
        ),
        bars=(
            Bar(OURS, ">=", 6, SQLITE),
            Bar(OURS, ">=", 6, SQLITE_CONNECTIONS),
            Bar(OURS, ">=", 4, ROCKSDB),
        ),
    ),
    Case(
        name="put_record_asyncio",
        title=f"put_record, {TASKS:,} asyncio tasks",
        unit="records/s",
        durability=EACH_RECORD,
        payload_bytes=PAYLOAD_BYTES,
        batch_records=1,
        producers=f"{TASKS:,} tasks",
        rows=(
            Row(OURS, AsyncStreamstore, puts(AsyncStreamstore, in_tasks), TASKS * 30, TASKS),
            threads_row(SQLITE_THREADS, SqliteWalFull, puts(SqliteWalFull, in_threads), "one connection behind a lock"),
            threads_row(ROCKSDB_THREADS, RocksDb, puts(RocksDb, in_threads)),
        ),
        bars=(Bar(OURS, ">=", 25, ROCKSDB_THREADS),),
    ),
    Case(
        name="put_records",
        title=f"put_records of {BATCH_RECORDS}, 1 producer",
        unit="records/s",
        durability=EACH_BATCH,
        payload_bytes=PAYLOAD_BYTES,
        batch_records=BATCH_RECORDS,
        producers=ONE,
        rows=(
            Row(OURS, Streamstore, puts(Streamstore, in_batches), 40 * BATCH_RECORDS),
            Row(LMDB, BareLmdb, puts(BareLmdb, in_batches), 40 * BATCH_RECORDS, how="putmulti(append=True)"),
            Row(SQLITE, SqliteWalFull, puts(SqliteWalFull, in_batches), 40 * BATCH_RECORDS, how="executemany"),
            Row(ROCKSDB, RocksDb, puts(RocksDb, in_batches), 40 * BATCH_RECORDS, how="WriteBatch"),
            Row(FILE, BareFile, puts(BareFile, in_batches), 40 * BATCH_RECORDS),
        ),
        bars=(
            Bar(OURS, ">=", 1.0, ROCKSDB),
            Bar(OURS, ">=", 2.0, SQLITE),
            Bar(OURS, ">=", 0.4, LMDB),
        ),
    ),
    Case(
        name="submit_record",
        title=f"submit_record, 1 producer that does not wait, {IN_FLIGHT:,} in flight",
        unit="records/s",
        durability=EACH_RECORD,
        payload_bytes=PAYLOAD_BYTES,
        batch_records=1,
        producers=ONE,
        rows=(
            Row(OURS, Streamstore, puts(Streamstore, not_waiting), 40_000, how=f"{IN_FLIGHT:,} records in flight"),
            Row(SQLITE_WAITING, SqliteWalFull, puts(SqliteWalFull, one_by_one), 600, how="waits for each record"),
            Row(ROCKSDB_WAITING, RocksDb, puts(RocksDb, one_by_one), 600, how="waits for each record"),
        ),
        bars=(Bar(OURS, ">=", 15, ROCKSDB_WAITING),),
    ),
    Case(
        name="get_records",
        title=f"get_records, {PAGE_RECORDS:,} a page, into record objects",
        unit="records/s",
        durability="records that were synced in batches; the files are in the page cache",
        payload_bytes=PAYLOAD_BYTES,
        batch_records=PAGE_RECORDS,
        producers="1 reader, no producer",
        rows=(
            Row(OURS, Streamstore, reads(Streamstore), 100_000),
            Row(SQLITE, SqliteWalFull, reads(SqliteWalFull), 100_000, how="the same four columns, as tuples"),
            Row(ROCKSDB, RocksDb, reads(RocksDb), 100_000, how="number and payload, as tuples"),
            Row(LMDB, BareLmdb, reads(BareLmdb), 100_000, how="number and payload, as tuples"),
        ),
        bars=(Bar(OURS, ">=", 0.8, SQLITE),),
    ),
    *(
        Case(
            name=name,
            title=f"new record to a waiting reader {where}, after its put returned",
            unit="ms",
            less_is_better=True,
            durability=EACH_RECORD,
            payload_bytes=PAYLOAD_BYTES,
            batch_records=1,
            producers="1 producer, 1 reader that waits in tail",
            rows=(Row(OURS, Streamstore, start, 200),),
            bars=(Bar(OURS, "<=", 2.0),),
        )
        for name, where, start in (
            ("waiting_reader", "of the same process", waiting_reader),
            ("waiting_reader_elsewhere", "of another process", reader_elsewhere),
        )
    ),
    Case(
        name="serve",
        title=f"PutRecord over HTTP, {CONNECTIONS} connections",
        unit="records/s",
        durability=EACH_OF_OURS,
        payload_bytes=PAYLOAD_BYTES,
        batch_records=1,
        producers=f"{CONNECTIONS} connections of wrk, JSON, keep-alive",
        rows=served_rows(CONNECTIONS),
        bars=(Bar(SERVED_BY_ALL_CPUS, ">=", 3, KINESALITE), Bar(SERVED, ">=", 20, MOTO)),
    ),
    Case(
        name="serve_1",
        title="PutRecord over HTTP, 1 connection",
        unit="records/s",
        durability=EACH_OF_OURS,
        payload_bytes=PAYLOAD_BYTES,
        batch_records=1,
        producers="1 connection of wrk, JSON, keep-alive",
        rows=(
            *served_rows(1),
            Row(IN_PROCESS, Streamstore, puts(Streamstore, one_by_one), 2_000, how="put_record, no server"),
        ),
        bars=(Bar(SERVED, ">=", 0.5, IN_PROCESS),),
    ),
    Case(
        name="serve_http_2",
        title=f"PutRecord over HTTP/2 without TLS, {CONNECTIONS} requests at a time",
        unit="records/s",
        durability=EACH_RECORD,
        payload_bytes=PAYLOAD_BYTES,
        batch_records=1,
        producers=f"{CONNECTIONS} connections of h2load with a request each, JSON",
        rows=(
            h2load_row(HTTP_2, over_connections("h2c", CONNECTIONS)),
            h2load_row(HTTP_2_SHARED, over_connections("h2c", 1), f"1 connection with {CONNECTIONS} requests"),
            h2load_row(HTTP_1_1, over_connections("http/1.1", CONNECTIONS), "HTTP/1.1, keep-alive"),
        ),
        bars=(Bar(HTTP_2, ">=", 0.5, HTTP_1_1), Bar(HTTP_2_SHARED, ">=", 0.5, HTTP_1_1)),
    ),
    *(
        Case(
            name=f"disk_{payload_bytes}",
            title=f"disk, {DISK_RECORDS:,} records of {payload_bytes:,} bytes over 4 shards",
            unit="bytes/payload byte",
            less_is_better=True,
            durability=EACH_BATCH,
            payload_bytes=payload_bytes,
            batch_records=BATCH_RECORDS,
            producers=ONE,
            rows=disk_rows(),
            bars=(Bar(OURS, "<=", limit),),
            once=True,
        )
        for payload_bytes, limit in ((PAYLOAD_BYTES, 1.45), (SMALL_PAYLOAD_BYTES, 1.6))
    ),
    Case(
        name="put_in_large_store",
        title=f"put_record with {MANY_RECORDS:,} records in the store",
        unit="us",
        less_is_better=True,
        durability=EACH_RECORD,
        payload_bytes=SMALL_PAYLOAD_BYTES,
        batch_records=1,
        producers=ONE,
        rows=(
            Row(MANY, Streamstore, in_store_of(MANY_RECORDS, PutTrial), 400),
            Row(FEW, Streamstore, in_store_of(FEW_RECORDS, PutTrial), 400),
        ),
        bars=(Bar(MANY, "<=", 1.2, FEW),),
        long=True,
    ),
    Case(
        name="get_in_large_store",
        title=f"an iterator and a page of 1 at a random number, with {MANY_RECORDS:,} records in the store",
        unit="us",
        less_is_better=True,
        durability="records that were synced in batches; the files are in the page cache",
        payload_bytes=SMALL_PAYLOAD_BYTES,
        batch_records=1,
        producers="1 reader, no producer",
        rows=(
            Row(MANY, Streamstore, in_store_of(MANY_RECORDS, GetTrial), 2_000),
            Row(FEW, Streamstore, in_store_of(FEW_RECORDS, GetTrial), 2_000),
        ),
        bars=(Bar(MANY, "<=", 1.2, FEW),),
        long=True,
    ),
    Case(
        name="open_large_store",
        title=f"open to first read, with {MANY_RECORDS:,} records in the store",
        unit="ms",
        less_is_better=True,
        durability="opening syncs the file before it is read; the file is in the page cache",
        payload_bytes=SMALL_PAYLOAD_BYTES,
        batch_records=1,
        producers="1 reader, no producer",
        rows=(
            Row(MANY, Streamstore, in_store_of(MANY_RECORDS, OpenTrial), 25),
            Row(FEW, Streamstore, in_store_of(FEW_RECORDS, OpenTrial), 25),
        ),
        bars=(Bar(MANY, "<=", 1.5, FEW), Bar(MANY, "<=", 10.0)),
        long=True,
    ),
    Case(
        name="memory_of_writer",
        title=f"private memory of a writer after {MANY_RECORDS:,} records",
        unit="MB",
        less_is_better=True,
        durability=EACH_BATCH,
        payload_bytes=SMALL_PAYLOAD_BYTES,
        batch_records=BATCH_RECORDS,
        producers="1 producer, ingest",
        rows=(
            Row(MANY, Streamstore, in_store_of(MANY_RECORDS, MemoryTrial), 1),
            Row(FEW, Streamstore, in_store_of(FEW_RECORDS, MemoryTrial), 1),
        ),
        bars=(Bar(MANY, "<=", 80.0),),
        once=True,
        long=True,
    ),
)
