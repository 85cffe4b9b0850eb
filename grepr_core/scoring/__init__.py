"""Scoring: from encoded images to scores, with all of the method put together.

In come a bundle, a device and the bytes of images, images that a program holds, or why they could not be read. Out goes
for each an ``image_score.ImageScore``: a score, or the reason why there is none.
"""

__all__ = ["image_score", "scorer"]
