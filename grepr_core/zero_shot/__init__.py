"""Zero-shot: quality without any rating.

In come an image's patches and an encoder, or cosines with the two prompts, or features of good and of bad photographs.
Out go ``gaussian.Gaussian`` statistics of patches, their distance to those of pristine photographs, the ``axis``
between good and bad, and the scores of both paths and their sum.
"""

__all__ = ["axis", "gaussian", "patches", "scores"]
