"""Which rows are selected: criteria as queries to DuckDB over those columns of the scores that they name.

DuckDB is given rows and opens no file itself, so a condition can do nothing but choose. What does not fit its share of
the memory it keeps in a temporary folder.
"""

import difflib
import itertools
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from grepr_core.errors import UserError
from grepr_core.reasons.probes import NOT_PHOTO, SEVERITIES
from pipelines.options import FilterOptions
from pipelines.scoring.old_scores import MOST_ROWS, id_keys
from pipelines.selection.database import CHUNK_ROWS, connect
from pipelines.selection.distinct import find_copies, hash_column
from pipelines.telling.words import counted

log = logging.getLogger(__name__)

#: What no expression sees of the scores. Vectors of half floats are unknown to DuckDB, and too large to hold.
HIDDEN = "features"
#: Where an image is in its archive: where its content begins, where that of the image before it ends, or 0, and where
#: that of the next one begins, null for the last; in bytes, and null for images in none. Images of one key that follow
#: each other share what is around them, such as a caption, and the last column is where each of them begins.
PLACES = ("offset", "begin", "end", "together")
#: So many; where more have one key, it is none of a sample.
_MOST_TOGETHER = 16
#: Of a member's name what WebDataset takes for its key, without the number of a name that an archive holds again.
_KEY = r"(?s)^(?:\d+#)?((?:.*/)?[^/.]+)(?:\.[^/]*)?$"
_PLACES_QUERY = f"""
    WITH alone AS MATERIALIZED (
        SELECT image_id, archive, sample, "offset",
            coalesce(
                max("offset" + size) OVER (before RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0
            ) AS "begin",
            min("offset") OVER (before RANGE BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS "end",
            coalesce(sample = lag(sample) OVER named, false) AS goes_on,
            coalesce(sample = lead(sample) OVER named, false) AS is_followed
        FROM places
        WINDOW before AS (PARTITION BY archive ORDER BY "offset"),
            named AS (PARTITION BY archive ORDER BY "offset", sample)
    ), numbered AS (
        SELECT *, count(*) FILTER (NOT goes_on) OVER (ORDER BY archive, "offset", sample, goes_on) AS number
        FROM alone WHERE (goes_on OR is_followed) AND sample <> hash('')
    ), shared AS (
        SELECT unnest(list(image_id)) AS image_id, min("begin") AS "begin",
            if(bool_or("end" IS NULL), NULL, max("end")) AS "end", list("offset") AS together
        FROM numbered GROUP BY number HAVING count(*) <= {_MOST_TOGETHER}
    ) SELECT alone.image_id, "offset", coalesce(shared."begin", alone."begin") AS "begin",
        if(together IS NULL, alone."end", shared."end") AS "end", together
    FROM alone LEFT JOIN shared USING (image_id)
"""  # noqa: S608 - not of the user
#: Models named in a message.
SHOWN = 5


@dataclass(frozen=True)
class Counts:
    """What the criteria came to.

    Attributes:
        without_metadata: Scored images that the metadata has no row of.
        met: Images that meet all conditions, from which the top is taken.
        selected: Images selected.
        groups: Groups that they are in, where the top is taken within groups.
        lowest: Lowest score selected, the threshold that the top came to; None where none is selected.
        highest: Highest score selected.
        models: Ids of the models whose scores were selected from.
        duplicates: Near-copies of the images selected, which are left out for them; None where none were looked for.
    """

    without_metadata: int
    met: int
    selected: int
    groups: int | None
    lowest: float | None
    highest: float | None
    models: list[str]
    duplicates: int | None = None


@dataclass(frozen=True)
class Picked:
    """Rows of a shard that are selected.

    Attributes:
        shard: Its number.
        rows: (N,) int64 positions in the shard, ascending.
        places: Of N rows, where in their archives the images are, with :data:`PLACES`; None where no archive is known.
    """

    shard: int
    rows: NDArray[np.int64]
    places: pa.Table | None


def with_places(table: pa.Table, shard: int) -> pa.Table:
    """Adds to the rows of a shard a number each, which tells where they are."""
    return table.append_column("__place", pa.array(shard * MOST_ROWS + np.arange(len(table)), pa.int64()))


class Criteria:
    """The criteria of a command, and the rows that they select from."""

    def __init__(self, options: FilterOptions, temporary: str) -> None:
        """Opens a database.

        Args:
            options: Of the command.
            temporary: Folder for what does not fit the memory.

        Raises:
            UserError: An expression is none.
        """
        self._options = options
        self._db = connect(temporary)
        self._where = self._expression("--where", options.where)
        self._per = self._expression("--per", options.per)
        self._models: list[str] = []
        self._takes_top = options.top is not None or options.top_fraction is not None
        self._ranked = self._takes_top or options.distinct is not None
        #: Columns of the scores, and those of the metadata that they are joined with.
        self._joined: dict[str, str] = {}
        #: All columns that an expression may name, of the scores and of the metadata; the latter as they are asked for.
        self._of_scores: list[str] = []
        self._of_metadata: list[str] = []
        self._has_archives = False

    def close(self) -> None:
        """Gives back memory and temporary files."""
        self._db.close()

    def mentions(self, column: str) -> bool:
        """Tells whether an expression may name a column, as one that holds its name may."""
        text = f"{self._where or ''} {self._per or ''}".lower().replace('""', '"')
        # COLUMNS(...) stands for all whose names match.
        return "columns" in text or column.lower() in text

    def columns(self, schema: pa.Schema) -> list[str]:
        """Gives the columns of the scores that are needed."""
        self._of_scores = [name for name in schema.names if name != HIDDEN]
        hashes = ["phash"] if self._options.distinct is not None else []
        return [*dict.fromkeys(["model_id", "image_id", *hashes, *self._held(schema)])]

    def wants(self, column: str) -> bool:
        """Tells whether an expression may name a column of the metadata, and keeps its name for messages."""
        self._of_metadata.append(column)
        return self.mentions(column)

    def add_metadata(self, keys: tuple[str, ...], batches: Iterable[pa.Table]) -> None:
        """Takes over the rows of the metadata, before all others.

        Args:
            keys: Columns of the scores that they are joined by.
            batches: Their keys, as ``__key0``, ``__key1``, ...; ``__path`` and ``__member``, which they are joined by
                where no image has such keys; and the columns that are mentioned.

        Raises:
            UserError: An image has two rows.
        """
        self._joined = {name: f"__key{i}" for i, name in enumerate(keys)}
        for batch in batches:
            self._insert("metadata", batch)
        self._db.execute("DELETE FROM metadata WHERE __key0 IS NULL")
        self._check_one_row()

    def _check_one_row(self) -> None:
        """Refuses metadata that have several rows of an image."""
        names = list(self._joined.values())
        twice = self._db.execute(
            f"SELECT {', '.join(names)} FROM metadata WHERE {names[0]} IS NOT NULL "  # noqa: S608
            "GROUP BY ALL HAVING count(*) > 1 ORDER BY ALL LIMIT 1"
        ).fetchall()
        if twice:
            named = " / ".join(str(value) for value in twice[0] if value is not None)
            raise UserError(f"--metadata {self._options.metadata}: has several rows of {named}; keep one an image")

    def add_scores(self, table: pa.Table, scored: pa.ChunkedArray) -> None:
        """Takes over scored rows.

        Args:
            table: Rows with :func:`with_places` and the columns of :meth:`columns`.
            scored: Bool, which of them have a score.
        """
        rows = table.select([*self._held(table.schema), "__place"]).filter(scored)
        rows = rows.append_column("__model", self._model_numbers(table["model_id"].filter(scored)))
        if self._ranked:
            rows = rows.append_column("__tie", pa.array(id_keys(table["image_id"].filter(scored))))
        if self._options.distinct is not None:
            rows = rows.append_column("__hash", hash_column(table["phash"].filter(scored)))
        self._insert("scores", rows)

    def add_places(self, batches: Iterable[pa.Table]) -> None:
        """Takes over where images are in their archives.

        Args:
            batches: Columns ``image_id``, ``uri``, ``member``, ``size`` and ``offset``, of a manifest.
        """
        key = f"regexp_extract(member, '{_KEY}', 1)"
        columns = f'image_id, hash(uri) AS archive, size, "offset", hash({key}) AS sample'
        for batch in batches:
            self._insert("places", batch, columns)
            self._has_archives = True

    def choose(self) -> Counts:
        """Selects, once all rows are there.

        Raises:
            UserError: An expression cannot be evaluated, no row has metadata, there are no intervals or no hashes, or
                scores of several models are left.
        """
        without = self._count_without_metadata()
        self._check_intervals()
        self._check_hashes()
        self._tell_missing_reasons()
        self._apply_conditions()
        self._check_models()
        self._leave_out_copies()
        self._take_top()
        met = self._number("SELECT count(*) FROM met")
        selected, lowest, highest = self._row("SELECT count(*), min(score), max(score) FROM selected")
        if not selected:
            self._tell_scale()
        groups = None
        if self._options.per is not None:
            groups = self._number("SELECT count(*) FROM (SELECT DISTINCT __group FROM selected)")
        duplicates = None
        if self._options.distinct is not None:
            duplicates = self._number("SELECT count(*) FROM copies SEMI JOIN selected ON __kept = selected.__place")
        numbers = self._db.execute("SELECT DISTINCT __model FROM met ORDER BY ALL").fetchall()
        models = [self._models[number] for (number,) in numbers]
        return Counts(without, met, selected, groups, lowest, highest, models, duplicates)

    def duplicates(self) -> Iterator[pa.Table]:
        """Gives the near-copies of the images selected, with the columns of :data:`.distinct.DUPLICATE_SCHEMA`.

        Those of the best image come first, and of each the best.
        """
        reader: Any = self._db.sql(
            "SELECT own.image_id, own.uri, own.member, own.score, kept.image_id AS kept_image_id, "
            "kept.uri AS kept_uri, kept.member AS kept_member, distance "
            "FROM copies SEMI JOIN selected ON copies.__kept = selected.__place "
            "JOIN scores own ON own.__place = copies.__place JOIN scores kept ON kept.__place = copies.__kept "
            "ORDER BY kept.score DESC, kept.__tie, kept.__place, own.score DESC, own.__tie, own.__place"
        ).to_arrow_reader(CHUNK_ROWS)
        yield from (pa.Table.from_batches([batch]) for batch in reader)

    def _tell_scale(self) -> None:
        """Says where scores run, where none meets the conditions."""
        lowest, highest = self._row("SELECT min(score), max(score) FROM scores")
        if lowest is not None:
            log.warning("no image meets the conditions; the scores run from %.4g to %.4g", lowest, highest)

    def holds_members(self) -> bool:
        """Tells whether images inside containers are selected."""
        return bool(self._number("SELECT count(*) FROM selected WHERE __inside"))

    def picked(self) -> Iterator[Picked]:
        """Gives the selected rows, in their order."""
        query = "SELECT __place FROM selected ORDER BY __place"
        if self._has_archives:
            # Two images are in one place where one is a link to the other.
            columns = ", ".join(f'"{column}"' for column in PLACES)
            query = f"""SELECT __place, {columns} FROM selected LEFT JOIN ({_PLACES_QUERY}) USING (image_id)
                ORDER BY __place"""  # noqa: S608 - not of the user
        rest: pa.Table | None = None
        reader: Any = self._db.sql(query).to_arrow_reader(CHUNK_ROWS)
        for batch in reader:
            table = pa.Table.from_batches([batch])
            table = table if rest is None else pa.concat_tables([rest, table])
            parts = list(self._split(table))
            # The last shard may go on in the next batch.
            for part in parts[:-1]:
                yield self._as_picked(part)
            rest = parts[-1] if parts else None
        if rest is not None:
            yield self._as_picked(rest)

    def _split(self, table: pa.Table) -> Iterator[pa.Table]:
        shards = table["__place"].to_numpy() // MOST_ROWS
        edges = [0, *(np.flatnonzero(np.diff(shards)) + 1).tolist(), len(table)]
        for begin, end in itertools.pairwise(edges):
            if end > begin:
                yield table.slice(begin, end - begin)

    def _as_picked(self, table: pa.Table) -> Picked:
        places = table["__place"].to_numpy()
        in_archives = table.select(PLACES) if self._has_archives else None
        return Picked(int(places[0] // MOST_ROWS), places % MOST_ROWS, in_archives)

    def _held(self, schema: pa.Schema) -> list[str]:
        """Gives the columns that DuckDB is to hold; ids and URIs are long, and mostly not needed."""
        needed = {"score", *self._joined, *(("path", "member") if self._joined else ())}
        if self._options.min_interval_lower is not None:
            needed.add("score_lower")
        if self._options.wants_images:
            needed |= {"image_id", "member"}
        if self._options.distinct is not None:
            needed |= {"image_id", "uri", "member"}  # for the list of what is left out
        if self._of_reasons:
            needed.add(NOT_PHOTO)  # is known wherever any of them is
        return [name for name in schema.names if name != HIDDEN and (name in needed or self.mentions(name))]

    def _model_numbers(self, ids: pa.ChunkedArray) -> pa.Array:
        coded = ids.combine_chunks().dictionary_encode()
        for model in coded.dictionary.to_pylist():
            if model not in self._models:
                self._models.append(model)
        numbers = pa.array([self._models.index(model) for model in coded.dictionary.to_pylist()], pa.int16())
        return numbers.take(coded.indices)

    def _insert(self, table: str, rows: pa.Table, columns: str = "*") -> None:
        self._db.register("incoming", rows)
        self._db.execute(f"CREATE TABLE IF NOT EXISTS {table} AS SELECT {columns} FROM incoming LIMIT 0")  # noqa: S608
        self._db.execute(f"INSERT INTO {table} SELECT {columns} FROM incoming")  # noqa: S608
        self._db.unregister("incoming")

    def _expression(self, option: str, text: str | None) -> str | None:
        """Checks that a text is one expression, and gives it without comments."""
        if text is None:
            return None
        try:
            return str(duckdb.SQLExpression(text))
        except duckdb.Error as error:
            raise UserError(f"{option} {text!r}: {_words(error)}") from error

    def _source(self) -> str:
        if not self._joined:
            return "scores"
        first, *others = (f"scores.{ours} {{}} metadata.{theirs}" for ours, theirs in self._joined.items())
        # A member is null where an image is a file of its own.
        equal = [first.format("="), *(other.format("IS NOT DISTINCT FROM") for other in others)]
        return f"scores LEFT JOIN metadata ON {' AND '.join(equal)}"

    def _count_without_metadata(self) -> int:
        if not self._joined:
            return 0
        keys = self._joined
        images = self._number("SELECT count(*) FROM scores")
        without = self._count_unjoined()
        if without and without == images:
            # A lake that was moved or copied.
            self._joined = {"path": "__path", "member": "__member"}
            without = self._count_unjoined()
        if without < images and self._joined != keys:
            log.info("--metadata %s: joined by the paths below the source", self._options.metadata)
            self._check_one_row()
        if without and without == images:
            self._joined = keys
            key = next(iter(keys))
            (ours,) = self._row(f"SELECT {key} FROM scores ORDER BY __place LIMIT 1")  # noqa: S608
            theirs = self._db.execute("SELECT __key0 FROM metadata LIMIT 1").fetchall()
            example = f"; there it is {theirs[0][0]!r}, say. --column names another one to join by" if theirs else ""
            raise UserError(
                f"--metadata {self._options.metadata}: has no row of any scored image, whose {key} is {ours!r}, "
                f"say{example}"
            )
        return without

    def _count_unjoined(self) -> int:
        return self._number(f"SELECT count(*) FROM {self._source()} WHERE metadata.__key0 IS NULL")  # noqa: S608

    def _check_intervals(self) -> None:
        if self._options.min_interval_lower is None:
            return
        scored, known = self._row("SELECT count(*), count(score_lower) FROM scores")
        if scored and not known:
            raise UserError(
                "--min-interval-lower: the scores have no intervals, since the model was fitted on too few ratings; "
                "leave it out, or use --min-score"
            )

    @property
    def _of_reasons(self) -> list[str]:
        """Columns that are mentioned of those that tell what ails images."""
        text = re.sub(r"'[^']*'|metadata\.\w+", "", f"{self._where or ''} {self._per or ''}".lower())
        return [name for name in (*SEVERITIES, NOT_PHOTO, "reason") if re.search(rf"\b{name}\b", text)]

    def _tell_missing_reasons(self) -> None:
        if not self._of_reasons:
            return
        scored, known = self._row(f"SELECT count(*), count(scores.{NOT_PHOTO}) FROM scores")  # noqa: S608
        if known < scored:
            log.warning(
                "%d of %s without %s: their model has no probes for reasons, or an earlier version "
                "scored them; a condition on it is not met where it is null",
                scored - known,
                counted(scored, "scored image"),
                ", ".join(self._of_reasons),
            )

    def check(self) -> None:
        """Makes sure that the expressions can be evaluated, before all rows are read.

        Raises:
            UserError: One cannot, say since it names a column that is not there.
        """
        query, parameters = self._conditions()
        self._evaluate(f"EXPLAIN {query}", parameters)

    def _apply_conditions(self) -> None:
        query, parameters = self._conditions()
        self._evaluate(f"CREATE TABLE met AS {query}", parameters)

    def _conditions(self) -> tuple[str, list[float]]:
        """Gives the query for the rows that meet all conditions, and its parameters."""
        options = self._options
        conditions, parameters = ["true"], list[float]()
        # Scores are compared as the single-precision numbers that they are: 0.7 is at least 0.7.
        for column, comparison, bound in (
            ("score", ">=", options.min_score),
            ("score", "<=", options.max_score),
            ("score_lower", ">=", options.min_interval_lower),
        ):
            if bound is not None:
                conditions.append(f"scores.{column} {comparison} ?::FLOAT")
                parameters.append(bound)
        if self._where is not None:
            conditions.append(f"({self._where})")
        kept = ["__place", "__model", "scores.score", f"({self._per}) AS __group" if self._per else "0 AS __group"]
        if self._ranked:
            kept.append("__tie")
        if options.distinct is not None:
            kept.append("__hash")
        if options.wants_images:
            kept += ["scores.image_id", "scores.member IS NOT NULL AS __inside"]
        query = f"SELECT {', '.join(kept)} FROM {self._source()} WHERE {' AND '.join(conditions)}"  # noqa: S608 - checked
        return query, parameters

    def _evaluate(self, query: str, parameters: list[float]) -> None:
        options = self._options
        try:
            self._db.execute(query, parameters)
        except duckdb.Error as error:
            given = " ".join(
                f"{option} {text!r}"
                for option, text in (("--where", options.where), ("--per", options.per))
                if text is not None
            )
            if not given or isinstance(error, duckdb.OutOfMemoryException | duckdb.IOException):
                raise
            raise UserError(f"{given}: {self._no_column(error) or _words(error)}") from error

    def _no_column(self, error: duckdb.Error) -> str | None:
        """Says which columns there are, where one was named that is not."""
        found = re.search(r'Referenced column "(.+?)" not found|does not have a column named "(.+?)"', str(error))
        if found is None:
            return None
        name = found[1] or found[2]
        columns = {"the scores": self._of_scores}
        if self._options.metadata is not None:
            columns[f"--metadata {self._options.metadata}"] = self._of_metadata
        likely = difflib.get_close_matches(name, [column for names in columns.values() for column in names], 1)
        meant = f", did you mean {likely[0]}?" if likely else ";"
        there = "; ".join(f"{where}: {', '.join(names)}" for where, names in columns.items())
        return f"no column {name!r}{meant} there are, in {there}"

    def _check_models(self) -> None:
        counts = self._db.execute(
            "SELECT __model, count(*) FROM met GROUP BY ALL ORDER BY count(*) DESC, __model"
        ).fetchall()
        if len(counts) > 1:
            named = ", ".join(f"{self._models[number]} ({counted(count, 'image')})" for number, count in counts[:SHOWN])
            raise UserError(
                f"{self._options.scores}: holds scores of {len(counts)} models, which cannot be compared: {named}; "
                f"""choose one with --where "model_id = '{self._models[counts[0][0]]}'\""""
            )

    def _check_hashes(self) -> None:
        if self._options.distinct is None:
            return
        scored, known = self._row("SELECT count(*), count(__hash) FROM scores")
        without = scored - known
        if without and not known:
            raise UserError(
                f"--distinct: the scores in {self._options.scores} have no phash to compare, since an earlier version "
                "of grepr wrote them; score the images anew, into another output and without --since"
            )
        if without:
            log.warning(
                "--distinct: %s no phash, of %d, since an earlier version of grepr scored them; they are not compared. "
                "To compare all, score the images anew, into another output and without --since",
                counted(without, "scored image has", "scored images have"),
                scored,
            )

    def _leave_out_copies(self) -> None:
        if self._options.distinct is None:
            return
        rows = self._db.sql(
            "SELECT __place, __hash, score, hash(__group) AS __within FROM met WHERE __hash IS NOT NULL "
            "ORDER BY score DESC, __tie, __place"
        ).to_arrow_table()
        copies = find_copies(rows, self._options.distinct, grouped=self._options.per is not None)
        del rows
        self._insert("copies", copies)

    def _take_top(self) -> None:
        candidates = "met" if self._options.distinct is None else "(FROM met ANTI JOIN copies USING (__place))"
        if not self._takes_top:
            kind = "VIEW" if candidates == "met" else "TABLE"
            self._db.execute(f"CREATE {kind} selected AS FROM {candidates}")
            return
        parameter: float | int | None = self._options.top
        limit = "?"
        if self._options.top_fraction is not None:
            # Rounded first, since a tenth of 30 is a little more than 3 in binary.
            parameter, limit = self._options.top_fraction, "ceil(round(? * count(*) OVER (PARTITION BY __group), 6))"
        self._db.execute(
            f"CREATE TABLE selected AS SELECT * FROM {candidates} QUALIFY "  # noqa: S608 - not of the user
            f"row_number() OVER (PARTITION BY __group ORDER BY score DESC, __tie, __place) <= {limit}",
            [parameter],
        )

    def _number(self, query: str) -> int:
        return int(self._row(query)[0])

    def _row(self, query: str) -> tuple[Any, ...]:
        row: tuple[Any, ...]
        (row,) = self._db.execute(query).fetchall()
        return row


def _words(error: duckdb.Error) -> str:
    """Gives what DuckDB says is wrong, without the query."""
    text = re.split(r"\s+LINE \d|\s+Candidate ", str(error))[0]
    return " ".join(text.split())
