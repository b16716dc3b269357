"""The outlines of the shapes, inside the unit circle around (0, 0). y points down, as in pictures."""

from __future__ import annotations

import math

Points = list[tuple[float, float]]


def _at(turn: float, radius: float) -> tuple[float, float]:
    """The point `turn` (1 is once around, clockwise from the top) at this radius."""
    return radius * math.sin(2 * math.pi * turn), -radius * math.cos(2 * math.pi * turn)


def _polar(n: int, radius: float) -> Points:
    return [_at(k / n, radius) for k in range(n)]


def _moved(points: Points, right: float) -> Points:
    return [(x + right, y) for x, y in points]


def _cross() -> Points:
    points: Points = []
    corner: Points = [(-0.3, -0.95), (0.3, -0.95), (0.3, -0.3)]
    for _ in range(4):
        points += corner
        corner = [(-y, x) for x, y in corner]
    return points


def _heart() -> Points:
    """A parametric heart curve, scaled and centred."""
    angles = [2 * math.pi * k / 60 for k in range(60)]
    return [
        (
            0.96 * math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 17.5 - 0.06,
        )
        for t in angles
    ]


def _arrow() -> Points:
    half: Points = [(0.98, 0), (0.2, -0.72), (0.2, -0.28), (-0.95, -0.28)]
    return [*half, *((x, -y) for x, y in reversed(half[1:]))]


def _petals() -> Points:
    return [_at(k / 96, 0.55 + 0.43 * abs(math.sin(6 * math.pi * k / 96))) for k in range(96)]


OUTLINES: dict[str, tuple[Points, ...]] = {
    "circle": (_polar(48, 0.9),),
    "square": ([(-0.75, -0.75), (0.75, -0.75), (0.75, 0.75), (-0.75, 0.75)],),
    "triangle": ([(0, -0.98), (0.9, 0.68), (-0.9, 0.68)],),
    "star": ([_at(k / 10, 1.0 if k % 2 == 0 else 0.42) for k in range(10)],),
    "heart": (_heart(),),
    "cross": (_cross(),),
    "ring": (_polar(48, 0.95), _polar(40, 0.52)),
    "moon": (_moved(_polar(48, 0.95), 0.15), _moved(_polar(48, 0.82), 0.57)),
    "hexagon": (_polar(6, 0.95),),
    "diamond": ([(0, -1), (0.58, 0), (0, 1), (-0.58, 0)],),
    "arrow": (_arrow(),),
    "flower": (_petals(), _polar(24, 0.2)),
}
"""Of each shape its outline, then the holes in it."""
