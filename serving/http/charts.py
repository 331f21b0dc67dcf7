"""Charts as SVG, in the colours of ``static/logs.css``."""

import math
from collections.abc import Mapping, Sequence
from html import escape

COLOURS = 6
_WIDTH, _HEIGHT = 640, 230
_LEFT, _BOTTOM, _TOP = 48, 20, 8
_BAR_WIDTH, _BAR_HEIGHT, _LABEL_WIDTH, _SHARE_WIDTH = 300, 20, 90, 52


def stacked_bars(
    slots: Sequence[tuple[str, Mapping[str, int]]], colours: Mapping[str, int], marks: Sequence[tuple[float, str]]
) -> str:
    """Bars over time, of several series on top of each other.

    Args:
        slots: title and the count of each series, of each bar; equally wide.
        colours: the number of each series' colour.
        marks: where from 0 to 1, and the text of each label of the time axis.
    """
    most = max((sum(counts.values()) for _, counts in slots), default=0)
    ticks = _ticks(most)
    top = ticks[-1] or 1
    height = _HEIGHT - _BOTTOM - _TOP
    width = (_WIDTH - _LEFT) / max(len(slots), 1)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Predicted rows over time">']
    for tick in ticks:
        y = _TOP + height * (1 - tick / top)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>')
    for number, (title, counts) in enumerate(slots):
        base = 0
        for name, count in counts.items():
            if not count:
                continue
            tall = max(height * count / top, 1)
            y = _TOP + height * (1 - base / top) - tall
            hint = escape(f"{title}\n{name}: {count:,} rows")
            parts.append(
                f'<rect class="c{colours[name]}" x="{_LEFT + number * width:.2f}" y="{y:.2f}" '
                f'width="{max(width - 1, 1):.2f}" height="{tall:.2f}"><title>{hint}</title></rect>'
            )
            base += count
    for position, text in marks:
        x = _LEFT + position * (_WIDTH - _LEFT)
        anchor = "start" if position < 0.02 else "end" if position > 0.98 else "middle"
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 4}" text-anchor="{anchor}">{escape(text)}</text>')
    return "".join([*parts, "</svg>"])


def share_bars(shares: Sequence[tuple[str, int]], colour: int) -> str:
    """A bar with its label and share for each of some counts."""
    total = sum(count for _, count in shares) or 1
    most = max((count for _, count in shares), default=0) or 1
    height = _BAR_HEIGHT * len(shares)
    parts = [f'<svg viewBox="0 0 {_BAR_WIDTH} {height}" role="img" aria-label="Share of each class">']
    room = _BAR_WIDTH - _LABEL_WIDTH - _SHARE_WIDTH
    for number, (label, count) in enumerate(shares):
        y = number * _BAR_HEIGHT
        shown = label if len(label) <= 14 else f"{label[:13]}…"
        parts.append(f'<text x="{_LABEL_WIDTH - 8}" y="{y + 14}" text-anchor="end">{escape(shown)}</text>')
        wide = max(room * count / most, 1 if count else 0)
        hint = escape(f"{label}: {count:,} rows")
        parts.append(
            f'<rect class="c{colour}" x="{_LABEL_WIDTH}" y="{y + 3}" width="{wide:.2f}" height="{_BAR_HEIGHT - 6}">'
            f"<title>{hint}</title></rect>"
        )
        parts.append(f'<text x="{_LABEL_WIDTH + wide + 6:.1f}" y="{y + 14}">{count / total:.1%}</text>')
    return "".join([*parts, "</svg>"])


def histogram(bins: Sequence[tuple[float | None, float | None, int]], colour: int) -> str:
    """Counts of bins ``[low, high)``, drawn equally wide; None where a bin is open."""
    most = max((count for _, _, count in bins), default=0) or 1
    width, height, bottom = _BAR_WIDTH, 90, 16
    step = width / max(len(bins), 1)
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Predicted values by bin">']
    parts.append(f'<line class="grid" x1="0" x2="{width}" y1="{height - bottom}" y2="{height - bottom}"/>')
    for number, (low, high, count) in enumerate(bins):
        tall = max((height - bottom - 2) * count / most, 1 if count else 0)
        hint = escape(f"{_bound(low, '−∞')} to {_bound(high, '∞')}: {count:,} rows")
        parts.append(
            f'<rect class="c{colour}" x="{number * step:.2f}" y="{height - bottom - tall:.2f}" '
            f'width="{max(step - 1, 1):.2f}" height="{tall:.2f}"><title>{hint}</title></rect>'
        )
    edges = [(number, low) for number, (low, _, _) in enumerate(bins) if low is not None]
    if bins and bins[-1][1] is not None:
        edges.append((len(bins), bins[-1][1]))
    apart = max(1, math.ceil(len(edges) / 6))
    for number, edge in edges[::apart]:
        x = number * step
        anchor = "start" if x < 10 else "end" if x > width - 10 else "middle"
        parts.append(f'<text x="{x:.1f}" y="{height - 3}" text-anchor="{anchor}">{edge:.4g}</text>')
    return "".join([*parts, "</svg>"])


def short(number: float) -> str:
    """A count in a few characters: 12k, 3.4M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:g}"


def _bound(value: float | None, infinite: str) -> str:
    return infinite if value is None else f"{value:.4g}"


def _ticks(most: int) -> list[int]:
    """Round numbers from 0 to ``most`` or a little more, four at most."""
    if most <= 0:
        return [0, 1]
    power = 10 ** math.floor(math.log10(max(most / 3, 1)))
    step = next(int(power * factor) for factor in (1, 2, 5, 10) if power * factor >= most / 3)
    return [step * number for number in range(math.ceil(most / step) + 1)]
