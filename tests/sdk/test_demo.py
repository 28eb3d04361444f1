"""The demonstration in miniature: every stage on real input, resumable, and a report that needs nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.bundle import Bundle
from edge_runtime.errors import BundleSignatureError, ConfigError
from edge_runtime.reconstruct import read_nrrd
from edge_runtime.sinks import read_jsonl
from edge_sdk.config import DistillConfig, NetworkConfig, OptimiserConfig, TeacherConfig
from edge_sdk.demo import DemoConfig, read_config, run_demo, summary_text
from edge_sdk.demo import run as demo_run
from edge_sdk.recipe import Recipe, SimulatedData, TeacherSection

SMALL = NetworkConfig(width=4, depth=3)
TINY = DemoConfig(
    recipe=Recipe(
        data=SimulatedData(seed=3, train=16, held_out=8, shape=(96, 96)),
        teacher=TeacherSection(train=TeacherConfig(network=SMALL, optimiser=OptimiserConfig(epochs=1))),
        distill=DistillConfig(network=SMALL, optimiser=OptimiserConfig(epochs=1)),
    ),
    calibration_frames=4,
    stream_s=1.0,
    simulated_frames=12,
    simulated_shape=(128, 128),
    sweep_frames=12,
    voxel_mm=1.0,
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("demo")
    return out, run_demo(out, TINY)


def test_summary_has_every_part(done: tuple[Path, dict[str, Any]]) -> None:
    out, summary = done
    assert json.loads((out / "summary.json").read_text())["figures"] == summary["figures"]
    gates = {v["id"]: v["rtx"]["status"] for v in summary["bundle"]["lowering"]["variants"]}
    assert gates == {"fp32": "accepted", "fp16": "accepted", "int8": "accepted", "int8-cpu": "not tried"}
    assert len(summary["figures"]) == 11
    text = summary_text(summary, out)
    assert "real cine:" in text
    assert "report.html" in text


def test_real_frames_that_were_trained_on_are_named(done: tuple[Path, dict[str, Any]]) -> None:
    (entry,) = done[1]["training"]["trained_on_real"]
    assert entry["source"] == "examples_ybr_color.dcm"
    assert len(entry["indices"]) == 30
    assert len(entry["sha256"]) == 64


def test_ledgers_balance_and_real_millimetres_are_withheld(done: tuple[Path, dict[str, Any]]) -> None:
    _, summary = done
    for name in ("stream_real", "stream_simulated"):
        assert summary[name]["report"]["balances"]
        ledger = summary[name]["report"]["branches"]["segmentation"]["ledger"]
        assert ledger["arrived"] > 0
    (reason,) = summary["stream_real"]["withheld"]
    assert "outside" in reason
    assert summary["stream_simulated"]["withheld"] == []


def test_bundle_is_signed_by_the_runs_key(done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    from edge_runtime.bundle import generate_key

    out, summary = done
    with Bundle.open(out / "demo.edge", trust=[out / "demo-key.pub.pem"], require_signature=True) as bundle:
        bundle.verify_all()
        assert bundle.sha256 == summary["bundle"]["sha256"]
        assert "Not a medical device" in bundle.card()
    generate_key(tmp_path / "other.pem", tmp_path / "other.pub.pem")
    with pytest.raises(BundleSignatureError):
        Bundle.open(out / "demo.edge", trust=[tmp_path / "other.pub.pem"], require_signature=True)
    assert (out / "demo-key.private.pem").stat().st_mode & 0o077 == 0


def test_volume_and_record_can_be_read(done: tuple[Path, dict[str, Any]]) -> None:
    out, summary = done
    assert list(read_nrrd(out / "volume.nrrd").data.shape) == summary["volume"]["shape"]
    record = read_jsonl(out / "results.jsonl")
    assert not record.truncated
    assert record.results


def test_report_needs_nothing_from_elsewhere(done: tuple[Path, dict[str, Any]]) -> None:
    html = (done[0] / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', html)
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert "<script" not in html
    assert "video/webm" in html
    assert "DOES NOT BALANCE" not in html
    assert "Not a medical device" in html


def test_second_run_takes_every_stage_from_the_cache(done: tuple[Path, dict[str, Any]]) -> None:
    out, first = done
    again = run_demo(out, TINY)
    assert all(stage["cached"] for stage in again["stages"].values())
    assert again["bundle"] == first["bundle"]


def test_interrupted_run_leaves_no_half_stage_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo_run, "make_bundle", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_demo(tmp_path, TINY)
    assert not (tmp_path / "summary.json").exists()
    assert not list((tmp_path / "stages").glob(".partial-*"))
    finished = run_demo(tmp_path, TINY)
    assert finished["stages"]["student"]["cached"]
    assert not finished["stages"]["bundle"]["cached"]


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("bugdet_ms: 20\n", "bugdet_ms"),
        ("budget_ms: -1\n", "budget_ms"),
        ("stream_s: fast\n", "stream_s"),
        ("- 1\n", "mapping"),
        ("recipe: {nme: x}\n", "nme"),
        ("recipe: {export: {card: {intended_use: a, training_data: b, limits: c}}}\n", "use `edge-sdk distill`"),
        ("a: [\n", "line"),
    ],
)
def test_bad_settings_name_the_file_and_the_key(tmp_path: Path, text: str, fragment: str) -> None:
    path = tmp_path / "demo.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=fragment) as caught:
        read_config(path)
    assert str(path) in str(caught.value)
