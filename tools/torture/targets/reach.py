"""Which functions that decode no target reaches: ``python -m tools.torture.targets.reach``, as JSON.

A decoder is a function or method of the package that is called like one, or reads pages. Each must be reached by some
target with what is sound, so that none is forgotten that comes later.
"""

import importlib
import inspect
import json
import pkgutil
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, ModuleType
from typing import Final

import streamstore
from streamstore.pages import PageFile
from tools.torture.targets import TARGETS

DECODES: Final = re.compile(
    r"_?(parse|decode|unseal|unpack|expect|split_idempotency|open_envelope|load_credentials|read_lines)"
)


def main() -> None:
    """Print how many decoders there are, and the names of those that were not reached."""
    decoders = {code: name for name, code in _decoders()}
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        reached = _reached()
    unreached = sorted(name for code, name in decoders.items() if code not in reached)
    print(json.dumps({"decoders": len(decoders), "unreached": unreached}))


def _reached() -> set[CodeType]:
    """Return what is called when every target looks at what is sound."""
    reached: set[CodeType] = set()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            reached.add(frame.f_code)

    threading.setprofile(note)  # of the writers of stores
    sys.setprofile(note)
    for target in TARGETS.values():
        for seed in target.seeds():
            target.look(seed)
    sys.setprofile(None)
    return reached


def _decoders() -> Iterator[tuple[str, CodeType]]:
    for found in pkgutil.walk_packages(streamstore.__path__, "streamstore."):
        if not found.name.endswith("__main__"):
            for name, function in _functions_of(importlib.import_module(found.name)):
                if DECODES.match(name.rpartition(".")[2]) or name.startswith(PageFile.__name__):
                    yield f"{found.name}.{name}", function.__code__


def _functions_of(module: ModuleType) -> "Iterator[tuple[str, Callable[..., object]]]":
    for name, member in vars(module).items():
        if getattr(member, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(member):
            for of_class, method in vars(member).items():
                if inspect.isfunction(method) and not getattr(method, "__isabstractmethod__", False):
                    yield f"{name}.{of_class}", method
        elif callable(member) and inspect.isfunction(function := inspect.unwrap(member)):
            yield name, function


if __name__ == "__main__":
    main()
