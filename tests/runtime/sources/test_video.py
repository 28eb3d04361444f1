"""Video files: written here, and a sample of real clips."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")

from edge_runtime.errors import CorruptFrameError, SourceError, SourceFormatError  # noqa: E402
from edge_runtime.sources import VideoSource, open_source  # noqa: E402


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 frames of 64 x 96 at 20 fps; frame k has the red level 6 k, green 40, blue 200."""
    path = tmp_path_factory.mktemp("video") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"MJPG"), 20.0, (96, 64))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no MJPG")
    for k in range(40):
        writer.write(np.full((64, 96, 3), (200, 40, 6 * k), np.uint8))
    writer.release()
    return path


def test_frames_are_rgb_in_order_with_the_times_of_the_container(clip: Path) -> None:
    with VideoSource(clip) as source:
        assert (source.frame_count, source.fps, source.live) == (40, 20.0, False)
        frames = list(source)
        source.rewind()
        again = source.read()
    assert [f.index for f in frames] == list(range(40))
    assert [f.device_ns for f in frames] == pytest.approx([k * 50_000_000 for k in range(40)], abs=10)
    for k, frame in enumerate(frames):
        assert frame.image.shape == (64, 96, 3)
        assert np.abs(frame.image.reshape(-1, 3).mean(0) - (6 * k, 40, 200)).max() < 6
    assert again is not None
    np.testing.assert_array_equal(again.image, frames[0].image)


def test_an_early_end_is_an_error_once_then_the_end(clip: Path, tmp_path: Path) -> None:
    # the index and the announced count stay, the frames of the second half are gone
    data = clip.read_bytes()
    start = data.index(b"movi")
    middle = (start + data.rindex(b"idx1")) // 2
    short = tmp_path / "short.avi"
    short.write_bytes(data[:middle])
    source = VideoSource(short)
    got: list[int] = []
    with pytest.raises(CorruptFrameError, match="of 40 announced") as caught:
        got.extend(frame.index for frame in source)
    assert caught.value.index == len(got)
    assert 5 < len(got) < 36
    assert source.read() is None


def test_what_is_no_video_is_refused(tmp_path: Path, clip: Path) -> None:
    empty, text = tmp_path / "empty.mp4", tmp_path / "text.mp4"
    empty.touch()
    text.write_text("not a video, though it is called one\n" * 20)
    stub = tmp_path / "stub.avi"
    stub.write_bytes(clip.read_bytes()[:600])
    for path in (empty, text, stub):
        with pytest.raises(SourceFormatError):
            VideoSource(path)
    for path in (tmp_path, tmp_path / "absent.mp4"):
        with pytest.raises(SourceError, match="cannot be opened"):
            VideoSource(path)


REAL = [
    # path under the data folder, announced count, frames, fps, size
    ("devices/butterfly-ocular-phantom.mp4", 369, 369, 12.688, (1080, 776)),
    ("devices/clarius-ocular-short.mp4", 50, 50, 25.0, (960, 1280)),
    ("classification/pocus_lung/cc-by/clips/regular/Reg_pat1Image_133138.mpeg", 260, 262, 25.0, (370, 370)),
    ("classification/pocus_lung/cc-by/clips/covid/Cov_recommendations_likebutterfly_mov5.mov", 138, 138, 22.667,
     (370, 370)),
    ("classification/pocus_lung/cc-by-nc/clips/covid/Cov-Atlas-Day_2.gif", 83, 83, 10.0, (142, 142)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "announced", "frames", "fps", "size"), REAL, ids=[r[0].split("/")[-1] for r in REAL])
def test_real_clips(name: str, announced: int, frames: int, fps: float, size: tuple[int, int]) -> None:
    data = os.environ.get("POCUS_DATA")
    if not data or not Path(data, name).exists():
        pytest.skip("POCUS_DATA does not name the folder of real data")
    with open_source(Path(data, name)) as source:
        assert isinstance(source, VideoSource)
        times = []
        for frame in source:
            assert frame.shape == size
            times.append(frame.device_ns)
        assert (source.frame_count, len(times)) == (announced, frames)
        assert source.fps == pytest.approx(fps, abs=1e-3)
        assert None not in times
        assert (np.diff(np.array(times, dtype=np.int64)) > 0).all()
        if "butterfly-ocular" in name:
            assert "variable frame rate" in source.timing_note
        if name.endswith(".mpeg"):
            assert "do not grow" in source.timing_note
