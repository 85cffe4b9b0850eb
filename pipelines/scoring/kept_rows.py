"""Rows of a shard that need not be scored again."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.scoring.score_table import TRANSIENT


@dataclass(frozen=True, eq=False)
class KeptRows:
    """Rows that a shard takes over, and where in it they belong.

    Attributes:
        rows: (N,) int64 positions in the shard.
        table: The N rows, with the schema of scores; None where there are none.
    """

    rows: NDArray[np.int64]
    table: pa.Table | None

    @classmethod
    def none(cls) -> Self:
        """Keeps nothing."""
        return cls(np.empty(0, np.int64), None)

    @classmethod
    def still_good(cls, table: pa.Table) -> Self:
        """Keeps the rows of a finished shard but those whose failure may have passed."""
        rows = np.flatnonzero([status not in TRANSIENT for status in table["status"].to_pylist()])
        return cls(rows, table.take(rows))

    def others(self, images: int) -> NDArray[np.int64]:
        """Gives the positions, ascending, of the other rows of a shard of so many images."""
        return np.setdiff1d(np.arange(images), self.rows, assume_unique=True)

    def joined_by(self, others: pa.Table) -> pa.Table:
        """Puts the other rows, in the order of their positions, between the kept ones."""
        if self.table is None:
            return others
        positions = np.concatenate([self.rows, self.others(len(self.rows) + len(others))])
        return pa.concat_tables([self.table, others]).take(np.argsort(positions))
