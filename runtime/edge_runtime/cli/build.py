"""What `edge-runtime build` does: an engine for every variant, built or taken from the cache, and read back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer

from edge_runtime.bundle import Bundle
from edge_runtime.bundle.manifest import Manifest, Target, Variant
from edge_runtime.engines import BuildSettings, EngineCache, build_engine, open_engine, prove_precision
from edge_runtime.errors import ConfigError

__all__ = ["build_engines", "echo_error", "progress_line", "to_text"]

Told = Callable[[str], None]
TARGET: Target = "tensorrt"


def build_engines(
    path: Path,
    *,
    variants: Sequence[str],
    precisions: Sequence[str],
    settings: BuildSettings,
    cache: EngineCache,
    trust: Sequence[Path],
    told: Told,
) -> dict[str, Any]:
    """Build the engines of the bundle's TensorRT ladder, or of the variants named; a JSON object says what was done.

    Each engine is read back unless it was built ahead of time for another GPU; not getting the variant's precision is
    an error. Raises `ConfigError` for a variant or precision that the bundle does not have, and what `Bundle.open`,
    `build_engine` and `prove_precision` raise.
    """
    with Bundle.open(path, trust=list(trust), require_signature=bool(trust)) as bundle:
        chosen = _chosen(bundle.manifest, path, variants, precisions)
        engines = []
        for variant in chosen:
            told(f"{variant.id}: building, or looking for, its engine")
            engines.append(_one(bundle, variant, settings, cache, told))
        return {"schema": "edge-runtime.build/1", "bundle_sha256": bundle.sha256, "engines": engines}


def _chosen(manifest: Manifest, path: Path, names: Sequence[str], precisions: Sequence[str]) -> tuple[Variant, ...]:
    by_id = {variant.id: variant for variant in manifest.variants}
    wanted: tuple[str, ...] = tuple(names) or manifest.ladders.get(TARGET, ())
    if not wanted:
        raise ConfigError(f"{path} has no ladder for {TARGET}; it has {sorted(manifest.ladders)}. Give --variant ID")
    unknown = [name for name in wanted if name not in by_id]
    if unknown:
        raise ConfigError(f"{path} has no variant {unknown}; it has {sorted(by_id)}")
    found = tuple(by_id[name] for name in wanted if not precisions or by_id[name].precision in precisions)
    if not found:
        there = sorted({by_id[name].precision for name in wanted})
        raise ConfigError(f"none of {list(wanted)} has precision {list(precisions)}; they have {there}")
    return found


def _one(bundle: Bundle, variant: Variant, settings: BuildSettings, cache: EngineCache, told: Told) -> dict[str, Any]:
    model = bundle.model(variant.id)
    file = build_engine(
        model, name=variant.id, settings=settings, cache=cache, progress=progress_line(variant.id, told)
    )
    found: dict[str, Any] = {
        "variant": variant.id,
        "precision": variant.precision,
        "engine": str(file.path),
        "log": str(file.log),
        "built": file.built,
        "reasons": list(file.reasons),
        "seconds": round(file.seconds, 3),
        "bytes": file.size,
        "tensorrt": f"{file.key.flavour} {file.key.tensorrt}",
        "read_back": None,
    }
    if not settings.capabilities:
        engine = open_engine(file, cache, dla=settings.dla)
        report = prove_precision(engine, model, variant.precision).to_dict()
        report.pop("layers")
        found["read_back"] = report
    return found


def progress_line(variant: str, told: Told) -> Callable[[str, int, int], None]:
    """A `Progress` that tells each phase once, when its first step is done."""
    seen: set[str] = set()

    def progress(phase: str, done: int, total: int) -> None:
        if phase not in seen:
            seen.add(phase)
            told(f"{variant}: {phase}" + (f" ({total} steps)" if total else ""))

    return progress


def to_text(facts: dict[str, Any]) -> str:
    """A line an engine for a person, with the reasons beneath."""
    lines = []
    for engine in facts["engines"]:
        what = f"built in {engine['seconds']:.1f} s" if engine["built"] else "already built"
        lines.append(f"{engine['variant']}: {what}, {engine['bytes']:,} bytes, {engine['tensorrt']}")
        lines += [f"    because {reason}" for reason in engine["reasons"]]
        back = engine["read_back"]
        if back is None:
            lines.append("    not read back: built ahead of time for another GPU")
        else:
            shares = ", ".join(f"{100 * share:.0f} % {name}" for name, share in back["weighted"].items())
            lines.append(f"    convolutions and products: {shares or 'none'}; {len(back['reformats'])} reformat layers")
        lines.append(f"    log: {engine['log']}")
    return "\n".join(lines) + "\n"


def echo_error(text: str) -> None:
    """Progress goes to stderr, so that stdout is the result alone."""
    typer.echo(text, err=True)
