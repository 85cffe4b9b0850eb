"""What the dataclasses of options say of their fields, for a command line: kinds, names, explanations."""

import ast
import dataclasses
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from jobs.wrapped import TIED
from pipelines.options.shown import Argument, Section, Subcommand, Value, Without

#: What values of a type are called, where the field does not say.
_METAVARS: Mapping[object, str] = {int: "NUMBER", float: "NUMBER"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptionField:
    """A field of a dataclass of options.

    Attributes:
        name: Of the field.
        shown: Of the option or argument, as it is typed.
        metavar: What its value is called; empty for flags.
        read: Text to value, which raises ValueError; None for flags.
        bare: What the option alone stands for; None where it needs a value.
        choices: Texts that it takes; empty where it takes others.
        section: Heading of the part of help that it stands in; empty for what comes first.
        explanation: What it is or does, in one paragraph, with its default.
        argument: Whether it is given by its place.
        needed: Whether there must be one.
        many: Whether there may be several.
        flag: The value that naming it gives; None where it is no flag.
    """

    name: str
    shown: str
    metavar: str
    read: Callable[[str], Any] | None
    bare: str | None
    choices: tuple[str, ...]
    section: str
    explanation: str
    argument: bool
    needed: bool
    many: bool
    flag: bool | None

    def takes(self, text: str) -> bool:
        """Tells whether a text is a value of it."""
        try:
            (self.read or str)(text)
        except ValueError:
            return False
        return True


def fields_of(kind: type) -> list[OptionField]:
    """Gives the fields of a dataclass, those that are needed first.

    Raises:
        KeyError: One has no docstring.
    """
    hints = get_type_hints(kind, include_extras=True)
    fields = [_field(field, hints[field.name], _docstring(kind, field.name)) for field in dataclasses.fields(kind)]
    return sorted(fields, key=lambda field: not field.needed)


def subcommands(kind: type) -> tuple[str, dict[str, type]] | None:
    """Gives the field of a dataclass that holds the options of one of several commands, and those; None without one."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        alternatives = {}
        for alternative in get_args(hint) if get_origin(hint) in (Union, UnionType) else ():
            of, said = _taken_apart(alternative)
            alternatives.update({mark.name: of for mark in said if isinstance(mark, Subcommand)})
        if alternatives:
            return name, alternatives
    return None


def _field(field: "dataclasses.Field[Any]", hint: object, docstring: str) -> OptionField:
    kind, said = _taken_apart(hint)
    # What stands further out counts more than what a type brings along.
    value = next((mark for mark in reversed(said) if isinstance(mark, Value)), None)
    argument = next((mark for mark in said if isinstance(mark, Argument)), None)
    section = next((mark.title for mark in said if isinstance(mark, Section)), "")
    without = next((mark for mark in said if isinstance(mark, Without)), None)
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    flag = field.default is not True if kind is bool else None
    many = get_origin(kind) is tuple
    read, metavar = None, ""
    if flag is None:
        read = value.read if value and value.read else _reader(str if many else kind, choices)
        if NoneType in {part for of in (hint, *get_args(hint)) for part in get_args(of)}:
            read = _or_none(read)
        metavar = _metavar(value) if value else "|".join(choices) or _METAVARS.get(kind, "TEXT")
    name = field.name.replace("_", "-")
    return OptionField(
        name=field.name,
        shown=argument.metavar if argument else f"--no-{name}" if flag is False else f"--{name}",
        metavar=metavar,
        read=read,
        bare=value.bare if value else None,
        choices=choices,
        section=section,
        explanation=without.help if without else docstring + _default(field, docstring),
        argument=argument is not None,
        needed=field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        many=many,
        flag=flag,
    )


def _metavar(value: Value) -> str:
    return value.metavar if value.bare is None else f"[{value.metavar}]"


def _taken_apart(hint: object) -> tuple[Any, list[object]]:
    """Takes an annotation apart: the type without None, and what is said of it, from the inside out."""
    if get_origin(hint) is Annotated:
        inner, *said = get_args(hint)
        kind, before = _taken_apart(inner)
        return kind, [*before, *said]
    if get_origin(hint) in (Union, UnionType):
        parts = [part for part in get_args(hint) if part is not NoneType]
        return _taken_apart(parts[0]) if len(parts) == 1 else (hint, [])
    return hint, []


def _reader(kind: type, choices: Sequence[str]) -> Callable[[str], Any]:
    def choose(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is none of {', '.join(choices)}")
        return text

    if choices:
        return choose
    return _whole if kind is int else _number if kind is float else str


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no whole number") from error


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no number") from error


def _or_none(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: None if text in ("None", "none") else read(text)


def _default(field: "dataclasses.Field[Any]", docstring: str) -> str:
    default = field.default
    if isinstance(default, bool) or not isinstance(default, str | int | float) or default == "":
        return ""
    if "by default" in docstring.lower():
        return ""
    shown = default if isinstance(default, str) else f"{default:.15g}"
    return f" Default:{TIED}{shown}."


def _docstring(kind: type, name: str) -> str:
    docstrings = (_docstrings(of.__module__).get(of.__name__, {}) for of in kind.__mro__)
    return next(found[name] for found in docstrings if name in found)


@lru_cache
def _docstrings(module: str) -> Mapping[str, Mapping[str, str]]:
    """Gives what stands below the fields of each class of a module, which Python itself does not keep."""
    if module == "builtins":
        return {}
    classes = ast.parse(inspect.getsource(sys.modules[module])).body
    return {of.name: dict(_below_fields(of)) for of in classes if isinstance(of, ast.ClassDef)}


def _below_fields(of: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for statement, below in itertools.pairwise(of.body):
        match statement, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(docstring))):
                yield name, " ".join(docstring.split())
