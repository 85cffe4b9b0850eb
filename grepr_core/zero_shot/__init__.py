"""Zero-shot: quality without any rating.

In come an image's patches and an encoder, or cosines with the two prompts. Out go ``gaussian.Gaussian`` statistics of
patches, their distance to those of pristine photographs, and the scores of both paths and their sum.
"""

__all__ = ["gaussian", "patches", "scores"]
