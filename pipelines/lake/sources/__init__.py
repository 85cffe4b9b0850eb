"""What images there are: files, folders and globs, object stores, archives and tables, in a stable order."""

from pipelines.lake.sources.entry import IMAGE_SUFFIXES, Entry, path_to_uri, uri_to_path
from pipelines.lake.sources.listing import Listing

__all__ = ["IMAGE_SUFFIXES", "Entry", "Listing", "path_to_uri", "uri_to_path"]
