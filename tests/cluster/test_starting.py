"""A cluster on this machine that does not start in the time that Ray gives it."""

import pytest

from xmtl_ray.cluster import connection

SLOW = "The current node timed out during startup. This could happen because some of the raylet failed to startup"


@pytest.mark.parametrize(("failures", "starts"), [(0, True), (2, True), (3, False)])
def test_it_is_begun_again_and_not_for_ever(monkeypatch, failures, starts):
    """Ray's ``init`` stood in for, which takes half a minute to fail: twice is made good, three times is told."""
    import ray

    tries = []

    def init(**arguments):
        tries.append(arguments)
        if len(tries) <= failures:
            raise Exception(SLOW)
        return "context"

    monkeypatch.setattr(ray, "init", init)
    if starts:
        assert connection.start(num_cpus=2) == "context" and tries == [{"num_cpus": 2}] * (failures + 1)
    else:
        with pytest.raises(Exception, match="timed out during startup"):
            connection.start(num_cpus=2)


def test_another_failure_is_not_tried_again(monkeypatch):
    import ray

    tries = []

    def init(**arguments):
        tries.append(arguments)
        raise ValueError("found a cluster, expected none")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ValueError, match="expected none"):
        connection.start()
    assert len(tries) == 1
