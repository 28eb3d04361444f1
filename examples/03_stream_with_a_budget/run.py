"""Keep a budget while the machine is slow for a while. See the README beside this file."""

from itertools import count
from time import monotonic

import numpy as np

from edge_runtime.postprocess import MaskPostprocessor
from edge_runtime.preprocess import Letterbox, Normalize, Preprocessor, PreprocessSpec
from edge_runtime.runners import FakeRunner
from edge_runtime.sinks import CallbackSink
from edge_runtime.sources import ArraySource, PacedSource
from edge_runtime.streaming import Branch, Pipeline, Rung

LETTERS = {"fresh": "F", "degraded": "d", "stale": "s", "failed": "x"}
SPEC = PreprocessSpec(steps=(Letterbox(height=64, width=64), Normalize()))
images = np.random.default_rng(0).integers(0, 256, (240, 96, 128), np.uint8)

# between its second and fourth second the device is hot, and every call takes longer
start = monotonic()
large = FakeRunner(variant="large", latency_ms=(60.0 if 2 < monotonic() - start < 4 else 15.0 for _ in count()))
small = FakeRunner(variant="small", latency_ms=(8.0 if 2 < monotonic() - start < 4 else 4.0 for _ in count()))

states: list[str] = []
branch = Branch(
    preprocess=Preprocessor(SPEC),
    rungs=tuple(Rung(runner=runner, postprocess=MaskPostprocessor(runner.outputs[0])) for runner in (large, small)),
    budget_ms=33.3,
)
sink = CallbackSink(lambda result: states.append(LETTERS[result.state]))
report = Pipeline({"seg": branch}, sinks={"states": sink}).run(PacedSource(ArraySource(images), fps=30.0))

print("F fresh, d degraded (a cheaper variant), s stale (the last result again); 60 frames a line:")
print("\n".join("".join(states[first : first + 60]) for first in range(0, len(states), 60)))
seg, one = report.branches["seg"], report.branches["seg"].ledger
lost = sum(one.dropped.values()) + sum(one.failed.values())
print(f"{one.arrived} arrived = {one.fresh} fresh + {one.degraded} degraded + {one.stale} stale + {lost} lost")
print(f"balances: {report.balances}; misses {100 * seg.miss_ratio:.1f} %; results by variant {seg.variants}")
