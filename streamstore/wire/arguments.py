"""The members of one request, parsed and found valid, as the actions ask for them."""

from collections.abc import Mapping
from typing import Final, TypeVar, cast

from streamstore import StreamStore
from streamstore.dialect import YANDEX
from streamstore.validate_consumers import parse_consumer_arn
from streamstore.wire.refusal import Refusal

__all__ = ["Arguments"]

T = TypeVar("T")


class Arguments:
    """What a request says. Each method asserts the type that the shape of the request has proved.

    ``retry_key`` names the request, so that the same one sent again is known; None if the client gave it no name.
    """

    __slots__ = ("_store", "_values", "retry_key")

    def __init__(self, values: Mapping[str, object], store: StreamStore, retry_key: str | None) -> None:
        self._values: Final = values
        self._store: Final = store
        self.retry_key: Final = retry_key

    @property
    def account_id(self) -> str:
        """Of the store that is asked."""
        return self._store.account_id

    def text(self, name: str) -> str:
        return _proved(self._values[name], str)

    def text_or_none(self, name: str) -> str | None:
        return self.text(name) if name in self._values else None

    def data(self, name: str) -> bytes:
        return _proved(self._values[name], bytes)

    def whole(self, name: str, default: int | None = None) -> int:
        value = self._values.get(name, default)
        return _proved(value, int)

    def whole_or_none(self, name: str) -> int | None:
        return self.whole(name) if name in self._values else None

    def flag(self, name: str) -> bool:
        return _proved(self._values.get(name, False), bool)

    def seconds_or_none(self, name: str) -> float | None:
        value = self._values.get(name)
        assert value is None or isinstance(value, (int, float))
        return value

    def texts(self, name: str) -> list[str]:
        return [_proved(item, str) for item in _items(self._values[name])]

    def pairs(self, name: str) -> dict[str, str] | None:
        value = self._values.get(name)
        return None if value is None else {key: _proved(text, str) for key, text in _members(value).items()}

    def structure(self, name: str) -> "Arguments":
        return Arguments(_members(self._values.get(name, {})), self._store, None)

    def structures(self, name: str) -> "list[Arguments]":
        return [Arguments(_members(item), self._store, None) for item in _items(self._values[name])]

    def has(self, name: str) -> bool:
        return name in self._values

    def stream_name(self) -> str:
        """Return the stream that the request is about."""
        name = self.stream_name_or_none()
        assert name is not None
        return name

    def stream_name_or_none(self) -> str | None:
        name = self.text_or_none("StreamName")
        if name is not None and self._store.dialect is YANDEX:
            name = name.rpartition("/")[2]
        arn = self.arn_or_none("Stream")
        if arn is None:
            return name
        named = self.stream_of_arn(arn)
        if name not in (None, named):
            raise Refusal("InvalidArgumentException", f"StreamARN {arn} and StreamName {name} name two streams.")
        return named

    def stream_asked_for(self) -> str | None:
        """Return the stream that the request is about, however it says so: by name, ARN or token."""
        name = self.stream_name_or_none()
        if name is not None:
            return name
        consumer_arn = self.arn_or_none("Consumer")
        if consumer_arn is not None:
            return parse_consumer_arn(consumer_arn, self._store.dialect)[1]
        for member in ("ShardIterator", "NextToken"):
            if member in self._values:
                return self._store.stream_of_token(self.text(member))
        arn = self.text_or_none("ResourceARN")
        return None if arn is None else self.stream_of_arn(arn.partition("/consumer/")[0])

    def arn_or_none(self, of: str) -> str | None:
        """Return the ARN of a stream or consumer: YDB spells the member otherwise."""
        return self.text_or_none(f"{of}ARN") or self.text_or_none(f"{of}Arn")

    def consumer_arn(self) -> str:
        arn = self.arn_or_none("Consumer")
        assert arn is not None
        return arn

    def stream_of_arn(self, arn: str) -> str:
        """Return the name in the ARN of a stream; one of another region or account is no stream of this store."""
        name = arn.rpartition("/")[2]
        store = self._store
        if store.dialect is not YANDEX and arn != store.stream_arn(name):
            account_id = arn.split(":")[4]
            raise Refusal("ResourceNotFoundException", f"Stream {name} under account {account_id} not found.")
        return name


def _proved(value: object, kind: type[T]) -> T:
    assert isinstance(value, kind)
    return value


def _items(value: object) -> list[object]:
    assert isinstance(value, list)
    return cast("list[object]", value)


def _members(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return cast("dict[str, object]", value)
