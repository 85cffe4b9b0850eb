"""The parts of ``grepr report``: statistics by DuckDB, charts, thumbnails, and the page."""
