"""Changes that take a while to be seen: a stream is CREATING, UPDATING or DELETING before it is ACTIVE or gone.

The service changes streams in the background, so its clients wait for it. Here what an action changes is stored when it
is answered; only what is shown of it waits, in memory, for so many milliseconds of the store's clock. Nothing of this
outlives the object: a server that starts again shows all as it is.
"""

import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final, Literal, NamedTuple, TypeVar, cast

from streamstore import ResourceInUseException, ResourceNotFoundException, StreamStore
from streamstore.limits import TRANSITION_MS_MAX
from streamstore.validate import parse_whole_number
from streamstore.wire.arguments import Arguments
from streamstore.wire.consumer_transitions import CONSUMER_ACTIONS, ConsumerTransitions
from streamstore.wire.stream_actions import describe_stream, describe_stream_summary

__all__ = ["Transitions"]

T = TypeVar("T")
Output = Mapping[str, object]
Status = Literal["CREATING", "UPDATING", "DELETING"]

SHOWN_AFTER: Final[Mapping[str, Status | None]] = {
    "AddTagsToStream": None,
    "CreateStream": "CREATING",
    "DecreaseStreamRetentionPeriod": "UPDATING",
    "DeleteStream": "DELETING",
    "DisableEnhancedMonitoring": "UPDATING",
    "EnableEnhancedMonitoring": "UPDATING",
    "IncreaseStreamRetentionPeriod": "UPDATING",
    "MergeShards": "UPDATING",
    "RegisterStreamConsumer": None,
    "RemoveTagsFromStream": None,
    "SetWriteQuota": "UPDATING",
    "SplitShard": "UPDATING",
    "TagResource": None,
    "UntagResource": None,
    "UpdateMaxRecordSize": "UPDATING",
    "UpdateShardCount": "UPDATING",
    "UpdateStream": "UPDATING",
    "UpdateStreamMode": "UPDATING",
}
"""The actions that a stream must be ACTIVE for, and what it is behind them; None: it stays so."""
MEMBER_SHOWN: Final = {"DescribeStream": "StreamDescription", "DescribeStreamSummary": "StreamDescriptionSummary"}
NEEDS_SHARDS: Final = frozenset({"GetShardIterator", "ListShards", "PutRecord", "PutRecords"})
WITHOUT_SHARDS: Final[Output] = {"Shards": list[object](), "HasMoreShards": False, "OpenShardCount": 0}


class _Transition(NamedTuple):
    """What is shown of a stream from ``begun_ms`` on.

    ``created`` is when what is stored under its name was created, None if nothing is: once that is another, somebody
    else has changed it, and this has ended. ``last_seen`` is what the describing actions told of a deleted stream.
    """

    status: Status
    begun_ms: int
    created: datetime | None
    last_seen: Mapping[str, Output]


class Transitions:
    """Runs actions in a store, and shows for ``transition_ms`` (0 to 3,600,000) of its clock what they change.

    Safe to share between threads. Raises ``InvalidArgumentException``.
    """

    def __init__(self, store: StreamStore, transition_ms: int) -> None:
        self._store = store
        self._transition_ms = parse_whole_number("transition_ms", transition_ms, first=0, last=TRANSITION_MS_MAX)
        self._changing = threading.Lock()
        self._begun: dict[str, _Transition] = {}
        self._consumers = ConsumerTransitions(store, self._lasts)

    def may_hide_shards(self, action: str, arguments: Arguments) -> bool:
        """Tell, without a look at the store, whether ``run`` may refuse the action because there are no shards yet."""
        return bool(self._begun) and action in NEEDS_SHARDS and arguments.stream_asked_for() in self._begun

    def run(self, action: str, do: Callable[[StreamStore, Arguments], T], arguments: Arguments) -> T:
        """Return what ``do`` answers to the action, with the status that is to be seen.

        Raises what ``do`` raises, ``ResourceInUseException`` where the stream must be ACTIVE, and
        ``ResourceNotFoundException`` where it has no shards yet; then nothing is changed.
        """
        if self._transition_ms == 0:
            return do(self._store, arguments)
        if action in CONSUMER_ACTIONS:
            do = self._of_consumer(action, do)
        if action in SHOWN_AFTER:
            with self._changing:
                return self._change(action, do, arguments)
        if self.may_hide_shards(action, arguments):
            self._refuse_without_shards(action, arguments)
        elif action in MEMBER_SHOWN:
            return cast("T", self._description(action, do, arguments))
        elif action == "ListStreams":
            return cast("T", self._listing(cast("Output", do(self._store, arguments))))
        return do(self._store, arguments)

    def refuse_to_subscribe(self, action: str, arguments: Arguments) -> None:
        """Refuse what ``run`` would, if the action is to subscribe a consumer: where it is started and not run."""
        if action == "SubscribeToShard":
            self._consumers.refuse_if_creating(arguments)

    def _of_consumer(
        self, action: str, do: Callable[[StreamStore, Arguments], T]
    ) -> Callable[[StreamStore, Arguments], T]:
        return lambda _, arguments: self._consumers.run(action, do, arguments)

    def _change(self, action: str, do: Callable[[StreamStore, Arguments], T], arguments: Arguments) -> T:
        name = arguments.stream_asked_for()
        assert name is not None  # each of these actions names one
        running = self._running(name)
        if running is not None:
            if action == "CreateStream":
                raise ResourceInUseException(
                    resource=f"Stream {name}", remedy=f"wait until it is no longer {running.status}"
                )
            raise _not_active(name, running.status)
        status = SHOWN_AFTER[action]
        last_seen: dict[str, Output] = {}
        if status == "DELETING":
            last_seen["DescribeStreamSummary"] = describe_stream_summary(self._store, arguments)
            last_seen["DescribeStream"] = describe_stream(self._store, arguments)
        output = do(self._store, arguments)
        if status is not None:
            self._begin(name, status, last_seen)
        return output

    def _begin(self, name: str, status: Status, last_seen: Mapping[str, Output]) -> None:
        """Show the change from now on, and forget those that have ended."""
        lasting = {other: begun for other, begun in self._begun.items() if self._lasts(begun.begun_ms)}
        self._begun = {**lasting, name: _Transition(status, self._store.clock(), self._created(name), last_seen)}

    def _running(self, name: str) -> _Transition | None:
        begun = self._begun.get(name)
        if begun is None or not self._lasts(begun.begun_ms) or begun.created != self._created(name):
            return None
        return begun

    def _lasts(self, begun_ms: int) -> bool:
        return 0 <= self._store.clock() - begun_ms < self._transition_ms

    def _created(self, name: str) -> datetime | None:
        try:
            return self._store.describe_stream_summary(name).stream_creation_timestamp
        except ResourceNotFoundException:
            return None

    def _refuse_without_shards(self, action: str, arguments: Arguments) -> None:
        name = arguments.stream_asked_for()
        running = None if name is None else self._running(name)
        if name is None or running is None or running.status != "CREATING":
            return
        if action == "ListShards":
            raise _not_active(name, running.status)
        resource = f"Stream {name}"
        if action == "GetShardIterator":
            resource = f"Shard {arguments.text('ShardId')} in stream {name}"
        raise ResourceNotFoundException(resource=resource, remedy="wait until the stream is ACTIVE")

    def _description(self, action: str, do: Callable[[StreamStore, Arguments], T], arguments: Arguments) -> Output:
        running = self._running(arguments.stream_name())
        if running is not None and running.status == "DELETING":
            output = running.last_seen[action]
        else:
            output = cast("Output", do(self._store, arguments))
        if running is None:
            return output
        member = MEMBER_SHOWN[action]
        return {member: _shown(output[member], running.status)}

    def _listing(self, output: Output) -> Output:
        """Return a page of streams. One that is DELETING is on none."""
        summaries = cast("list[Output]", output["StreamSummaries"])
        running = [self._running(cast("str", stream["StreamName"])) for stream in summaries]
        return {
            **output,
            "StreamSummaries": [
                stream if begun is None else _shown(stream, begun.status)
                for stream, begun in zip(summaries, running, strict=True)
            ],
        }


def _shown(stream: object, status: Status) -> Output:
    """Return what a stream looks like with a status; without shards where it has none yet or no more."""
    seen = {**cast("Output", stream), "StreamStatus": status}
    if status == "UPDATING":
        return seen
    return {name: WITHOUT_SHARDS.get(name, value) for name, value in seen.items()}


def _not_active(name: str, status: Status) -> ResourceInUseException:
    return ResourceInUseException(
        resource=f"Stream {name}", problem=f"not ACTIVE, instead in state {status}", remedy="wait until it is"
    )
