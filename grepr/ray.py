"""The score within a pipeline of Ray Data."""

import os
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray
from ray.data.block import BlockAccessor

from grepr.rows import Row
from grepr.scorer import load
from grepr_core.decoding.images import Failure, Status
from grepr_core.decoding.pixels import image_from_array
from pipelines.running.cores import available_cores
from pipelines.scoring.score_table import schema

#: Columns that hold images or say where they are, the preferred ones first: what has been read already comes before
#: where it was read from. The names are those that readers of Ray Data, WebDataset and Hugging Face give.
COLUMNS = (
    *("bytes", "image", "images", "img", "image_bytes", "jpg", "jpeg", "png", "webp", "content"),
    *("uri", "url", "path", "image_url", "image_path", "file_name"),
)
#: Columns of the table of scores that the pipeline's own rows have, or do without.
_OF_FILES = frozenset({"image_id", "uri", "member", "path", "etag"})

Batch: TypeAlias = "Mapping[str, NDArray[Any]] | pd.DataFrame | pa.Table"


class Score:
    """Scores batches of Ray Data: a class for ``map_batches``.

    ```python
    ds = ray.data.read_binary_files("s3://bucket/photos", include_paths=True)
    ds = ds.map_batches(grepr.ray.Score, concurrency=4, batch_size=64)
    ds = ds.map_batches(grepr.ray.Score, num_gpus=1, concurrency=1, batch_size=1024)  # where there is a GPU
    ```

    A batch of any format may come, a ``pyarrow.Table`` goes: all its columns, and behind a prefix those of the scores
    that ``grepr score`` writes, from ``grepr_status`` and ``grepr_score`` to ``grepr_model_id``. An image that cannot
    be scored has its row, too, which says why. A process computes with as many threads as ``map_batches`` gives it CPUs
    (``num_cpus``, 1 by default).
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "grepr-lite",
        *,
        column: str | None = None,
        prefix: str = "grepr_",
        keep: bool = True,
        features: bool = False,
        **options: Any,  # noqa: ANN401
    ) -> None:
        """Loads the model.

        Args:
            model: As :func:`grepr.load` takes it.
            column: Of the images: bytes of files, arrays, paths or URLs, or Hugging Face's structs of ``bytes`` and
                ``path``. By default the first of :data:`COLUMNS` that the batch has and that holds no mere numbers.
            prefix: Put before the names of the columns that are added.
            keep: Whether the column of the images stays; nothing of it need travel on where only scores are wanted.
            features: Whether ``features`` are added, a list of float32 each.
            **options: As :func:`grepr.load` takes them.
        """
        cores, on_gpu = _resources()
        if cores is not None:
            # The process is this actor's alone, and the other cores are other processes'.
            torch.set_num_threads(cores)
            options = {"threads": cores, "device": "cuda" if on_gpu else "cpu", **options}
        self._scorer = load(model, **options)
        self._column = column
        self._prefix = prefix
        self._keep = keep
        self._features = features

    def __call__(self, batch: Batch) -> pa.Table:
        """Scores a batch.

        Args:
            batch: As ``map_batches`` gives it.

        Returns:
            The batch with the columns of the scores.

        Raises:
            TypeError: The column holds something else.
            ValueError: There is no such column, or the batch has a column of the name of one that is added.
        """
        column = self._find(batch)
        rows = [row.columns() for row in self._score(_values(batch, column), column)]
        table = _to_arrow(batch)
        if not self._keep:
            table = table.drop_columns([column])
        for field in schema(self._scorer.feature_size if self._features else None, "float32"):
            if field.name not in _OF_FILES:
                name = self._prefix + field.name
                if name in table.column_names:
                    raise ValueError(f"the batch has a column {name} already; give another prefix to grepr.ray.Score")
                table = table.append_column(name, pa.array([row[field.name] for row in rows], field.type))
        return table

    def _find(self, batch: Batch) -> str:
        names = list(batch.column_names if isinstance(batch, pa.Table) else batch)
        if self._column is not None:
            found = self._column if self._column in names else None
        else:
            found = next((name for name in COLUMNS if name in names and not _has_numbers(batch, name)), None)
        if found is None:
            what = "column of images" if self._column is None else f"column {self._column}"
            raise ValueError(
                f"the batch has no {what}; it has {', '.join(names)}: name one by "
                "fn_constructor_kwargs={'column': ...}"
            )
        return found

    def _score(self, values: Iterable[Any], column: str) -> list[Row]:
        try:
            return list(self._scorer.stream(map(_photograph, values), features=self._features))
        except TypeError as error:
            raise TypeError(
                f"column {column}: {error}; name another by fn_constructor_kwargs={{'column': ...}}"
            ) from None


def _photograph(value: object) -> Any:  # noqa: ANN401 - a photograph, or what Scorer says is none
    """Gives what a row has; what is no photograph for its values alone costs no more than the row."""
    if isinstance(value, Mapping) and not value.keys().isdisjoint(("bytes", "path")):
        value = value.get("bytes") or value.get("path")
    if value is None or value is pd.NA or (isinstance(value, float | np.floating) and np.isnan(value)):
        return Failure(Status.MISSING, "the row has no image")
    if isinstance(value, np.ndarray):
        try:
            return image_from_array(value)
        except ValueError as error:
            return Failure(Status.UNREADABLE, str(error))
    return value


def _resources() -> tuple[int | None, bool]:
    """Gives the CPU cores of the actor that this process is, None where it is none, and whether it has a GPU."""
    if not ray.is_initialized() or (context := ray.get_runtime_context()).get_actor_id() is None:
        return None, False
    assigned = context.get_assigned_resources()  # type: ignore[no-untyped-call]
    on_gpu = assigned.get("GPU", 0) > 0
    # Who asks for a GPU alone does not mean that nothing is to be decoded for it.
    return int(assigned.get("CPU", 0)) or (available_cores() if on_gpu else 1), on_gpu


def _values(batch: Batch, column: str) -> NDArray[Any]:
    return np.asarray(batch[column] if isinstance(batch, Mapping) else BlockAccessor.for_block(batch).to_numpy(column))


def _has_numbers(batch: Batch, column: str) -> bool:
    """Tells whether a column holds a number for each image, such as its size, so that it holds no images."""
    if isinstance(batch, pa.Table):
        kind = batch.schema.field(column).type
        return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
    values = batch[column]
    if values.ndim > 1 or not pd.api.types.is_numeric_dtype(values.dtype):
        return False
    # Nothing but nulls may have come as NaN, whatever they are nulls of.
    return not (values.dtype.kind == "f" and np.isnan(values).all())


def _to_arrow(batch: Batch) -> pa.Table:
    """Gives a batch as Ray Data would store it."""
    if isinstance(batch, pa.Table):
        return batch
    if isinstance(batch, Mapping):
        return BlockAccessor.batch_to_arrow_block(dict(batch))
    return BlockAccessor.for_block(batch).to_arrow()
