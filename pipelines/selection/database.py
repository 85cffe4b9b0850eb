"""DuckDB for a selection: it opens no file itself, and what does not fit its share of the memory goes to a folder."""

import duckdb
import psutil

from pipelines.running.cores import available_cores

#: Of DuckDB's tables and of what it sorts and joins; it takes a little more than it is allowed.
MEMORY_BYTES = 2 * 2**30
#: Rows that go to DuckDB and come from it at once.
CHUNK_ROWS = 100_000


def connect(temporary: str) -> duckdb.DuckDBPyConnection:
    """Opens an empty database in memory.

    Args:
        temporary: Folder for what does not fit there.
    """
    memory = min(MEMORY_BYTES, psutil.virtual_memory().total // 4)
    db = duckdb.connect(
        config={
            "memory_limit": f"{memory // 2**20}MiB",
            "threads": available_cores(),
            "temp_directory": temporary,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
    )
    # No file but those in the temporary folder, which has to be set before; and no way back.
    db.execute("SET enable_external_access = false; SET enable_progress_bar = false; SET lock_configuration = true")
    return db
