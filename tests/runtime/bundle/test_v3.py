"""What schema version 3 adds to outputs: which manifests need it, what older ones look like, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import edge_craft as craft
import msgspec
import pytest

from edge_runtime.bundle import Bundle, OutputSpec, schema_version
from edge_runtime.bundle._manifest_check import decode_manifest, encode_manifest
from edge_runtime.bundle.limits import DEFAULT_LIMITS
from edge_runtime.errors import BundleFormatError

MASK = {"name": "y", "shape": [1, 1, 8, 8], "kind": "mask_logits", "classes": ["cyst"]}
FEATURES = {"name": "f", "shape": [1, 2], "kind": "features"}
RULE = {"name": "size", "label": "cyst", "quantity": "area_mm2", "least": 4.0}
ENERGY = {"score": "energy", "threshold": -2.0, "false_alarm": 0.05, "n": 40, "over": "held-out frames"}
FAR = {
    "score": "mahalanobis", "means": [[0, 1]], "whitening": [[1], [0.5, 2]], "threshold": 3, "false_alarm": 0.05,
    "n": 40, "over": "held-out frames",
}  # fmt: skip
MEASURE = {"label": "cyst", "quantities": ["area", "ellipse_major"], "spacing_rel": 0.01}
VERSION_2 = [
    "activation", "calibration", "classes", "dtype", "kind", "max_boxes", "name", "nms_iou", "of", "shape",
    "temperature", "threshold",
]  # fmt: skip


def opened(tmp_path: Path, outputs: list[dict[str, Any]], version: int = 3) -> Bundle:
    path = tmp_path / "x.edge"
    golden = [{"input": "golden/0_in.npy", "outputs": {o["name"]: "golden/0_out.npy" for o in outputs}}]
    path.write_bytes(craft.edge(schema_version=version, outputs=outputs, golden=golden))
    return Bundle.open(path)


VALID: list[list[dict[str, Any]]] = [
    [MASK, {"name": "b", "shape": [1, 1, 8, 8], "kind": "border", "of": "y"}],
    [MASK, FEATURES],
    [FEATURES | {"shape": [1, 2, 4, 4], "gate": FAR}, MASK],
    [MASK | {"keep": "largest"}],
    [MASK | {"smoothing": 0.5}],
    [MASK | {"rules": [RULE]}],
    [MASK | {"measure": [MEASURE]}],
    [MASK | {"gate": ENERGY}],
]


@pytest.mark.parametrize("outputs", VALID)
def test_version_3_is_read_and_older_versions_do_not_know_it(tmp_path: Path, outputs: list[dict[str, Any]]) -> None:
    with opened(tmp_path, outputs) as bundle:
        manifest = bundle.manifest
    assert schema_version(manifest.outputs) == 3
    again = decode_manifest(encode_manifest(manifest), DEFAULT_LIMITS)
    assert again == manifest
    for version in (1, 2):
        with pytest.raises(BundleFormatError, match=f"schema version {version} does not have"):
            opened(tmp_path, outputs, version)
        with pytest.raises(BundleFormatError, match="need schema_version 3"):
            encode_manifest(msgspec.structs.replace(manifest, schema_version=version))


def test_a_preprocessing_step_of_version_3_needs_it() -> None:
    plain = craft.manifest(schema_version=3, outputs=[MASK])
    plain["preprocess"]["steps"].insert(0, {"step": "median", "size": 3})
    manifest = decode_manifest(json.dumps(plain).encode(), DEFAULT_LIMITS)
    assert schema_version(manifest.outputs, manifest.preprocess) == 3
    assert decode_manifest(encode_manifest(manifest), DEFAULT_LIMITS) == manifest
    for version in (1, 2):
        with pytest.raises(BundleFormatError, match="'median', which schema version"):
            decode_manifest(json.dumps(plain | {"schema_version": version}).encode(), DEFAULT_LIMITS)
        with pytest.raises(BundleFormatError, match="need schema_version 3"):
            encode_manifest(msgspec.structs.replace(manifest, schema_version=version))


def test_a_version_2_manifest_is_written_as_version_2_was() -> None:
    data = json.dumps(craft.manifest(schema_version=2, outputs=[MASK | {"activation": None}])).encode()
    plain = json.loads(encode_manifest(decode_manifest(data, DEFAULT_LIMITS)))
    assert sorted(plain["outputs"][0]) == VERSION_2


def test_what_nobody_uses_needs_no_newer_version() -> None:
    plain = OutputSpec(name="y", shape=(1, 1, 8, 8), kind="mask_logits", smoothing=1.0, keep="all")
    assert schema_version((plain,)) == 1
    assert schema_version((msgspec.structs.replace(plain, max_boxes=9),)) == 2


REFUSED: list[tuple[dict[str, Any], str]] = [
    (MASK | {"smoothing": 0}, "smoothing 0"),
    (MASK | {"smoothing": 1.5}, "smoothing 1.5"),
    (MASK | {"keep": "some"}, "Invalid enum value"),
    (FEATURES | {"keep": "largest"}, "belong to masks"),
    (FEATURES | {"smoothing": 0.5}, "belongs to masks and classes"),
    (FEATURES | {"shape": [1, 2, 4]}, "1, D or 1, D, H, W"),
    (MASK | {"kind": "border"}, r"belongs to ''; the mask outputs are \[\]"),
    (MASK | {"rules": [RULE | {"label": "liver"}]}, r"of 'liver'; the classes without the background are \['cyst'\]"),
    (MASK | {"rules": [RULE, RULE]}, "each a name of its own"),
    (MASK | {"rules": [RULE | {"least": None}]}, "at least one end"),
    (MASK | {"rules": [RULE | {"least": 2, "most": 1}]}, "at least one end, the least first"),
    (MASK | {"rules": [RULE | {"quantity": "hue"}]}, "Invalid enum value 'hue'"),
    (MASK | {"measure": [MEASURE | {"quantities": []}]}, "name a quantity"),
    (MASK | {"measure": [MEASURE | {"spacing_rel": 1}]}, "spacing_rel 1"),
    (MASK | {"measure": [{k: v for k, v in MEASURE.items() if k != "spacing_rel"}]}, "missing required field"),
    (MASK | {"gate": FAR}, "belongs to features"),
    (FEATURES | {"gate": ENERGY}, "an energy is that of masks and classes"),
    (MASK | {"gate": ENERGY | {"false_alarm": 2}}, "fitted at 2"),
    (MASK | {"gate": ENERGY | {"temperature": 0}}, "temperature 0"),
    (MASK | {"gate": ENERGY | {"score": "odin"}}, "Invalid value 'odin'"),
    (FEATURES | {"gate": FAR | {"means": [[0]]}}, "1 to 64 of 2"),
    (FEATURES | {"gate": FAR | {"whitening": [[1, 0], [0, 1]]}}, "no lower triangle of 2 rows"),
    (FEATURES | {"gate": FAR | {"threshold": -1}}, "0 or more"),
]


@pytest.mark.parametrize(("output", "message"), REFUSED)
def test_outputs_that_cannot_be_read_so(tmp_path: Path, output: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleFormatError, match=message):
        opened(tmp_path, [output])
