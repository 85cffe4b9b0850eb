"""Decoding: from the bytes of a file to pixels, or to the reason why not.

In come encoded images, images and arrays that a program holds, or the exceptions that reading raised. Out go upright
sRGB pixels (``images.Photo``) or an ``images.Failure``, and the former in batches of one size on the device that
encodes them. ``images`` is the entry; a module beside it each is for what a format has of its own.
"""

__all__ = ["batches", "images", "kinds", "perceptual_hash", "pixels", "read_errors", "resize", "transfer", "view"]
