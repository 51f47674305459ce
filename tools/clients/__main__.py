"""The runner: ``python -m tools.clients [CLIENT ...]``."""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from tools.clients.comparing import compared, lacks
from tools.clients.installing import CLIENTS
from tools.clients.running import Ran, run

JOBS: Final = 2
DIFFERENCES_SHOWN: Final = 20


class Options(argparse.Namespace):
    """The command line."""

    clients: list[str]
    plant: str | None


def main() -> int:
    """Run the scenario on each client and compare what they saw. Returns 1 if one failed or saw something else."""
    parser = argparse.ArgumentParser(prog="python -m tools.clients", description="The same scenario on real clients.")
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=f"of: {', '.join(CLIENTS)}; default: all")
    parser.add_argument("--plant", metavar="FAULT", help="plant a fault of tools/torture/plants.py in the server")
    options = parser.parse_args(namespace=Options())
    if unknown := set(options.clients) - CLIENTS.keys():
        parser.error(f"no such client: {', '.join(sorted(unknown))}")
    clients = [CLIENTS[name] for name in options.clients or CLIENTS]
    with ThreadPoolExecutor(JOBS) as pool:
        ran = list(pool.map(partial(run, plant=options.plant), clients))
    return tell(ran)


def tell(ran: Sequence[Ran]) -> int:
    """Print what came of each. Returns 1 if something is wrong."""
    whole = [each for each in ran if each.skipped is None and each.failed is None]
    wrong = 0
    for each in ran:
        calls, lacking = len(each.talks), sum(lacks(talk) for talk in each.talks)
        if each.skipped is not None:
            print(f"SKIPPED {each.client.name}: {each.skipped}")
        elif each.failed is not None:
            wrong += 1
            print(f"FAILED {each.client.name} after {calls} calls: {each.failed}")
        elif differences := compared(whole[0].talks, each.talks):
            wrong += 1
            print(f"FAILED {each.client.name}: it saw something else than {whole[0].client.name}")
            print("\n".join(differences[:DIFFERENCES_SHOWN]))
        else:
            without = f", {lacking} that it has nothing for" if lacking else ""
            print(f"{each.client.name} ({each.client.package}): {calls} calls{without}, {each.seconds:.0f} s, the same")
    skipped = sum(each.skipped is not None for each in ran)
    print(f"{len(ran) - skipped - wrong} of {len(ran)} clients saw the same, {wrong} failed, {skipped} skipped")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
