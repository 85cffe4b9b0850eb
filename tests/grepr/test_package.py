import subprocess
import sys
from importlib import metadata

import pytest

import grepr


def test_to_import_it_takes_nothing():
    program = "import sys; before = set(sys.modules); import grepr; print(*sorted(set(sys.modules) - before))"
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in ran.stdout.split()}
    assert "grepr" in loaded
    assert not loaded & {"numpy", "torch", "PIL", "ray", "grepr_core", "pipelines"}


def test_a_score_needs_neither_ray_nor_pandas():
    program = """
import sys, grepr, numpy
assert grepr.score(numpy.full((100, 120, 3), 128, numpy.uint8)).status == "scored"
print(*sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert not {name.partition(".")[0] for name in ran.stdout.split()} & {"ray", "pandas", "obstore"}


@pytest.mark.parametrize("name", grepr.__all__)
def test_public_names_are_there_and_are_completed(name: str):
    assert getattr(grepr, name) is getattr(grepr, name)
    assert name in dir(grepr)


def test_other_names_are_not():
    assert grepr.__version__ == metadata.version("grepr")
    with pytest.raises(AttributeError, match="'grepr' has no attribute 'scores'"):
        grepr.scores  # noqa: B018
