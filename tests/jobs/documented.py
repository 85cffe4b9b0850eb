"""The commands that the README and the user guide show."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> list[list[str]]:
    """Gives the arguments of every ``grepr`` on a page, without what a shell makes of them."""
    text = page.read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(block for language, block in blocks if not language).replace("\\\n", " ").splitlines()
    found = [re.sub(r"^nohup | (2?>|&|#)[^\"']*$", "", line) for line in lines]
    found = [line for line in found if re.match(r"(\.venv/bin/)?grepr ", line)]
    return [shlex.split(line)[1:] for line in [*found, *re.findall("`(grepr [^`]*--follow)`", text)]]
