"""Transforms by name: `ImageToReference` out of `ImageToProbe`, `ProbeToTracker` and `ReferenceToTracker`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError

__all__ = ["Step", "TransformGraph", "split_name"]


def split_name(name: str) -> tuple[str, str]:
    """(from, to) of `ProbeToTracker`, by the rule of PLUS: one `To` that is followed by a capital letter or digit.

    Raises `ConfigError` where that is not exactly one place with a name on each side.
    """
    places = [match.start() for match in re.finditer("To(?=[^a-z])", name)]
    if len(places) != 1 or places[0] == 0:
        raise ConfigError(f"{name!r} is not the name of a transform; write <From>To<To>, such as ProbeToTracker")
    return name[: places[0]], name[places[0] + 2 :]


@dataclass(frozen=True, slots=True)
class Step:
    """One transform of a chain; `inverted` when it is passed against its direction."""

    name: str
    inverted: bool


class TransformGraph:
    """Coordinate frames joined by named transforms; each may be passed both ways.

    `transforms` maps a name to matrices (4, 4) or (N, 4, 4) float64. Names that are not `<From>To<To>` are left out.
    """

    def __init__(self, transforms: Mapping[str, npt.NDArray[np.float64]]) -> None:
        self.transforms = dict(transforms)
        self._edges: dict[str, list[tuple[str, Step]]] = {}
        for name in self.transforms:
            try:
                start, end = split_name(name)
            except ConfigError:
                continue
            self._edges.setdefault(start, []).append((end, Step(name, False)))
            self._edges.setdefault(end, []).append((start, Step(name, True)))

    def path(self, name: str) -> tuple[Step, ...]:
        """The fewest steps from the first frame of `name` to the second, in the order in which a point passes them.

        Raises `ConfigError`, showing the graph and what is missing, when there is none, and when two chains are equally
        short: it is then not known which is meant.
        """
        start, end = split_name(name)
        ways: dict[str, list[tuple[Step, ...]]] = {start: [()]}
        front = {start}
        while front and end not in ways:
            reached: dict[str, list[tuple[Step, ...]]] = {}
            for node in front:
                for neighbour, step in self._edges.get(node, []):
                    if neighbour not in ways:
                        reached.setdefault(neighbour, []).extend((*way, step) for way in ways[node][:2])
            ways |= reached
            front = set(reached)
        if end not in ways:
            raise ConfigError(self._missing(name, start, end))
        if len(ways[end]) > 1:
            chains = " and ".join(" * ".join(step.name for step in way) for way in ways[end][:2])
            raise ConfigError(f"{name} can be had in two ways: {chains}. Leave one of these transforms out")
        return ways[end][0]

    def resolve(self, name: str) -> npt.NDArray[np.float64]:
        """The matrices of `name`: (4, 4) when every step is constant, else (N, 4, 4). Raises as `path`.

        A step that cannot be inverted gives NaN where it is singular.
        """
        T = np.eye(4)
        for step in self.path(name):
            T = self.matrices(step) @ T
        return T

    def matrices(self, step: Step) -> npt.NDArray[np.float64]:
        """The matrices of one step in the direction in which it is passed."""
        T = self.transforms[step.name]
        if not step.inverted:
            return T
        determinant = np.linalg.det(np.where(np.isfinite(T), T, 0.0))
        good = np.isfinite(determinant) & (determinant != 0) & np.isfinite(T).all(axis=(-2, -1))
        return np.where(good[..., None, None], np.linalg.inv(np.where(good[..., None, None], T, np.eye(4))), np.nan)

    def describe(self) -> str:
        """The graph in words, one group of joined coordinate frames after the other."""
        groups = []
        for group in self._groups():
            names = sorted(name for name, T in self.transforms.items() if group & self._ends(name))
            groups.append(f"{{{', '.join(sorted(group))}}} by {', '.join(names)}")
        return "; ".join(groups) or "no transform at all"

    def _ends(self, name: str) -> set[str]:
        return {node for node, edges in self._edges.items() if any(step.name == name for _, step in edges)}

    def _groups(self) -> list[set[str]]:
        groups: list[set[str]] = []
        for node in sorted(self._edges):
            if any(node in group for group in groups):
                continue
            group, front = {node}, [node]
            while front:
                fresh = {neighbour for neighbour, _ in self._edges[front.pop()]} - group
                group |= fresh
                front += fresh
            groups.append(group)
        return groups

    def _missing(self, name: str, start: str, end: str) -> str:
        near, far = (next((g for g in self._groups() if node in g), {node}) for node in (start, end))
        advice = f"one that joins {_one_of(near)} with {_one_of(far)}"
        if start == "Image" and near == {start}:
            advice += (
                "; the probe calibration ImageToProbe is kept beside the recording: give it among the constants "
                "(--calibration on the command line)"
            )
        return f"{name} cannot be had from what is there ({self.describe()}). Missing: {advice}"


def _one_of(group: set[str]) -> str:
    return min(group) if len(group) == 1 else f"one of {{{', '.join(sorted(group))}}}"
