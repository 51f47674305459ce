"""The control plane of consumers: register, describe, list and deregister those of a stream."""

from itertools import islice

from streamstore.consumers import delete_consumer, iterate_consumers, load_consumer, register_consumer
from streamstore.errors import InvalidArgumentException, ResourceNotFoundException
from streamstore.iterator import ConsumersPage, encode_consumers_token, parse_consumers_token
from streamstore.limits import LIST_LIMIT_MAX, LIST_STREAM_CONSUMERS_LIMIT_DEFAULT
from streamstore.model import (
    Consumer,
    ConsumerDescription,
    ListStreamConsumersResult,
    StoredConsumer,
    StoredStream,
    datetime_of_ms,
)
from streamstore.settings_control import SettingsControl
from streamstore.transaction import ReadTransaction, WriteTransaction
from streamstore.validate import parse_stream_name, parse_whole_number
from streamstore.validate_consumers import parse_consumer_address, parse_consumer_name

__all__ = ["ConsumerControl"]


class ConsumerControl(SettingsControl):
    """The operations on the consumers of a stream. What each does is said in its own docstring."""

    def register_stream_consumer(self, stream_name: str, consumer_name: str) -> Consumer:
        """Register a consumer with a stream. It is active when the call returns. Source: RegisterStreamConsumer.

        ``consumer_name``: 1 to 128 letters, digits, "_", "." and "-".

        Raises, with nothing changed: ``InvalidArgumentException``, ``ResourceNotFoundException`` (no such stream),
        ``ResourceInUseException`` (the name is taken), ``LimitExceededException`` (the stream has 5 consumers or more
        already, in the dialect "aws" 20), and the storage errors of ``put_record``.
        """
        now_ms = self._clock()
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        consumer_to_register = parse_consumer_name(consumer_name)
        consumer = self._change_stream(
            name,
            lambda transaction, stream: register_consumer(
                transaction, stream, consumer_to_register, dialect=self._dialect, now_ms=now_ms
            ),
        )
        return self._consumer(name, consumer)

    def describe_stream_consumer(
        self, stream_name: str | None = None, consumer_name: str | None = None, *, consumer_arn: str | None = None
    ) -> ConsumerDescription:
        """Describe a consumer, named by its stream and its name, or by its ARN alone.

        The ARN of a consumer that was registered again since is that of no consumer.

        Raises ``InvalidArgumentException``, ``ResourceNotFoundException`` (stream or consumer), ``StorageError``.
        """
        name, consumer_to_find = parse_consumer_address(stream_name, consumer_name, consumer_arn, self._dialect)

        def look(transaction: ReadTransaction) -> Consumer:
            stream = self._catalog.load(transaction, name).stored
            return self._load_consumer(transaction, stream, consumer_to_find, consumer_arn)

        consumer = self._engine.read(look)
        return ConsumerDescription(
            consumer_name=consumer.consumer_name,
            consumer_arn=consumer.consumer_arn,
            consumer_status=consumer.consumer_status,
            consumer_creation_timestamp=consumer.consumer_creation_timestamp,
            stream_arn=self.stream_arn(name),
        )

    def list_stream_consumers(
        self,
        stream_name: str,
        *,
        next_token: str | None = None,
        max_results: int = LIST_STREAM_CONSUMERS_LIMIT_DEFAULT,
    ) -> ListStreamConsumersResult:
        """List up to ``max_results`` (1 to 10,000) consumers of a stream, in bytewise order of their names.

        Go on with the ``next_token`` of the page before (good for 300 s): behind its last name, whatever was registered
        or deregistered meanwhile.

        Raises ``InvalidArgumentException``, ``ExpiredNextTokenException``, ``ResourceNotFoundException`` (no such
        stream), ``StorageError``.
        """
        now_ms = self._clock()
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        page_limit = parse_whole_number("max_results", max_results, first=1, last=LIST_LIMIT_MAX)
        page = None if next_token is None else parse_consumers_token(next_token, now_ms=now_ms, secret=self._secret)

        def look(transaction: ReadTransaction) -> list[StoredConsumer]:
            stream = self._catalog.load(transaction, name).stored
            if page is not None and page.stream_number != stream.number:
                raise InvalidArgumentException(
                    argument="next_token", value=next_token, constraint="belong to the stream that has this name today"
                )
            after_consumer_name = "" if page is None else page.after_consumer_name
            return list(islice(iterate_consumers(transaction, stream, after_consumer_name), page_limit + 1))

        found = self._engine.read(look)
        token = None
        if len(found) > page_limit:
            found = found[:page_limit]
            end = ConsumersPage(found[-1].stream_number, found[-1].name)
            token = encode_consumers_token(end, now_ms=now_ms, secret=self._secret)
        return ListStreamConsumersResult(tuple(self._consumer(name, consumer) for consumer in found), token)

    def deregister_stream_consumer(
        self, stream_name: str | None = None, consumer_name: str | None = None, *, consumer_arn: str | None = None
    ) -> None:
        """Take a consumer off the register, with the positions that it has reached in the stream.

        Named as in ``describe_stream_consumer``. Raises, with nothing changed: ``InvalidArgumentException``,
        ``ResourceNotFoundException`` (stream or consumer), and the storage errors of ``put_record``.
        """
        name, consumer_to_delete = parse_consumer_address(stream_name, consumer_name, consumer_arn, self._dialect)

        def delete(transaction: WriteTransaction, stream: StoredStream) -> None:
            self._load_consumer(transaction, stream, consumer_to_delete, consumer_arn)
            delete_consumer(transaction, stream, consumer_to_delete)

        self._change_stream(name, delete)

    def _load_consumer(
        self, transaction: ReadTransaction, stream: StoredStream, consumer_name: str, consumer_arn: str | None
    ) -> Consumer:
        """Return the consumer of this name, which must have this ARN if one is given."""
        consumer = self._consumer(stream.name, load_consumer(transaction, stream, consumer_name))
        if consumer_arn not in (None, consumer.consumer_arn):
            raise ResourceNotFoundException(
                resource=f"Consumer {consumer_arn}", remedy=f"the one of this name is {consumer.consumer_arn}"
            )
        return consumer

    def _consumer(self, stream_name: str, consumer: StoredConsumer) -> Consumer:
        stream_arn, seconds = self.stream_arn(stream_name), consumer.creation_ms // 1000
        return Consumer(
            consumer_name=consumer.name,
            consumer_arn=f"{stream_arn}/consumer/{consumer.name}:{seconds}",
            consumer_status="ACTIVE",
            consumer_creation_timestamp=datetime_of_ms(consumer.creation_ms),
        )
