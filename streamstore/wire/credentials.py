"""Who may come in, and what for: the keys of a TOML file.

::

    [keys.AKIDCOLLECTOR]
    secret_access_key = "at least sixteen characters"
    streams = ["clicks", "orders-*"]          # those that the key may use; every one if it is not said
    actions = ["PutRecord", "PutRecords"]     # "Put*" is good too; every one if it is not said
    read_only = false                         # true: only actions that change nothing
    session_token = "..."                     # if given, every request must carry it
    expires = 2030-01-01T00:00:00Z            # if given, the key is refused from then on

The file must not be written by its group nor seen by others. Secrets never appear in an error.
"""

import os
import re
import stat
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Final, NoReturn, TypeVar, cast

from streamstore.wire.denial import Denial, DeniedError

__all__ = ["AccessKey", "CredentialsError", "load_credentials"]

T = TypeVar("T")

ALL: Final = "*"
ACCESS_KEY_ID_PATTERN: Final = re.compile(r"[A-Za-z0-9_.-]{3,128}", re.ASCII)
SECRET_CHARACTERS_MIN: Final = 16
SECRET_RULE: Final = f"must be a text of at least {SECRET_CHARACTERS_MIN} printable ASCII characters without spaces"
FILE_BYTES_MAX: Final = 1_048_576
FORBIDDEN_MODE: Final = stat.S_IWGRP | stat.S_IRWXO
MEMBERS: Final = ("secret_access_key", "streams", "actions", "read_only", "session_token", "expires")
# What the service calls its actions says what they do; every other one changes something.
READING: Final = ("Describe*", "Get*", "List*", "SubscribeToShard")


class CredentialsError(Exception):
    """The file of keys cannot be used. Its text is a sentence that names the file, the member and the rule."""


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A key, and what it may do."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    streams: tuple[str, ...] = (ALL,)
    actions: tuple[str, ...] = (ALL,)
    read_only: bool = False
    session_token: str | None = field(default=None, repr=False)
    expires: datetime | None = None

    def check_action(self, action: str, stream_name: str | None) -> None:
        """Refuse what the key may not do, or not with this stream. An action on no stream needs all of them."""
        if not self._may_do(action):
            self._deny(action, "")
        if ALL not in self.streams and (stream_name is None or not _matches(stream_name, self.streams)):
            self._deny(action, " on all streams" if stream_name is None else f" on the stream {stream_name}")

    def _may_do(self, action: str) -> bool:
        return _matches(action, self.actions) and (not self.read_only or _matches(action, READING))

    def _deny(self, action: str, where: str) -> NoReturn:
        raise DeniedError(
            Denial.NOT_ALLOWED, f"The key {self.access_key_id} is not authorized to perform: kinesis:{action}{where}."
        )


def load_credentials(path: str | os.PathLike[str], known_actions: Collection[str]) -> Mapping[str, AccessKey]:
    """Return the keys of a file by their ids. Raises ``CredentialsError``; then nothing of the file is used."""
    name = os.fspath(path)
    try:
        document = tomllib.loads(_read_private(name).decode())
        return _parse_document(document, known_actions)
    except CredentialsError as error:
        raise CredentialsError(f"The credentials file {name} cannot be used: {error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CredentialsError(f"The credentials file {name} is no TOML: {error}.") from error
    except OSError as error:
        raise CredentialsError(f"The credentials file {name} cannot be read: {error.strerror}.") from error


def _read_private(name: str) -> bytes:
    with open(name, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise CredentialsError("it must be a regular file")
        if status.st_mode & FORBIDDEN_MODE:
            raise CredentialsError(
                f"its mode is {stat.S_IMODE(status.st_mode):03o}, and it must not be written by its group nor seen by "
                f"others: chmod 600 {name}"
            )
        content = file.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        raise CredentialsError(f"it must have at most {FILE_BYTES_MAX} bytes")
    return content


def _parse_document(document: dict[str, object], known_actions: Collection[str]) -> dict[str, AccessKey]:
    _refuse_unknown("the file", document, ("keys",))
    keys = _table("keys", document.get("keys"))
    if not keys:
        raise CredentialsError("it must have at least one table [keys.ID]")
    return {access_key_id: _parse_key(access_key_id, value, known_actions) for access_key_id, value in keys.items()}


def _parse_key(access_key_id: str, value: object, known_actions: Collection[str]) -> AccessKey:
    where = f"keys.{access_key_id}"
    if ACCESS_KEY_ID_PATTERN.fullmatch(access_key_id) is None:
        raise CredentialsError(f"{where}: an id must have 3 to 128 letters, digits, '_', '.' or '-'")
    table = _table(where, value)
    _refuse_unknown(where, table, MEMBERS)
    actions = _parse_names(f"{where}.actions", table.get("actions", [ALL]))
    for action in actions:
        if not any(fnmatchcase(known, action) for known in known_actions):
            raise CredentialsError(f"{where}.actions: {action!r} must be or match an action of the service")
    return AccessKey(
        access_key_id,
        _parse_secret(f"{where}.secret_access_key", table.get("secret_access_key")),
        streams=_parse_names(f"{where}.streams", table.get("streams", [ALL])),
        actions=actions,
        read_only=_parse_bool(f"{where}.read_only", table.get("read_only", False)),
        session_token=_optional(_parse_secret, f"{where}.session_token", table.get("session_token")),
        expires=_optional(_parse_time, f"{where}.expires", table.get("expires")),
    )


def _table(where: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise CredentialsError(f"{where} must be a table")
    return cast(dict[str, object], value)


def _refuse_unknown(where: str, table: Mapping[str, object], members: Collection[str]) -> None:
    for name in table:
        if name not in members:
            raise CredentialsError(f"{where} has no member {name!r}, only {', '.join(members)}")


def _parse_secret(where: str, value: object) -> str:
    # The value is not shown: it may be a secret with a slip of the pen in it.
    if not isinstance(value, str) or re.fullmatch(rf"[!-~]{{{SECRET_CHARACTERS_MIN},}}", value) is None:
        raise CredentialsError(f"{where} {SECRET_RULE}")
    return value


def _parse_names(where: str, value: object) -> tuple[str, ...]:
    items = cast(list[object], value) if isinstance(value, list) else []
    names = tuple(item for item in items if isinstance(item, str) and item)
    if not names or len(names) < len(items):
        raise CredentialsError(f"{where} must be a list of one or more names or patterns")
    return names


def _parse_bool(where: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise CredentialsError(f"{where} must be true or false")
    return value


def _parse_time(where: str, value: object) -> datetime:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise CredentialsError(f"{where} must be a time with its offset, such as 2030-01-01T00:00:00Z")
    return value.astimezone(UTC)


def _optional(parse: Callable[[str, object], T], where: str, value: object) -> T | None:
    return None if value is None else parse(where, value)


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
