# What streamstore uses of msgpack, which ships no types. Decoded values are object until proven.
from collections.abc import Callable

class Packer:
    def __init__(self, *, use_bin_type: bool = ...) -> None: ...
    def pack(self, obj: object) -> bytes: ...

def packb(o: object, *, use_bin_type: bool = ...) -> bytes: ...
def unpackb(
    packed: bytes,
    *,
    strict_map_key: bool = ...,
    unicode_errors: str = ...,
    timestamp: int = ...,
    ext_hook: Callable[[int, bytes], object] = ...,
) -> object: ...
