"""Sources: what images there are, whatever they are in.

In come paths and URLs of files, folders, globs, object stores, archives and tables. Out goes a ``Listing`` of
``Entry``, in a stable order, and of what was passed over.
"""

from pipelines.lake.sources.entry import IMAGE_SUFFIXES, Entry, path_to_uri, uri_to_path
from pipelines.lake.sources.listing import Listing

__all__ = ["IMAGE_SUFFIXES", "Entry", "Listing", "path_to_uri", "uri_to_path"]
