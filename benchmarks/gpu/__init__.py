"""One command that tells whether scores on a GPU are right, how fast they come, and what bounds them.

``steps`` holds what a measurement is and shares out the time, ``report`` what was found; the other modules are the
measurements. ``grepr_core`` and its packages suffice, but for what runs whole commands.
"""
