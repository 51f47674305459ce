"""The wire in process: each action is answered, as the service answers it."""

import json

from streamstore import StreamStore
from streamstore.wire import Dispatcher, WireRequest

JSON = "application/x-amz-json-1.1"


def ask(dispatcher: Dispatcher, action: str, body: object, **headers: str) -> tuple[int, dict[str, object]]:
    """Return the status and the decoded body of an answer."""
    sent = {"x-amz-target": f"Kinesis_20131202.{action}", "content-type": JSON} | headers
    response = dispatcher.answer(WireRequest("POST", "/", "", sent, json.dumps(body).encode()))
    assert isinstance(response.body, bytes)
    return response.status, json.loads(response.body or b"{}")


def test_what_is_put_is_read_over_the_wire(store: StreamStore) -> None:
    dispatcher = Dispatcher(store)
    assert ask(dispatcher, "CreateStream", {"StreamName": "clicks", "ShardCount": 1}) == (200, {})
    status, put = ask(dispatcher, "PutRecord", {"StreamName": "clicks", "Data": "aGk=", "PartitionKey": "k"})
    assert status == 200
    _, iterator = ask(
        dispatcher,
        "GetShardIterator",
        {"StreamName": "clicks", "ShardId": put["ShardId"], "ShardIteratorType": "TRIM_HORIZON"},
    )
    status, page = ask(dispatcher, "GetRecords", iterator)
    assert status == 200
    assert page["Records"] == [
        {
            "Data": "aGk=",
            "PartitionKey": "k",
            "SequenceNumber": "0",
            "ApproximateArrivalTimestamp": 1_700_000_000.0,
            "EncryptionType": "NONE",
        }
    ]
