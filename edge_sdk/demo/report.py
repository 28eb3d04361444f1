"""The demonstration's page and summary, from what its stages left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_runtime.atomic import write_bytes
from edge_sdk.demo.config import DemoConfig
from edge_sdk.demo.figures import plot_curves
from edge_sdk.report import Figure, Section, Table, Tile, write_page
from edge_sdk.stages import StageResult

__all__ = ["summarise", "tiles", "write_json", "write_report"]

Facts = Mapping[str, Any]


def summarise(config: DemoConfig, facts: Facts, machine: Facts) -> dict[str, Any]:
    """`summary.json`: every figure of the run, with the goals of the headline ones."""
    import msgspec

    return {
        "schema": "edge-sdk.demo-summary/1",
        "machine": dict(machine),
        "config": msgspec.to_builtins(config),
        "figures": [{"label": t.label, "value": t.value, "goal": t.goal, "met": t.met} for t in tiles(facts, config)],
        **facts,
    }


def tiles(facts: Facts, config: DemoConfig) -> list[Tile]:
    """The headline figures."""
    training, lowering = facts["training"], facts["bundle"]
    teacher, student = training["teacher"], training["student"]
    ratio = teacher["macs"] / student["macs"]
    drops = {score["variant"]: score["drop_points"] for score in lowering["verification"]["scores"]}
    size = next(v["size_ratio"] for v in lowering["lowering"]["variants"] if v["id"] == "int8")
    real = _branch(facts["stream_real"])
    areas, volume = facts["stream_simulated"]["areas"], facts["volume"]
    drop = training["dice_drop_points"]
    return [
        Tile(
            label="teacher, Dice on held-out frames",
            value=f"{teacher['dice']['mean']:.3f}",
            goal="0.90 or more",
            met=teacher["dice"]["mean"] >= 0.90,
        ),
        Tile(label="student against teacher, Dice points", value=f"{-drop:+.2f}", goal="within 1.0", met=drop <= 1.0),
        Tile(label="multiply-adds, teacher over student", value=f"{ratio:.1f} x", goal="10 x or more", met=ratio >= 10),
        Tile(
            label="student's parameters",
            value=f"{student['parameters']:,}",
            goal="100,000 at most",
            met=student["parameters"] <= 100_000,
        ),
        Tile(
            label="fp16, Dice points lost", value=f"{drops['fp16']:.3f}", goal="0.05 at most", met=drops["fp16"] <= 0.05
        ),
        Tile(
            label="int8, Dice points lost", value=f"{drops['int8']:.3f}", goal="0.5 at most", met=drops["int8"] <= 0.5
        ),
        Tile(label="int8 file over fp32 file", value=f"{100 * size:.0f} %", goal="45 % at most", met=size <= 0.45),
        Tile(
            label=f"real cine, misses at {config.budget_ms:g} ms",
            value=f"{100 * real['miss_ratio']:.2f} %",
            goal="1 % at most",
            met=real["miss_ratio"] <= 0.01,
        ),
        Tile(
            label="simulated cine, mean error of the area",
            value=f"{100 * areas['mean_error']:.1f} %",
            goal="5 % at most",
            met=areas["mean_error"] <= 0.05,
        ),
        Tile(
            label="volume, mean absolute error",
            value=f"{volume['mean_absolute']:.2f} grey levels",
            goal="3 at most",
            met=volume["mean_absolute"] <= 3,
        ),
        Tile(
            label="wire in the volume, mean distance",
            value=f"{volume['wire']['mean_voxels']:.2f} voxels",
            goal="1 at most",
            met=volume["wire"]["mean_voxels"] <= 1,
        ),
    ]


def write_report(
    out: Path, config: DemoConfig, facts: Facts, machine: Facts, stages: Mapping[str, StageResult]
) -> None:
    """`report.html`, whole or not at all."""
    plot_curves(out / "curves.svg", _curves(facts["training"]))
    sections = [
        _stages_section(stages, facts),
        _training_section(out, facts["training"]),
        _bundle_section(facts["bundle"]),
        _stream_section("The real cine, streamed", stages["stream-real"].folder, facts["stream_real"], config),
        _simulated_section(stages["stream-simulated"].folder, facts["stream_simulated"], config),
        _volume_section(stages["volume"].folder, facts["volume"]),
        _machine_section(machine),
    ]
    write_page(
        out / "report.html",
        title="From a teacher to a signed file that keeps up with the probe",
        subtitle=f"edge-sdk demo, {facts['finished']}",
        tiles=tiles(facts, config),
        sections=sections,
    )


def _branch(stream: Facts) -> Any:
    return stream["report"]["branches"]["segmentation"]


def _curves(training: Facts) -> list[tuple[str, list[float]]]:
    parts = [(name, training[name].get("training")) for name in ("teacher", "student")]
    return [(name, part["losses"]) for name, part in parts if part]


def _stages_section(stages: Mapping[str, StageResult], facts: Facts) -> Section:
    rows = tuple(
        (name, f"{stage.record.seconds:.1f}", "from an earlier run" if stage.cached else "this run")
        for name, stage in stages.items()
    )
    table = Table(head=("stage", "seconds", "done in"), rows=(*rows, ("whole command", f"{facts['seconds']:.1f}", "")))
    return Section(title="What was done", tables=(table,))


def _training_section(out: Path, training: Facts) -> Section:
    rows = []
    for name in ("teacher", "student"):
        part = training[name]
        dice = part["dice"]
        rows.append(
            (
                name,
                f"{part['parameters']:,}",
                f"{part['macs'] / 1e6:.1f} M",
                f"{dice['mean']:.4f}",
                f"{dice['std']:.4f}",
                f"{dice['pooled']:.4f}",
            )
        )
    network = Table(
        head=(
            "network",
            "parameters",
            "multiply-adds",
            "Dice, mean of frames",
            "standard deviation",
            "Dice, all pixels",
        ),
        rows=tuple(rows),
        caption=f"{training['frames']['held_out']} held-out simulated frames, none of them trained on.",
    )
    real = Table(
        head=(
            "real frames trained on (no labels; the teacher's outputs are the target)",
            "frames",
            "sha256 of the pixels",
        ),
        rows=tuple((e["source"], _span(e["indices"]), e["sha256"][:16]) for e in training["trained_on_real"]),
    )
    return Section(
        title="Teacher and student",
        text=(
            "Both learn to mark anechoic regions. The teacher learns from "
            f"{training['frames']['train']} simulated frames with masks; the student from the same frames and from "
            "unlabelled real ones, towards the teacher's soft outputs.",
        ),
        tables=(network, real),
        figures=(
            Figure.from_file(
                out / "frames.png",
                alt="Simulated frames",
                caption="Held-out simulated frames, linear and sector, with the true contours.",
            ),
            Figure.from_file(out / "curves.svg", alt="Training loss", caption="Training loss by epoch.", kind="plot"),
        ),
    )


def _span(indices: list[int]) -> str:
    whole = indices == list(range(indices[0], indices[-1] + 1))
    return f"{indices[0]} to {indices[-1]}" if whole and len(indices) > 1 else ", ".join(map(str, indices))


def _bundle_section(bundle: Facts) -> Section:
    scores = {score["variant"]: score for score in bundle["verification"]["scores"]}
    rows = []
    for variant in bundle["lowering"]["variants"]:
        score, rtx = scores[variant["id"]], variant["rtx"]
        rows.append(
            (
                variant["id"],
                str(variant["opset"]),
                f"{variant['file_bytes']:,} ({100 * variant['size_ratio']:.0f} %)",
                f"{score['dice']:.4f}",
                f"{score['drop_points']:+.3f}",
                f"{score['max_abs']:.2g}",
                rtx["status"] + (f": {rtx['reason']}" if rtx["reason"] else ""),
            )
        )
    table = Table(
        head=(
            "variant",
            "opset",
            "bytes (of fp32)",
            "Dice",
            "points lost",
            "largest logit difference",
            "TensorRT-RTX, no GPU",
        ),
        rows=tuple(rows),
        caption=(
            "Each variant: linted against the Q/DQ rules, checked by onnx.checker in full, loaded and run by ONNX "
            "Runtime, parsed and built by TensorRT-RTX where it is written for it, scored against the student in "
            "torch. No engine was executed."
        ),
    )
    text = (
        f"demo.edge: {bundle['bytes']:,} bytes, manifest sha256 {bundle['sha256']}, "
        "signed (ed25519) by a key that this run made.",
    )
    return Section(title="The signed file", text=text, tables=(table,))


def _latency_table(stream: Facts) -> Table:
    def cell(times: Facts, name: str) -> str:
        return f"{times[name]:.2f}" + ("*" if name in times["too_few"] else "")

    rows = tuple(
        (stage, str(times["n"]), cell(times, "p50"), cell(times, "p99"), f"{times['max']:.2f}")
        for stage, times in _branch(stream)["latency"].items()
    )
    return Table(
        head=("ms from the frame's arrival", "results", "p50", "p99", "max"),
        rows=rows,
        caption="* from fewer than the 10 / (1 - q) results that a percentile needs to be quoted (1000 for p99).",
    )


def _ledger_table(stream: Facts) -> Table:
    ledger = _branch(stream)["ledger"]
    rows = []
    for name, value in ledger.items():
        shown = ", ".join(f"{k}: {v}" for k, v in value.items()) or "0" if isinstance(value, dict) else str(value)
        rows.append((name.replace("_", " "), shown))
    return Table(head=("ledger", "frames"), rows=tuple(rows))


def _stream_section(title: str, folder: Path, stream: Facts, config: DemoConfig) -> Section:
    report = stream["report"]
    notes = [f"Note: {warning}." for warning in report["warnings"]]
    withheld = [f"Areas in mm² are withheld: {reason}." for reason in stream["withheld"]]
    balanced = "balances" if report["balances"] else "DOES NOT BALANCE"
    return Section(
        title=title,
        text=(
            f"{report['duration_s']:.1f} s at the recording's own rate, budget {config.budget_ms:g} ms from each "
            f"frame's arrival. The ledger {balanced}.",
            *withheld,
            *notes,
        ),
        tables=(_latency_table(stream), _ledger_table(stream)),
        figures=(
            Figure.from_file(
                folder / "latency.svg",
                alt="Latency of every frame",
                caption="Arrival to result of every frame.",
                kind="plot",
            ),
            Figure.from_file(
                folder / "overlay.webm",
                alt="Overlay video",
                caption="The overlay as a viewer would see it.",
                kind="video",
            ),
            Figure.from_file(folder / "contact.png", alt="Contact sheet", caption="Frames spread over the stream."),
        ),
    )


def _simulated_section(folder: Path, stream: Facts, config: DemoConfig) -> Section:
    base, areas = (
        _stream_section("A simulated cine, with areas that are known", folder, stream, config),
        stream["areas"],
    )
    table = Table(
        head=("area against the truth", "value"),
        rows=(
            ("frames", str(areas["n"])),
            ("true area", f"{areas['truth_mm2'][0]:.1f} to {areas['truth_mm2'][1]:.1f} mm²"),
            ("mean absolute error", f"{100 * areas['mean_error']:.2f} %"),
            ("largest error", f"{100 * areas['max_error']:.2f} %"),
            ("bias", f"{100 * areas['bias']:+.2f} %"),
        ),
    )
    plot = Figure.from_file(folder / "areas.svg", alt="Area over time", caption="Measured and true area.", kind="plot")
    what = (
        "A vessel examination with a linear probe: an artery that pulsates and a vein, large and well seen. On random "
        "hard scenes (small or deep targets, wide beams) the areas are off by more: "
        "`python -m benchmarks.main_job --only area_error` prints both."
    )
    return Section(
        title=base.title, text=(what, *base.text), tables=(table, *base.tables), figures=(plot, *base.figures)
    )


def _volume_section(folder: Path, volume: Facts) -> Section:
    wire = volume["wire"]
    table = Table(
        head=("volume against the truth", "value"),
        rows=(
            ("frames", str(volume["frames"])),
            ("voxels (z, y, x)", f"{' x '.join(map(str, volume['shape']))}, {volume['spacing_mm'][0]:g} mm"),
            ("swept voxels compared", f"{volume['voxels']:,}"),
            ("mean absolute error", f"{volume['mean_absolute']:.2f} grey levels"),
            ("bias", f"{volume['bias']:+.3f} grey levels"),
            (
                "wire: mean distance to the true line",
                f"{wire['mean_mm']:.3f} mm, {wire['mean_voxels']:.2f} voxels, {wire['slices']} slices",
            ),
            ("wire: largest distance", f"{wire['worst_mm']:.3f} mm, {wire['worst_voxels']:.2f} voxels"),
        ),
    )
    picture = Figure.from_file(
        folder / "slices.png", alt="Three orthogonal slices", caption="Reconstruction, truth, difference."
    )
    text = (
        "A simulated tracked sweep with exact poses: a smooth grey field plus noise, no simulation of 3-D speckle.",
    )
    return Section(title="The volume", text=text, tables=(table,), figures=(picture,))


def _machine_section(machine: Facts) -> Section:
    rows = tuple((key, str(value)) for key, value in machine.items())
    return Section(title="Machine and versions", tables=(Table(head=("", ""), rows=rows),))


def write_json(path: Path, value: Any) -> None:
    """Indented JSON, whole or not at all."""
    import msgspec

    write_bytes(path, msgspec.json.format(msgspec.json.encode(value), indent=2))
