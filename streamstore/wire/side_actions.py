"""What the actions beside records and streams do: tags, consumers, metrics, and what has no meaning on one machine.

What has none is refused, and the refusal says why; what is true all the same (nothing is encrypted, nobody is billed)
is answered.
"""

from collections.abc import Callable
from typing import NoReturn

from streamstore import StreamStore
from streamstore.dialect import YANDEX
from streamstore.limits import LIST_STREAM_CONSUMERS_LIMIT_DEFAULT, LIST_TAGS_LIMIT_MAX
from streamstore.model import EnhancedMonitoringResult, ShardLevelMetric
from streamstore.validate_settings import parse_shard_level_metrics
from streamstore.wire.arguments import Arguments
from streamstore.wire.members import wire_value
from streamstore.wire.refusal import Refusal

__all__ = [
    "add_tags_to_stream",
    "delete_resource_policy",
    "deregister_stream_consumer",
    "describe_account_settings",
    "describe_stream_consumer",
    "disable_enhanced_monitoring",
    "enable_enhanced_monitoring",
    "list_stream_consumers",
    "list_tags_for_resource",
    "list_tags_for_stream",
    "refused",
    "register_stream_consumer",
    "remove_tags_from_stream",
    "stop_stream_encryption",
    "tag_resource",
    "untag_resource",
    "update_account_settings",
]


def add_tags_to_stream(store: StreamStore, arguments: Arguments) -> None:
    store.add_tags_to_stream(arguments.stream_name(), arguments.pairs("Tags") or {})


def remove_tags_from_stream(store: StreamStore, arguments: Arguments) -> None:
    store.remove_tags_from_stream(arguments.stream_name(), arguments.texts("TagKeys"))


def list_tags_for_stream(store: StreamStore, arguments: Arguments) -> dict[str, object]:
    page = store.list_tags_for_stream(
        arguments.stream_name(),
        exclusive_start_tag_key=arguments.text_or_none("ExclusiveStartTagKey"),
        limit=arguments.whole("Limit", LIST_TAGS_LIMIT_MAX),
    )
    return {"Tags": wire_value(page.tags), "HasMoreTags": page.has_more_tags}


def tag_resource(store: StreamStore, arguments: Arguments) -> None:
    store.add_tags_to_stream(_tagged_stream(arguments), arguments.pairs("Tags") or {})


def untag_resource(store: StreamStore, arguments: Arguments) -> None:
    store.remove_tags_from_stream(_tagged_stream(arguments), arguments.texts("TagKeys"))


def list_tags_for_resource(store: StreamStore, arguments: Arguments) -> dict[str, object]:
    return {"Tags": wire_value(store.list_tags_for_stream(_tagged_stream(arguments)).tags)}


def register_stream_consumer(store: StreamStore, arguments: Arguments) -> dict[str, object]:
    if arguments.pairs("Tags"):
        raise Refusal("InvalidArgumentException", "This store keeps tags of streams, not of consumers.")
    consumer = store.register_stream_consumer(arguments.stream_name(), arguments.text("ConsumerName"))
    return {"Consumer": wire_value(consumer)}


def describe_stream_consumer(store: StreamStore, arguments: Arguments) -> dict[str, object]:
    stream_name, consumer_name, arn = _consumer_address(arguments)
    consumer = store.describe_stream_consumer(stream_name, consumer_name, consumer_arn=arn)
    return {"ConsumerDescription": wire_value(consumer)}


def list_stream_consumers(store: StreamStore, arguments: Arguments) -> dict[str, object]:
    page = store.list_stream_consumers(
        arguments.stream_name(),
        next_token=arguments.text_or_none("NextToken"),
        max_results=arguments.whole("MaxResults", LIST_STREAM_CONSUMERS_LIMIT_DEFAULT),
    )
    consumers = {"Consumers": wire_value(page.consumers)}
    return consumers if page.next_token is None else {**consumers, "NextToken": page.next_token}


def deregister_stream_consumer(store: StreamStore, arguments: Arguments) -> None:
    stream_name, consumer_name, arn = _consumer_address(arguments)
    store.deregister_stream_consumer(stream_name, consumer_name, consumer_arn=arn)


def describe_account_settings(store: StreamStore, arguments: Arguments) -> dict[str, object]:
    del store, arguments
    return {"MinimumThroughputBillingCommitment": {"Status": "DISABLED"}}


def update_account_settings(store: StreamStore, arguments: Arguments) -> dict[str, object]:
    if arguments.structure("MinimumThroughputBillingCommitment").text("Status") == "ENABLED":
        raise Refusal("InvalidArgumentException", "Nobody is billed here, so there is no commitment to make.")
    return describe_account_settings(store, arguments)


def enable_enhanced_monitoring(store: StreamStore, arguments: Arguments) -> dict[str, object]:
    """Yandex Data Streams has no such action, so it is known and refused there."""
    if store.dialect is YANDEX:
        refused("InvalidAction", "Yandex Data Streams has no metrics of single shards.")(store, arguments)
    return _monitoring(store.enable_enhanced_monitoring(arguments.stream_name(), _metrics(arguments)))


def disable_enhanced_monitoring(store: StreamStore, arguments: Arguments) -> dict[str, object]:
    """In both dialects: who embeds a store of Yandex's may have enabled some."""
    return _monitoring(store.disable_enhanced_monitoring(arguments.stream_name(), _metrics(arguments)))


def stop_stream_encryption(store: StreamStore, arguments: Arguments) -> None:
    """Nothing is encrypted, so it is stopped."""
    _require_stream(store, arguments)


def delete_resource_policy(store: StreamStore, arguments: Arguments) -> NoReturn:
    """There is none."""
    arn = arguments.text("ResourceARN")
    refused("ResourceNotFoundException", f"No resource policy found for resource ARN {arn}.")(store, arguments)


def refused(error_name: str, message: str) -> Callable[[StreamStore, Arguments], NoReturn]:
    """Return the answer to what has no meaning here: the action is known, and its stream is looked for first."""

    def refuse(store: StreamStore, arguments: Arguments) -> NoReturn:
        _require_stream(store, arguments)
        if store.dialect is YANDEX:
            raise Refusal("InvalidAction", f"Method is not implemented yet. {message}")
        raise Refusal(error_name, message)

    return refuse


def _metrics(arguments: Arguments) -> frozenset[ShardLevelMetric]:
    return parse_shard_level_metrics(arguments.texts("ShardLevelMetrics"))


def _monitoring(result: EnhancedMonitoringResult) -> dict[str, object]:
    return {
        "StreamName": result.stream_name,
        "StreamARN": result.stream_arn,
        "CurrentShardLevelMetrics": list(result.current_shard_level_metrics),
        "DesiredShardLevelMetrics": list(result.desired_shard_level_metrics),
    }


def _require_stream(store: StreamStore, arguments: Arguments) -> str:
    """Return the name of the stream that the request or its resource's ARN names, which must exist."""
    name = arguments.stream_name_or_none()
    if name is None:
        name = _tagged_stream(arguments)
    return store.describe_stream_summary(name).stream_name


def _consumer_address(arguments: Arguments) -> tuple[str | None, str | None, str | None]:
    """Return the names of a stream and of its consumer, or the ARN of the consumer."""
    arn = arguments.arn_or_none("Consumer")
    if arn is None and not (arguments.stream_name_or_none() and arguments.has("ConsumerName")):
        raise Refusal("InvalidArgumentException", "Either ConsumerARN, or StreamARN and ConsumerName must be given.")
    if arn is not None:
        return None, None, arn
    return arguments.stream_name(), arguments.text("ConsumerName"), None


def _tagged_stream(arguments: Arguments) -> str:
    arn = arguments.text("ResourceARN")
    if "/consumer/" in arn:
        raise Refusal("InvalidArgumentException", "This store keeps tags and policies of streams, not of consumers.")
    return arguments.stream_of_arn(arn)
