"""Charts as SVG text: bars with intervals, lines and points on linear or logarithmic axes.

Colours are CSS classes (`s0` ours, `s1`... the others), so that a page's light and dark schemes
hold for the charts too; text is escaped; every mark has a title, which browsers show as a tooltip.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

__all__ = ["Axis", "Bar", "Series", "bar_chart", "xy_chart"]

WIDTH = 640


@dataclass(frozen=True)
class Bar:
    """A value with its interval; `mark` is its colour's class."""

    label: str
    value: float
    low: float
    high: float
    mark: str
    note: str = ""


@dataclass(frozen=True)
class Axis:
    """Title, and whether it is logarithmic; limits come from the data."""

    title: str
    log: bool = False
    ticks: tuple[float, ...] = ()


@dataclass(frozen=True)
class Series:
    """Points with their names; joined by a line if `line`."""

    label: str
    points: tuple[tuple[float, float], ...]
    mark: str
    names: tuple[str, ...] = ()
    line: bool = True
    dots: bool = True
    show_names: bool = False


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values that cover low to high, about `count` of them."""
    span = (high - low) or abs(high) or 1.0
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(s for s in (1, 2, 5, 10) if s * power >= raw * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [step * i for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten that cover low to high; powers alone over many decades."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if high <= 100.0 * low else (1,)
    ticks = [f * 10.0**e for e in range(first, last + 1) for f in factors]
    inside = [t for t in ticks if low / 1.0001 <= t <= high * 1.0001]
    return inside or ticks


def number(value: float) -> str:
    """Short text of a tick."""
    return f"{value:.3g}" if abs(value) < 1e4 else f"{value:.0f}"


def _svg(width: float, height: float, title: str, parts: Iterator[Markup]) -> Markup:
    body = Markup("").join(parts)
    head = Markup('<svg viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">')
    return head.format(width, height, title) + body + Markup("</svg>")


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> Markup:
    form = Markup('<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}">{}</text>')
    return form.format(x, y, kind, anchor, text)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    form = Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>')
    return form.format(x1, y1, x2, y2, kind)


def bar_chart(bars: Sequence[Bar], title: str) -> Markup:
    """Horizontal bars from 0, with a line at 1."""
    left, right, row = 152.0, 60.0, 24.0
    top = max([1.0, *(bar.high for bar in bars)])
    # An interval of one bar must not make the others unreadable.
    top = min(top, 1.3 * max([1.0, *(bar.value for bar in bars)]))
    ticks = nice_ticks(0.0, top)
    top = ticks[-1]
    height = row * len(bars) + 28.0

    def x(value: float) -> float:
        return left + (WIDTH - left - right) * min(value, top) / top

    def parts() -> Iterator[Markup]:
        for tick in ticks:
            yield _line(x(tick), 4, x(tick), height - 22, "grid")
            yield _text(x(tick), height - 8, number(tick), "tick", "middle")
        for index, bar in enumerate(bars):
            y = 6 + row * index
            hint = f"{bar.label}: {bar.value:.2f} [{bar.low:.2f}, {bar.high:.2f}] {bar.note}"
            yield _text(left - 8, y + 13, bar.label, "label", "end")
            form = Markup(
                '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="2" '
                'class="{}"><title>{}</title></rect>'
            )
            yield form.format(left, y, x(bar.value) - left, row - 8, bar.mark, hint.strip())
            if bar.high > bar.low:
                middle = y + (row - 8) / 2
                yield _line(x(bar.low), middle, x(bar.high), middle, "whisker")
            yield _text(max(x(bar.value), x(bar.high)) + 6, y + 13, f"{bar.value:.2f}", "value")
        yield _line(x(1.0), 2, x(1.0), height - 22, "one")

    return _svg(WIDTH, height, title, parts())


class _Scale:
    """Data to pixels along one axis."""

    def __init__(self, axis: Axis, values: Sequence[float], start: float, end: float) -> None:
        self.log = axis.log
        low, high = min(values), max(values)
        if axis.log:
            low, high = low / 1.25, high * 1.25
            self.ticks = list(axis.ticks) or log_ticks(low, high)
        else:
            margin = 0.08 * (high - low or abs(high) or 1.0)
            self.ticks = list(axis.ticks) or nice_ticks(low - margin, high + margin)
            low, high = min(low - margin, self.ticks[0]), max(high + margin, self.ticks[-1])
        self._low, self._high = self._place(low), self._place(high)
        self._start, self._end = start, end

    def _place(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def __call__(self, value: float) -> float:
        share = (self._place(value) - self._low) / ((self._high - self._low) or 1.0)
        return self._start + share * (self._end - self._start)


def xy_chart(
    series: Sequence[Series], x_axis: Axis, y_axis: Axis, title: str, height: float = 340.0
) -> Markup:
    """Lines and points; colours are explained by the page's legend."""
    left, right, top, bottom = 58.0, 24.0, 12.0, 44.0
    x = _Scale(x_axis, [p[0] for s in series for p in s.points], left, WIDTH - right)
    y = _Scale(y_axis, [p[1] for s in series for p in s.points], height - bottom, top)

    def parts() -> Iterator[Markup]:
        for tick in x.ticks:
            yield _line(x(tick), top, x(tick), height - bottom, "grid")
            yield _text(x(tick), height - bottom + 16, number(tick), "tick", "middle")
        for tick in y.ticks:
            yield _line(left, y(tick), WIDTH - right, y(tick), "grid")
            yield _text(left - 6, y(tick) + 4, number(tick), "tick", "end")
        yield _text((left + WIDTH - right) / 2, height - 6, x_axis.title, "title", "middle")
        turned = Markup('<g transform="translate(13 {:.1f}) rotate(-90)">').format(height / 2)
        yield turned + _text(0, 0, y_axis.title, "title", "middle") + Markup("</g>")
        placed: list[tuple[float, float]] = []
        for one in series:
            yield from _series(one, x, y, placed)

    return _svg(WIDTH, height, title, parts())


def _series(
    one: Series, x: _Scale, y: _Scale, placed: list[tuple[float, float]]
) -> Iterator[Markup]:
    path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in one.points)
    if one.line and len(one.points) > 1:
        yield Markup('<polyline points="{}" class="line {}"><title>{}</title></polyline>').format(
            path, one.mark, one.label
        )
    if not one.dots:
        yield _line_label(one, x, y, placed)
        return
    for index, (a, b) in enumerate(one.points):
        name = one.names[index] if one.names else one.label
        hint = f"{one.label}, {name}: {number(a)}, {number(b)}" if one.names else name
        yield Markup(
            '<circle cx="{:.1f}" cy="{:.1f}" r="4.5" class="{}"><title>{}</title></circle>'
        ).format(x(a), y(b), one.mark, hint)
        if one.show_names:
            # Over the point, else under it. Names must not lie on each other: one that would on
            # both sides is left to its tooltip.
            for at in ((x(a), y(b) - 9), (x(a), y(b) + 18)):
                if all(abs(at[0] - u) > 130 or abs(at[1] - v) > 13 for u, v in placed):
                    placed.append(at)
                    yield _text(*at, name, "label", "end" if at[0] > WIDTH * 0.7 else "middle")
                    break


def _line_label(one: Series, x: _Scale, y: _Scale, placed: list[tuple[float, float]]) -> Markup:
    """The name of a line on it: over its end if it is level, else at a height of its own."""
    (a, b), (c, d) = one.points[0], one.points[-1]
    if b == d:
        return _text(x(c), y(d) - 6, one.label, "roof", "end")
    share = 0.12 + 0.2 * (len(placed) % 4)
    at = (x(a) + share * (x(c) - x(a)), y(b) + share * (y(d) - y(b)))
    placed.append(at)
    return _text(*at, one.label, "roof", "middle")


def legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """Names and their colours."""
    form = Markup('<span class="key"><i class="{}"></i>{}</span>')
    return Markup("").join(form.format(mark, escape(name)) for name, mark in entries)
