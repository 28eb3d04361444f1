"""Metrics that a device can compute: latency and segmentation, in NumPy. Import the module that is needed."""

__all__: list[str] = []
