"""Consumers that are CREATING or DELETING for a while before they are ACTIVE or gone, as their streams are.

Shown in memory only, like that of the streams: a consumer is stored, or gone, when its registration is answered.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple, TypeVar, cast

from streamstore import LimitExceededException, ResourceInUseException, ResourceNotFoundException, StreamStore
from streamstore.validate_consumers import parse_consumer_arn
from streamstore.wire.arguments import Arguments
from streamstore.wire.side_actions import describe_stream_consumer

__all__ = ["CONSUMER_ACTIONS", "ConsumerTransitions"]

T = TypeVar("T")
Output = Mapping[str, object]
Status = Literal["CREATING", "DELETING"]

CREATING_MAX: Final = 5
"""So many consumers of a stream may be CREATING at once. Source: RegisterStreamConsumer of the service."""
CONSUMER_ACTIONS: Final = frozenset(
    {
        "DeregisterStreamConsumer",
        "DescribeStreamConsumer",
        "ListStreamConsumers",
        "RegisterStreamConsumer",
        "SubscribeToShard",
    }
)


class _Transition(NamedTuple):
    """What is shown of a consumer from ``begun_ms`` on. ``last_seen`` is its description."""

    stream_name: str
    consumer_name: str
    status: Status
    begun_ms: int
    last_seen: Output


class ConsumerTransitions:
    """Runs the actions on consumers, and shows what they change for as long as ``lasts`` tells of its beginning.

    Safe to share between threads.
    """

    def __init__(self, store: StreamStore, lasts: Callable[[int], bool]) -> None:
        self._store = store
        self._lasts = lasts
        self._changing = threading.Lock()
        self._begun: dict[str, _Transition] = {}
        """By the ARN of the consumer: one that is registered again has another."""

    def run(self, action: str, do: Callable[[StreamStore, Arguments], T], arguments: Arguments) -> T:
        """Return what ``do`` answers to one of the ``CONSUMER_ACTIONS``, with the statuses that are to be seen.

        Raises what ``do`` raises, ``ResourceInUseException`` where the consumer must be ACTIVE or its name free, and
        ``LimitExceededException`` where too many are CREATING; then nothing is changed.
        """
        if action == "RegisterStreamConsumer":
            return cast("T", self._register(do, arguments))
        if action == "DeregisterStreamConsumer":
            return self._deregister(do, arguments)
        if action == "DescribeStreamConsumer":
            return cast("T", self._description(do, arguments))
        if action == "ListStreamConsumers":
            output = cast("Output", do(self._store, arguments))
            consumers = [self._shown(consumer) for consumer in cast("list[Output]", output["Consumers"])]
            return cast("T", {**output, "Consumers": consumers})
        self.refuse_if_creating(arguments)
        return do(self._store, arguments)

    def refuse_if_creating(self, arguments: Arguments) -> None:
        """Refuse to subscribe a consumer that is not ACTIVE yet."""
        arn = arguments.consumer_arn()
        begun = self._begun.get(arn)
        if begun is None or begun.status != "CREATING" or not self._lasts(begun.begun_ms):
            return
        self._store.describe_stream_consumer(consumer_arn=arn)  # somebody else may have taken it away
        raise _in_use(begun, problem=f"not ACTIVE, instead in state {begun.status}")

    def _register(self, do: Callable[[StreamStore, Arguments], T], arguments: Arguments) -> Output:
        stream_name, consumer_name = arguments.stream_name(), arguments.text("ConsumerName")
        with self._changing:
            lasting = self._lasting(stream_name)
            for begun in lasting:
                if begun.consumer_name == consumer_name and begun.status == "DELETING":
                    raise _in_use(begun, problem="already exists")
            if sum(begun.status == "CREATING" for begun in lasting) >= CREATING_MAX:
                raise LimitExceededException(
                    limit=f"{CREATING_MAX} consumers of a stream that are CREATING", remedy="wait until one is ACTIVE"
                )
            output = cast("Output", do(self._store, arguments))
            self._begin(stream_name, "CREATING", cast("Output", output["Consumer"]))
        return {"Consumer": self._shown(cast("Output", output["Consumer"]))}

    def _deregister(self, do: Callable[[StreamStore, Arguments], T], arguments: Arguments) -> T:
        with self._changing:
            seen = cast("Output", describe_stream_consumer(self._store, arguments)["ConsumerDescription"])
            output = do(self._store, arguments)
            _, stream_name, _ = parse_consumer_arn(seen["ConsumerARN"], self._store.dialect)
            self._begin(stream_name, "DELETING", seen)
        return output

    def _description(self, do: Callable[[StreamStore, Arguments], T], arguments: Arguments) -> Output:
        try:
            output = cast("Output", do(self._store, arguments))
        except ResourceNotFoundException:
            for arn, begun in list(self._begun.items()):
                if begun.status == "DELETING" and self._lasts(begun.begun_ms) and _is_about(arguments, arn, begun):
                    return {"ConsumerDescription": {**begun.last_seen, "ConsumerStatus": begun.status}}
            raise
        return {"ConsumerDescription": self._shown(cast("Output", output["ConsumerDescription"]))}

    def _begin(self, stream_name: str, status: Status, consumer: Output) -> None:
        """Show the change from now on, and forget those that have ended."""
        arn, name = cast("str", consumer["ConsumerARN"]), cast("str", consumer["ConsumerName"])
        lasting = {other: begun for other, begun in self._begun.items() if self._lasts(begun.begun_ms)}
        self._begun = {**lasting, arn: _Transition(stream_name, name, status, self._store.clock(), consumer)}

    def _lasting(self, stream_name: str) -> list[_Transition]:
        """Return what is under way with the consumers of a stream; nothing is with those that somebody else changed."""
        page = self._store.list_stream_consumers(stream_name, max_results=self._store.dialect.consumers_per_stream_max)
        known = {consumer.consumer_arn for consumer in page.consumers}
        return [
            begun
            for arn, begun in self._begun.items()
            if begun.stream_name == stream_name
            and self._lasts(begun.begun_ms)
            and (arn in known) == (begun.status == "CREATING")
        ]

    def _shown(self, consumer: Output) -> Output:
        begun = self._begun.get(cast("str", consumer["ConsumerARN"]))
        if begun is None or begun.status != "CREATING" or not self._lasts(begun.begun_ms):
            return consumer
        return {**consumer, "ConsumerStatus": begun.status}


def _is_about(arguments: Arguments, arn: str, begun: _Transition) -> bool:
    """Tell whether a request names the consumer, by its ARN or by its name and that of its stream."""
    asked_arn = arguments.arn_or_none("Consumer")
    if asked_arn is not None:
        return asked_arn == arn
    return (arguments.stream_name_or_none(), arguments.text_or_none("ConsumerName")) == begun[:2]


def _in_use(begun: _Transition, *, problem: str) -> ResourceInUseException:
    return ResourceInUseException(
        resource=f"Consumer {begun.consumer_name} of stream {begun.stream_name}",
        problem=problem,
        remedy=f"wait until it is no longer {begun.status}",
    )
