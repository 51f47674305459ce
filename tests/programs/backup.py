"""Backs up a store, and prints the class of the error if that fails.

    backup PATH TARGET [BYTES]

BYTES is the most that a file may have.
"""

import resource
import sys
from pathlib import Path

from streamstore import StorageError, StreamStore


def main() -> None:
    if sys.argv[3:]:
        limit = int(sys.argv[3])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with StreamStore(Path(sys.argv[1]), read_only=True) as store:
        try:
            store.backup(Path(sys.argv[2]))
        except StorageError as error:
            print(type(error).__name__, error)
        else:
            print("stored")


if __name__ == "__main__":
    main()
