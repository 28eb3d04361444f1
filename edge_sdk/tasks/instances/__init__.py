"""Separating objects that touch: truth, training, decoding and the score of matched objects."""

from edge_sdk.tasks.instances.decode import InstanceScore, match_instances, separate
from edge_sdk.tasks.instances.train import (
    InstanceConfig,
    TrainedInstances,
    distill_instances,
    instance_set,
    train_instances,
)
from edge_sdk.tasks.instances.truth import border_of, components

__all__ = [
    "InstanceConfig",
    "InstanceScore",
    "TrainedInstances",
    "border_of",
    "components",
    "distill_instances",
    "instance_set",
    "match_instances",
    "separate",
    "train_instances",
]
