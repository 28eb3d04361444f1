"""Frame to frame: taking noise and speckle off, or enlarging, learned from frames that were degraded on purpose."""

__all__: list[str] = []
