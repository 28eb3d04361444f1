"""`astream`: results of a pipeline in an `async for`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from edge_runtime.result import Result
from edge_runtime.streaming.contracts import FrameSource
from edge_runtime.streaming.pipeline import Pipeline

__all__ = ["astream"]


async def astream(pipeline: Pipeline, source: FrameSource | None = None, *, capacity: int = 2) -> AsyncIterator[Result]:
    """The results of `source` (None: of what `pipeline.push` is given) as they come, without blocking the event loop.

    As `Pipeline.stream`: each result is valid until the next is asked for, on a live source at most `capacity` wait and
    the oldest is dropped. One thread more waits for results. Leaving the loop early, or cancelling the task, stops the
    stream and waits for its threads (in that thread, not in the event loop). Raises as `Pipeline.run` does.
    """
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, thread_name_prefix="edge-astream") as executor:
        await loop.run_in_executor(executor, lambda: pipeline.start(source, capacity=capacity))
        try:
            while (result := await loop.run_in_executor(executor, pipeline.poll, None)) is not None:
                yield result
        except BaseException:
            pipeline.stop()
            raise
        finally:
            await asyncio.shield(loop.run_in_executor(executor, pipeline.close))
