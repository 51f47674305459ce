"""The gate: a request is let in if a key of the file has signed it, and that key may do what it asks for.

In two steps: ``authenticate`` proves who it is, before anything is made of the request, and ``AccessKey.check_action``
refuses what that key may not do.
"""

import hmac
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from streamstore.dialect import Dialect
from streamstore.wire.credentials import AccessKey
from streamstore.wire.denial import Denial, DeniedError
from streamstore.wire.dispatch import Permit
from streamstore.wire.http import WireRequest
from streamstore.wire.signature import check_scope, check_signature, check_time, parse_signature, signing_key

__all__ = ["Gate", "system_now"]

UNKNOWN_KEY: Final = "The security token included in the request is invalid."


def system_now() -> datetime:
    """Return the time by which signatures grow old."""
    return datetime.now(UTC)


class Gate:
    """Knows the keys. ``replace_keys`` changes them for the requests that come from then on."""

    def __init__(
        self, keys: Mapping[str, AccessKey], *, region: str, dialect: Dialect, now: Callable[[], datetime] = system_now
    ) -> None:
        self._keys = keys
        self._region = region
        self._dialect = dialect
        self._now = now

    def replace_keys(self, keys: Mapping[str, AccessKey]) -> None:
        self._keys = keys

    def admit(self, request: WireRequest) -> Permit:
        """Return what tells whether the sender may do an action. Both raise ``Refusal``: the hook of the dispatcher."""
        try:
            key = self.authenticate(request)
        except DeniedError as error:
            raise error.refusal(self._dialect) from error

        def permit(action: str, stream_name: str | None) -> None:
            try:
                key.check_action(action, stream_name)
            except DeniedError as error:
                raise error.refusal(self._dialect) from error

        return permit

    def authenticate(self, request: WireRequest) -> AccessKey:
        """Return the key that has signed the request. Raises ``DeniedError``."""
        now = self._now()
        signature = parse_signature(request)
        key = self._keys.get(signature.access_key_id)
        if key is None:
            raise DeniedError(Denial.UNKNOWN_KEY, UNKNOWN_KEY)
        check_scope(signature, region=self._region)
        check_time(signature, now=now)
        secret = signing_key(key.secret_access_key, signature.date, signature.region, signature.service)
        check_signature(request, signature, key=secret)
        # Behind the signature: only who knows the secret learns anything about the key.
        _check_token(key, signature.session_token)
        if key.expires is not None and now >= key.expires:
            raise DeniedError(Denial.KEY_EXPIRED, "The security token included in the request is expired")
        return key


def _check_token(key: AccessKey, session_token: str | None) -> None:
    expected, given = key.session_token or "", session_token or ""
    if not hmac.compare_digest(expected.encode(), given.encode("latin-1", "replace")):
        raise DeniedError(Denial.UNKNOWN_KEY, UNKNOWN_KEY)
