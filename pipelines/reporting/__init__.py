"""Reporting: the command ``grepr report``.

In come scores, of one night or of two, and the photographs that are shown small. Out goes one HTML file, complete in
itself.
"""

__all__ = ["report"]
