"""`resume`: a training is killed with SIGKILL at random moments, continued each time, and compared with one that was
left alone: the same sha256 over the student's and the adapter's weights, the same epochs, metrics and early stop.

The run is a distillation with everything that has a state: batch normalisation, dropout, augmentation, AdamW, a
moving average, an adapter that is trained along, a held-out metric with early stopping, and checkpoints within epochs.
The frames are simulated, so the row needs no data. `python -m benchmarks.distill.resume FOLDER` is the child.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Figure
from edge_runtime.errors import EdgeError

__all__ = ["Outcome", "kill_and_resume", "measure_resume"]

Outcome = dict[str, Any]
SHAPE = (48, 48)
FRAMES, HELD_OUT = 64, 16


def _write_data(folder: Path) -> None:
    from edge_sdk.simulate.dataset import training_set

    images, masks, _ = training_set(seed=77, n=FRAMES + HELD_OUT, shape=SHAPE)
    np.savez(folder / "data.npz", images=images, masks=masks)


def child(folder: Path, data: Path, *, epochs: int) -> Outcome:
    """One training in `folder`, from its checkpoint if there is one; what it ends with."""
    import torch
    from torch import nn

    from edge_sdk.batch import Field, TrainingSet
    from edge_sdk.config import AugmentConfig, NetworkConfig, OptimiserConfig
    from edge_sdk.losses import LossTerm, compose
    from edge_sdk.students import build_network
    from edge_sdk.train import LoopConfig, fit

    arrays = np.load(data)
    inputs = torch.from_numpy(arrays["images"]).float().unsqueeze(1) / 255
    masks = torch.from_numpy(arrays["masks"])
    frames = TrainingSet(
        inputs=inputs[:FRAMES],
        labelled=torch.arange(FRAMES) % 4 != 0,
        targets={"mask": Field(values=masks[:FRAMES], kind="labels")},
    )
    teacher = build_network(NetworkConfig(width=8, depth=3), seed=5)
    student = build_network(NetworkConfig(width=4, depth=3), seed=6)
    student.pool = nn.Sequential(nn.MaxPool2d(2), nn.Dropout(0.1))  # type: ignore[assignment]

    def dice(module: nn.Module) -> float:
        found = module(inputs[FRAMES:])[:, 0] > 0
        truth = masks[FRAMES:] > 0
        return float(2 * (found & truth).sum() / (found.sum() + truth.sum()).clamp_min(1))

    terms = [
        LossTerm(kind="dice_ce"),
        LossTerm(kind="logit_kd", weight=0.1, live=True),
        LossTerm(kind="hint", weight=0.1, student_layer="encoder.1", teacher_layer="encoder.1"),
    ]
    settings = OptimiserConfig(epochs=epochs, batch_size=8, learning_rate=0.01, ema_decay=0.9, threads=1, seed=3)
    loop = LoopConfig(patience=4, min_delta=0.01, checkpoint_every=3)
    with (
        (folder / "steps").open("ab", buffering=0) as steps,
        compose(terms, student=student, teacher=teacher, example=inputs[:1]) as loss,
    ):
        # a byte per step, for the killer to count; a hook that returned it would replace the loss
        loss.register_forward_hook(lambda *_: steps.write(b".") and None)
        report = fit(
            student, frames, loss, settings, AugmentConfig(), loop=loop, validate=dice, checkpoint=folder / "c.pt"
        )
        digest = hashlib.sha256()
        for name, value in [*student.state_dict().items(), *loss.state_dict().items()]:
            digest.update(name.encode() + value.numpy().tobytes())
    return {
        "sha256": digest.hexdigest(),
        "losses": report.losses,
        "metrics": report.metrics,
        "best_epoch": report.best_epoch,
        "stopped_early": report.stopped_early,
    }


def _start(folder: Path, data: Path, epochs: int) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    (folder / "steps").write_bytes(b"")
    command = [sys.executable, "-m", "benchmarks.distill.resume", str(folder), str(data), str(epochs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.PIPE)


def _kill_after(process: subprocess.Popen[bytes], folder: Path, steps: int, delay: float) -> None:
    """SIGKILL `delay` seconds after the process has begun its step number `steps`, unless it ends before."""
    while process.poll() is None and (folder / "steps").stat().st_size < steps:
        time.sleep(0.002)
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)


def _end(process: subprocess.Popen[bytes], folder: Path) -> Outcome:
    _, errors = process.communicate()
    if process.returncode != 0:
        raise EdgeError(f"the training ended with {process.returncode}: {errors.decode(errors='replace')[-2000:]}")
    outcome: Outcome = json.loads((folder / "done.json").read_text())
    return outcome


def _place(folder: Path) -> list[int]:
    """Whole epochs and steps in the checkpoint."""
    import torch

    if not (folder / "c.pt").exists():
        return [0, 0]
    state = torch.load(folder / "c.pt", weights_only=True)
    return [len(state["report"]["losses"]), int(state["sums"]["batches"])]


def kill_and_resume(root: Path, *, kills: int, epochs: int = 40, seed: int = 0) -> tuple[Outcome, Outcome, list[Any]]:
    """The undisturbed outcome, the one after `kills` SIGKILLs, and where each found the run, in the folder `root`.

    A kill comes after a random number of steps and, within the step or the checkpoint's writing, a random while. The
    place is (whole epochs, steps into the next) of the checkpoint then. Raises `EdgeError` when a training fails.
    """
    _write_data(root)
    data, alone, killed = root / "data.npz", root / "alone", root / "killed"
    whole = _end(_start(alone, data, epochs), alone)
    steps = (alone / "steps").stat().st_size
    draw = random.Random(seed)
    places: list[Any] = []
    while len(places) < kills:
        process = _start(killed, data, epochs)
        _kill_after(process, killed, draw.randint(1, max(2, steps // kills)), draw.uniform(0, 0.05))
        process.communicate()
        if process.returncode != -signal.SIGKILL:
            break
        places.append(_place(killed))
    return whole, _end(_start(killed, data, epochs), killed), places


def measure_resume(kills: int = 6) -> list[Figure]:
    """Whether the weights after `kills` kills are those of an uninterrupted run, to the bit."""
    with tempfile.TemporaryDirectory() as folder:
        whole, resumed, places = kill_and_resume(Path(folder), kills=kills)
    same = whole == resumed
    inside = sum(1 for _, steps in places if steps)
    return [
        Figure(
            name="same weights, losses, metrics and early stop after kill -9 and resume",
            value=same and len(places) == kills,
            goal="yes, to the bit",
            unit="",
            n=len(places),
            met=same and len(places) == kills,
            spread=f"killed with (epochs, steps) done: {', '.join(str(tuple(place)) for place in places)}",
            detail={
                "sha256_uninterrupted": whole["sha256"],
                "sha256_resumed": resumed["sha256"],
                "kills": len(places),
                "kills_with_a_checkpoint_within_an_epoch": inside,
                "epochs": len(whole["losses"]),
                "best_epoch": whole["best_epoch"],
                "stopped_early": whole["stopped_early"],
            },
        )
    ]


def main() -> None:
    """The child's command line: FOLDER DATA EPOCHS."""
    folder, data, epochs = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    outcome = child(folder, data, epochs=epochs)
    (folder / "done.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main()
