# What streamstore uses of isal, in the words of zlib's own types: the one stands in for the other. Found here whether
# the extra "fast" is installed or not.
from typing_extensions import Buffer

def crc32(data: Buffer, value: int = 0, /) -> int: ...
