"""A function as a program."""

import argparse
import inspect
from collections.abc import Callable
from typing import get_args


def run(function: Callable[..., None]) -> None:
    """Calls a function by the words of the command line: what it takes by name only is an option."""
    parser = argparse.ArgumentParser(
        description=inspect.getdoc(function), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        kind = next(iter(get_args(parameter.annotation)), parameter.annotation)
        if parameter.kind is not parameter.KEYWORD_ONLY:
            parser.add_argument(name, type=kind)
        elif parameter.default is parameter.empty:
            parser.add_argument(f"--{name.replace('_', '-')}", type=kind, required=True)
        else:
            parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=parameter.default)
    function(**vars(parser.parse_args()))
