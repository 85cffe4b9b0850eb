"""The scores that a selection is made from: where they are, and whether they are all there."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from grepr_core.errors import UserError
from grepr_core.storage import Folder
from pipelines.lake.manifest import MANIFEST_FOLDER, Manifest, find_manifest
from pipelines.running.run_files import FILTER_FILE, RUN_FILE
from pipelines.running.shard_files import finished_shards
from pipelines.scoring.current import current_folder, no_scores, output_state
from pipelines.scoring.score_table import SCORES_FOLDER
from pipelines.stores.object_store import STORE_ERRORS
from pipelines.stores.store_errors import store_error


@dataclass(frozen=True)
class ScoresFolder:
    """An output of ``grepr score`` or ``grepr filter``.

    Attributes:
        output: The output.
        folder: The folder of scores in it.
        shards: Numbers of the shards there, in order.
        images: Number of rows that the command's record tells of; None if it has not finished.
        finished: When it has, in UTC.
        manifests: Where the manifest of the images may be, if anywhere.
        state: Of the output before anything was read; see :func:`pipelines.scoring.current.one_state`.
    """

    output: Folder
    folder: Folder
    shards: list[int]
    images: int | None
    finished: str | None
    manifests: tuple[str, ...]
    state: bytes | None

    def image_source(self) -> str | None:
        """Gives what the images were listed from; None where the manifest that tells it is gone."""
        with contextlib.suppress(UserError, *STORE_ERRORS):
            return self.manifest().source
        return None

    def manifest(self) -> Manifest:
        """Opens the manifest of the images.

        Raises:
            UserError: It is not where it was.
        """
        for url in self.manifests:
            if (found := find_manifest(url, self.output.storage_options)) is not None:
                return found
        raise UserError(
            f"{self.output.url}: images inside archives or tables are selected, and the manifest that tells where they "
            f"are is not there any more ({', '.join(self.manifests)}); use --format parquet or txt"
        )


def open_scores(url: str, storage_options: Mapping[str, Any], *, unfinished: bool) -> ScoresFolder:
    """Finds the scores that a command wrote.

    Args:
        url: Its output.
        storage_options: For fsspec.
        unfinished: Whether they may be a part of all.

    Returns:
        The scores.

    Raises:
        UserError: There are none, or only a part of all.
    """
    output = Folder(url, storage_options)
    try:
        state = output_state(output)
        folder = current_folder(output, SCORES_FOLDER)
        shards = sorted(finished_shards(folder))
        record = next((output.read_json(name) for name in (RUN_FILE, FILTER_FILE) if output.exists(name)), None)
    except STORE_ERRORS as error:
        raise store_error(url, error) from error
    if not shards:
        raise no_scores(output)
    here = current_folder(output, MANIFEST_FOLDER).url
    if record is None:
        if not unfinished:
            raise UserError(
                f"{url}: its scores are not finished; run the command that writes them again to finish them, or select "
                "from those that are there with --unfinished"
            )
        return ScoresFolder(output, folder, shards, None, None, (here,), state)
    if "selected" in record:
        manifests = tuple(record["manifests"])
        return ScoresFolder(output, folder, shards, record["selected"], record["finished"], manifests, state)
    manifests = (here, record["options"]["source"]) if "source" in record["options"] else (here,)
    return ScoresFolder(output, folder, shards, record["images"], record["finished"], manifests, state)


def archive_places(manifest: Manifest) -> Iterator[pa.Table]:
    """Reads where images are in their archives.

    Args:
        manifest: Of the lake.

    Yields:
        Tables with the columns ``image_id``, ``uri``, ``member``, ``size`` and ``offset``, of the images in archives.
    """
    for shard in range(manifest.shards):
        table = manifest.read_shard(shard).select(["image_id", "uri", "member", "size", "offset"])
        if table["offset"].null_count < len(table):
            yield table.filter(pc.is_valid(table["offset"]))
