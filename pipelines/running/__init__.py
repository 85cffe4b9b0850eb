"""Running: how any command runs, whatever it does.

In come a command's options, output folder and, where it has some, shards to be worked through. Out go a Ray session
with as many processes as the cluster carries, whatever becomes of some of them; a lock and settings on the output,
and files of shards that are whole or absent.
"""

__all__ = [
    "cluster",
    "cores",
    "placement",
    "precision",
    "run_files",
    "run_lock",
    "session",
    "settings",
    "shard_files",
    "shard_pool",
    "shard_worker",
    "workers",
]
