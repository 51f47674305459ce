"""What the fuzzer gives bytes to: a target for each decoder and parser of the package."""

from typing import Final

from tools.torture.targets import arguments, disk, files, tokens, wire
from tools.torture.targets.target import Target

__all__ = ["TARGETS"]

TARGETS: Final[dict[str, Target]] = {
    target.name: target
    for target in (*disk.TARGETS, *tokens.TARGETS, *arguments.TARGETS, *files.TARGETS, *wire.TARGETS)
}
