"""Pretraining: what the two encoders learn from without ratings.

In come photographs. Out go scenes of distorted versions with the FSIMc of all pairs, the two contrastive losses, and
measures of whether an encoder learns from them; the loop that trains is in ``pipelines.pretraining``.
"""

__all__ = ["distortions", "group_contrast", "losses", "order_accuracy", "scenes"]
