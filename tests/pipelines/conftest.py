import pytest
import ray

from pipelines.running.session import ray_session


@pytest.fixture(scope="package")
def local_ray():
    """One Ray for all tests of this folder, which use it as a command would use a cluster it is connected to."""
    if ray.is_initialized():
        yield
    else:
        with ray_session():
            yield
