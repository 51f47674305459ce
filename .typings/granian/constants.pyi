# What the listener uses of Granian, whose own annotations leave out how a socket is handed over.
from enum import Enum

class Interfaces(Enum):
    RSGI = ...

class HTTPModes(Enum):
    auto = ...

class SSLProtocols(Enum):
    tls12 = ...
