"""Small lakes of photographs for tests, and the command line that scores them."""

import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import pyarrow as pa

from grepr_core.storage import Folder
from jobs.cli import main
from pipelines.scoring.score_table import read_scores
from tests.made_photos import jpeg, photo

#: Pixels that grepr-lite may see of a photograph where scores need not be those of users: a fifth of the time.
SMALL_VIEW = 160 * 120
#: The option of commands that says so.
SMALL = ("--max-pixels", str(SMALL_VIEW))


def make_lake(folder: Path, n: int) -> Path:
    """Writes n photographs of several sizes."""
    folder.mkdir(parents=True)
    sizes = [(160, 120), (120, 160), (200, 133), (96, 96)]
    for i in range(n):
        (folder / f"{i:04d}.jpg").write_bytes(jpeg(photo(i, sizes[i % len(sizes)]), quality=40 + i % 60))
    return folder


def grepr(
    *arguments: str | Path, env: dict[str, str] | None = None, prefix: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """Starts the command line in a process group of its own."""
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "grepr", *map(str, arguments)],
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A job in a shell's background ignores interrupts, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )


def run_grepr(
    *arguments: str | Path, env: dict[str, str] | None = None, prefix: Sequence[str] = ()
) -> tuple[int, str, str]:
    """Runs the command line; gives exit code, standard output and standard error."""
    process = grepr(*arguments, env=env, prefix=prefix)
    out, err = process.communicate(timeout=500)
    return process.returncode, out, err


def run_here(*arguments: str | Path) -> tuple[int, str, str]:
    """Does what :func:`run_grepr` does in this process, on the Ray it is connected to, which saves starting one."""
    out, err = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(err)
    logging.getLogger().addHandler(handler)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with (
            mock.patch("jobs.cli._mute_libraries"),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            main([str(argument) for argument in arguments])
    except SystemExit as ended:
        return int(ended.code or 0), out.getvalue(), err.getvalue()
    finally:
        logging.getLogger().removeHandler(handler)
        for number, before in handlers.items():
            signal.signal(number, before)


def scores(output: Path) -> pa.Table:
    """All scores of a run, whose files must have one and the same schema."""
    import pyarrow.parquet as pq

    schemas = [pq.read_schema(path).remove_metadata() for path in (output / "scores").glob("*.parquet")]
    assert all(schema.equals(schemas[0]) for schema in schemas)
    return read_scores(Folder(str(output)))


def check_invariants(output: Path) -> pa.Table:
    """Checks what holds of every finished run, and gives its scores."""
    from pipelines.lake.manifest import find_manifest

    manifest = find_manifest(str(output / "manifest"))
    assert manifest is not None
    listed = pa.concat_tables(manifest.read_shard(shard) for shard in range(manifest.shards))
    table = scores(output)
    assert table["image_id"].to_pylist() == listed["image_id"].to_pylist()
    assert len(set(table["image_id"].to_pylist())) == len(table)
    for row in table.select(["status", "score", "error"]).to_pylist():
        assert (row["score"] is None) != (row["error"] is None), row
        assert (row["status"] == "scored") == (row["score"] is not None), row
    assert (output / "run.json").exists()
    in_progress = output / "in-progress"
    assert not in_progress.exists() or not any(in_progress.iterdir())
    return table
