"""A line of JSON for each request that was answered: who asked for what, and what came of it. No secret and no data.

The key id is what the request claims; it is proved unless the code is that of a refused signature.
"""

import json
import os
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, TextIO

from streamstore.wire.http import WireRequest, WireResponse

__all__ = ["AccessLog", "line_of"]

STANDARD_ERROR: Final = "-"
STANDARD_ERROR_DESCRIPTOR: Final = 2
SHOWN_CHARACTERS_MAX: Final = 256
FILE_MODE: Final = 0o640


class AccessLog:
    """Appends to a file, or to standard error for "-". ``reopen`` goes on in a new file when the old one was moved."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._file = self._open()

    def write(self, line: Mapping[str, object]) -> None:
        """Write a line, in one piece and at once."""
        text = json.dumps(line, ensure_ascii=True, separators=(",", ":")) + "\n"
        with self._lock:
            self._file.write(text)
            self._file.flush()

    def reopen(self) -> None:
        """Open the file of that name anew. Raises ``OSError``; then the old one is written on."""
        opened = self._open()
        with self._lock:
            old, self._file = self._file, opened
        old.close()

    def close(self) -> None:
        self._file.close()

    def _open(self) -> TextIO:
        if self._path == STANDARD_ERROR:
            descriptor = os.dup(STANDARD_ERROR_DESCRIPTOR)
        else:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        return open(descriptor, "a", encoding="ascii")


def line_of(
    request: WireRequest, response: WireResponse, *, action: str, code: str | None, ended: datetime, seconds: float
) -> dict[str, object]:
    """Return what is told of a request. What the client chose is cut off behind 256 characters."""
    headers = {name.lower(): value for name, value in response.headers}
    return {
        "time": ended.astimezone(UTC).isoformat(timespec="milliseconds"),
        "request_id": headers.get("x-amzn-requestid"),
        "client": request.client,
        "key": claimed_key_id(request.headers.get("authorization", "")),
        "method": request.method[:SHOWN_CHARACTERS_MAX],
        "path": request.path[:SHOWN_CHARACTERS_MAX],
        "action": action[:SHOWN_CHARACTERS_MAX],
        "status": response.status,
        "code": code,
        "request_bytes": len(request.body),
        "response_bytes": len(response.body) if isinstance(response.body, bytes) else None,
        "seconds": round(seconds, 6),
    }


def claimed_key_id(authorization: str) -> str | None:
    """Return the key id in a header ``Authorization``, and nothing else of it."""
    _, found, rest = authorization.partition("Credential=")
    return rest.partition("/")[0][:SHOWN_CHARACTERS_MAX] if found else None
