"""Scoring a lake: the commands ``grepr score``, its ``--plan``, and ``grepr nightly``.

In come a manifest and a bundle. Out go ``score_table``'s Parquet files, a row for every image whatever happens, and
the record of the run; resuming, taking over earlier scores, and finding the image that kills or stops a process belong
to it.
"""

__all__ = ["current", "near_copies", "nightly", "old_scores", "plan", "run_record", "score", "score_table", "update"]
