"""Which columns of a Parquet file hold encoded images, and which names them: by declaration, type, values and name."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from grepr_core.errors import UserError
from pipelines.lake.sources.column_choice import ColumnChoice, named_column, plain_name

#: Names of columns that hold images where no value tells.
_IMAGE_NAMES = frozenset(
    {"image", "img", "photo", "picture", "bytes", "content", "data", "binary"}
    | {"imagebytes", "imagedata", "imgbytes", "imgdata", "imagecontent", "imagebinary"}
    | {"jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp", "gif", "avif", "heic", "jp2"}
)
#: Values that are looked at, rows until there are any, and bytes and rows that are decoded at once for it.
_SAMPLES, _SAMPLE_ROWS, _SAMPLE_BYTES, _SAMPLE_BATCH = 8, 65_536, 2**20, 64
#: Bytes that a file is read by, where it is no whole column that is wanted.
BUFFER_BYTES = 2**20
#: Longer texts are no URIs.
_LONGEST_URI = 8192


@dataclass(frozen=True)
class ImageColumn:
    """A column that may hold encoded images.

    Attributes:
        name: Of the column.
        in_list: There are several a row.
        bytes_known: The values are bytes; where the whole file has none but paths, they have no type.
        is_struct: Each is a struct of ``bytes`` and ``path``.
    """

    name: str
    in_list: bool
    is_struct: bool
    bytes_known: bool = True

    @classmethod
    def of(cls, name: str, kind: pa.DataType) -> "ImageColumn | None":
        """Gives the column of a type; None where that holds no images."""
        in_list = is_list(kind)
        kind = kind.value_type if in_list else kind
        if _is_binary(kind):
            return cls(name, in_list, is_struct=False)
        if not pa.types.is_struct(kind) or (place := kind.get_field_index("bytes")) < 0:
            return None
        held = kind.field(place).type
        if _is_binary(held):
            return cls(name, in_list, is_struct=True)
        path = kind.get_field_index("path")
        if pa.types.is_null(held) and path >= 0 and is_text(kind.field(path).type):
            return cls(name, in_list, is_struct=True, bytes_known=False)
        return None

    def leaf(self, parquet: pq.ParquetFile, group: int, field: str) -> pq.ColumnChunkMetaData | None:
        """Gives what the file tells of the values in a row group, or of a field of theirs."""
        metadata = parquet.metadata.row_group(group)
        for i in range(metadata.num_columns):
            chunk = metadata.column(i)
            path = chunk.path_in_schema
            if not (self.in_list or self.is_struct):
                if path == self.name:
                    return chunk
            elif path.startswith(f"{self.name}.") and (not self.is_struct or path.endswith(f".{field}")):
                return chunk
        return None

    def contents(self, values: pa.Array) -> pa.Array:
        """Gives the encoded images of some values, those in lists one after another."""
        values = pc.list_flatten(values) if self.in_list else values
        return pc.struct_field(values, "bytes") if self.is_struct else values


@dataclass(frozen=True)
class Chosen:
    """What is taken of a Parquet file: either the images in some columns, or those that a column names."""

    images: tuple[ImageColumn, ...] = ()
    uris: str | None = None


def is_text(kind: pa.DataType) -> bool:
    """Tells whether a type is one of text."""
    types = pa.types
    if types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        return _is_binary(kind.value_type)
    plain = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    return bool(plain or types.is_fixed_size_binary(kind))


def is_list(kind: pa.DataType) -> bool:
    """Tells whether a type is one of lists."""
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def choose_columns(table: str, parquet: pq.ParquetFile, choice: ColumnChoice) -> Chosen:
    """Chooses what is taken of a Parquet file.

    Args:
        table: URI of the file, for messages.
        parquet: The file.
        choice: What the person says of it.

    Returns:
        The column that the person names. Else the first of these that there is: text in a column ``uri``; the columns
        that Hugging Face's metadata declares to be images; structs with ``bytes``, and binary columns whose first
        values begin as images do; a column of text that is named like one of URIs; a binary column that is named like
        one of images, or is the only one.

    Raises:
        UserError: There is none.
    """
    kinds = dict(zip(parquet.schema_arrow.names, parquet.schema_arrow.types, strict=True))
    if choice.named is not None:
        return _named(table, parquet, kinds, choice)
    texts = [name for name, kind in kinds.items() if _names_images(kind)]
    if "uri" in texts:
        return Chosen(uris="uri")
    features = _features(parquet.schema_arrow.metadata)
    held = [column for name, kind in kinds.items() if (column := ImageColumn.of(name, kind))]
    declared = tuple(column for column in held if _declared(features.get(column.name)) == "Image")
    if declared:
        return Chosen(declared)
    # Sounds and films have the same layout.
    held = [column for column in held if _declared(features.get(column.name)) not in ("Audio", "Video", "Pdf")]
    binary = [column for column in held if not column.is_struct]
    named_so = [column.name for column in binary if not column.in_list and choice.candidates([column.name])]
    samples = {}
    if len(binary) > 1 or named_so or choice.candidates(texts):
        samples = {column.name: _sample(parquet, column) for column in binary}
    texts += [name for name in named_so if _are_uris(samples[name])]
    shown = {name for name, values in samples.items() if any(map(_begins_as_image, values))}
    images = [column for column in held if column.is_struct or column.name in shown]
    uris = choice.candidates([name for name in kinds if name in texts])
    if not images and not uris:
        # Nothing but their names tells.
        rest = [column for column in binary if column.name not in texts]
        named = [column for column in rest if plain_name(column.name) in _IMAGE_NAMES]
        images = named or (rest if len(rest) == 1 else [])
    if images:
        others = [column.name for column in binary if column not in images and column.name not in texts]
        choice.tell(table, [column.name for column in images], [*uris, *others])
        return Chosen(tuple(images))
    if uris:
        choice.tell(table, uris[:1], [*uris, *(column.name for column in binary if column.name not in texts)])
        return Chosen(uris=uris[0])
    raise choice.none_found(table, list(kinds))


def _named(table: str, parquet: pq.ParquetFile, kinds: dict[str, pa.DataType], choice: ColumnChoice) -> Chosen:
    assert choice.named is not None
    name = named_column(list(kinds), choice.named)
    if name is None:
        raise choice.none_found(table, list(kinds))
    if _names_images(kinds[name]):
        return Chosen(uris=name)
    column = ImageColumn.of(name, kinds[name])
    if column is None:
        raise UserError(f"{table}: --column {name} holds {kinds[name]}, neither text nor encoded images")
    if not column.is_struct and not column.in_list and _are_uris(_sample(parquet, column)):
        return Chosen(uris=name)
    return Chosen((column,))


def _names_images(kind: pa.DataType) -> bool:
    return is_text(kind.value_type if is_list(kind) else kind)


def text_columns(schema: pa.Schema) -> tuple[list[str], list[str]]:
    """Gives the columns that hold text, a value a row, and those of bytes, which may be text."""
    kinds = [*zip(schema.names, schema.types, strict=True)]
    texts = [name for name, kind in kinds if is_text(kind)]
    return texts, [name for name, kind in kinds if _is_binary(kind)]


def _features(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """Gives what Hugging Face's library tells of the columns."""
    try:
        described = json.loads((metadata or {}).get(b"huggingface", b"{}"))
        features = described["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _declared(feature: object) -> str | None:
    while not isinstance(feature, dict) or "feature" in feature:
        if isinstance(feature, list) and len(feature) == 1:
            (feature,) = feature
        elif isinstance(feature, dict):
            feature = feature["feature"]
        else:
            return None
    return feature.get("_type")


def _sample(parquet: pq.ParquetFile, column: ImageColumn) -> list[bytes]:
    """Gives some of a column's first values, reading little."""
    found: list[bytes] = []
    read = 0
    for group in range(parquet.num_row_groups):
        for values in column_batches(parquet, group, column, "bytes", _SAMPLE_BYTES, _SAMPLE_BATCH):
            found += column.contents(values).drop_null().slice(0, _SAMPLES).to_pylist()
            read += len(values)
            if len(found) >= _SAMPLES or read >= _SAMPLE_ROWS:
                return found
    return found


def column_batches(
    parquet: pq.ParquetFile, group: int, column: ImageColumn, field: str, most_bytes: int, most_rows: int
) -> Iterator[pa.Array]:
    """Reads a column's values, or a field of theirs, in one row group.

    Args:
        parquet: The file.
        group: Of the row group.
        column: The column.
        field: What to read of structs.
        most_bytes: To decode at once, by the average of the row group.
        most_rows: To decode at once.

    Yields:
        Values, in order.
    """
    chunk = column.leaf(parquet, group, field)
    assert chunk is not None
    rows = parquet.metadata.row_group(group).num_rows
    average = chunk.total_uncompressed_size // max(1, rows)
    for batch in parquet.iter_batches(
        min(max(most_bytes // max(1, average), 1), most_rows), row_groups=[group], columns=[chunk.path_in_schema]
    ):
        yield batch.column(0)


def _are_uris(values: Sequence[bytes]) -> bool:
    """Tells whether bytes are text, of the length that URIs have."""
    try:
        return bool(values) and all(len(value) <= _LONGEST_URI and value.decode().isprintable() for value in values)
    except UnicodeDecodeError:
        return False


def _begins_as_image(value: bytes) -> bool:
    """Tells whether bytes begin as files of images do."""
    starts = (
        *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
        *(b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"\0\0\0\x0cJXL ", b"\xff\x0a"),
    )
    if value.startswith(starts) or value[4:8] == b"ftyp":
        return True
    # Two letters alone might be anything's.
    bitmap = value[:2] == b"BM" and value[6:10] == bytes(4)
    return bitmap or (value[:4] == b"RIFF" and value[8:12] == b"WEBP")
