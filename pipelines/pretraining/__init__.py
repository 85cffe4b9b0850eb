"""Pretraining on Ray: the commands ``grepr pretrain low`` and ``grepr pretrain high``.

In come photographs without ratings. Out go scenes, made once on Ray Data, and weights of an encoder that Ray Train
trains on them, with checkpoints from which it goes on exactly.
"""

__all__ = ["high", "low"]
