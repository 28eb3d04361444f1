"""Boxes from CSV files into network pixels and back; what is refused, with the line; decoding and scores."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.preprocess import Preprocessor
from edge_runtime.preprocess.spec import Letterbox, Normalize, PreprocessSpec, ToGray
from edge_sdk.frames import UnlabelledFrames, frames_of
from edge_sdk.tasks.detection.config import DetectorConfig
from edge_sdk.tasks.detection.data import BoxedFrames, network_boxes, read_boxes, source_boxes, training_set
from edge_sdk.tasks.detection.predict import detect, output_spec
from edge_sdk.tasks.detection.scores import (
    average_precision,
    gap_interval,
    match_boxes,
    nearest_detections,
    trivial_answers,
    trivial_detections,
)
from edge_sdk.tasks.detection.train import build_detector

CLASSES = ("nerve", "vessel")
SPEC = PreprocessSpec(steps=(ToGray(), Letterbox(height=64, width=64), Normalize()))
BOXES = "file,label,x,y,w,h\na.png,nerve,4,6,20,10\na.png,vessel,30,6,10,10\nb.png,vessel,0,0,60,40\n"
MANIFEST = "file,split,group\na.png,train,1\nb.png,test,2\nc.png,train,3\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of 60 x 40 (b.png in colour), of which c.png has no box."""
    rng = np.random.default_rng(0)
    for name, shape in (("a.png", (40, 60)), ("b.png", (40, 60, 3)), ("c.png", (40, 60))):
        cv2.imwrite(str(tmp_path / name), rng.integers(0, 255, shape, np.uint8))
    (tmp_path / "boxes.csv").write_text(BOXES)
    (tmp_path / "manifest.csv").write_text(MANIFEST)
    return tmp_path


def read(folder: Path, group: str = "group") -> tuple[BoxedFrames, BoxedFrames]:
    return read_boxes(folder, folder / "boxes.csv", folder / "manifest.csv", CLASSES, group)


def test_reads_boxes_splits_and_frames_without_boxes(folder):
    train, test = read(folder)
    assert (train.names, test.names) == (("a.png", "c.png"), ("b.png",))
    assert train.groups == ("1", "3")
    assert train.boxes[0].tolist() == [[0, 4, 6, 24, 16], [1, 30, 6, 40, 16]]
    assert train.boxes[1].shape == (0, 5)
    assert test.frames[0].image.shape == (40, 60, 3)
    assert read(folder)[0].sha256 == train.sha256 != test.sha256
    assert train.part([1]).names == ("c.png",)


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("boxes.csv", "a.png,vessel", "a.png,bone", r"boxes\.csv, line 3: label 'bone'"),
        ("boxes.csv", ",20,10", ",20,ten", r"boxes\.csv, line 2: .*numbers.*ten"),
        ("boxes.csv", ",20,10", ",20", r"boxes\.csv, line 2: .*numbers"),
        ("boxes.csv", ",60,40", ",61,40", r"boxes\.csv, line 4, b\.png: box x 0 to 61"),
        ("boxes.csv", ",20,10", ",0,10", r"line 2, a\.png: box x 4 to 4"),
        ("boxes.csv", ",20,10", ",nan,10", r"line 2, a\.png: box x 4 to nan"),
        ("boxes.csv", "b.png", "d.png", r"boxes of d\.png, which .*manifest\.csv does not name"),
        ("boxes.csv", "label", "class", r"boxes\.csv has no column 'label'"),
        ("manifest.csv", "group", "exam", r"manifest\.csv has no column 'group'"),
        ("manifest.csv", "b.png,test", "b.png,valid", r"manifest\.csv, line 3: file 'b\.png', split 'valid'"),
        ("manifest.csv", "c.png,train", "a.png,train", r"manifest\.csv, line 4: a\.png stands in the file twice"),
        ("manifest.csv", "c.png", "../c.png", r"line 4: file '\.\./c\.png'"),
        ("manifest.csv", "c.png", "e.png", r"e\.png is not there"),
        ("manifest.csv", "test,2", "test,1", r"group '1' is in both splits"),
        ("manifest.csv", "test", "train", r"no file of split 'test'"),
    ],
)
def test_names_the_file_and_line_of_what_is_wrong(folder, file, old, new, words):
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=words):
        read(folder)


def test_missing_file_and_broken_image(folder):
    (folder / "c.png").write_bytes(b"no image")
    with pytest.raises(ConfigError, match=r"c\.png"):
        read(folder)
    (folder / "boxes.csv").unlink()
    with pytest.raises(ConfigError, match=r"boxes\.csv cannot be read"):
        read(folder)


def boxed(*boxes: list[float], shape: tuple[int, int] = (40, 60)) -> BoxedFrames:
    image = np.zeros((1, *shape), np.uint8)
    rows = np.array(boxes, np.float32).reshape(-1, 5)
    return BoxedFrames(frames=frames_of(image), boxes=[rows], names=("x",), groups=("x",))


def test_box_lands_on_the_pixels_that_the_frame_puts_there():
    """A white rectangle of whole network pixels, found again in the preprocessed frame."""
    data = boxed([1, 15, 7.5, 30, 22.5])
    image = np.zeros((40, 60), np.uint8)
    image[8:23, 15:30] = 255
    tensor = Preprocessor(SPEC)(frames_of(image[None])[0]).tensor[0, 0]
    (x0, y0, x1, y1) = network_boxes(data, SPEC, 2)[0, 0, 1:]
    rows, columns = np.nonzero(tensor > 0.5)
    assert abs(x0 - columns.min()) < 0.6
    assert abs(x1 - columns.max() - 1) < 0.6
    assert abs(y0 - rows.min()) < 1.1
    assert abs(y1 - rows.max() - 1) < 1.1


@given(st.floats(0, 50), st.floats(0, 30), st.floats(1, 9), st.floats(1, 9))
def test_boxes_go_to_the_network_and_back(x, y, w, h):
    data = boxed([0, x, y, x + w, y + h])
    place = Preprocessor(SPEC)(data.frames[0]).map
    there = network_boxes(data, SPEC, 1)[0, :1, 1:]
    np.testing.assert_allclose(source_boxes(there, place), data.boxes[0][:, 1:], atol=1e-4)


def test_training_set_pads_and_marks_what_is_labelled():
    data = boxed([0, 5, 5, 20, 20], [1, 30, 5, 40, 20])
    unlabelled = UnlabelledFrames(source="cine", frames=frames_of(np.zeros((2, 40, 60), np.uint8)))
    made = training_set(data, SPEC, 2, [unlabelled])
    assert made.labelled.tolist() == [True, False, False]
    boxes = made.batch(torch.tensor([0, 2])).target("boxes")
    assert boxes.shape == (2, 2, 5)
    assert boxes[:, :, 0].tolist() == [[0, 1], [-1, -1]]
    assert training_set(None, SPEC, 2, [unlabelled]).labelled.tolist() == [False, False]
    with pytest.raises(ConfigError, match="needs frames"):
        training_set(None, SPEC, 2)
    with pytest.raises(ConfigError, match="label 1; 0 to 0"):
        training_set(data, SPEC, 1)


def test_boxed_frames_refuse_what_does_not_fit():
    frames = frames_of(np.zeros((1, 8, 8), np.uint8))
    with pytest.raises(ConfigError, match="1 frames, 0 sets"):
        BoxedFrames(frames=frames, boxes=[], names=("x",), groups=("x",))
    with pytest.raises(ConfigError, match="x: boxes are float64"):
        BoxedFrames(frames=frames, boxes=[np.zeros((1, 5))], names=("x",), groups=("x",))
    with pytest.raises(ConfigError, match="x: box x 0 to 9"):
        boxed([0, 0, 0, 9, 8], shape=(8, 8))


def test_a_networks_rows_become_boxes_in_source_pixels():
    """One sure point whose box covers the source's left half; the letterbox has 64 columns and 43 rows of content."""
    frames = boxed([0, 0, 0, 30, 40])
    network = build_detector(DetectorConfig(width=2, max_width=2, pyramid=2), classes=2)
    output = output_spec(network.exportable(64, 64), CLASSES, threshold=0.3)
    assert output.shape == (1, 84, 6)
    rows = torch.full((1, 84, 6), -9.0)
    rows[..., :4] = 0
    rows[0, 7] = torch.tensor([0.0, 0, 32, 64, 2.0, -1.0])
    found = detect(lambda _: rows, output, frames, SPEC)
    assert len(found) == 1
    np.testing.assert_allclose(found[0], [[0, 1 / (1 + np.exp(-2)), 0, 0, 30, 40]], atol=1e-4)
    rows[0, 7, 4] = -9
    assert detect(lambda _: rows, output, frames, SPEC)[0].shape == (0, 6)


def random_answers(rng: np.random.Generator, n: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    truth, found = [], []
    for _ in range(n):
        low = rng.uniform(0, 40, (rng.integers(0, 4), 2))
        wanted = np.column_stack([rng.integers(0, 2, len(low)), low, low + rng.uniform(5, 20, low.shape)])
        moved = wanted[:, 1:] + rng.normal(0, 1.5, (len(low), 4))
        rows = np.column_stack([wanted[:, 0], rng.random(len(low)), moved])
        truth.append(wanted.astype(np.float32))
        again = rows[:1] - [0, 0.01, 0, 0, 0, 0]  # found twice: the second is a false alarm
        found.append(np.concatenate([rows, again]).astype(np.float32))
    return found, truth


def test_resampled_precision_is_the_metric_of_the_resampled_frames():
    rng = np.random.default_rng(4)
    found, truth = random_answers(rng, 25)
    for _ in range(5):
        index = rng.integers(0, 25, 25)
        _, wanted = average_precision([found[k] for k in index], [truth[k] for k in index])
        times = np.bincount(index, minlength=25)
        for label in (0, 1):
            assert match_boxes(found, truth, label).precision(times) == pytest.approx(wanted[label], abs=1e-9)


def test_gap_of_equals_is_zero_and_of_better_is_positive():
    found, truth = random_answers(np.random.default_rng(1), 30)
    exact = [np.insert(rows, 1, 0.9, axis=1).astype(np.float32) for rows in truth]
    assert gap_interval([found, found], [found, found], truth, (0, 1), draws=50) == (0, 0, 0)
    gap, low, high = gap_interval([exact, exact], [found], truth, (0, 1), draws=200)
    assert 0 < low < gap < high < 1
    assert gap == pytest.approx(1 - average_precision(found, truth)[0], abs=1e-9)
    with pytest.raises(ConfigError, match="equal numbers or one"):
        gap_interval([found], [found, found], truth, (0, 1))


def test_trivial_answers_know_the_training_boxes_alone():
    image = np.random.default_rng(0).integers(0, 255, (3, 48, 72), np.uint8)
    boxes = [np.array([[0, 0, 0, 30, 20]], np.float32), np.array([[0, 10, 10, 40, 30]], np.float32)]
    train = BoxedFrames(frames=frames_of(image[:2]), boxes=boxes, names=("a", "b"), groups=("a", "b"))
    wide = np.repeat(np.repeat(image[1:2], 2, 1), 2, 2)
    test = BoxedFrames(frames=frames_of(wide), boxes=[boxes[1]], names=("c",), groups=("c",))
    assert trivial_detections(train, test)[0].tolist() == [[0, 1, 10, 10, 70, 50]]
    assert sorted(trivial_detections(train, test, 5)[0][:, 2].tolist()) == [0, 20]
    nearest = nearest_detections(train, test)[0]
    assert nearest[0, 1] == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(nearest[0, 2:], [20, 20, 80, 60], atol=1e-4)
    assert set(trivial_answers(train, test)) >= {"mean box a class", "boxes of the 1 most alike training frames"}
