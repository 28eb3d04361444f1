"""From a file to a self-tested ladder, and every way in which that is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from edge_runtime.bundle import Bundle, Manifest, OutputSpec, generate_key, npy_bytes, write_bundle
from edge_runtime.errors import (
    BundleIntegrityError,
    BundleSignatureError,
    ConfigError,
    MissingDependencyError,
    SelfTestError,
)
from edge_runtime.loading import load, self_test
from edge_runtime.postprocess import agreement
from edge_runtime.runners import FakeRunner, create_runner

pytest.importorskip("onnxruntime")
pytest.importorskip("cv2")

DATA = Path(__file__).parents[1] / "data"
V1, KEY = DATA / "v1.edge", DATA / "v1.pub.pem"
Change = Callable[[Manifest, dict[str, bytes]], Manifest]


def rewritten(path: Path, change: Change) -> Path:
    """The committed bundle, changed and written again (unsigned) with hashes that fit."""
    with Bundle.open(V1) as bundle:
        members = {member.path: bundle.read(member.path) for member in bundle.manifest.members}
        manifest = msgspec.structs.replace(bundle.manifest, members=())
    manifest = change(manifest, members)
    write_bundle(path, manifest, members)
    return path


def golden(k: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    with Bundle.open(V1) as bundle:
        image, outputs = bundle.golden()[k]
    return image.copy(), outputs["y"].copy()


def test_the_committed_file_reproduces_its_golden_samples() -> None:
    model = load(V1)
    assert [runner.variant for runner in model.runners] == ["fp32", "fp16"]
    fp32, fp16 = model.self_tests
    assert (fp32.variant, fp32.agreement, fp32.min_agreement) == ("fp32", 1.0, 1.0)
    assert fp32.worst <= fp32.allowed == 1e-5
    assert fp16.worst <= fp16.allowed == 0.02
    assert 0.99 <= fp16.agreement <= 1


def test_one_variant_or_another_ladder() -> None:
    assert [runner.variant for runner in load(V1, variant="fp16", verify=False).runners] == ["fp16"]
    assert [runner.variant for runner in load(V1, target="tensorrt", verify=False).runners] == ["fp16", "fp32"]
    assert load(V1, verify=False).self_tests == ()


def test_a_branch_carries_what_results_must_tell() -> None:
    model = load(V1, verify=False)
    branch = model.branch(budget_ms=20, cadence=3)
    assert (branch.budget_ms, branch.cadence) == (20, 3)
    assert branch.bundle_sha256 == model.sha256
    assert branch.preprocess_sha256 == model.manifest.preprocess.sha256
    assert [rung.runner.variant for rung in branch.rungs] == ["fp32", "fp16"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"target": "openvino"}, "no ladder for 'openvino'.*ort-cpu"),
        ({"target": "nonsense"}, "no ladder"),
        ({"variant": "int4"}, "no variant 'int4'.*fp16"),
        ({"runner": "tensorflow"}, "not known"),
        ({"threads": 0}, "threads is 0"),
        ({"timeout_s": -1}, "timeout_s -1"),
    ],
)
def test_what_the_bundle_does_not_have_is_refused(options: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load(V1, **options)  # type: ignore[arg-type]


def test_a_golden_output_that_is_not_reproduced_stops_the_load(tmp_path: Path) -> None:
    def change(manifest: Manifest, members: dict[str, bytes]) -> Manifest:
        _, y = golden(1)
        y[0, 0, 3, 3] += 1.0
        members["golden/1_y.npy"] = npy_bytes(y)
        return manifest

    path = rewritten(tmp_path / "altered.edge", change)
    with pytest.raises(SelfTestError, match="variant fp32 on onnxruntime differs from the golden samples by 1 "):
        load(path)
    assert load(path, verify=False).self_tests == ()


def test_mask_pixels_that_turn_stop_the_load_though_the_numbers_are_close(tmp_path: Path) -> None:
    def change(manifest: Manifest, members: dict[str, bytes]) -> Manifest:
        _, y = golden(0)
        near = np.abs(y) < 0.4
        assert near.any()
        y[near] *= -1
        members["golden/0_y.npy"] = npy_bytes(y)
        fp32 = msgspec.structs.replace(manifest.variants[0], parity_abs=1.0)
        return msgspec.structs.replace(manifest, variants=(fp32, *manifest.variants[1:]))

    path = rewritten(tmp_path / "altered.edge", change)
    with pytest.raises(SelfTestError, match=r"0\.73828 of the decisions"):
        load(path, variant="fp32")


def test_another_model_under_the_same_name_stops_the_load(tmp_path: Path) -> None:
    def change(manifest: Manifest, members: dict[str, bytes]) -> Manifest:
        model = bytearray(members["variants/fp32.onnx"])
        weight = np.float32(0.5).tobytes()  # the outer kernel weight
        at = model.index(weight)
        model[at : at + 4] = np.float32(0.75).tobytes()
        members["variants/fp32.onnx"] = bytes(model)
        return manifest

    with pytest.raises(SelfTestError, match="fp32"):
        load(rewritten(tmp_path / "altered.edge", change))


def test_outputs_that_are_not_finite_are_never_close() -> None:
    def nan(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.full_like(x, np.nan)

    with Bundle.open(V1) as bundle:
        runner = FakeRunner(shape=(16, 16), compute=nan, variant="fp16")
        runner.input, runner.outputs = bundle.manifest.input, bundle.manifest.outputs
        runner._infer = lambda inputs: {"y": nan(inputs["x"])}  # type: ignore[method-assign]
        with pytest.raises(SelfTestError, match="by inf"):
            self_test(bundle, runner)


def test_the_self_test_leaves_an_open_runner_open() -> None:
    with Bundle.open(V1) as bundle, create_runner(bundle, "fp32") as runner:
        assert self_test(bundle, runner).worst <= 1e-5
        runner.infer({"x": golden(0)[0]})


def test_agreement_counts_at_the_threshold_of_the_manifest() -> None:
    one = OutputSpec(name="y", shape=(1, 1, 1, 4), kind="mask_logits", classes=("a",), threshold=0.8, temperature=2.0)
    level = 2 * np.log(0.8 / 0.2)
    found = np.array([level + 0.1, level - 0.1, 9, -9], np.float32).reshape(1, 1, 1, 4)
    wanted = np.array([level + 0.1, level + 0.1, 9, -9], np.float32).reshape(1, 1, 1, 4)
    assert agreement(found, wanted, one) == 0.75
    two = OutputSpec(name="y", shape=(1, 2, 1, 2), kind="mask_logits", classes=("background", "a"))
    planes = np.array([[[1, 5]], [[2, 1]]], np.float32)[None]
    assert agreement(planes, planes[:, ::-1], two) == 0.0
    assert agreement(planes, planes + 1, two) == 1.0


def test_damage_is_found_whether_or_not_the_member_is_used(tmp_path: Path) -> None:
    data = bytearray(V1.read_bytes())
    at = data.index(b"# v1-sample")
    data[at] ^= 1
    path = tmp_path / "damaged.edge"
    path.write_bytes(data)
    with pytest.raises(BundleIntegrityError, match=r"card\.md"):
        load(path)


def test_signatures(tmp_path: Path) -> None:
    try:
        generate_key(tmp_path / "other.pem", tmp_path / "other.pub.pem")
    except MissingDependencyError:
        pytest.skip("signatures need the extra 'sign'")
    trusted = load(V1, trust=[KEY], require_signature=True, verify=False)
    assert trusted.signed_by
    assert load(V1, verify=False).signed_by == ""  # a signature that no key was held against says nothing
    with pytest.raises(BundleSignatureError):
        load(V1, trust=[tmp_path / "other.pub.pem"])
    unsigned = rewritten(tmp_path / "unsigned.edge", lambda manifest, members: manifest)
    assert load(unsigned, trust=[KEY], verify=False).signed_by == ""
    with pytest.raises(BundleSignatureError):
        load(unsigned, trust=[KEY], require_signature=True)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"missing\.edge") as caught:
        load(tmp_path / "missing.edge")
    assert type(caught.value).__module__ == "edge_runtime.errors"
