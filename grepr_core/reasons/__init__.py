"""Reasons: what ails a photograph, and whether it is one, read off features that are computed anyway.

In come features of EfficientNet-Lite0. Out go severities between 0 and 1, a flag, and the name of the worst fault. No
rating goes into it: probes are learned from synthetic faults of known kind and level, and from graphics.
"""

__all__ = ["probes"]
