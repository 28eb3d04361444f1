"""The form of every benchmark: rows with a goal, measured values with n and spread, one table, one JSON object."""

from __future__ import annotations

import json
import operator
import os
import platform
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from typing import Annotated

import typer

from edge_runtime.errors import ConfigError

__all__ = ["Figure", "Row", "judged", "machine", "main", "row_of", "run"]

RESULTS = Path(__file__).with_name("RESULTS.md")
_BOUND = re.compile(r"(<=|>=|<|>) (-?\d+(?:\.\d+)?(?:e-?\d+)?)(?![\w.])")
_HOLDS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured value. `value` None means it could not be measured; `reason` then says why.

    `goal` is the sentence of the goal, `met` whether the value reaches it; `n` counts what the value is over;
    `spread` names its spread in words or numbers; `detail` holds what a reader needs to check it.
    """

    name: str
    value: float | bool | None
    goal: str
    unit: str
    n: int
    met: bool | None
    spread: str = ""
    reason: str = ""
    detail: dict[str, object] = field(default_factory=dict)


def judged(
    *,
    name: str,
    value: float,
    goal: str,
    unit: str,
    n: int,
    spread: str = "",
    detail: Mapping[str, object] | None = None,
) -> Figure:
    """A figure that is held to the bound its goal begins with, "<= 0.54 mm" or "> 6 times": the sentence is the check.

    Raises `ConfigError` for a goal that begins otherwise.
    """
    bound = _BOUND.match(goal)
    if bound is None:
        raise ConfigError(f"{name}: the goal {goal!r} does not begin with <=, >=, < or > and a number; use Figure")
    value = float(value)
    met = bool(_HOLDS[bound[1]](value, float(bound[2])))
    return Figure(name=name, value=value, goal=goal, unit=unit, n=n, met=met, spread=spread, detail=dict(detail or {}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A key of the table and the function that measures its figures.

    `fresh` repeats the training behind stored results; rows that share one may give the same function, which is
    called once.
    """

    key: str
    what: str
    measure: Callable[[], Sequence[Figure]]
    fresh: Callable[[], object] | None = None


def row_of(module: str, key: str, what: str, fresh: Callable[[], object] | None = None) -> Row:
    """The row `key`, whose figures are those of `measure_KEY` in `module`, which is imported when it is measured."""

    def measure() -> Sequence[Figure]:
        found: Sequence[Figure] = getattr(import_module(module), f"measure_{key}")()
        return found

    return Row(key=key, what=what, measure=measure, fresh=fresh)


def machine() -> dict[str, object]:
    """Processor, cores, load, system and the versions that a figure depends on; no host name."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    versions = {}
    for name in (
        "pocus-edge-sdk",
        "numpy",
        "torch",
        "onnx",
        "onnxruntime",
        "openvino",
        "opencv-python-headless",
        "pydicom",
        "numba",
    ):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def _measure(row: Row) -> list[Figure]:
    try:
        return list(row.measure())
    except Exception as error:  # one broken row must not hide the others; it is printed as not measured
        traceback.print_exc(file=sys.stderr)
        reason = f"{type(error).__name__}: {error}"
        return [Figure(name=row.key, value=None, goal="", unit="", n=0, met=None, reason=reason)]


def _cell(figure: Figure) -> str:
    if figure.value is None:
        return f"not measured: {figure.reason.splitlines()[0][:90] if figure.reason else 'no reason given'}"
    if isinstance(figure.value, bool):
        return "yes" if figure.value else "no"
    return f"{figure.value:.4g} {figure.unit}".strip()


def table(rows: Sequence[Row], results: dict[str, list[Figure]], facts: dict[str, object]) -> str:
    """The figures as a Markdown table with the machine beneath."""
    head = ["key", "figure", "goal", "reached", "met", "n", "spread"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        for figure in results[row.key]:
            met = {True: "yes", False: "NO", None: "-"}[figure.met]
            cells = [f"`{row.key}`", figure.name, figure.goal, _cell(figure), met, str(figure.n), figure.spread]
            lines.append("| " + " | ".join(c.replace("|", "/") for c in cells) + " |")
    versions = facts["versions"]
    assert isinstance(versions, dict)
    lines += [
        "",
        f"Machine: {facts['cpu']}, {facts['cores']} cores, {facts['system']}, load {facts['load_1min']} at the start. "
        f"Python {facts['python']}; " + ", ".join(f"{k} {v}" for k, v in versions.items()) + ".",
    ]
    return "\n".join(lines)


def _merged(name: str, text: str, keys: Sequence[str]) -> str:
    """The table `text` of some keys put into the one that stands in RESULTS.md, in the order of `keys`."""
    old = RESULTS.read_text() if RESULTS.exists() else ""
    section = old.partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0]
    lines: dict[str, list[str]] = {}
    for source in (section, text):
        found: dict[str, list[str]] = {}
        for line in source.splitlines():
            if line.startswith("| `"):
                found.setdefault(line.split("`")[1], []).append(line)
        lines.update(found)
    head, *_ = text.partition("| `")
    tail = text[text.rindex("\n\n") :]
    return head + "\n".join(line for key in keys for line in lines.get(key, [])) + tail


def _write_section(name: str, title: str, text: str) -> None:
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    old = RESULTS.read_text() if RESULTS.exists() else "# Results\n\nWritten by `make figures`; not edited by hand.\n"
    section = f"{begin}\n\n## {title}\n\n`python -m benchmarks.{name}`\n\n{text}\n\n{end}"
    if begin in old:
        head, rest = old.split(begin, 1)
        new = head + section + rest.split(end, 1)[1]
    else:
        new = old.rstrip() + "\n\n" + section + "\n"
    temporary = RESULTS.with_suffix(".tmp")
    temporary.write_text(new)
    temporary.replace(RESULTS)


def _as_json(figures: list[Figure]) -> object:
    entries = [asdict(figure) for figure in figures]
    return entries[0] if len(entries) == 1 else entries


def _train(rows: Sequence[Row]) -> None:
    """The trainings of `rows`, each once."""
    for train in dict.fromkeys(row.fresh for row in rows if row.fresh is not None):
        train()


def run(
    name: str,
    title: str,
    rows: Sequence[Row],
    *,
    only: Sequence[str],
    as_json: bool,
    write: bool,
    fresh: bool = False,
) -> int:
    """Measure and print; 0 when every figure was measured and meets its goal, 1 otherwise.

    With `fresh` the trainings behind the chosen rows are repeated first (hours; a stopped one goes on).
    """
    unknown = sorted(set(only) - {row.key for row in rows})
    if unknown:
        raise typer.BadParameter(f"unknown key {unknown}; one of {[row.key for row in rows]}")
    chosen = [row for row in rows if not only or row.key in only]
    if fresh:
        _train(chosen)
    facts = machine()
    results: dict[str, list[Figure]] = {}
    for row in chosen:
        began = time.perf_counter()
        typer.echo(f"[{row.key}] {row.what} ...", err=True)
        results[row.key] = _measure(row)
        typer.echo(f"[{row.key}] {time.perf_counter() - began:.1f} s", err=True)
    text = table(chosen, results, facts)
    entries = {key: _as_json(figures) for key, figures in results.items()}
    typer.echo(json.dumps({**entries, "_machine": facts}, indent=1) if as_json else text)
    if write:
        _write_section(name, title, _merged(name, text, [row.key for row in rows]) if only else text)
    return int(any(f.met is False or f.value is None for figures in results.values() for f in figures))


def main(name: str, title: str, rows: Sequence[Row]) -> None:
    """The command line of one benchmark module."""

    def command(
        json: Annotated[bool, typer.Option(help="One object with an entry per key.")] = False,
        only: Annotated[list[str] | None, typer.Option(help="Measure this key alone; may be repeated.")] = None,
        write: Annotated[bool, typer.Option(help="Rewrite the table, or its rows, in RESULTS.md.")] = False,
        fresh: Annotated[bool, typer.Option(help="Repeat the trainings behind the figures first: hours.")] = False,
    ) -> None:
        raise typer.Exit(run(name, title, rows, only=only or (), as_json=json, write=write, fresh=fresh))

    command.__doc__ = title
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    app()
