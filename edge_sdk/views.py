"""Moved copies of every training frame, made once, so that a costly teacher can answer each of them.

A student that imitates its teacher on the very view it sees learns more from the same frames than one that is given
the clean frame's answer, moved (Beyer et al., "Knowledge distillation: a good teacher is patient and consistent",
CVPR 2022). The views are few and fixed, so the teacher's answers can be kept on disk and serve every later student.
"""

from __future__ import annotations

import torch

from edge_runtime.errors import ConfigError
from edge_sdk.augment.geometry import move
from edge_sdk.batch import Field, TrainingSet
from edge_sdk.config import AugmentConfig

__all__ = ["make_views"]

_BATCH = 32


def make_views(data: TrainingSet, config: AugmentConfig, views: int, seed: int = 0) -> TrainingSet:
    """The N samples of `data`, then `views` - 1 moved copies of each: N * views samples, in that order.

    Only the geometric settings of `config` are used; grey values are left to training. The first N are the frames as
    they are. Inputs are kept as float16. Raises `ConfigError` for fewer than one view, or data with soft targets.
    """
    if views < 1:
        raise ConfigError(f"views is {views}; at least 1 is needed")
    if data.soft:
        raise ConfigError("the data have soft targets already; make the views first, then ask the teacher")
    inputs = [data.inputs.half()]
    targets = {name: [field.values] for name, field in data.targets.items()}
    for view in range(1, views):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + view)
        for start in range(0, len(data.inputs), _BATCH):
            batch = data.batch(torch.arange(start, min(start + _BATCH, len(data.inputs))))
            moved = move(batch, config, generator)
            inputs.append(moved.inputs.half())
            for name, parts in targets.items():
                parts.append(moved.target(name).to(parts[0].dtype))
    return TrainingSet(
        inputs=torch.cat(inputs),
        labelled=data.labelled.repeat(views),
        targets={name: Field(values=torch.cat(parts), kind=data.targets[name].kind) for name, parts in targets.items()},
        scale=data.scale,
    )
