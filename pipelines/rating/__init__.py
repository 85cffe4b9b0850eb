"""Rating: the command ``grepr label``.

In come photos, scored or not. Out go those that teach most, a page in the browser to rate them on, and the table of
ratings, of which each is kept at once.
"""

__all__ = ["label"]
