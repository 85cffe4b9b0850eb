"""The page on which photos are rated: a small web server for this machine alone, and what it serves."""

from pipelines.rating.page.server import make_app, serve

__all__ = ["make_app", "serve"]
