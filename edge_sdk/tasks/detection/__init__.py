"""Detection of boxes: data, losses, training, distillation, average precision, recipe.

The recipe's structs are `recipe`, the run is `run`; modules are imported when asked for, since `recipe` needs no torch.
"""

__all__: list[str] = []
