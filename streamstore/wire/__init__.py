"""The HTTP protocol of Kinesis and Yandex Data Streams in front of a store.

``app(store)`` is an ASGI application; ``Dispatcher(store)`` answers requests in process.
"""

from streamstore.wire.app import App, app
from streamstore.wire.dispatch import Authenticate, Dispatcher, Permit
from streamstore.wire.http import WireRequest, WireResponse
from streamstore.wire.refusal import Refusal

__all__ = ["App", "Authenticate", "Dispatcher", "Permit", "Refusal", "WireRequest", "WireResponse", "app"]
