"""What schema version 2 adds to outputs: which manifests need it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import edge_craft as craft
import pytest

from edge_runtime.bundle import Bundle, Calibration, OutputSpec, schema_version
from edge_runtime.errors import BundleFormatError

MASK = {"name": "y", "shape": [1, 1, 8, 8], "kind": "mask_logits"}


def opened(tmp_path: Path, outputs: list[dict[str, Any]], version: int = 2) -> Bundle:
    path = tmp_path / "x.edge"
    golden = [{"input": "golden/0_in.npy", "outputs": {o["name"]: "golden/0_out.npy" for o in outputs}}]
    path.write_bytes(craft.edge(schema_version=version, outputs=outputs, golden=golden))
    return Bundle.open(path)


VALID: list[list[dict[str, Any]]] = [
    [{"name": "c", "shape": [1, 2], "kind": "class_logits", "classes": ["a", "b"]}],
    [{"name": "c", "shape": [1, 1], "kind": "class_logits", "classes": ["a"], "activation": "sigmoid"}],
    [{"name": "b", "shape": [1, 9, 6], "kind": "boxes", "classes": ["a", "b"], "nms_iou": 0.6, "max_boxes": 9}],
    [{"name": "i", "shape": [1, 1, 8, 8], "kind": "image"}],
    [MASK, {"name": "u", "shape": [1, 1, 8, 8], "kind": "uncertainty", "of": "y"}],
    [MASK | {"calibration": {"over": "pixels", "n": 10, "ece_before": 0.2, "ece_after": 0.1}}],
]


@pytest.mark.parametrize("outputs", VALID)
def test_version_2_is_read_and_version_1_does_not_know_it(tmp_path: Path, outputs: list[dict[str, Any]]) -> None:
    with opened(tmp_path, outputs) as bundle:
        assert [output.kind for output in bundle.manifest.outputs] == [output["kind"] for output in outputs]
        assert schema_version(bundle.manifest.outputs) == 2
    with pytest.raises(BundleFormatError, match="schema version 1 does not have"):
        opened(tmp_path, outputs, version=1)


def test_a_plain_mask_still_needs_version_1_only(tmp_path: Path) -> None:
    for version in (1, 2):
        with opened(tmp_path, [MASK], version) as bundle:
            assert schema_version(bundle.manifest.outputs) == 1
            assert bundle.manifest.outputs[0].calibration is None


def test_a_version_1_manifest_is_written_as_version_1_was() -> None:
    from edge_runtime.bundle._manifest_check import decode_manifest, encode_manifest
    from edge_runtime.bundle.limits import DEFAULT_LIMITS

    data = json.dumps(craft.manifest()).encode()
    plain = json.loads(encode_manifest(decode_manifest(data, DEFAULT_LIMITS)))
    assert sorted(plain["outputs"][0]) == ["classes", "dtype", "kind", "name", "shape", "temperature", "threshold"]


def test_a_version_1_manifest_cannot_be_written_with_newer_outputs() -> None:
    import msgspec

    from edge_runtime.bundle._manifest_check import decode_manifest, encode_manifest
    from edge_runtime.bundle.limits import DEFAULT_LIMITS

    manifest = decode_manifest(json.dumps(craft.manifest()).encode(), DEFAULT_LIMITS)
    newer = OutputSpec(
        name="y",
        shape=(1, 1, 8, 8),
        kind="mask_logits",
        calibration=Calibration(over="pixels", n=1, ece_before=0.1, ece_after=0.0),
    )
    with pytest.raises(BundleFormatError, match="need schema_version 2"):
        encode_manifest(msgspec.structs.replace(manifest, outputs=(newer,)))


REFUSED: list[tuple[list[dict[str, Any]], str]] = [
    ([MASK | {"kind": "oracle"}], "Invalid enum value 'oracle'"),
    ([{"name": "c", "shape": [1, 2], "kind": "class_logits"}], "names 0 classes for 2 logits"),
    ([{"name": "c", "shape": [1, 1], "kind": "class_logits", "classes": ["a"]}], "must be sigmoid"),
    ([{"name": "c", "shape": [2, 2], "kind": "class_logits", "classes": ["a", "b"]}], "1, K is needed"),
    ([{"name": "b", "shape": [1, 9, 4], "kind": "boxes"}], r"1, N, 4 \+ K is needed"),
    ([{"name": "b", "shape": [1, 9, 6], "kind": "boxes", "classes": ["a"]}], "names 1 classes for 2 logits a box"),
    ([{"name": "b", "shape": [1, 9, 5], "kind": "boxes", "classes": ["a"], "nms_iou": 0}], "nms_iou 0"),
    ([{"name": "b", "shape": [1, 9, 5], "kind": "boxes", "classes": ["a"], "max_boxes": 0}], "max_boxes 0"),
    ([{"name": "i", "shape": [1, 3, 8, 8], "kind": "image"}], "1, 1, H, W is needed"),
    ([{"name": "u", "shape": [1, 1, 8, 8], "kind": "uncertainty", "of": "y"}], r"the mask outputs are \[\]"),
    ([MASK, {"name": "u", "shape": [1, 1, 4, 8], "kind": "uncertainty", "of": "y"}], "equal sizes"),
    ([MASK | {"of": "y"}], "only uncertainty has `of`"),
    ([MASK | {"calibration": {"over": "p", "n": 0, "ece_before": 0, "ece_after": 0}}], "1 or more"),
    ([MASK | {"calibration": {"over": "p", "n": 1, "ece_before": 2, "ece_after": 0}}], "ece_before 2"),
]


@pytest.mark.parametrize(("outputs", "message"), REFUSED)
def test_outputs_that_do_not_fit_their_kind(tmp_path: Path, outputs: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(BundleFormatError, match=message):
        opened(tmp_path, outputs)
