"""The web: what requests may tell, and whom they may ask.

In come URLs, that a table from anywhere may name, and storage options. Out go headers for the hosts they are meant for,
a refusal of hosts that are not to be asked, and fsspec's file system of the web within these bounds.
"""

__all__ = ["access"]
