"""Side-by-side measurements against the alternatives. Run ``python -m benchmarks``; see ``--help``.

Equal durability only: every contender has synced a record to the device before it acknowledges it. The contenders of a
case take turns, in a new order each round, with the same payloads; a bar compares two of them round by round, and the
median of these ratios decides. Absolute figures belong to the machine, ratios travel. After the rounds every store is
closed, opened again, and each record in it is compared with what was put: who lost or changed one is no contender.

- ``cases.py``: what is measured, against whom, and the bars, as data.
- ``contenders.py`` (ours), ``competitors.py`` (theirs): the stores.
- ``trials.py``, ``growth.py``: one contender in one case: what a turn of it does and what is timed.
- ``measure.py``: the rounds, the ratios and the verdicts; ``payloads.py``: records that prove themselves.
- ``report.py``, ``plot.py``, ``machine.py``: the table, the JSON and the picture, and where they were made.
"""
