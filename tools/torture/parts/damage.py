"""Damage: the files of a closed store are changed, then it is opened, read, checked, written and trimmed."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Final, NamedTuple

from streamstore import PutRecordResult, StorageError, StreamRecord, StreamStore, StreamStoreError
from streamstore.check import check_store
from tools.torture import plants
from tools.torture.damage import KINDS, Damage, change_lock_file
from tools.torture.damaged import SHARD_COUNT, STREAMS, Contents, Template, fill, read_all
from tools.torture.part import Amount, Ordeal, Part
from tools.torture.worker import Ended, Worker, run_in_child

__all__ = ["PART"]

CASES_OF_ONE_TEMPLATE: Final = 100
LOCK_FILE_TOO_ONE_IN: Final = 8
WRITTEN_ONE_IN: Final = 2
TRIMMED_ONE_IN: Final = 4
"""Of so many files one is written to behind the reading, and one trimmed and has its streams deleted."""
MS_PER_HOUR: Final = 3_600_000


class _Told(NamedTuple):
    """What a child saw of a damaged store."""

    found: list[str]
    words: list[str]


class _Trials:
    """Templates, one after the other, and the damaged copies of each."""

    def __init__(self, ordeal: Ordeal) -> None:
        self._ordeal = ordeal
        self._template: Template | None = None
        self._is_planted = False

    def run(self) -> None:
        ordeal = self._ordeal
        with Worker(self._try, cases_of_one_child=CASES_OF_ONE_TEMPLATE) as worker:
            for case in ordeal.cases():
                path = ordeal.memory_folder / f"template {case // CASES_OF_ONE_TEMPLATE}"
                if self._template is None or self._template.path != path:
                    worker.start_anew()
                    self._template = self._fill(path, case // CASES_OF_ONE_TEMPLATE)
                told = worker.do(case)
                if isinstance(told, Ended):
                    told = _Told([told.sentence], ["signals and hangs"])
                for sentence in told.found:
                    ordeal.found(case, f"{self._kind(case)}: {sentence}")
                for word in told.words:
                    ordeal.add(word)
                shutil.rmtree(self._path(case), ignore_errors=True)

    def _fill(self, path: Path, number: int) -> Template:
        def make() -> Template:
            plants.plant(self._ordeal.plant)
            return fill(path, self._ordeal.dice(-1 - number))

        template = run_in_child(make)
        if isinstance(template, Ended):
            raise RuntimeError(template.sentence)
        shutil.rmtree(path)
        return template

    def _try(self, case: int) -> _Told:
        if not self._is_planted:
            plants.plant(self._ordeal.plant)
            self._is_planted = True
        assert self._template is not None
        dice = self._ordeal.dice(case)
        kind = self._kind(case)
        damage = Damage.of(kind, self._template.content, dice)
        path = self._path(case)
        path.mkdir()
        (path / "data.mdb").write_bytes(damage.content)
        if kind == "another lock file" or dice.randrange(LOCK_FILE_TOO_ONE_IN) == 0:
            change_lock_file(path / "lock.mdb", dice)
        return _Trial(path, self._template, damage).run(
            is_written=dice.randrange(WRITTEN_ONE_IN) == 0, is_trimmed=dice.randrange(TRIMMED_ONE_IN) == 0
        )

    def _kind(self, case: int) -> str:
        kinds = sorted(KINDS)
        return kinds[case % len(kinds)]

    def _path(self, case: int) -> Path:
        return self._ordeal.memory_folder / f"store {case}"


class _Trial:
    """A damaged store, used in every way."""

    def __init__(self, path: Path, template: Template, damage: Damage) -> None:
        self._path = path
        self._template = template
        self._damage = damage
        self._now_ms = template.now_ms
        self._found: list[str] = []
        self._words: Counter[str] = Counter()

    def run(self, *, is_written: bool, is_trimmed: bool) -> _Told:
        contents = dict(self._template.contents)
        lost = self._read(contents, "")
        self._check(is_damage_known=lost is None or bool(lost))
        if lost is not None and is_written:
            self._write(contents)
            lost_since = self._read(contents, "behind the puts, ")
            if lost_since is not None and lost_since - lost:
                self._found.append(f"Behind the puts {sorted(lost_since - lost)[:3]} are lost too.")
        if lost is not None and is_trimmed:
            self._trim_and_delete()
        return _Told(self._found, list(self._words))

    def _open(self) -> StreamStore:
        return StreamStore(self._path, create=False, clock=lambda: self._now_ms)

    def _read(self, contents: Contents, when: str) -> set[tuple[tuple[str, str], int]] | None:
        """Return the records that are lost, None if the store cannot be opened."""
        try:
            with self._open() as store:
                reading = read_all(store, contents)
        except StorageError as error:
            self._words["refused"] += 1
            if self._may_be_lost() is not None:
                self._found.append(f"It is not opened ({error}), though only records are damaged.")
            return None
        self._found += [when + sentence for sentence in reading.found]
        self._words["damage told" if reading.lost else "all read"] += 1
        may_be_lost = self._may_be_lost()
        if may_be_lost is not None and reading.lost - may_be_lost:
            lost = sorted(reading.lost - may_be_lost)
            self._found.append(f"{when}{len(lost)} records are lost that are not damaged: {lost[:3]}.")
        return reading.lost

    def _may_be_lost(self) -> frozenset[tuple[tuple[str, str], int]] | None:
        """Return the records on damaged pages; None where a page is damaged that others depend on."""
        pages = self._template.pages
        if len(self._damage.content) < len(self._template.content) or not self._damage.pages <= pages.keys():
            return None
        return frozenset[tuple[tuple[str, str], int]]().union(*(pages[number] for number in self._damage.pages))

    def _check(self, *, is_damage_known: bool) -> None:
        try:
            findings = check_store(self._path)
        except StorageError:
            return
        if findings:
            self._words["named by the check"] += 1
        elif is_damage_known:
            self._found.append("The check sees nothing of the damage.")

    def _write(self, contents: Contents) -> None:
        """Put into each shard; what is acknowledged is expected from then on."""
        try:
            with self._open() as store:
                for name in STREAMS:
                    for number in range(2 * SHARD_COUNT):
                        self._put(store, name, number, contents)
                for key, first in self._template.repeated.items():
                    self._repeat(store, key, first)
                for name, record in self._template.consumed.items():
                    self._go_on(store, name, record)
        except StorageError:
            self._words["writing refused"] += 1

    def _put(self, store: StreamStore, name: str, number: int, contents: Contents) -> None:
        data = b"%d" % number * (number * 600)
        try:
            put = store.put_record(name, data, f"new {number}", idempotency_key=f"new {number}" if number % 2 else None)
        except StorageError:
            self._words["puts refused"] += 1
            return
        place = name, put.shard_id
        expected = int(contents[place][-1].sequence_number) + 1
        if int(put.sequence_number) != expected:
            self._found.append(f"A put into {place} got {put.sequence_number}, not {expected}.")
            return
        (record,) = store.read(*place, starting_sequence_number=put.sequence_number)
        if record.data != data:
            self._found.append(f"SILENT the put {put} is read as another.")
        contents[place] = [*contents[place], record]

    def _repeat(self, store: StreamStore, key: str, first: PutRecordResult) -> None:
        """Make a put again that is stored: none is stored twice."""
        try:
            put = store.put_record("even", b"", "key", idempotency_key=key)
        except StorageError:
            self._words["puts refused"] += 1
            return
        if put != first:
            self._found.append(f"SILENT the put {key!r} is stored again: {put}, and not {first}.")

    def _go_on(self, store: StreamStore, name: str, consumed: StreamRecord) -> None:
        """Go on where a consumer was: it does not begin anew."""
        try:
            with store.consumer("mixed", name, idle_timeout_seconds=0) as consumer:
                if consumed in list(consumer):
                    self._found.append(f"SILENT the consumer {name!r} begins anew.")
        except StorageError:
            self._words["consumers refused"] += 1

    def _trim_and_delete(self) -> None:
        """Change what is damaged: a typed error or none."""
        self._now_ms += 3 * MS_PER_HOUR
        for name in STREAMS:
            try:
                with self._open() as store:
                    try:
                        store.trim()
                        for number in range(3):
                            store.put_record(name, bytes(3_000), f"key {number}")
                    except StorageError:
                        self._words["trimming refused"] += 1
                    store.delete_stream(name, enforce_consumer_deletion=True)
                    store.create_stream(name)
                    store.put_records(name, [(bytes(2_000), "key")] * 50)
                    store.trim()
            except StorageError:
                self._words["deleting refused"] += 1
            except StreamStoreError as error:
                self._found.append(f"Deleting {name} raised {error!r}.")


def _run(ordeal: Ordeal) -> None:
    _Trials(ordeal).run()


PART: Final = Part(
    name="damage",
    what=(
        "Damages the files of a closed store: no read is silently wrong, nothing ends or hangs the process, records on "
        "other pages stay readable, and the check names what is lost."
    ),
    unit="files",
    sizes={"ci": Amount(cases=3_000), "release": Amount(cases=100_000)},
    run=_run,
)
