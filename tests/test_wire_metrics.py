"""What a server tells of itself: its counts, whether it is well, and a line for each request."""

import asyncio
import json
import os
import re
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import pytest

from streamstore import StreamStore
from streamstore.wire.access_log import AccessLog
from streamstore.wire.actions import actions_of
from streamstore.wire.counts import CountsBoard
from streamstore.wire.dispatch import Dispatcher
from streamstore.wire.http import Answer, Reply, Start, WireRequest, WireResponse
from streamstore.wire.metrics import Metrics
from streamstore.wire.service import Service
from streamstore.wire.shard_traffic import ShardTraffic
from tests.children import WAIT_S
from tests.signing import BODY, KEY_ID, SECRET, signed

T = TypeVar("T")

NOW: Final = datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=UTC)
HEALTH: Final = WireRequest("GET", "/healthz", "", {}, b"", "127.0.0.1")
METRICS: Final = WireRequest("GET", "/metrics", "", {}, b"", "127.0.0.1")
PUT: Final = signed()._replace(client="10.0.0.1")


class Ticking:
    """A clock that is read twice for each request, and shows a quarter of a second between the two."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def __call__(self) -> float:
        self._now_s += 0.25
        return self._now_s


def started(answer: Answer) -> Start:
    """Return a function that answers in a task of its own."""
    answering: set[asyncio.Task[None]] = set()

    def start(request: WireRequest, reply: Reply) -> None:
        async def run_it() -> None:
            reply(await answer(request))

        answering.add(asyncio.ensure_future(run_it()))

    return start


def service_of(
    store: StreamStore,
    *,
    answer: Answer | None = None,
    access_log: AccessLog | None = None,
    metrics_for_all: bool = False,
) -> Service:
    metrics = Metrics(store, actions_of(store.dialect).keys(), CountsBoard(1), 0)
    dispatcher = Dispatcher(store, traffic=ShardTraffic(store, metrics.counts))
    return Service(
        store,
        dispatcher.start if answer is None else started(answer),
        metrics,
        access_log=access_log,
        metrics_for_all=metrics_for_all,
        clock_s=Ticking(),
        now=lambda: NOW,
    )


def run(test: Callable[[], Coroutine[object, object, T]]) -> T:
    return asyncio.run(asyncio.wait_for(test(), WAIT_S))


def answers(store: StreamStore, *requests: WireRequest, metrics_for_all: bool = False) -> list[WireResponse]:
    """Return what one service answers to the requests, one after the other."""

    async def ask() -> list[WireResponse]:
        service = service_of(store, metrics_for_all=metrics_for_all)
        return [await service.answer(request) for request in requests]

    return run(ask)


def text_of(response: WireResponse) -> str:
    assert isinstance(response.body, bytes)
    return response.body.decode()


def metrics_after(store: StreamStore, *requests: WireRequest) -> dict[str, float]:
    """Return the metrics behind the requests, without the buckets of histograms."""

    async def ask() -> WireResponse:
        service = service_of(store)
        for request in requests:
            await service.answer(request)
        # A commit is told behind its answers, but in front of the next commit of the writer's thread.
        await asyncio.to_thread(store.create_stream, "settled")
        return await service.answer(METRICS)

    response = run(ask)
    assert response.status == 200
    lines = [line for line in text_of(response).splitlines() if not line.startswith("#") and "_bucket{" not in line]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def of_action(request: WireRequest, action: str) -> WireRequest:
    return request._replace(headers={**request.headers, "x-amz-target": f"Kinesis_20131202.{action}"})


def test_puts_and_their_refusals_are_counted(aws_store: StreamStore) -> None:
    aws_store.create_stream("clicks")
    metrics = metrics_after(aws_store, PUT, PUT, PUT._replace(body=BODY.replace(b"clicks", b"others")))
    assert metrics['streamstore_requests_total{action="PutRecord",code="OK"}'] == 2
    assert metrics['streamstore_requests_total{action="PutRecord",code="ResourceNotFoundException"}'] == 1
    assert metrics['streamstore_request_seconds_count{action="PutRecord"}'] == 3
    assert metrics['streamstore_request_seconds_sum{action="PutRecord"}'] == 0.75
    assert metrics["streamstore_request_bytes_total"] == 3 * len(BODY)
    assert metrics["streamstore_records_put_total"] == 2
    assert metrics["streamstore_put_bytes_total"] == 2 * len(b"hi")
    assert metrics["streamstore_commit_requests_total"] >= 3
    assert metrics["streamstore_commit_seconds_count"] >= 1
    assert metrics["streamstore_commit_seconds_sum"] > 0


def test_records_that_are_throttled_are_counted(aws_store: StreamStore) -> None:
    aws_store.create_stream("clicks", write_quota_kb_per_sec=128)
    aws_store.put_record("clicks", bytes(131_072), "k")
    metrics = metrics_after(aws_store, PUT)
    code = "ProvisionedThroughputExceededException"
    assert metrics[f'streamstore_requests_total{{action="PutRecord",code="{code}"}}'] == 1
    assert metrics["streamstore_records_throttled_total"] == 1
    assert metrics["streamstore_records_put_total"] == 0


def test_what_was_counted_is_shown_whoever_else_shows_it_meanwhile(aws_store: StreamStore) -> None:
    """The loop shows the counts every second, and each who asks for the metrics does on a thread of its own."""
    metrics = Metrics(aws_store, actions_of(aws_store.dialect).keys(), CountsBoard(1), 0)
    is_over = threading.Event()

    def show_on() -> None:
        while not is_over.is_set():
            metrics.show()

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    others = [threading.Thread(target=show_on) for _ in range(4)]
    try:
        for other in others:
            other.start()
        for count in range(1, 101):
            metrics.count_request("PutRecord", None, seconds=0.25, request_bytes=1)
            assert f'streamstore_requests_total{{action="PutRecord",code="OK"}} {count}.0' in metrics.render().decode()
    finally:
        is_over.set()
        for other in others:
            other.join(WAIT_S)
        sys.setswitchinterval(interval_s)


def test_the_file_its_readers_and_streams_are_shown(aws_store: StreamStore, store_path: Path) -> None:
    aws_store.create_stream("clicks")
    aws_store.create_stream("orders")
    metrics = metrics_after(aws_store)
    assert metrics["streamstore_streams"] == len(("clicks", "orders", "settled"))
    assert metrics["streamstore_file_bytes"] == (store_path / "data.mdb").stat().st_size
    assert metrics["streamstore_reader_slots_used"] >= 1


def test_the_lag_of_every_consumer_is_shown(aws_store: StreamStore) -> None:
    aws_store.create_stream("clicks")
    with aws_store.consumer("clicks", "billing"):
        pass
    for _ in range(3):
        aws_store.put_record("clicks", b"1", "k")
    metrics = metrics_after(aws_store)
    labels = '{consumer="billing",stream="clicks"}'
    assert metrics[f"streamstore_consumer_lag_records{labels}"] == 3
    assert metrics[f"streamstore_consumer_lag_seconds{labels}"] == 0.001


def test_more_streams_than_a_page_holds_are_all_looked_at(
    aws_store: StreamStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamstore.wire.metrics.STREAMS_PER_PAGE", 1)
    for name in ("a", "b", "c"):
        aws_store.create_stream(name)
    assert metrics_after(aws_store)["streamstore_streams"] == len(("a", "b", "c", "settled"))


def test_no_client_can_add_a_metric_of_its_own(aws_store: StreamStore) -> None:
    requests = [of_action(PUT, f"Action{number}") for number in range(10)]
    metrics = metrics_after(aws_store, *requests, PUT._replace(headers={}))
    names = {name for name in metrics if name.startswith("streamstore_requests_total")}
    assert names == {'streamstore_requests_total{action="other",code="UnknownOperationException"}'}


def test_metrics_are_for_this_machine_unless_asked(aws_store: StreamStore) -> None:
    for client, status in (("10.0.0.1", 403), ("2001:db8::1", 403), ("127.0.0.2", 200), ("::1", 200), (None, 200)):
        assert answers(aws_store, METRICS._replace(client=client))[0].status == status
        assert answers(aws_store, METRICS._replace(client=client), metrics_for_all=True)[0].status == 200


def test_a_server_is_well_while_its_store_can_be_read(aws_store: StreamStore) -> None:
    (well,) = answers(aws_store, HEALTH._replace(client="10.0.0.1"))
    assert (well.status, json.loads(text_of(well))) == (200, {"status": "ok"})
    aws_store.close()
    (closed,) = answers(aws_store, HEALTH)
    assert closed.status == 503
    assert json.loads(text_of(closed))["status"] == "failed"


@pytest.mark.parametrize("request_", [HEALTH, METRICS])
def test_who_asks_a_server_with_a_mistake_is_not_left_waiting(
    aws_store: StreamStore, request_: WireRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def err(*_: object, **__: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(aws_store, "list_streams", err)
    (response,) = answers(aws_store, request_)
    assert (response.status, json.loads(text_of(response))) == (
        500,
        {"problem": "a mistake in the server, which its log tells"},
    )


def test_metrics_of_a_store_that_is_closed_are_unavailable(aws_store: StreamStore) -> None:
    aws_store.close()
    assert answers(aws_store, METRICS)[0].status == 503


@pytest.mark.parametrize("request_", [HEALTH, METRICS])
def test_what_is_not_asked_by_get_is_a_request_of_a_client(aws_store: StreamStore, request_: WireRequest) -> None:
    (response,) = answers(aws_store, request_._replace(method="POST"))
    assert response.status == 400


def test_what_came_before_the_stop_is_finished_and_the_rest_refused(aws_store: StreamStore) -> None:
    """The order of events is fixed: nothing here waits for a clock."""

    async def stop() -> None:
        go_on, begun = asyncio.Event(), asyncio.Event()

        async def answer(_: WireRequest) -> WireResponse:
            begun.set()
            await go_on.wait()
            return WireResponse(200, [], b"done")

        service = service_of(aws_store, answer=answer)
        first = asyncio.create_task(service.answer(PUT))
        await begun.wait()
        service.stop()
        finished = asyncio.create_task(service.finished())
        refused = await service.answer(PUT)
        assert refused.status == 503
        assert json.loads(text_of(refused))["__type"] == "ServiceUnavailable"
        assert (await service.answer(HEALTH)).status == 503
        for _ in range(10):  # whatever can go on does
            await asyncio.sleep(0)
        assert not finished.done()
        go_on.set()
        assert (await first).body == b"done"
        await finished

    run(stop)


def test_a_subscription_ends_when_the_server_stops(aws_store: StreamStore) -> None:
    async def stop() -> None:
        closed = asyncio.Event()

        async def frames() -> AsyncIterator[bytes]:
            try:
                yield b"one"
                await asyncio.Event().wait()
            finally:
                closed.set()

        async def answer(_: WireRequest) -> WireResponse:
            return WireResponse(200, [], frames())

        service = service_of(aws_store, answer=answer)
        body = (await service.answer(PUT)).body
        assert isinstance(body, AsyncIterator)
        assert await anext(body) == b"one"
        rest = asyncio.ensure_future(_rest(body))
        service.stop()
        assert await rest == []
        await closed.wait()

    run(stop)


def test_a_subscription_that_ends_by_itself_is_handed_on_whole(aws_store: StreamStore) -> None:
    async def subscribe() -> list[bytes]:
        async def frames() -> AsyncIterator[bytes]:
            yield b"one"
            yield b"two"

        async def answer(_: WireRequest) -> WireResponse:
            return WireResponse(200, [], frames())

        body = (await service_of(aws_store, answer=answer).answer(PUT)).body
        assert isinstance(body, AsyncIterator)
        return await _rest(body)

    assert run(subscribe) == [b"one", b"two"]


async def _rest(frames: AsyncIterator[bytes]) -> list[bytes]:
    return [frame async for frame in frames]


def test_a_line_is_logged_for_each_request_with_no_secret_and_no_data(aws_store: StreamStore, tmp_path: Path) -> None:
    aws_store.create_stream("clicks")
    path = tmp_path / "access.log"

    async def put() -> list[WireResponse]:
        log = AccessLog(str(path))
        service = service_of(aws_store, access_log=log)
        unknown = of_action(PUT, "x" * 1_000)._replace(body=b"{}")
        responses = [await service.answer(PUT), await service.answer(unknown)]
        log.close()
        return responses

    put_response, refused = run(put)
    text = path.read_text(encoding="ascii")
    first, second = (json.loads(line) for line in text.splitlines())
    assert first == {
        "time": "2026-01-02T03:04:05.678+00:00",
        "request_id": dict(put_response.headers)["x-amzn-RequestId"],
        "client": "10.0.0.1",
        "key": KEY_ID,
        "method": "POST",
        "path": "/",
        "action": "PutRecord",
        "status": 200,
        "code": None,
        "request_bytes": len(BODY),
        "response_bytes": len(text_of(put_response)),
        "seconds": 0.25,
    }
    assert (second["status"], second["code"]) == (refused.status, "UnknownOperationException")
    assert len(second["action"]) == 256
    signature = re.findall("Signature=([0-9a-f]+)", PUT.headers["authorization"])[0]
    assert SECRET not in text
    assert signature not in text
    assert "aGk=" not in text


def test_a_log_that_was_moved_goes_on_in_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(str(path))
    log.write({"number": 1})
    path.rename(tmp_path / "old.log")
    log.write({"number": 2})
    log.reopen()
    log.write({"number": 3})
    log.close()
    assert (tmp_path / "old.log").read_text() == '{"number":1}\n{"number":2}\n'
    assert path.read_text() == '{"number":3}\n'


def test_a_log_that_cannot_be_opened_anew_goes_on_in_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    log = AccessLog(str(folder / "access.log"))
    folder.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError):
        log.reopen()
    log.write({"number": 1})
    log.close()
    assert (tmp_path / "moved" / "access.log").read_text() == '{"number":1}\n'


def test_a_log_can_go_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    log = AccessLog("-")
    log.write({"number": 1})
    log.close()
    assert capfd.readouterr().err == '{"number":1}\n'
    os.fstat(2)  # which is still open
