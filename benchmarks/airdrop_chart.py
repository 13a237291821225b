"""A chart as SVG: lines over a logarithmic axis, nothing that a browser would have to fetch."""

import math

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 400, 60, 20, 120, 50
COLOURS = ("#1b6ca8", "#c8553d", "#2a7f4f", "#8e5ea2", "#b8860b")
FIRST, LAST = 0.05, 40.0
"""The axis of returns: 5 % to 4,000 % a year."""


def _x(value: float) -> float:
    part = math.log(min(max(value, FIRST), LAST) / FIRST) / math.log(LAST / FIRST)
    return LEFT + part * (WIDTH - LEFT - RIGHT)


def _y(part: float) -> float:
    return TOP + (1 - part) * (HEIGHT - TOP - BOTTOM)


def _text(x: float, y: float, words: str, anchor: str = "middle", colour: str = "#333") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{colour}">{words}</text>'


def chart(curves: dict[str, list[tuple[float, float]]], chosen: float) -> str:
    """Inclusion (up) against an attacker's yearly return (across), with the aims and the default's return marked."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        '     font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        # The corner in which both aims are reached.
        f'<path d="M{LEFT} {_y(1):.0f}H{_x(0.1):.0f}V{_y(0.9):.0f}H{LEFT}Z" fill="#dfeedd"/>',
    ]
    for part in (0, 0.25, 0.5, 0.75, 0.9, 1):
        lines.append(f'<path d="M{LEFT} {_y(part):.0f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        lines.append(_text(LEFT - 6, _y(part) + 4, f"{part:.0%}", "end"))
    for value in (0.1, 0.3, 1, 3, 10, 30):
        lines.append(f'<path d="M{_x(value):.0f} {TOP}V{_y(0):.0f}" stroke="#eee"/>')
        lines.append(_text(_x(value), _y(0) + 18, f"{value * 100:,.0f} %"))
    lines.append(f'<path d="M{_x(chosen):.0f} {TOP}V{_y(0):.0f}" stroke="#333" stroke-dasharray="4 4"/>')
    lines.append(_text(_x(chosen) + 4, _y(0.03), "default", "start"))
    for number, (name, points) in enumerate(curves.items()):
        colour = COLOURS[number]
        path = " ".join(f"{_x(across):.1f},{_y(up):.1f}" for across, up in points)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines += [f'<circle cx="{_x(across):.1f}" cy="{_y(up):.1f}" r="3" fill="{colour}"/>' for across, up in points]
        lines.append(_text(WIDTH - RIGHT + 12, TOP + 20 + 20 * number, name, "start", colour))
    across = (LEFT + WIDTH - RIGHT) / 2
    lines.append(_text(across, HEIGHT - 10, "yearly return of a wash key at most; each point is one bond multiple"))
    lines.append(_text(LEFT, TOP - 6, "honest nodes in", "start"))
    return "\n".join([*lines, "</svg>", ""])
