"""The command line as click reads it: a command from each dataclass of options, its page of help, its complaints."""

import difflib
import inspect
import itertools
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Never

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from jobs.option_fields import OptionField, fields_of, subcommands
from jobs.wrapped import columns, paragraphs, usage
from pipelines.options.shown import ADVANCED, ENGINE, READING

#: Columns that help is at most and at least written in; longer lines read badly.
_WIDEST, _NARROWEST = 100, 30
#: Parts of a page of help, in their order; arguments have no heading.
_SECTIONS = ("", "Options", READING.title, ENGINE.title, ADVANCED.title)


class CommandLine:
    """Several commands, each with options of its own."""

    def __init__(self, name: str, description: str, commands: Mapping[str, type]) -> None:
        """Makes it of dataclasses.

        Args:
            name: Of the program.
            description: What it does, in paragraphs.
            commands: The dataclass of the options of each command, as ``pipelines.options`` has them.
        """
        self._name = name
        self._root = _Group(name, description, commands, {"help": _Help()})

    def parse(self, arguments: Sequence[str] | None) -> object:
        """Reads a command line; ends the process with 0 after help, with 2 where it is wrong.

        Args:
            arguments: Without the program's name; by default those of the process.

        Returns:
            The options of the command.
        """
        given = None if arguments is None else list(arguments)
        width = max(min(shutil.get_terminal_size().columns, _WIDEST), _NARROWEST)
        try:
            options = self._root.main(given, prog_name=self._name, standalone_mode=False, terminal_width=width)
        except click.UsageError as error:
            print(_complaint(error, width), file=sys.stderr)  # noqa: T201
            sys.exit(error.exit_code)
        if isinstance(options, int):  # help was asked for
            sys.exit(options)
        return options


class _Parameter:
    """What parameters of click's do not know of a field."""

    def __init__(self, field: OptionField, **said: Any) -> None:  # noqa: ANN401 - click's
        self.field = field
        super().__init__(**said)


class _Argument(_Parameter, click.Argument):
    def __init__(self, field: OptionField) -> None:
        super().__init__(
            field, param_decls=[field.name], nargs=-1 if field.many else 1, required=False, type=_Text(field)
        )


class _Option(_Parameter, click.Option):
    def __init__(self, field: OptionField) -> None:
        names = [field.shown, field.name]
        if field.flag is None:
            super().__init__(field, param_decls=names, multiple=field.many, type=_Text(field))
        else:
            super().__init__(field, param_decls=names, is_flag=True)


class _Text(click.ParamType):  # type: ignore[type-arg] # click began to have them with 8.5
    """The text of a value, which its field reads."""

    name = "text"

    def __init__(self, field: OptionField) -> None:
        self._field = field

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        assert ctx is not None
        assert self._field.read is not None
        names = {name for other in ctx.command.params if isinstance(other, click.Option) for name in other.opts}
        if value in names and not self._field.argument:
            raise click.UsageError(f"{self._field.shown} needs a value, {self._field.metavar}", ctx)
        try:
            return self._field.read(value)
        except ValueError as error:
            raise click.UsageError(f"{self._field.shown}: {error}", ctx) from error

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        if not self._field.choices:
            return [CompletionItem(incomplete, type="file")]
        return [CompletionItem(choice) for choice in self._field.choices if choice.startswith(incomplete)]


class _Complaining(click.Command):
    """A command of which every complaint tells that it is of this one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise


class _Command(_Complaining):
    """A command whose options are a dataclass."""

    def __init__(self, name: str, kind: type) -> None:
        self._kind = kind
        self._fields = fields_of(kind)
        super().__init__(
            name,
            params=[_Argument(field) if field.argument else _Option(field) for field in self._fields],
            context_settings={
                "allow_extra_args": True,
                "token_normalize_func": lambda name: name.replace("_", "-"),
            },
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # An option that may do without its value does where what follows is none, such as an argument.
        bare = {field.shown: field for field in self._fields if field.bare is not None}
        words = []
        for word, after in itertools.pairwise([*args, ""]):
            field = bare.get(word)
            words.append(word if field is None or field.takes(after) else f"{word}={field.bare}")
        return super().parse_args(ctx, words)

    def invoke(self, ctx: click.Context) -> object:
        given = {
            field.name: ctx.params[field.name] if field.flag is None else field.flag
            for field in self._fields
            if ctx.get_parameter_source(field.name) is ParameterSource.COMMANDLINE
        }
        missing = [field.shown for field in self._fields if field.needed and field.name not in given]
        if missing:
            raise click.UsageError(f"{_and(missing)} {'is' if len(missing) == 1 else 'are'} missing", ctx)
        if ctx.args:
            places = [f"{field.shown} is {given[field.name]!r}" for field in self._fields if field.argument]
            glob = f": {_and(places)}; a glob such as 'photos/*.jpg' goes in quotes" if places else ""
            raise click.UsageError(f"{ctx.args[0]!r} is one word too many{glob}", ctx)
        try:
            return self._kind(**given)
        except ValueError as error:
            raise click.UsageError(str(error), ctx) from error

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        needed = [field for field in self._fields if field.needed]
        return [
            *(field.shown for field in needed if field.argument),
            *(f"{field.shown} {field.metavar.split()[0]}" for field in needed if not field.argument),
            "[OPTIONS]",
            *(field.shown for field in self._fields if field.argument and not field.needed),
        ]

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in _SECTIONS}
        for field in self._fields:
            title = "" if field.argument else field.section or "Options"
            sections[title].append(
                (field.shown if field.argument else f"{field.shown} {field.metavar}".strip(), field.explanation)
            )
        sections["Options"].append(("-h, --help", "Show this."))
        formatter.write(_usage(ctx, formatter.width) + "\n\n")
        formatter.write(paragraphs(inspect.getdoc(self._kind) or "", formatter.width))
        formatter.write("\n" + columns(sections, formatter.width))


class _Group(_Complaining, click.Group):
    """A command that has others below it."""

    def __init__(
        self,
        name: str,
        description: str,
        kinds: Mapping[str, type],
        others: Mapping[str, click.Command] | None = None,
        made: Callable[[object], object] | None = None,
    ) -> None:
        """Makes it of dataclasses.

        Args:
            name: Of the command.
            description: What it does, in paragraphs.
            kinds: The dataclass of the options of each command below it.
            others: Commands without options; where there are some, this is the program itself.
            made: What is made of the options of a command below it.
        """
        options = [click.Option(["--version"], is_flag=True, expose_value=False, callback=_tell_version)]
        super().__init__(
            name,
            params=options if others else None,
            context_settings={"help_option_names": ["-h", "--help"]},
            result_callback=made,
        )
        self._description = description
        self._kinds = kinds
        self._others = others or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self._kinds, *self._others]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._kinds:
            return self._others.get(cmd_name)
        kind = self._kinds[cmd_name]
        below = subcommands(kind)
        if below is None:
            return _Command(cmd_name, kind)
        field, kinds = below
        return _Group(cmd_name, inspect.getdoc(kind) or "", kinds, made=lambda options: kind(**{field: options}))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0]
        command = self.get_command(ctx, word)
        if command is not None or ctx.resilient_parsing:
            return word, command, args[1:]
        known = {part: path for path in self._paths() for part in (path.split()[-1], path)}
        likely = difflib.get_close_matches(word, known, 1)
        instead = f"did you mean {known[likely[0]]}?" if likely else f"there are {_and(self.list_commands(ctx))}"
        raise click.UsageError(f"no command {word!r}; {instead}", ctx)

    def _paths(self) -> Iterator[str]:
        for name, kind in self._kinds.items():
            below = subcommands(kind)
            yield from (f"{name} {command}" for command in (below[1] if below else ()))
        yield from (*self._kinds, *self._others)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["COMMAND ..."]

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, _first_sentence(kind)) for name, kind in self._kinds.items()]
        rows += [(name, command.help or "") for name, command in self._others.items()]
        path = ctx.command_path
        closing = f"'{path} COMMAND --help' shows what a command takes"
        closing += f", '{path} --version' the version." if self._others else "."
        formatter.write(_usage(ctx, formatter.width) + "\n\n" + paragraphs(self._description, formatter.width))
        formatter.write("\n" + columns({"Commands": rows}, formatter.width))
        formatter.write("\n" + paragraphs(closing, formatter.width))


class _Help(click.Command):
    """``help``, of the program or of a command."""

    def __init__(self) -> None:
        super().__init__(
            "help",
            params=[click.Argument(["words"], nargs=-1)],
            help="Show this, or how to use a command.",
            # 'grepr help --help' is no other question than 'grepr help'.
            add_help_option=False,
            context_settings={"ignore_unknown_options": True},
        )

    def invoke(self, ctx: click.Context) -> Never:
        shown = ctx.find_root()
        for word in ctx.params["words"]:
            if isinstance(shown.command, click.Group) and not word.startswith("-"):
                name, command, _ = shown.command.resolve_command(shown, [word])
                assert command is not None
                shown = click.Context(command, info_name=name, parent=shown)
        click.echo(shown.get_help())
        ctx.exit()


def _first_sentence(kind: type) -> str:
    return re.split(r"(?<=\.)\s", kind.__doc__ or "", maxsplit=1)[0]


def _tell_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"{ctx.info_name} {version('grepr')}")
        ctx.exit()


def _complaint(error: click.UsageError, width: int) -> str:
    assert error.ctx is not None
    path = error.ctx.command_path
    lines = [f"{path}: {_told(error)}", _usage(error.ctx, width), f"'{path} --help' shows more"]
    return "\n".join(lines)


def _told(error: click.UsageError) -> str:
    match error:
        case click.NoSuchOption():
            likely = f"; did you mean {_or(error.possibilities)}?" if error.possibilities else ""
            return f"no option {error.option_name}{likely}"
        case click.BadOptionUsage():
            assert error.ctx is not None
            named = [param for param in error.ctx.command.params if error.option_name in param.opts]
            metavars = [param.field.metavar for param in named if isinstance(param, _Option)]
            needs = f"needs a value, {metavars[0]}" if any(metavars) else "takes no value"
            return f"{error.option_name} {needs}"
        case _:
            return error.message


def _usage(ctx: click.Context, width: int) -> str:
    return usage(ctx.command_path, ctx.command.collect_usage_pieces(ctx), width)


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _or(words: Sequence[str]) -> str:
    return " or ".join(words)
