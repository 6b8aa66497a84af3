"""Which examples a worker's steps have, and what is told of them."""

import logging

import pytest
import test_loop
import torch

from xmtl_ray.data.mixture import quotas
from xmtl_ray.training.batches import Batches


@pytest.mark.parametrize(("workers", "told"), [(1, False), (8, True)])
def test_workers_that_bend_the_mixture_are_told(tiny, caplog, workers, told):
    """Eight workers need eight of each task in a batch: where the data hold fewer of one, it is not in proportion."""
    config = tiny("train.global_batch=32")
    _, collate, examples = test_loop.build(config)
    batches = Batches(config, examples.train, collate, 0, workers, torch.device("cpu"))
    wanted = {task: len(some) * (0.2 if task == "ae" else 1) for task, some in examples.train.items()}
    proportional = quotas(wanted, 32)
    assert min(proportional.values()) < 8 and sum(batches.shares.values()) == 32
    assert (batches.shares == proportional) != told
    with caplog.at_level(logging.WARNING):
        batches.tell()
    assert ("no longer in proportion" in caplog.text) == told
    assert all(f"{task} {share}" in caplog.text for task, share in proportional.items()) or not told
