"""Classification of frames and clips: manifest, training, distillation, scores by patient, recipe.

The recipe's structs are `recipe`, the run is `run`; modules are imported when asked for, since `recipe` needs no torch.
"""

__all__: list[str] = []
