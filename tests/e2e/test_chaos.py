"""A short version of the benchmark that disturbs runs."""

import shutil

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.s3]


@pytest.mark.timeout(600)
def test_disturbed_runs_end_with_the_same_rows():
    if shutil.which("s3rver") is None:
        pytest.skip("no s3rver on the path; npm install --global s3rver")
    from benchmarks.chaos import chaos

    total = chaos(2, 3, 30, ["actor", "store"])
    assert (total["lost"], total["doubled"], total["differing"]) == (0, 0, 0)
