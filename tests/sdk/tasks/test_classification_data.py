"""The manifest and the clips of a classification task: the split by patient, the device's preprocessing, refusals."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.frame import Frame
from edge_runtime.preprocess import Letterbox, Normalize, Preprocessor, PreprocessSpec, Stack, ToGray
from edge_runtime.settings_file import parse_yaml, to_struct
from edge_sdk.tasks.classification.data import ManifestRow, patient_folds, read_clips, read_manifest
from edge_sdk.tasks.classification.recipe import ClassificationRecipe, ClassSpec, Columns, ManifestData

SPEC = PreprocessSpec(steps=(ToGray(), Letterbox(height=8, width=8), Normalize(), Stack(n=3, stride=2)))
CLASSES = (ClassSpec(name="regular"), ClassSpec(name="abnormal", labels=("covid", "viral")))


def _clip(folder: Path, name: str, frames: int = 9, seed: int = 0) -> np.ndarray:
    """Frames (frames, 8, 8) uint8, stored as a .npy array that the device reads."""
    images = np.random.default_rng(seed).integers(0, 256, (frames, 8, 8), np.uint8)
    np.save(folder / name, images)
    return images


def _manifest(folder: Path, *lines: str, head: str = "file,label,split,patient") -> ManifestData:
    (folder / "m.csv").write_text("\n".join((head, *lines)) + "\n")
    return ManifestData(manifest="m.csv")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k, name in enumerate(("a.npy", "b.npy", "c.npy")):
        _clip(tmp_path, name, seed=k)
    return tmp_path


GOOD = ("a.npy,regular,train,p1", "b.npy,covid,train,p2", "c.npy,viral,test,p3")


def test_rows_and_labels(folder: Path) -> None:
    rows = read_manifest(_manifest(folder, *GOOD), CLASSES, folder)
    assert [(row.path.name, row.label, row.split, row.patient, row.line) for row in rows] == [
        ("a.npy", 0, "train", "p1", 2),
        ("b.npy", 1, "train", "p2", 3),
        ("c.npy", 1, "test", "p3", 4),
    ]


def test_filter_columns_and_empty_files(folder: Path) -> None:
    _manifest(folder, "a.npy,regular,train,p1,x", ",covid,train,p2,x", "c.npy,covid,test,p3,y", head="f,l,s,g,lic")
    columns = Columns(file="f", label="l", split="s", patient="g")
    data = ManifestData(manifest="m.csv", columns=columns, where={"lic": ("x",)}, skip_empty=True)
    assert [row.path.name for row in read_manifest(data, CLASSES, folder)] == ["a.npy"]
    kept = ManifestData(manifest="m.csv", columns=columns, where={"lic": ("x",)})
    with pytest.raises(ConfigError, match="line 3: file ''"):
        read_manifest(kept, CLASSES, folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c.npy,viral,test,p1", r"m.csv: patient 'p1' is in both splits: a.npy \(line 2\) in train, c.npy \(line 4\)"),
        ("c.npy,bacterial,test,p3", r"m.csv, line 4: label 'bacterial' belongs to no class"),
        ("c.npy,viral,val,p3", "line 4: split is 'val'"),
        ("c.npy,viral,test,", "line 4: the patient is empty"),
        ("d.npy,viral,test,p3", "line 4: file 'd.npy' does not exist"),
        ("a.npy,regular,train,p1", "a.npy stands on lines 2 and 4"),
    ],
)
def test_bad_rows_name_the_file_and_the_line(folder: Path, line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_manifest(_manifest(folder, *GOOD[:2], line), CLASSES, folder)


def test_a_cohort_that_is_only_scored_may_mix_splits(folder: Path) -> None:
    data = _manifest(folder, *GOOD[:2], "c.npy,viral,test,p1")
    assert len(read_manifest(data, CLASSES, folder, check_splits=False)) == 3


def test_missing_columns_and_no_rows(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"columns \['patient'\] are missing"):
        read_manifest(_manifest(folder, "a.npy,regular,train", head="file,label,split"), CLASSES, folder)
    with pytest.raises(ConfigError, match="no row is left"):
        read_manifest(_manifest(folder), CLASSES, folder)


def test_clips_are_what_the_device_prepares(folder: Path) -> None:
    rows = read_manifest(_manifest(folder, *GOOD), CLASSES, folder)
    clips = read_clips(rows, SPEC, samples=3)
    assert clips.inputs.shape == (9, 3, 8, 8)
    assert clips.labels.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    images = np.load(folder / "a.npy")
    prepare = Preprocessor(SPEC)
    tensors = [prepare(Frame(image=image, index=k, arrival_ns=0)).tensor[0].copy() for k, image in enumerate(images)]
    np.testing.assert_array_equal(clips.inputs[:3], [tensors[4], tensors[6], tensors[8]])
    # the stack is filled by true frames, oldest first: closed form
    np.testing.assert_allclose(clips.inputs[0], images[[0, 2, 4]] / np.float32(255), atol=1e-6)


def test_frames_of_one_file_do_not_leak_into_the_next(folder: Path) -> None:
    rows = read_manifest(_manifest(folder, *GOOD), CLASSES, folder)
    together, alone = read_clips(rows, SPEC, 2), read_clips(rows[1:2], SPEC, 2)
    np.testing.assert_array_equal(together.inputs[2:4], alone.inputs)


def test_single_frames_without_a_stack(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "still.png"), np.full((8, 8), 51, np.uint8))
    rows = read_manifest(_manifest(tmp_path, "still.png,regular,train,p"), CLASSES, tmp_path)
    clips = read_clips(rows, PreprocessSpec(steps=SPEC.steps[:3]), samples=5)
    np.testing.assert_allclose(clips.inputs, np.full((1, 1, 8, 8), 0.2), atol=1e-6)


def test_a_short_file_is_refused_by_name(tmp_path: Path) -> None:
    _clip(tmp_path, "short.npy", frames=4)
    rows = read_manifest(_manifest(tmp_path, "short.npy,regular,train,p"), CLASSES, tmp_path)
    with pytest.raises(ConfigError, match=r"short.npy: 4 frames; the stack spans 5"):
        read_clips(rows, SPEC, 2)


def test_hash_follows_pixels_and_settings(folder: Path) -> None:
    rows = read_manifest(_manifest(folder, *GOOD), CLASSES, folder)
    first = read_clips(rows, SPEC, 2).sha256
    assert read_clips(rows, SPEC, 2).sha256 == first
    assert read_clips(rows, SPEC, 3).sha256 != first
    _clip(folder, "a.npy", seed=9)
    assert read_clips(rows, SPEC, 2).sha256 != first


def test_split_keeps_patients_whole(folder: Path) -> None:
    clips = read_clips(read_manifest(_manifest(folder, *GOOD), CLASSES, folder), SPEC, 2)
    rest, own = clips.split(["p2"])
    assert (set(rest.patients), set(own.patients)) == ({"p1", "p3"}, {"p2"})
    assert len(rest) + len(own) == len(clips)
    with pytest.raises(ConfigError, match="no clip is left"):
        clips.split(["nobody"])


def _row(patient: str, label: int) -> ManifestRow:
    return ManifestRow(path=Path(f"{patient}.npy"), label=label, split="train", patient=patient, line=2)


def test_folds_hold_each_patient_once_and_every_class() -> None:
    rows = [_row(f"r{k}", 0) for k in range(4)] + [_row(f"a{k}", 1) for k in range(5)] + [_row("r0", 0)]
    folds = patient_folds(rows, 4)
    names = [name for fold in folds for name in fold]
    assert sorted(names) == sorted({row.patient for row in rows})
    assert all({name[0] for name in fold} == {"r", "a"} for fold in folds)
    for k in (1, 10):
        with pytest.raises(ConfigError, match=f"{k} folds of 9 patients"):
            patient_folds(rows, k)


@pytest.mark.parametrize(
    "classes",
    [
        (ClassSpec(name="a"),),
        (ClassSpec(name="a"), ClassSpec(name="a", labels=("b",))),
        (ClassSpec(name="a"), ClassSpec(name="b", labels=("a",))),
    ],
)
def test_classes_that_cannot_be_told_apart(classes: tuple[ClassSpec, ...]) -> None:
    with pytest.raises(ConfigError, match="two or more different names"):
        ClassificationRecipe(data=ManifestData(manifest="m.csv"), classes=classes)


def test_the_example_recipe_is_read_and_keeps_the_non_commercial_rows_out() -> None:
    path = Path(__file__).parents[3] / "examples" / "recipes" / "lung_clips.yaml"
    recipe = to_struct(parse_yaml(path.read_text(), str(path)), ClassificationRecipe, str(path))
    assert Preprocessor(recipe.preprocess).output_shape == (1, 4, 96, 96)
    assert [spec.name for spec in recipe.classes] == ["regular", "abnormal"]
    assert all("NC" not in licence for licence in recipe.data.where["licence"])


@pytest.mark.skipif("POCUS_DATA" not in os.environ, reason="POCUS_DATA is not set; the lung clips are not here")
def test_the_lung_clips_manifest_has_no_patient_in_two_splits() -> None:
    root = Path(os.environ["POCUS_DATA"])
    path = Path(__file__).parents[3] / "examples" / "recipes" / "lung_clips.yaml"
    recipe = to_struct(parse_yaml(path.read_text(), str(path)), ClassificationRecipe, str(path))
    rows = read_manifest(recipe.data, recipe.classes, root)
    assert (len(rows), len({row.patient for row in rows})) == (25, 9)
    clips = read_clips(rows[:1], recipe.preprocess, 2)
    assert clips.inputs.shape == (2, 4, 96, 96)
