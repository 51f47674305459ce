"""Gives a target an input again that the torture has found: ``python -m tools.torture.targets TARGET INPUT``."""

import argparse

from tools.torture import plants
from tools.torture.targets import TARGETS
from tools.torture.targets.target import input_of_text


class Options(argparse.Namespace):
    """The command line."""

    target: str
    input: str
    plant: str | None


def main() -> None:
    """Look at the input: what is raised is what was found."""
    parser = argparse.ArgumentParser(prog="python -m tools.torture.targets", description="Looks at an input again.")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("input", help="what was printed")
    parser.add_argument("--plant", metavar="FAULT", help="plant a fault of tools/torture/plants.py")
    options = parser.parse_args(namespace=Options())
    plants.plant(options.plant)
    data = input_of_text(options.input)
    print(f"{len(data)} bytes: {data!r}")
    TARGETS[options.target].look(data)
    print("refused, or the same when it is encoded again")


if __name__ == "__main__":
    main()
