"""FAST: a Python streamer read through a data stream. Modes: "all" (its default, a queue of 50) and "newest"."""

# mypy: disable-error-code="import-not-found, misc"
# the rival is installed in an environment of its own

from __future__ import annotations

import fast
import numpy as np

from benchmarks.peers.feed import Feed, Job, frame_id, run_job
from benchmarks.peers.work import Work

_MODES = {"all": fast.StreamingMode_ProcessAllFrames, "newest": fast.StreamingMode_NewestFrameOnly}


fast.Reporter.setGlobalReportMethod(fast.Reporter.NONE)


class _Camera(fast.PythonStreamer):
    """The feed as a streamer; made in two steps, since FAST's metaclass hands out a proxy."""

    feed: Feed

    def __init__(self) -> None:
        super().__init__()
        self.createOutputPort(0)

    def generateStream(self) -> None:
        """Body of the streamer's thread. The last frame is marked, or its reader never ends: one frame more for it."""
        while (image := _FEED[0].next()) is not None:
            self.addOutputData(0, fast.Image.createFromArray(image[..., None]))
            self.frameAdded()
        end = fast.Image.createFromArray(np.full((8, 8, 1), 255, np.uint8))
        end.setLastFrame("Streamer")
        self.addOutputData(0, end)
        self.frameAdded()


_FEED: list[Feed] = []


def run(job: Job, feed: Feed, work: Work) -> dict[str, object]:
    """One block of FAST."""
    _FEED.append(feed)
    streamer = _Camera()
    streamer.setStreamingMode(_MODES[job.mode])
    for data in fast.DataStream(streamer):
        if data.isLastFrame():
            break
        image = np.asarray(data)[..., 0]
        work(image)
        feed.record(frame_id(image))
    return {}


if __name__ == "__main__":
    run_job(run)
