"""Models: the commands ``grepr model``, ``grepr fit`` and ``grepr evaluate``.

In come encoders, published checkpoints, pristine, unrated and rated photographs. Out go bundles, and what they are
worth by the few-label protocol.
"""

__all__ = ["bundles", "clip", "evaluate", "fit", "rated_features"]
