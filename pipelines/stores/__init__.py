"""Stores: reaching bytes in object stores, and parts of Parquet files, wherever they are.

In come URLs and storage options. Out go clients of obstore, keys listed side by side, and single row groups; what a
key, a file or a row means is not known here.
"""

__all__ = ["object_listing", "object_store", "row_groups", "store_errors"]
