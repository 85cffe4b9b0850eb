"""The lake: what images there are, and reading them.

In come sources: folders, prefixes, globs, archives, tables, inventories. Out go a ``manifest.Manifest`` of them in
shards, and the bytes of each image with its ETag, or a failure.
"""

__all__ = ["fetch", "image_reader", "manifest", "sources"]
