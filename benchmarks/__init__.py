"""Side-by-side measurements against the alternatives. Run ``python -m benchmarks``; see ``--help``.

Ratios only: the contenders of a case take turns, in a new order each round, and each is compared with the baseline of
the same round. A case names its durability, payload, batch and producers, and its contenders are equal in all four.
"""
