"""Pretraining: what the two encoders learn from without ratings.

In come photographs. Out go scenes of distorted versions with the FSIMc of all pairs, the two contrastive losses, and
measures of whether an encoder learns from them, and a step of training; the loop is in ``pipelines.pretraining``.
"""

__all__ = ["batches", "distortions", "group_contrast", "order_accuracy", "scenes", "step"]
