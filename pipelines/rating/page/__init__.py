"""The page on which photos are rated: a small web server, and what it serves.

In come the photos that were chosen and the journal of ratings. Out go the page, its photos, and every rating into the
journal at once.
"""

from pipelines.rating.page.addresses import listen
from pipelines.rating.page.server import make_app, serve

__all__ = ["listen", "make_app", "serve"]
