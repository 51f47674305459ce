"""The measurements as a picture: one panel a case, one bar a row, with a whisker from quartile to quartile.

Written by hand, because it is text and rectangles, and because only so can it follow a light and a dark page.
"""

import statistics
from collections.abc import Mapping, Sequence
from html import escape
from textwrap import wrap
from typing import Final

from benchmarks.cases import Row
from benchmarks.measure import Measurement, quartiles
from benchmarks.report import format_number

__all__ = ["to_svg"]

WIDTH: Final = 840
MARGIN: Final = 12
COLUMN_COUNT: Final = 2
COLUMN_WIDTH: Final = (WIDTH - MARGIN * (COLUMN_COUNT + 1)) // COLUMN_COUNT
LABEL_WIDTH: Final = 168
VALUE_WIDTH: Final = 66
BAR_WIDTH: Final = COLUMN_WIDTH - LABEL_WIDTH - VALUE_WIDTH
TITLE_HEIGHT: Final = 16
ROW_HEIGHT: Final = 16
BAR_HEIGHT: Final = 11
PANEL_GAP: Final = 16
FOOT_CHARACTERS: Final = 150
TITLE_CHARACTERS: Final = 62

STYLE: Final = """
text{font:11px system-ui,sans-serif;fill:#1f2328}.title{font-weight:600}.small{font-size:10px;fill:#59636e}
.value,.label{dominant-baseline:central}.label{text-anchor:end}
.ours{fill:#2f81f7}.other{fill:#afb8c1}.whisker{stroke:#59636e;stroke-width:1}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9198a1}.other{fill:#57606a}.whisker{stroke:#9198a1}}
"""


def to_svg(measurements: Sequence[Measurement], *, machine: Mapping[str, str], versions: Mapping[str, str]) -> str:
    """Return the picture. Panels stand in columns, each in the one that is shortest so far."""
    heads = wrap(
        "Medians, with whiskers from quartile to quartile. Payloads have 1,024 bytes where nothing else is said. "
        "Everyone has synced a record to the device before it is acknowledged.",
        FOOT_CHARACTERS,
    )
    feet = wrap(", ".join(f"{name} {value}" for name, value in [*machine.items(), *versions.items()]), FOOT_CHARACTERS)
    top = MARGIN + ROW_HEIGHT * len(heads)
    bottoms = [top] * COLUMN_COUNT
    panels: list[str] = []
    for measurement in measurements:
        column = bottoms.index(min(bottoms))
        left = MARGIN + column * (COLUMN_WIDTH + MARGIN)
        panel, height = _panel(measurement)
        panels.append(f'<g transform="translate({left} {bottoms[column]})">{panel}</g>')
        bottoms[column] += height + PANEL_GAP
    bottom = max(bottoms)
    height = bottom + ROW_HEIGHT * len(feet)
    lines = [_text(MARGIN, MARGIN + ROW_HEIGHT * index, line, "small") for index, line in enumerate(heads)]
    lines += [_text(MARGIN, bottom + ROW_HEIGHT * index, line, "small") for index, line in enumerate(feet)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img"><title>Benchmarks of streamstore</title><style>{STYLE}</style>\n'
        + "\n".join([*panels, *lines])
        + "\n</svg>\n"
    )


def _panel(measurement: Measurement) -> tuple[str, int]:
    """Return the panel at the origin, and its height."""
    case = measurement.case
    rows = [row for row in case.rows if row.name in measurement.figures]
    unit = f"{case.unit}, less is better" if case.less_is_better else case.unit
    titles = wrap(f"{case.title}: {unit}", TITLE_CHARACTERS)
    elements = [_text(0, TITLE_HEIGHT * index, line, "title") for index, line in enumerate(titles, start=1)]
    top = TITLE_HEIGHT * len(titles) + 4
    widest = max((quartiles(measurement.figures[row.name])[1] for row in rows), default=0.0) or 1.0
    for index, row in enumerate(rows):
        figures = measurement.figures[row.name]
        elements += _bar(row, figures, widest, top + ROW_HEIGHT * index, is_ours=row is case.rows[0])
    return "".join(elements), top + ROW_HEIGHT * len(rows)


def _bar(row: Row, figures: list[float], widest: float, top: float, *, is_ours: bool) -> list[str]:
    low, high = (LABEL_WIDTH + BAR_WIDTH * value / widest for value in quartiles(figures))
    width = BAR_WIDTH * statistics.median(figures) / widest
    middle = top + BAR_HEIGHT / 2
    kind = "ours" if is_ours else "other"
    return [
        _text(LABEL_WIDTH - 6, middle, row.name, "label"),
        f'<rect class="{kind}" x="{LABEL_WIDTH}" y="{top:g}" width="{width:.1f}" height="{BAR_HEIGHT}"/>',
        f'<path class="whisker" d="M{low:.1f} {middle:g}H{high:.1f}"/>',
        _text(max(high, LABEL_WIDTH + width) + 5, middle, format_number(statistics.median(figures)), "value"),
    ]


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:g}">{escape(text)}</text>'
