"""The HTTP protocol of Kinesis and Yandex Data Streams in front of a store.

``app(store)`` is an ASGI application; ``Dispatcher(store)`` answers requests in process; ``boto3_client(store)`` and
``aiobotocore_client(store)`` are real clients that it answers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

from streamstore.wire.app import App, app
from streamstore.wire.dispatch import Authenticate, Dispatcher, Permit
from streamstore.wire.http import WireRequest, WireResponse
from streamstore.wire.refusal import Refusal

if TYPE_CHECKING:
    from streamstore.wire.in_process import boto3_client
    from streamstore.wire.in_process_aio import aiobotocore_client

__all__ = [
    "App",
    "Authenticate",
    "Dispatcher",
    "Permit",
    "Refusal",
    "WireRequest",
    "WireResponse",
    "aiobotocore_client",
    "app",
    "boto3_client",
]

ROOM_OF_CLIENT: Final = {"boto3_client": "in_process", "aiobotocore_client": "in_process_aio"}

if not TYPE_CHECKING:  # which would take every name for one that may be there

    def __getattr__(name: str) -> object:
        """Import a client, and with it the package that it stands on, only when somebody asks for it."""
        room = ROOM_OF_CLIENT.get(name)
        if room is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            return getattr(import_module(f"{__name__}.{room}"), name)
        except ModuleNotFoundError as error:
            extra = name.removesuffix("_client")
            raise ModuleNotFoundError(
                f"{name} needs {error.name}; run: pip install 'streamstore[{extra}]'", name=error.name
            ) from error
