"""Measurements as text for a terminal and as JSON with every figure."""

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks.cases import Case, Row
from benchmarks.measure import Measurement, Verdict, quartiles

__all__ = ["format_number", "format_table", "to_json"]

COLUMN_WIDTHS: Final = (20, 22, 15, 16)


def format_table(measurement: Measurement) -> str:
    """Return the table of one case: medians, quartiles, and ours over each row, with the verdict on each bar."""
    case = measurement.case
    width = 2 + max(len(row.name) for row in case.rows)
    lines = [
        "",
        f"{case.name}: {case.title}",
        f"  {_conditions(case)}; {_rounds(measurement)}{'; less is better' if case.less_is_better else ''}",
        f"  durability: {case.durability}",
        _columns("", case.unit, "quartiles", "ours over it", "quartiles", width=width),
    ]
    for row in case.rows:
        if row.name in measurement.left_out:
            lines.append(f"  {row.name:{width}}left out: {measurement.left_out[row.name]}")
            continue
        figures = measurement.figures[row.name]
        ratios = measurement.ratios(case.rows[0].name, row.name)
        cells = [format_number(statistics.median(figures)), _spread(figures)]
        if row is not case.rows[0] and ratios:
            cells += [format_number(statistics.median(ratios)), _spread(ratios)]
        lines.append(_columns(row.name, *cells, width=width))
    lines += [f"  {row.name}: {how}" for row in case.rows if (how := _how(row)) and row.name in measurement.figures]
    lines += [f"  bar: {_verdict(verdict)}" for verdict in measurement.verdicts()]
    return "\n".join(lines)


def to_json(measurements: Sequence[Measurement], *, machine: Mapping[str, str], versions: Mapping[str, str]) -> str:
    """Return everything that was measured, each figure of each round."""
    cases = [_case_to_json(measurement) for measurement in measurements]
    return json.dumps({"machine": dict(machine), "versions": dict(versions), "cases": cases}, indent=1) + "\n"


def format_number(value: float) -> str:
    """Return the number with three significant digits or more."""
    magnitude = abs(value)
    digits = 0 if magnitude >= 100 else 1 if magnitude >= 10 else 2 if magnitude >= 0.1 else 3
    return f"{value:,.{digits}f}"


def _case_to_json(measurement: Measurement) -> dict[str, object]:
    case = measurement.case
    return {
        "name": case.name,
        "title": case.title,
        "unit": case.unit,
        "less_is_better": case.less_is_better,
        "durability": case.durability,
        "payload_bytes": case.payload_bytes,
        "batch_records": case.batch_records,
        "producers": case.producers,
        "rounds": measurement.rounds,
        "rows": [_row_to_json(measurement, row) for row in case.rows],
        "bars": [_verdict_to_json(verdict) for verdict in measurement.verdicts()],
    }


def _row_to_json(measurement: Measurement, row: Row) -> dict[str, object]:
    if row.name in measurement.left_out:
        return {"name": row.name, "left_out": measurement.left_out[row.name]}
    figures = measurement.figures[row.name]
    return {
        "name": row.name,
        "how": row.how,
        "durability": row.kind.durability,
        "records_per_round": measurement.records[row.name],
        "median": statistics.median(figures),
        "quartiles": quartiles(figures),
        "figures": figures,
    }


def _verdict_to_json(verdict: Verdict) -> dict[str, object]:
    return {
        "bar": str(verdict.bar),
        "contender": verdict.bar.contender,
        "relation": verdict.bar.relation,
        "limit": verdict.bar.limit,
        "baseline": verdict.bar.baseline,
        "median": verdict.median,
        "values": verdict.values,
        "is_reached": verdict.is_reached,
    }


def _conditions(case: Case) -> str:
    return f"payload {case.payload_bytes:,} bytes, batch of {case.batch_records:,}, {case.producers}"


def _rounds(measurement: Measurement) -> str:
    return "measured once" if measurement.case.once else f"{measurement.rounds} alternating rounds"


def _how(row: Row) -> str:
    return "; ".join(part for part in (row.how, row.kind.durability) if part)


def _verdict(verdict: Verdict) -> str:
    if verdict.median is None:
        return f"{verdict.bar}: NOT MEASURED"
    word = "reached" if verdict.is_reached else "MISSED"
    return f"{verdict.bar}: {word} ({format_number(verdict.median)}; {_spread(verdict.values)})"


def _spread(values: list[float]) -> str:
    low, high = quartiles(values)
    return f"{format_number(low)}-{format_number(high)}"


def _columns(name: str, *cells: str, width: int) -> str:
    padded = (f"{cell:>{cell_width}}" for cell, cell_width in zip(cells, COLUMN_WIDTHS, strict=False))
    return f"  {name:{width}}" + "".join(padded)
