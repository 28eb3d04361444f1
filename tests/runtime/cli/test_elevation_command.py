"""`edge-runtime calibrate-elevation` on a small tracked recording."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from edge_runtime.cli.app import app
from edge_runtime.slam.elevation import read_curve
from edge_runtime.sources.tracked import TrackedSequence, write_sequence


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def recording(tmp_path):
    """Eight frames of smooth noise whose correlation falls by exp(-d), 0.3 mm apart (a Markov chain of fields)."""
    rng, n, frames = np.random.default_rng(0), 128, []
    u, v = 2 * np.pi * np.fft.fftfreq(n)[:, None], 2 * np.pi * np.fft.fftfreq(n)[None]
    field = rng.normal(size=(n, n))
    for _ in range(8):
        seen = np.fft.ifft2(np.fft.fft2(field) * np.exp(-(u**2 + v**2))).real
        frames.append(np.clip(128 + 30 * seen / seen.std(), 0, 255).astype(np.uint8))
        field = np.exp(-0.3) * field + np.sqrt(1 - np.exp(-0.6)) * rng.normal(size=(n, n))
    T = np.tile(np.diag([0.1, 0.1, 0.1, 1.0]), (8, 1, 1))
    T[:, 2, 3] = 0.3 * np.arange(8)
    sequence = TrackedSequence(frames=np.stack(frames), orientation="MF", transforms={"ImageToReference": T})
    write_sequence(tmp_path / "s.igs.mha", sequence)
    return tmp_path / "s.igs.mha"


def test_a_curve_is_learnt_written_and_told(recording, tmp_path):
    out = tmp_path / "curve.json"
    done = call("calibrate-elevation", recording, "--out", out, "--patch-px", 32, "--bands", 1, "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    curve = read_curve(out)
    assert facts["schema"] == "edge-runtime.calibrate-elevation/1"
    assert facts["sigma_mm"] == list(curve.sigma_mm)
    assert facts["pairs"] == 7 + 6
    assert curve.sigma_mm[0] == pytest.approx(0.5, rel=0.3)  # exp(-d) is exp(-1/2) at 0.5 mm
    told = call("calibrate-elevation", recording, "--out", out, "--patch-px", 32, "--bands", 1)
    assert f"written to {out}" in told.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--out", "curve.txt"), "curve.txt"),
        (("--out", "c.json", "--patch-px", "31"), "side is 31"),
        (("--out", "c.json", "--patch-px", "32", "--bands", "50"), "cannot make 50 bands"),
        (("--out", "c.json", "--patch-px", "126"), "at least 3 are needed"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(recording, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    done = call("calibrate-elevation", recording, *words)
    assert done.exit_code == 2
    assert message in done.output
    assert [path.name for path in tmp_path.iterdir()] == [recording.name]
