from collections.abc import Mapping

class AWSPreparedRequest:
    url: str
    headers: Mapping[str, str | bytes]

class AWSRequest:
    def __init__(self, method: str, url: str, headers: Mapping[str, str], data: bytes) -> None: ...
    def prepare(self) -> AWSPreparedRequest: ...
