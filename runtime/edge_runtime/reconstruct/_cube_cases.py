"""The 256 cases of marching cubes, worked out from one rule about faces.

The crossings of a cube are joined face by face, and the joins make closed loops, which are cut into triangles. On a
face where the inside corners lie diagonally each is cut off by itself (corners touch, faces do not), a rule that two
cubes with that face in common see alike, so the surface has no holes, unlike that of the 1987 tables (Duerst, Computer
Graphics 22, 1988; the rule: Montani, Scateni and Scopigno, The Visual Computer 10, 1994). Outside corners touch along
a face's diagonal, but not along a cube's. No cut runs within a face,
where that of the neighbour could coincide with it.

Corner c of a cube is (x, y, z) = (c & 1, c >> 1 & 1, c >> 2). Edge e starts at corner `EDGES[e][1]` and runs along
axis `EDGES[e][0]` (0 x, 1 y, 2 z).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

__all__ = ["EDGES", "MAX_TRIANGLES", "case_triangles"]

EDGES = tuple((axis, corner) for axis in range(3) for corner in range(8) if not corner >> axis & 1)
MAX_TRIANGLES = 5

Loop = list[int]
Triangle = tuple[int, int, int]


def case_triangles() -> npt.NDArray[np.int8]:
    """(256, 16) int8: for each case (bit c: corner c is inside) three edges a triangle, then -1.

    Seen from outside the inside, the triangles run anticlockwise in right-handed (x, y, z).
    """
    table = np.full((256, 3 * MAX_TRIANGLES + 1), -1, np.int8)
    for case in range(256):
        corners = [e for loop in _loops(case) for triangle in _cut(loop) for e in triangle]
        table[case, : len(corners)] = corners
    return table


def _edge(p: int, q: int) -> int:
    """The edge between two neighbouring corners."""
    return EDGES.index(((p ^ q).bit_length() - 1, min(p, q)))


def _rings() -> Iterator[list[int]]:
    """The corners of the six faces, anticlockwise seen from outside the cube."""
    for axis in range(3):
        b, c = 1 << (axis + 1) % 3, 1 << (axis + 2) % 3
        yield [c, b | c, b, 0]
        yield [n | 1 << axis for n in (0, b, b | c, c)]


RINGS = tuple(_rings())
FACES = tuple(frozenset(_edge(r[i - 1], r[i]) for i in range(4)) for r in RINGS)


def _loops(case: int) -> list[Loop]:
    """The closed loops of crossed edges; each join runs from where the ring of a face leaves the inside."""
    joins = {}
    for ring in RINGS:
        inside = [bool(case >> c & 1) for c in ring]
        for i in range(4):
            if inside[i] and not inside[(i + 1) % 4]:
                first = i
                while inside[first - 1]:
                    first -= 1
                joins[_edge(ring[i], ring[(i + 1) % 4])] = _edge(ring[first - 1], ring[first])
    loops = []
    while joins:
        start, at = joins.popitem()
        loop = [start]
        while at != start:
            loop.append(at)
            at = joins.pop(at)
        loops.append(loop)
    return loops


def _cut(loop: Loop) -> list[Triangle]:
    """Triangles of a loop such that no cut lies in a face of the cube. Every loop that occurs has such a set."""
    triangles = _try(loop)
    assert triangles is not None
    return triangles


def _try(loop: Loop) -> list[Triangle] | None:
    """The triangle on the join from the last to the first edge, and those of what is left on its two sides."""
    if len(loop) == 2:
        return []
    for k in range(1, len(loop) - 1):
        sides = (loop[: k + 1], loop[k:])
        if any(len(s) > 2 and any({s[0], s[-1]} <= face for face in FACES) for s in sides):
            continue
        before, after = _try(sides[0]), _try(sides[1])
        if before is not None and after is not None:
            return [*before, (loop[-1], loop[k], loop[0]), *after]
    return None
