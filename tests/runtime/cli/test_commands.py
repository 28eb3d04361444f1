"""What each command prints and writes when all is well."""

from __future__ import annotations

import json

import pytest

from edge_runtime import __version__
from edge_runtime.bundle import Bundle
from edge_runtime.runners import available_runners

pytest.importorskip("cv2")
pytest.importorskip("onnxruntime")


@pytest.mark.parametrize(
    "command", [(), *((name,) for name in ("build", "doctor", "inspect", "reconstruct", "run", "verify", "warmup"))]
)
def test_every_command_has_help(call, command):
    found = call(*command, "--help")
    assert found.exit_code == 0
    assert "Usage:" in found.stdout
    assert found.stderr == ""


def test_help_states_every_exit_code(call):
    text = " ".join(call("--help").stdout.split())
    for code in ("0 done", "1 result", "2 usage", "3 bundle", "4 source", "5 more misses", "70 a bug", "130 interr"):
        assert code in text


def test_version(call):
    assert call("--version").stdout == f"{__version__}\n"


def test_doctor(call):
    text, found = call("doctor"), call("doctor", "--json")
    assert (text.exit_code, found.exit_code) == (0, 0)
    findings = json.loads(found.stdout)["findings"]
    names = {finding["name"] for finding in findings}
    assert {"python", "numpy"} <= names
    assert all(name in text.stdout for name in names)


def test_inspect(call, edge):
    with Bundle.open(edge) as bundle:
        identity = bundle.sha256
    facts = json.loads(call("inspect", edge, "--json").stdout)
    assert facts["sha256"] == identity
    assert facts["manifest"]["name"] == "v1-sample"
    text = call("inspect", edge).stdout
    for word in (identity, "v1-sample 1.0.0", "Not for any image", "not checked", "2 golden samples", "fp32 > fp16"):
        assert word in text


def test_verify_says_that_a_signature_was_not_checked_and_that_it_was(call, edge, key):
    pytest.importorskip("cryptography")
    unchecked, checked = call("verify", edge), call("verify", edge, "--trust", key)
    assert (unchecked.exit_code, checked.exit_code) == (0, 0)
    assert "NOT checked against a trusted key: give --trust KEY" in unchecked.stdout
    assert "(trusted)" in checked.stdout
    facts = json.loads(call("verify", edge, "--trust", key, "--json").stdout)
    assert facts["trusted"] is True
    assert [test["variant"] for test in facts["self_tests"]] == ["fp32", "fp16"]
    assert json.loads(call("verify", edge, "--json").stdout)["trusted"] is False
    assert "golden samples were not run" in call("verify", edge, "--no-run").stdout


def test_run_prints_one_json_object_and_the_settings_on_stderr(call, edge, frames):
    found = call("run", edge, frames, "--lossless", "--json")
    assert found.exit_code == 0, found.stderr
    report = json.loads(found.stdout)
    assert report["balances"] is True
    ledger = report["branches"]["segmentation"]["ledger"]
    assert (ledger["arrived"], ledger["fresh"]) == (8, 8)
    assert found.stderr.startswith("settings: target=None, variant=None, runner=onnxruntime,")
    assert "pace=lossless" in found.stderr
    text = call("run", edge, frames, "--lossless").stdout
    assert "8 arrived = 8 fresh" in text


def test_run_records_into_a_new_folder(call, edge, frames, tmp_path):
    folder = tmp_path / "a" / "record"
    found = call("run", edge, frames, "--lossless", "--record", folder)
    assert found.exit_code == 0, found.stderr
    assert sorted(item.name for item in folder.iterdir()) == [
        "contact.png", "overlay.webm", "report.json", "results.jsonl",
    ]  # fmt: skip
    report = json.loads((folder / "report.json").read_text())
    assert report["bundle"]["name"] == "v1-sample"
    assert report["settings"]["pace"] == "lossless"


def test_options_on_the_line_win_over_the_file(call, edge, frames, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("pace: lossless\nthreads: 2\nverify: false\nvariant: fp16\n")
    found = call("run", edge, frames, "--config", config, "--threads", "1", "--verify")
    assert found.exit_code == 0, found.stderr
    for word in ("pace=lossless", "threads=1", "verify=True", "variant=fp16"):
        assert word in found.stderr
    assert "verify=False" in call("run", edge, frames, "--config", config).stderr
    live = call("run", edge, frames, "--config", config, "--no-lossless", "--fps", "200")
    assert "pace=live" in live.stderr


def test_empty_settings_file_is_all_defaults(call, edge, frames, tmp_path):
    (tmp_path / "run.yaml").write_text("# nothing\n")
    found = call("run", edge, frames, "--config", tmp_path / "run.yaml", "--lossless")
    assert found.exit_code == 0


def test_more_misses_than_allowed_is_exit_5_and_the_report_stands(call, edge, frames):
    budget = ("--fps", "200", "--budget-ms", "0.001")
    found = call("run", edge, frames, *budget, "--max-miss-pct", "1", "--json")
    assert found.exit_code == 5
    assert json.loads(found.stdout)["balances"] is True
    assert "100.00 % of the frames missed the budget; 1 % is allowed" in found.stderr
    assert call("run", edge, frames, *budget).exit_code == 0
    assert call("run", edge, frames, *budget, "--max-miss-pct", "100").exit_code == 0


def test_signed_run(call, edge, key, frames):
    pytest.importorskip("cryptography")
    found = call("run", edge, frames, "--lossless", "--trust", key, "--require-signature")
    assert found.exit_code == 0, found.stderr
    assert "require_signature=True" in found.stderr


def test_runner_and_provider_on_the_line(call, edge, frames):
    if reason := available_runners()["openvino"]:
        pytest.skip(reason)
    found = call("verify", edge, "--runner", "openvino")
    assert (found.exit_code, "no ladder for 'openvino'" in found.stderr) == (2, True)
    found = call("run", edge, frames, "--lossless", "--runner", "openvino", "--target", "ort-cpu", "--json")
    assert found.exit_code == 0, found.stderr
    ladder = json.loads(found.stdout)["branches"]["segmentation"]["ladder"]
    assert {rung["runner"] for rung in ladder} == {"openvino"}
    assert "runner=openvino" in found.stderr
    auto = call("verify", edge, "--runner", "auto")
    assert auto.exit_code == 0, auto.stderr
    assert "variant fp32 on onnxruntime: golden samples reproduced" in auto.stdout
    text = call("run", edge, frames, "--lossless", "--runner", "auto").stdout
    assert "rung fp32 on onnxruntime" in text


def test_a_provider_or_runner_that_is_not_there_is_said(call, edge, frames):
    found = call("run", edge, frames, "--lossless", "--provider", "NoSuchProvider")
    assert found.exit_code == 4
    assert "NoSuchProvider was asked for" in found.stderr
    assert call("verify", edge, "--provider", "NoSuchProvider", "--runner", "onnxruntime").exit_code == 4
    assert call("run", edge, frames, "--runner", "abacus").exit_code == 2
    assert call("run", edge, frames, "--runner", "auto", "--target", "ort-cpu").exit_code == 2
