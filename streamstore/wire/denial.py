"""Why somebody may not come in, and what each dialect calls that.

Sources: the error codes that Kinesis gives to JSON clients, each with status 400; the list of common errors of Yandex
Data Streams. That list has no word for a signature that does not match: there it is an access denied.
"""

from enum import Enum, auto
from typing import Final

from streamstore.dialect import YANDEX, Dialect
from streamstore.wire.refusal import Refusal

__all__ = ["Denial", "DeniedError"]


class Denial(Enum):
    """A reason."""

    NOT_SIGNED = auto()
    INCOMPLETE = auto()
    UNKNOWN_KEY = auto()
    KEY_EXPIRED = auto()
    STALE = auto()
    WRONG_SIGNATURE = auto()
    NOT_ALLOWED = auto()


AWS_NAMES: Final = {
    Denial.NOT_SIGNED: "MissingAuthenticationTokenException",
    Denial.INCOMPLETE: "IncompleteSignatureException",
    Denial.UNKNOWN_KEY: "UnrecognizedClientException",
    Denial.KEY_EXPIRED: "ExpiredTokenException",
    Denial.STALE: "InvalidSignatureException",
    Denial.WRONG_SIGNATURE: "InvalidSignatureException",
    Denial.NOT_ALLOWED: "AccessDeniedException",
}
YANDEX_NAMES: Final = {
    Denial.NOT_SIGNED: "MissingAuthenticationToken",
    Denial.INCOMPLETE: "IncompleteSignature",
    Denial.UNKNOWN_KEY: "InvalidClientTokenId",
    Denial.KEY_EXPIRED: "AccessDeniedException",
    Denial.STALE: "RequestExpired",
    Denial.WRONG_SIGNATURE: "AccessDeniedException",
    Denial.NOT_ALLOWED: "AccessDeniedException",
}
YANDEX_FORBIDDEN: Final = {"MissingAuthenticationToken", "InvalidClientTokenId"}


class DeniedError(Exception):
    """The request is not let in: nothing was stored and nothing was read. ``message`` holds no secret."""

    def __init__(self, denial: Denial, message: str) -> None:
        super().__init__(denial, message)
        self.denial = denial
        self.message = message

    def refusal(self, dialect: Dialect) -> Refusal:
        """Return what the service answers."""
        if dialect is not YANDEX:
            return Refusal(AWS_NAMES[self.denial], self.message)
        name = YANDEX_NAMES[self.denial]
        return Refusal(name, self.message, status=403 if name in YANDEX_FORBIDDEN else 400)
