"""The folders of the packages: what each shows to the others is what its ``__init__.py`` says."""

import ast
import itertools
from collections import defaultdict
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("grepr", "grepr_core", "pipelines", "jobs")
#: pipelines.options shows names, not modules.
ROOMS = sorted(
    ".".join(init.parent.relative_to(ROOT).parts)
    for package in ("grepr_core", "pipelines")
    for init in (ROOT / package).glob("*/__init__.py")
    if init.parent.name != "options"
)


def imported(path: Path) -> list[str]:
    """Gives the modules of grepr that a module imports, or imports from."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            # What is imported may itself be a module of the room.
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return [name for name in found if name.partition(".")[0] in PACKAGES]


@lru_cache
def uses() -> dict[str, set[str]]:
    """Gives, for each room, which of its modules the code outside imports."""
    found = defaultdict(set)
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        importer = ".".join(path.relative_to(ROOT).parts[:2])
        for name in imported(path):
            package, room, *rest = [*name.split("."), ""]
            if f"{package}.{room}" != importer:
                found[f"{package}.{room}"].add(rest[0] if rest else "")
    return found


def test_every_module_of_the_method_and_of_the_programs_stands_in_a_room():
    loose = {path.name for package in ("grepr_core", "pipelines") for path in (ROOT / package).glob("*.py")}
    assert loose == {"__init__.py", "errors.py", "storage.py", "demo.py"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_shows_what_it_says_and_no_more(room: str):
    package = import_module(room)
    assert uses()[room] == set(package.__all__)
    text = (package.__doc__ or "").split()
    assert ("In", "come") in set(itertools.pairwise(text))
    assert text.count("Out") == 1
