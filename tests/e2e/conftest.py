from collections.abc import Iterator

import pytest

from pipelines.running.session import ray_session


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """One Ray for all commands that a module's tests run in this process."""
    with ray_session():
        yield
