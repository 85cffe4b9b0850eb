"""Selection: the command ``grepr filter``.

In come scores and the criteria that images have to meet. Out go their rows, and if wanted a list, tars or copies of
the images.
"""

__all__ = ["distinct", "filter", "rows"]
