"""Two gloo processes against one: the same training, and one writer. Slow: every process imports torch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edge_sdk.train.normalisation import synchronised_batch_norm

CHILD = Path(__file__).with_name("ddp_child.py")
# the order of additions differs between one process and two; six epochs of AdamW spread that
TOLERANCE = 2e-4


def _run(folder: Path, devices: int, launcher: str) -> dict[int, dict[str, Any]]:
    folder.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    start = [sys.executable]
    if launcher == "torchrun":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        start += ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    command = [*start, str(CHILD), str(folder), str(devices)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {int(path.stem[6:]): json.loads(path.read_text()) for path in folder.glob("report*.json")}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "fabric"])
def test_two_processes_give_the_metrics_of_one(tmp_path: Path, launcher: str) -> None:
    one = _run(tmp_path / "one", 1, "")[0]
    two = _run(tmp_path / "two", 2, launcher)
    assert set(two) == {0, 1}
    for told in two.values():
        for name in ("losses", "grad_norms", "metrics"):
            assert told[name] == pytest.approx(one[name], rel=TOLERANCE, abs=TOLERANCE)
        assert told["terms"]["hint"] == pytest.approx(one["terms"]["hint"], rel=TOLERANCE)
    # rank 0 alone tells and writes
    assert [two[rank]["events"] for rank in (0, 1)] == [6, 0]
    assert len((tmp_path / "two" / "logs" / "log.jsonl").read_text().splitlines()) == 6
    files = [torch.load(path, weights_only=True) for path in sorted((tmp_path / "two").glob("weights*.pt"))]
    alone = torch.load(tmp_path / "one" / "weights0.pt", weights_only=True)
    for part in ("student", "loss"):
        for name, value in alone[part].items():
            assert torch.equal(files[0][part][name], files[1][part][name])
            assert torch.allclose(files[0][part][name].float(), value.float(), rtol=1e-2, atol=5e-4), name


@pytest.fixture
def group() -> Any:
    store: Any = torch.distributed.HashStore()  # type: ignore[attr-defined]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("training", [True, False])
def test_synchronised_batch_norm_of_one_process_is_torchs(group: Any, training: bool, momentum: float | None) -> None:
    layers = [nn.BatchNorm2d(5, momentum=momentum) for _ in range(2)]
    nn.init.uniform_(layers[0].weight)
    layers[1].load_state_dict(layers[0].state_dict())
    for layer in layers:
        layer.train(training)
    x = torch.randn(4, 5, 3, 7) * 3 + 100
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    weight = torch.randn(4, 5, 3, 7)
    with synchronised_batch_norm(layers[1], processes=2):
        outs = [layer(value) for layer, value in zip(layers, inputs, strict=True)]
        for out in outs:
            (out * weight).sum().backward()
    assert torch.allclose(outs[0], outs[1], atol=1e-4)
    assert torch.allclose(inputs[0].grad, inputs[1].grad, atol=1e-4)  # type: ignore[arg-type]
    for a, b in zip(layers[0].state_dict().values(), layers[1].state_dict().values(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5)
    assert "forward" not in vars(layers[1])
