"""How options are shown on the command line, and read from it: what stands beside their types."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Value:
    """What the value of an option is called, and how it is read.

    Attributes:
        metavar: Its name on a page of help, such as ``FILE``.
        read: Text to value; raises ValueError, which says what the text is not. None reads it by the field's type.
        bare: What the option alone stands for, without a value; None where it needs one.
    """

    metavar: str
    read: Callable[[str], Any] | None = None
    bare: str | None = None


@dataclass(frozen=True)
class Argument:
    """Marks a field that is given by its place on the command line; ``metavar`` is what it is called."""

    metavar: str


@dataclass(frozen=True)
class Section:
    """Part of a page of help that an option stands in; options without one come first."""

    title: str


@dataclass(frozen=True)
class Without:
    """What the flag ``--no-NAME`` of a field does that is on by default."""

    help: str


@dataclass(frozen=True)
class Subcommand:
    """Name of the command whose options an alternative of a field holds."""

    name: str


READING, ENGINE, ADVANCED = Section("Reading"), Section("Engine"), Section("Advanced")

Place = Annotated[str, Value("FOLDER or URL")]
File = Annotated[str, Value("FILE")]
FileOrUrl = Annotated[str, Value("FILE or URL")]
Bundle = Annotated[str, Value("BUNDLE")]
Column = Annotated[str, Value("COLUMN")]
Sql = Annotated[str, Value("SQL")]
Seconds = Annotated[float, Value("SECONDS")]
Fraction = Annotated[float, Value("FRACTION")]
