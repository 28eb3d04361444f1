"""Your own nn.Module teaches a light student from unlabelled frames, in twenty lines."""

import torch

import edge_sdk as sdk
from edge_runtime.preprocess import Letterbox, Normalize, PreprocessSpec, ToGray
from edge_sdk.frames import frames_of, network_inputs
from edge_sdk.simulate import training_set


class DarkRegions(torch.nn.Module):  # your network; this one marks what stays dark after a blur
    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return 60 * (0.12 - torch.nn.functional.avg_pool2d(frames, 9, 1, 4))


spec = PreprocessSpec(steps=(ToGray(), Letterbox(height=64, width=64), Normalize()))
frames = frames_of(training_set(1, 48, (96, 96))[0])  # yours: read with edge_runtime.open_source
teacher = sdk.teacher_from_module(DarkRegions(), classes=1)
config = sdk.DistillConfig(optimiser=sdk.OptimiserConfig(epochs=12, batch_size=8, threads=1))
known = sdk.UnlabelledFrames(source="simulated", frames=frames[:40])
trained = sdk.distill_student(teacher, spec=spec, unlabelled=[known], config=config)
inputs = torch.from_numpy(network_inputs(frames[40:], spec))
same = sdk.score_masks(sdk.predict_masks(trained.network, inputs), sdk.predict_masks(teacher, inputs), classes=1)
print(f"student against teacher on 8 frames neither was trained on: Dice {same.mean:.3f}")
