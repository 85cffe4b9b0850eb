"""QR codes of links, against those of another program."""

import hashlib
import re

import numpy as np
import pytest

from pipelines.rating.page.qr_code import in_terminal, qr_code

LINK = "http://192.168.1.20:38941/-_aZ09" * 4


@pytest.mark.parametrize(
    ("length", "size", "digest"),
    [
        (17, 21, "6c97f868457d6950"),
        (32, 25, "efc11bf154383ad3"),
        (53, 29, "8a4b41a5da26cbfd"),
        (78, 33, "49c298039193dbfb"),
        (106, 37, "f7d0a5f355ac43fd"),
    ],
)
def test_modules_are_those_of_segno(length: int, size: int, digest: str):
    """segno.make(text, error="l", mask=0, boost_error=False, micro=False, mode="byte"), for every version made here."""
    modules = qr_code(LINK[:length])
    assert modules is not None
    assert modules.shape == (size, size)
    assert hashlib.sha256(np.packbits(modules).tobytes()).hexdigest()[:16] == digest


def test_what_does_not_fit_has_none():
    assert qr_code("x" * 107) is None
    assert in_terminal("ü" * 54) is None


def test_in_a_terminal_two_rows_are_a_line():
    modules, drawn = qr_code(LINK[:59]), in_terminal(LINK[:59])
    assert modules is not None
    assert drawn is not None
    lines = [re.fullmatch("\033\\[30;107m(.*)\033\\[0m", line) for line in drawn.splitlines()]
    assert all(lines)
    upper = [[c in "\N{UPPER HALF BLOCK}\N{FULL BLOCK}" for c in line[1]] for line in lines if line]
    lower = [[c in "\N{LOWER HALF BLOCK}\N{FULL BLOCK}" for c in line[1]] for line in lines if line]
    rows = np.stack([upper, lower], axis=1).reshape(-1, len(modules) + 8)
    assert np.array_equal(rows[4:-5, 4:-4], modules)
    assert rows.sum() == modules.sum()
