"""Text in lines of a width."""

import textwrap
from collections.abc import Mapping, Sequence

#: Columns that names take at most beside their explanations, and the width from which on explanations stand beside.
_NAMES, _BESIDE = 28, 60
#: Begins a paragraph that is a command to copy.
_EXAMPLE = "Example: "
#: A space that no line ends at.
TIED = "\xa0"


def paragraphs(text: str, width: int) -> str:
    """Wraps text whose paragraphs are parted by empty lines; an example that is too long can be copied all the same."""
    return "\n".join(f"{_paragraph(' '.join(paragraph.split()), width)}\n" for paragraph in text.split("\n\n"))


def _paragraph(text: str, width: int) -> str:
    if not text.startswith(_EXAMPLE):
        return _filled(text, width)
    return _filled(text, width - 2, "    ").replace("\n", " \\\n")


def usage(program: str, pieces: Sequence[str], width: int) -> str:
    """Gives the line, or lines, that show how a command is called."""
    return _filled(" ".join(["Usage:", program, *pieces]), width, "    ")


def columns(sections: Mapping[str, Sequence[tuple[str, str]]], width: int) -> str:
    """Gives names with their explanations: beside them, or below where a line is too short or a name too long.

    Args:
        sections: Pairs of both by heading; an empty one is not written, nor is a section without pairs.
        width: Of a line.
    """
    widths = [len(name) for rows in sections.values() for name, _ in rows if len(name) <= _NAMES]
    beside = max(widths, default=_NAMES) if width >= _BESIDE else 4
    written = [
        (f"{title}:\n" if title else "") + "".join(_row(name, explanation, beside, width) for name, explanation in rows)
        for title, rows in sections.items()
        if rows
    ]
    return "\n".join(written)


def _row(name: str, explanation: str, beside: int, width: int) -> str:
    margin = " " * (beside + 4)
    explained = _filled(margin + explanation, width, margin)
    if len(name) <= beside:
        return f"  {name:{beside}}  {explained.lstrip()}\n"
    return f"{_filled(f'  {name}', width, ' ' * 6)}\n{explained}\n"


def _filled(text: str, width: int, margin: str = "") -> str:
    lines = textwrap.fill(text, width, subsequent_indent=margin, break_on_hyphens=False, break_long_words=False)
    return lines.replace(TIED, " ")
