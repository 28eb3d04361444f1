"""GStreamer: appsrc, a leaky queue of one, appsink, and the work in the Python thread that pulls."""

# mypy: disable-error-code="import-not-found, misc"
# the rival is installed in an environment of its own

from __future__ import annotations

import threading
from typing import Any

import gi
import numpy as np

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
from gi.repository import Gst, GstApp  # noqa: E402,F401 - GstApp adds the calls of appsrc and appsink

from benchmarks.peers.feed import Feed, Job, frame_id, run_job  # noqa: E402
from benchmarks.peers.work import Work  # noqa: E402

_LINE = (
    "appsrc name=camera is-live=true format=time max-buffers=1 leaky-type=downstream "
    "caps=video/x-raw,format=GRAY8,width={width},height={height},framerate={fps}/1 "
    "! queue leaky=downstream max-size-buffers=1 max-size-bytes=0 max-size-time=0 "
    "! appsink name=sink sync=false max-buffers=1 drop=true"
)


def _push(feed: Feed, camera: Any) -> None:
    while (image := feed.next()) is not None:
        camera.push_buffer(Gst.Buffer.new_wrapped(image.tobytes()))
    camera.end_of_stream()


def run(job: Job, feed: Feed, work: Work) -> dict[str, object]:
    """One block of GStreamer."""
    Gst.init(None)
    height, width = feed.clip.shape[1:3]
    pipeline = Gst.parse_launch(_LINE.format(width=width, height=height, fps=round(job.fps)))
    camera, sink = pipeline.get_by_name("camera"), pipeline.get_by_name("sink")
    pipeline.set_state(Gst.State.PLAYING)
    pushing = threading.Thread(target=_push, args=(feed, camera))
    pushing.start()
    while (sample := sink.pull_sample()) is not None:
        buffer = sample.get_buffer()
        found, info = buffer.map(Gst.MapFlags.READ)
        if not found:
            raise RuntimeError("a buffer could not be mapped")
        image = np.frombuffer(info.data, np.uint8).reshape(height, width)
        work(image)
        feed.record(frame_id(image))
        buffer.unmap(info)
    pushing.join()
    pipeline.set_state(Gst.State.NULL)
    return {"gstreamer": Gst.version_string()}


if __name__ == "__main__":
    run_job(run)
