from pathlib import Path

from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings, HTTP2Settings
from granian.net import SocketHolder

class Server:
    _shd: SocketHolder | None
    def __init__(
        self,
        target: object,
        *,
        interface: Interfaces,
        http: HTTPModes,
        websockets: bool,
        backlog: int,
        backpressure: int,
        http1_settings: HTTP1Settings,
        http2_settings: HTTP2Settings,
        log_enabled: bool,
        ssl_cert: Path | None,
        ssl_key: Path | None,
        ssl_protocol_min: SSLProtocols,
    ) -> None: ...
    def _init_shared_socket(self) -> None: ...
    async def serve(self) -> None: ...
    def stop(self) -> None: ...
