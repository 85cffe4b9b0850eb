"""A link as a QR code, to be read from a terminal by a phone: typing it would take a person a minute.

ISO/IEC 18004, as far as an address needs it: bytes, the lowest level of correction, versions 1 to 5, of which all code
words are one block, and always the first mask.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

#: Code words of data and of correction, by version.
_CODE_WORDS = {1: (19, 7), 2: (34, 10), 3: (55, 15), 4: (80, 20), 5: (108, 26)}
#: The lowest level of correction and the first mask, with their own correction.
_FORMAT = "111011111000100"
#: Light modules around.
_QUIET = 4
#: By what is dark: nothing, the upper half, the lower one, both.
_BLOCKS = " \N{UPPER HALF BLOCK}\N{LOWER HALF BLOCK}\N{FULL BLOCK}"
_BLACK_ON_WHITE, _PLAIN = "\033[30;107m", "\033[0m"


def qr_code(text: str) -> NDArray[np.bool_] | None:
    """Gives the modules of a QR code.

    Args:
        text: Is encoded as UTF-8.

    Returns:
        (S, S), true where dark, without the light border; None where the text is longer than 106 bytes.
    """
    content = text.encode()
    version = next((v for v, (data, _) in _CODE_WORDS.items() if len(content) + 2 <= data), None)
    if version is None:
        return None
    dark, free = _patterns(version)
    data, correction = _CODE_WORDS[version]
    # Mode (4 bits), length (8), content, and 4 bits for the end; together whole bytes.
    bits = f"0100{len(content):08b}" + "".join(f"{byte:08b}" for byte in content) + "0000"
    words = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    words += [(0xEC, 0x11)[i % 2] for i in range(data - len(words))]
    stream = "".join(f"{word:08b}" for word in words + _remainder(words, correction))
    for i, (row, column) in enumerate(_path(free)):
        # The mask turns every other module; what is left over at the end has no bit of its own.
        dark[row, column] = (i < len(stream) and stream[i] == "1") != ((row + column) % 2 == 0)
    return dark


def in_terminal(text: str) -> str | None:
    """Draws a QR code with two rows a line, black on white whatever the colours of the terminal.

    Args:
        text: As for :func:`qr_code`.

    Returns:
        Lines of characters and their colours; None where the text is too long.
    """
    modules = qr_code(text)
    if modules is None:
        return None
    modules = np.pad(modules, _QUIET)
    modules = np.pad(modules, ((0, 1), (0, 0)))  # a code has an odd number of rows
    kinds = modules[::2] + 2 * modules[1::2]
    lines = ("".join(_BLOCKS[kind] for kind in row) for row in kinds)
    return "\n".join(f"{_BLACK_ON_WHITE}{line}{_PLAIN}" for line in lines)


def _patterns(version: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Gives what is the same in all codes of a version, and where there is room for data."""
    size = 17 + 4 * version
    dark, free = np.zeros((size, size), bool), np.ones((size, size), bool)
    dark[6, ::2] = dark[::2, 6] = True
    free[6] = free[:, 6] = False
    if version > 1:
        _put_square(dark, free, size - 7, size - 7, 2)
    for row, column in ((3, 3), (3, size - 4), (size - 4, 3)):
        _put_square(dark, free, row, column, 4)
    free[:9, :9] = free[:9, -8:] = free[-8:, :9] = False
    around = [(8, c) for c in (0, 1, 2, 3, 4, 5, 7, 8)] + [(r, 8) for r in (7, 5, 4, 3, 2, 1, 0)]
    beside = [(size - 1 - i, 8) for i in range(7)] + [(8, size - 8 + i) for i in range(8)]
    for places in (around, beside):
        for bit, place in zip(_FORMAT, places, strict=True):
            dark[place] = bit == "1"
    dark[size - 8, 8] = True
    return dark, free


def _put_square(dark: NDArray[np.bool_], free: NDArray[np.bool_], row: int, column: int, reach: int) -> None:
    """Draws the squares, one in the other, by which a code is found."""
    for r in range(max(0, row - reach), min(len(dark), row + reach + 1)):
        for c in range(max(0, column - reach), min(len(dark), column + reach + 1)):
            ring = max(abs(r - row), abs(c - column))
            dark[r, c] = ring in ((0, 2) if reach == 2 else (0, 1, 3))
            free[r, c] = False


def _path(free: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Goes through the modules for data: in pairs of columns from the right, up and down in turn."""
    size = len(free)
    upwards = True
    for right in (*range(size - 1, 6, -2), 5, 3, 1):
        for row in range(size - 1, -1, -1) if upwards else range(size):
            for column in (right, right - 1):
                if free[row, column]:
                    yield row, column
        upwards = not upwards


def _remainder(words: list[int], count: int) -> list[int]:
    """Gives the words of correction: what is left of the data, as a polynomial over GF(256), by Reed and Solomon's."""
    powers = [1]
    for _ in range(254):
        powers.append(powers[-1] << 1 ^ (0x11D if powers[-1] & 0x80 else 0))
    logarithms = {power: i for i, power in enumerate(powers)}

    def product(a: int, b: int) -> int:
        return powers[(logarithms[a] + logarithms[b]) % 255] if a and b else 0

    generator = [1]
    for i in range(count):
        shifted = [product(term, powers[i]) for term in generator]
        generator = [a ^ b for a, b in zip([*generator, 0], [0, *shifted], strict=True)]
    left = [0] * count
    for word in words:
        factor = word ^ left[0]
        left = [a ^ product(factor, b) for a, b in zip([*left[1:], 0], generator[1:], strict=True)]
    return left
