"""streamvision: `InferencePipeline` with custom logic and its live defaults (latest frame wins)."""

# mypy: disable-error-code="import-not-found, misc"
# the rival is installed in an environment of its own

from __future__ import annotations

import os
import time
from typing import Any

# its own look-ups of versions and usage reports have no place in a measurement
os.environ.setdefault("TELEMETRY_OPT_OUT", "True")
os.environ.setdefault("DISABLE_VERSION_CHECK", "True")

from streamvision.camera.entities import SourceProperties, VideoFrameProducer
from streamvision.stream.pipeline import InferencePipeline

from benchmarks.peers.feed import Feed, Job, frame_id, run_job
from benchmarks.peers.work import Work

_DRAIN_S = 1.0


class _Camera(VideoFrameProducer):
    """The feed as a camera: `grab` waits for the next frame, `retrieve` hands it over."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._image: Any = None
        self._open = True

    def grab(self) -> bool:
        self._image = self._feed.next()
        self._open = self._image is not None
        return self._open

    def retrieve(self) -> tuple[bool, Any]:
        return self._image is not None, self._image

    def release(self) -> None:
        self._open = False

    def isOpened(self) -> bool:
        return self._open

    def discover_source_properties(self) -> SourceProperties:
        height, width = self._feed.clip.shape[1:3]
        return SourceProperties(
            width=width, height=height, total_frames=-1, is_file=False, fps=self._feed.job.fps, is_reconnectable=False
        )


def run(job: Job, feed: Feed, work: Work) -> dict[str, object]:
    """One block of streamvision."""

    def infer(frames: list[Any]) -> list[dict[str, Any]]:
        return [{"mask": work(frame.image)} for frame in frames]

    def sink(_: Any, frame: Any) -> None:
        feed.record(frame_id(frame.image))

    pipeline = InferencePipeline.init_with_custom_logic(
        video_reference=lambda: _Camera(feed), on_video_frame=infer, on_prediction=sink
    )
    pipeline.start(use_main_thread=False)
    end_ns = feed.due_ns(job.frames)
    while time.monotonic_ns() < end_ns + round(_DRAIN_S * 1e9):
        time.sleep(0.05)
    pipeline.terminate()
    pipeline.join()
    return {}


if __name__ == "__main__":
    run_job(run)
