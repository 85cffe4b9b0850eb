"""Encoders: the networks that turn pixels into features.

In come (N, 3, H, W) RGB in [0, 1] of any size. Out go features of the low-level ResNet-18, of CLIP's visual tower or
of EfficientNet-Lite0, whose networks ``inference.optimise_for_inference`` copies into a form that scores fast on the
device at hand.
"""

__all__ = ["graphs", "high_level", "inference", "low_level", "precision", "semantic"]
