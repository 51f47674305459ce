"""From a request to its answer: in process for whoever can wait, awaited for a server of thousands of connections.

Both ways are the same steps in the same order: the envelope, who asks, the action, types, constraints, and then the
operation of the store. Only the last one is awaited, and only where awaiting needs no thread.
"""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from typing import Final, NamedTuple

from streamstore import AsyncFeed, AsyncStreamStore, Feed, StreamStore
from streamstore.dialect import YANDEX
from streamstore.errors import InvalidArgumentException, ProvisionedThroughputExceededException, StreamStoreError
from streamstore.model import SubscribeToShardEvent
from streamstore.wire.actions import Action, Output, actions_of
from streamstore.wire.arguments import Arguments
from streamstore.wire.eventstream import await_frames, frames
from streamstore.wire.http import LOG, Reply, WireRequest, WireResponse, answered
from streamstore.wire.protocol import (
    Codec,
    answer_with,
    answer_with_refusal,
    codec_of,
    open_envelope,
    stream_headers,
)
from streamstore.wire.refusal import Refusal, refusal_of
from streamstore.wire.shard_traffic import ShardTraffic
from streamstore.wire.transitions import Transitions
from streamstore.wire.validation import parse_request
from streamstore.wire.words import refusal_in_words

__all__ = ["Authenticate", "Dispatcher", "Permit"]

Permit = Callable[[str, str | None], None]
"""Told the action and the stream that it is about, None if it is about none. Raises ``Refusal`` to forbid it."""
Authenticate = Callable[[WireRequest], Permit]
"""Told each request before its body is looked at. Raises ``Refusal`` to refuse it."""

BODY_BYTES_ON_LOOP_MAX: Final = 65_536  # what is parsed in less than a millisecond; the rest goes to a thread
INTERNAL: Final = 500


class _Call(NamedTuple):
    action: Action
    arguments: Arguments
    codec: Codec


class Dispatcher:
    """Answers requests from a store, in its dialect. Safe to share between threads.

    ``authenticate``: who may ask, and what; None: everybody, everything.
    ``transition_ms``: 0 to 3,600,000, for how many milliseconds of the store's clock a stream or consumer that was
    changed through this object is CREATING, UPDATING or DELETING; the change is stored at once all the same.
    ``traffic``: what counts the records that the answers move; None: nothing does.

    Raises ``InvalidArgumentException``.
    """

    def __init__(
        self,
        store: StreamStore,
        *,
        authenticate: Authenticate | None = None,
        transition_ms: int = 0,
        traffic: ShardTraffic | None = None,
    ) -> None:
        self._store = store
        self._traffic = traffic
        self._awaited = AsyncStreamStore.of(store)
        self._dialect = store.dialect
        self._actions = actions_of(store.dialect)
        self._authenticate = authenticate
        self._transitions = Transitions(store, transition_ms)
        self._tasks: set[asyncio.Task[None]] = set()

    def answer(self, request: WireRequest) -> WireResponse:
        """Return the answer when it is known: a put is durable then. Never raises for anything in the request."""
        call = None
        try:
            call = self._open(request)
            return self._run(call)
        except Exception as error:
            return self._response_to_error(request, call, error)

    async def answer_async(self, request: WireRequest) -> WireResponse:
        """Like ``answer``; blocks no event loop, and waits for commits without a thread."""
        return await answered(self.start, request)

    def start(self, request: WireRequest, reply: Reply) -> None:
        """Like ``answer_async``, but ``reply`` is told, behind this call, in the thread of the running loop.

        A put needs no task then, which costs as much as the put.
        """
        if len(request.body) > BODY_BYTES_ON_LOOP_MAX:
            self._spawn(request, reply, self._open_in_thread(request, reply))
            return
        try:
            call = self._open(request)
        except Exception as error:
            self._spawn(request, reply, self._refuse(request, None, error, reply))
        else:
            self._start_call(request, call, reply)

    def _start_call(self, request: WireRequest, call: _Call, reply: Reply) -> None:
        try:
            if call.action.start is None or self._transitions.may_hide_shards(call.action.name, call.arguments):
                self._spawn(request, reply, self._run_in_thread(request, call, reply))
                return
            self._transitions.refuse_to_subscribe(call.action.name, call.arguments)
            started = call.action.start(self._awaited, call.arguments)
        except Exception as error:
            self._spawn(request, reply, self._refuse(request, call, error, reply))
            return
        if isinstance(started, AsyncFeed):
            asyncio.get_running_loop().call_soon(reply, self._response(call, started))
        else:
            started.future.add_done_callback(lambda _: self._finish(request, call, started.output, reply))

    def _finish(self, request: WireRequest, call: _Call, output: Callable[[], Output], reply: Reply) -> None:
        try:
            response = self._response(call, output())
        except Exception as error:
            self._spawn(request, reply, self._refuse(request, call, error, reply))
        else:
            reply(response)

    async def _open_in_thread(self, request: WireRequest, reply: Reply) -> None:
        try:
            call = await asyncio.to_thread(self._open, request)
        except Exception as error:
            await self._refuse(request, None, error, reply)
        else:
            self._start_call(request, call, reply)

    async def _run_in_thread(self, request: WireRequest, call: _Call, reply: Reply) -> None:
        try:
            response = await asyncio.to_thread(self._run, call)
        except Exception as error:
            await self._refuse(request, call, error, reply)
        else:
            reply(response)

    async def _refuse(self, request: WireRequest, call: _Call | None, error: Exception, reply: Reply) -> None:
        if isinstance(error, InvalidArgumentException):  # whose words may need a look at the store
            response = await asyncio.to_thread(self._response_to_error, request, call, error)
        else:
            response = self._response_to_error(request, call, error)
        reply(response)

    def _spawn(self, request: WireRequest, reply: Reply, answering: Coroutine[object, object, None]) -> None:
        async def answer() -> None:
            try:
                await answering
            except Exception as error:  # whatever goes wrong, who asked is not left waiting
                reply(self._response_to_error(request, None, error))

        task = asyncio.get_running_loop().create_task(answer())
        self._tasks.add(task)  # a loop knows its tasks only weakly
        task.add_done_callback(self._tasks.discard)

    def _open(self, request: WireRequest) -> _Call:
        """Return what is asked for, found valid and permitted."""
        name, codec, body = open_envelope(request, self._dialect)
        action = self._actions.get(name)
        if action is None:
            raise Refusal("InvalidAction" if self._dialect is YANDEX else "UnknownOperationException", None)
        permit = None if self._authenticate is None else self._authenticate(request)
        values = parse_request(action.request, body, self._dialect)
        arguments = Arguments(values, self._store, _retry_key(request))
        if permit is not None:
            permit(name, arguments.stream_asked_for())
        return _Call(action, arguments, codec)

    def _run(self, call: _Call) -> WireResponse:
        """Run and encode: a page of records is large."""
        return self._response(call, self._transitions.run(call.action.name, call.action.run, call.arguments))

    def _response(self, call: _Call, output: Output | AsyncFeed[SubscribeToShardEvent]) -> WireResponse:
        if isinstance(output, Feed):
            return WireResponse(200, stream_headers(), frames(output, call.codec, self._refusal_of), output.close)
        if isinstance(output, AsyncFeed):
            return WireResponse(200, stream_headers(), await_frames(output, call.codec, self._refusal_of), output.close)
        if self._traffic is not None and output is not None:
            self._traffic.count_answer(call.action.name, call.arguments, output)
        return answer_with(output, call.codec, self._dialect)

    def _refusal_of(self, error: StreamStoreError) -> Refusal:
        store = self._store
        return refusal_of(error, dialect=self._dialect, account_id=store.account_id, region=store.region)

    def _response_to_error(self, request: WireRequest, call: _Call | None, error: Exception) -> WireResponse:
        if self._traffic is not None and call is not None and isinstance(error, ProvisionedThroughputExceededException):
            self._traffic.count_throttle(call.action.name, error)
        try:
            if call is not None and isinstance(error, InvalidArgumentException) and error.argument != "read_only":
                error = refusal_in_words(self._store, call.arguments, error)
        except (StreamStoreError, Refusal) as worse:  # while it was looked for what to say
            error = worse
        if isinstance(error, StreamStoreError):
            error = self._refusal_of(error)
        if not isinstance(error, Refusal):
            LOG.error("A request met a mistake in streamstore.", exc_info=error)
            name = "InternalError" if self._dialect is YANDEX else "InternalFailure"
            error = Refusal(name, "The request met a mistake in the server, which its log tells.", status=INTERNAL)
        return answer_with_refusal(error, codec_of(request, self._dialect))


def _retry_key(request: WireRequest) -> str | None:
    """Return what is the same only for one request sent again: made of its client's name for it and of its body."""
    invocation_id = request.headers.get("amz-sdk-invocation-id")
    if not invocation_id:
        return None
    name = hashlib.blake2b(invocation_id.encode("utf-8", "surrogatepass")).digest()
    return hashlib.blake2b(request.body, key=name, digest_size=16).hexdigest()
