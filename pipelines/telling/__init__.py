"""Telling: what a command tells of its work while it is at it, and how it counts.

In come what begins, and how much of it is done. Out go lines and a bar on standard error, and what there is to say to
whoever has heard nothing for a while.
"""

__all__ = ["activity", "progress", "words"]
