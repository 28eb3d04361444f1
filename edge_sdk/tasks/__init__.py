"""Recipes, data, training and scores of every task but segmentation, which is `edge_sdk.recipe`."""

__all__: list[str] = []
