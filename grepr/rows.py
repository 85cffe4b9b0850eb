"""What becomes of a photograph, as a row; and rows as a table."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from grepr_core.decoding.images import Status
from grepr_core.reasons.probes import SEVERITIES
from grepr_core.scoring.image_score import ImageScore

if TYPE_CHECKING:
    import pandas as pd

#: Columns of pandas whose values may be missing, where its usual type has no room for that.
_WITH_ROOM = {"not_photo": "boolean", "width": "Int64", "height": "Int64", "scored_pixels": "Int64", "bytes": "Int64"}
#: Columns of fractions.
_NUMBERS = {"score", "score_low", "score_high", "score_lower", "score_upper", *SEVERITIES}


@dataclass(frozen=True, slots=True)
class Row(ImageScore):
    """What becomes of one photograph: its score, or why it has none.

    Attributes:
        uri: The absolute path or the URL that it was read from; None of what was in memory.
        model_id: Hash of the model.
    """

    uri: str | None = None
    model_id: str = ""

    @classmethod
    def of(cls, score: ImageScore, *, uri: str | None, model_id: str, features: bool) -> Self:
        """Makes the row of a score.

        Args:
            score: The score.
            uri: See :class:`Row`.
            model_id: See :class:`Row`.
            features: Whether it keeps the features, which take most of its memory.
        """
        known = {field.name: getattr(score, field.name) for field in fields(ImageScore)}
        if not features:
            known["features"] = None
        return cls(**known, uri=uri, model_id=model_id)


def to_pandas(rows: Row | Iterable[Row]) -> "pd.DataFrame":
    """Makes a table of rows, with the columns of ``grepr score`` that there is something to say in.

    ```python
    frame = grepr.to_pandas(scorer.score(paths))
    frame.nsmallest(20, "score")[["uri", "score", "reason"]]
    ```

    Args:
        rows: One, or several.

    Returns:
        A row for each in order, numbered from 0, with a column for each severity; ``features`` only where a row has
        them. What is missing is NaN, NA or None.
    """
    import pandas as pd  # noqa: PLC0415 - who wants no table need not wait for it

    several = [rows] if isinstance(rows, Row) else list(rows)
    # Of a row that says nothing, so that there are columns where there are no rows.
    names = ["uri", *(name for name in Row(Status.CRASHED).columns() if name != "uri")]
    values = [row.columns() for row in several]
    if all(row.features is None for row in several):
        names.remove("features")
    columns: dict[str, Any] = {}
    for name in names:
        column = [row[name] for row in values]
        kind = "float64" if name in _NUMBERS else _WITH_ROOM.get(name, "object")
        columns[name] = pd.Series([str(value) for value in column] if name == "status" else column, dtype=kind)
    return pd.DataFrame(columns)
