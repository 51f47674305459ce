"""The torture: what a store survives, as figures that anyone can make again. ``python -m tools.torture``.

Each part is a loop over failures: power losses, kills, failing calls, damage. It counts what was tried and tells each
promise that did not hold, with the seed and the number of the case that makes it again. The last part plants faults
in the engine and demands that the others see them.
"""
