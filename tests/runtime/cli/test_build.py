"""`edge-runtime build`: with the real TensorRT-RTX ahead of time, and what it says where something is missing."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None, reason="TensorRT-RTX is not installed (trt-check extra)"
)


@needs_rtx
def test_rtx_builds_the_ladder_ahead_of_time(call, edge, tmp_path):
    arguments = ("build", edge, "--cache", tmp_path / "engines", "--ahead-for", "SM86")
    first = call(*arguments, "--json")
    assert first.exit_code == 0, first.stderr
    facts = json.loads(first.stdout)
    assert facts["schema"] == "edge-runtime.build/1"
    assert [(item["variant"], item["built"], item["read_back"]) for item in facts["engines"]] == [
        ("fp16", True, None), ("fp32", True, None)
    ]  # fmt: skip
    assert "fp16: Building engine" in first.stderr
    second = call(*arguments)
    assert second.exit_code == 0
    assert second.stdout.count("already built") == 2
    assert "not read back: built ahead of time for another GPU" in second.stdout
    assert "because" not in second.stdout
    changed = call(*arguments, "--workspace-mb", "64", "--variant", "fp16")
    assert "because workspace_mb: 1024 -> 64" in changed.stdout
    assert "fp32" not in changed.stdout


@needs_rtx
def test_precision_chooses_variants(call, edge, tmp_path):
    arguments = ("build", edge, "--cache", tmp_path / "engines", "--ahead-for", "SM86", "--json")
    facts = json.loads(call(*arguments, "--precision", "fp16").stdout)
    assert [item["variant"] for item in facts["engines"]] == ["fp16"]
    none = call(*arguments, "--precision", "int8")
    assert (none.exit_code, none.stdout) == (2, "")
    assert "none of ['fp16', 'fp32'] has precision ['int8']" in none.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--variant", "fp99"), "has no variant ['fp99']"),
        (("--workspace-mb", "0"), "workspace_mb is 0"),
        (("--optimization-level", "9"), "0 to 5 is allowed"),
        (("--dla", "-1"), "dla is -1"),
        (("--ahead-for", "orin"), "'SM86'"),
    ],
)
def test_mistakes_end_with_2_and_one_line(call, edge, tmp_path, options, told):
    found = call("build", edge, "--cache", tmp_path / "engines", *options)
    assert found.exit_code == 2
    assert told in found.stderr
    assert "Traceback" not in found.stderr


def test_an_open_cache_folder_is_refused(call, edge, tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open").chmod(0o755)
    found = call("build", edge, "--cache", tmp_path / "open")
    assert found.exit_code == 2
    assert "mode 0700" in found.stderr


def test_without_tensorrt_the_fix_is_told(call, edge, tmp_path, monkeypatch):
    for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    found = call("build", edge, "--cache", tmp_path / "engines")
    assert found.exit_code == 2
    assert "apt install python3-libnvinfer" in found.stderr
    assert "pip install tensorrt" in found.stderr


@needs_rtx
def test_without_cuda_the_fix_is_told(call, edge, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "cuda", None)
    found = call("build", edge, "--cache", tmp_path / "engines")
    assert found.exit_code == 2
    assert "pip install 'cuda-python" in found.stderr


def test_a_file_that_is_no_bundle_ends_with_3(call, tmp_path):
    (tmp_path / "x.edge").write_bytes(b"PK")
    assert call("build", tmp_path / "x.edge", "--cache", tmp_path / "engines").exit_code == 3
