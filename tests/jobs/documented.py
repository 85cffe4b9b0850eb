"""The commands that the README and the user guide show."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str = "") -> list[str]:
    """Gives the blocks of code on a page that are in a language; by default those for a shell."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [block for of, block in found if of == language]


def commands(page: Path) -> list[list[str]]:
    """Gives the arguments of every ``grepr`` on a page, without what a shell makes of them."""
    lines = "\n".join(blocks(page)).replace("\\\n", " ").splitlines()
    found = [re.sub(r"^nohup | (2?>|&|#)[^\"']*$", "", line) for line in lines]
    found = [line for line in found if re.match(r"(\.venv/bin/)?grepr ", line)]
    return [shlex.split(line)[1:] for line in [*found, *re.findall("`(grepr [^`]*--follow)`", page.read_text())]]
