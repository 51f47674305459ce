"""What a server answers: the requests of clients, whether it is well, and what it has counted.

Every request of a client is counted and, if wished, logged. From ``stop`` on the rest is refused with 503, while what
came before is finished.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from ipaddress import ip_address
from typing import Final

from streamstore import StoreClosedError, StreamStore, StreamStoreError
from streamstore.wire.access_log import AccessLog, line_of
from streamstore.wire.http import LOG, UNAVAILABLE, Reply, Start, WireRequest, WireResponse, answered
from streamstore.wire.metrics import METRICS_CONTENT_TYPE, Metrics
from streamstore.wire.protocol import JSON_1_1, answer_with_refusal
from streamstore.wire.refusal import refusal_of

__all__ = ["Service"]

HEALTH_PATH: Final = "/healthz"
METRICS_PATH: Final = "/metrics"
OWN_PATHS: Final = (HEALTH_PATH, METRICS_PATH)
ERROR_HEADER: Final = "x-amzn-errortype"
FORBIDDEN: Final = 403
INTERNAL: Final = 500
SUCCESS: Final = 200


class Service:
    """Answers with ``start``, and watches over it.

    ``metrics_for_all``: let every host look at the metrics, and not this machine alone: they name streams.
    """

    def __init__(
        self,
        store: StreamStore,
        start: Start,
        metrics: Metrics,
        *,
        access_log: AccessLog | None,
        metrics_for_all: bool,
        clock_s: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._start = start
        self._metrics = metrics
        self._access_log = access_log
        self._metrics_for_all = metrics_for_all
        self._clock_s = clock_s
        self._now = now
        self._answering = 0
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._telling: set[asyncio.Task[None]] = set()

    async def answer(self, request: WireRequest) -> WireResponse:
        """Return the answer to whatever is asked."""
        return await answered(self.start, request)

    def start(self, request: WireRequest, reply: Reply) -> None:
        """Like ``answer``, but ``reply`` is told, behind this call, in the thread of the running loop."""
        if request.method == "GET" and request.path in OWN_PATHS:
            telling = asyncio.ensure_future(self._tell(request, reply))
            self._telling.add(telling)  # a loop knows its tasks only weakly
            telling.add_done_callback(self._telling.discard)
            return
        begun_s = self._clock_s()

        def finish(response: WireResponse) -> None:
            self._answering -= 1
            if self._stopping.is_set():
                self._see_whether_idle()
            self._note(request, response, seconds=self._clock_s() - begun_s)
            if not isinstance(response.body, bytes):
                assert isinstance(response.body, AsyncIterator)  # because the answer was started
                response = response._replace(body=self._until_stopped(response.body))
            reply(response)

        self._answering += 1
        if self._stopping.is_set():
            asyncio.get_running_loop().call_soon(finish, self._refuse())
        else:
            self._start(request, finish)

    def stop(self) -> None:
        """Refuse from now on what comes."""
        self._stopping.set()
        self._see_whether_idle()

    async def finished(self) -> None:
        """Return when everything that came before ``stop`` is answered."""
        await self._idle.wait()

    def _see_whether_idle(self) -> None:
        if self._answering == 0:
            self._idle.set()

    async def _tell(self, request: WireRequest, reply: Reply) -> None:
        try:
            response = await (self._health() if request.path == HEALTH_PATH else self._rendered_metrics(request))
        except Exception as error:
            LOG.error("The server met a mistake in streamstore.", exc_info=error)
            response = _json_response(INTERNAL, {"problem": "a mistake in the server, which its log tells"})
        reply(response)

    async def _until_stopped(self, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the frames of a subscription, which would go on for minutes behind ``stop``; its reader comes again."""
        stopped = asyncio.ensure_future(self._stopping.wait())
        try:
            while True:
                step = asyncio.ensure_future(_next_frame(frames))
                await asyncio.wait((step, stopped), return_when=asyncio.FIRST_COMPLETED)
                if not step.done():
                    step.cancel()
                    await asyncio.wait((step,))
                    return
                frame = step.result()
                if frame is None:
                    return
                yield frame
        finally:
            stopped.cancel()

    def _refuse(self) -> WireResponse:
        error = StoreClosedError("The server stops; nothing was done. Try again.")
        store = self._store
        refusal = refusal_of(error, dialect=store.dialect, account_id=store.account_id, region=store.region)
        return answer_with_refusal(refusal, JSON_1_1)

    def _note(self, request: WireRequest, response: WireResponse, *, seconds: float) -> None:
        action = request.headers.get("x-amz-target", "").partition(".")[2]
        code = _code_of(response)
        self._metrics.count_request(action, code, seconds=seconds, request_bytes=len(request.body))
        if self._access_log is not None:
            line = line_of(request, response, action=action, code=code, ended=self._now(), seconds=seconds)
            self._access_log.write(line)

    async def _health(self) -> WireResponse:
        """Look into the store, without putting anything: one that stopped after a failed commit cannot be read."""
        if self._stopping.is_set():
            return _json_response(UNAVAILABLE, {"status": "stopping"})
        try:
            await asyncio.to_thread(self._store.list_streams, limit=1)
        except StreamStoreError as error:
            return _json_response(UNAVAILABLE, {"status": "failed", "problem": error.message})
        return _json_response(200, {"status": "ok"})

    async def _rendered_metrics(self, request: WireRequest) -> WireResponse:
        if not self._metrics_for_all and not _is_loopback(request.client):
            return _json_response(FORBIDDEN, {"problem": "metrics are shown to this machine only"})
        try:
            body = await asyncio.to_thread(self._metrics.render)
        except StreamStoreError as error:
            return _json_response(UNAVAILABLE, {"problem": error.message})
        return WireResponse(200, [("Content-Type", METRICS_CONTENT_TYPE)], body)


async def _next_frame(frames: AsyncIterator[bytes]) -> bytes | None:
    return await anext(frames, None)


def _code_of(response: WireResponse) -> str | None:
    """Return the name of the error that was answered, None if it was a success."""
    if response.status == SUCCESS:
        return None
    return next((value for name, value in response.headers if name.lower() == ERROR_HEADER), None)


def _is_loopback(client: str | None) -> bool:
    return client is None or ip_address(client.partition("%")[0]).is_loopback


def _json_response(status: int, value: dict[str, str]) -> WireResponse:
    return WireResponse(status, [("Content-Type", "application/json")], json.dumps(value).encode())
