"""What tests of Ray Data jobs share."""

import os

import pytest


@pytest.fixture(scope="module")
def cluster():
    """One Ray cluster for this module."""
    import ray

    from xmtl_ray.cluster.connection import ENVIRONMENT

    os.environ.update(ENVIRONMENT)
    context = ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": ENVIRONMENT})
    yield context.address_info
    ray.shutdown()
