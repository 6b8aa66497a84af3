"""The loss against plain cross-entropy on whole logits, and what it costs."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from xmtl_ray.models import token_loss as module
from xmtl_ray.models.splice import IGNORED
from xmtl_ray.models.token_loss import liger_runs, token_loss

ROWS, PLACES, WIDTH, WORDS = 2, 40, 8, 50


def plain(hidden, head, labels, backend="auto"):
    """Every logit at once."""
    logits = head(hidden)[:, :-1].flatten(0, 1)
    return functional.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum")


@pytest.fixture
def given():
    """States, a head, and labels a third of which are learnt."""
    torch.manual_seed(0)
    hidden = torch.randn(ROWS, PLACES, WIDTH, requires_grad=True)
    labels = torch.randint(WORDS, (ROWS, PLACES)).where(torch.rand(ROWS, PLACES) < 0.33, IGNORED)
    return hidden, nn.Linear(WIDTH, WORDS, bias=False), labels


@pytest.fixture(params=["torch", "older torch"])
def backend(request, monkeypatch):
    """PyTorch's own chunked loss, and ours where PyTorch has none; chunks end within the places."""
    if request.param == "older torch":
        monkeypatch.delattr(functional, "linear_cross_entropy", raising=False)
        monkeypatch.setattr(module, "CHUNK", 7)
    elif not hasattr(functional, "linear_cross_entropy"):
        pytest.skip("this torch has no linear_cross_entropy")
    return "torch"


def outcome(loss, given, backend="auto"):
    """Value, gradient to the states and gradient to the head."""
    hidden, head, labels = given
    value = loss(hidden, head, labels, backend)
    return value, *torch.autograd.grad(value, (hidden, head.weight))


def test_plain_cross_entropy(given, backend):
    """Value and both gradients."""
    torch.testing.assert_close(outcome(token_loss, given, backend), outcome(plain, given))


def test_one_place_by_hand(backend):
    """Two words with logits 0 and 3: log(1 + e^3) - 3 for the second, given at the place before it."""
    head = nn.Linear(1, 2, bias=False)
    head.weight.data = torch.tensor([[0.0], [3.0]])
    labels = torch.tensor([[1, 1, IGNORED]])  # the first label has no place before it
    loss = token_loss(torch.ones(1, 3, 1), head, labels, backend)
    torch.testing.assert_close(loss.item(), 0.048587, atol=1e-6, rtol=0)


def test_nothing_to_learn(given, backend):
    """Zero, with a gradient of zeros: a rank without answers still takes part in the backward pass."""
    hidden, head, labels = given
    value = token_loss(hidden, head, torch.full_like(labels, IGNORED), backend)
    value.backward()
    assert value == 0 and hidden.grad.abs().sum() == 0


def test_liger_needs_a_gpu():
    """Automatic choice is by device, so the CPU gets PyTorch's."""
    assert not liger_runs(torch.device("cpu"))


def test_states_of_16_bits(backend):
    """The sum over 3,000 places stays one of 32 bits: within 1 in 1,000 of the loss of the same states in 32 bits."""
    torch.manual_seed(0)
    hidden, labels = torch.randn(1, 3001, 64).bfloat16(), torch.randint(500, (1, 3001))
    head = nn.Linear(64, 500, bias=False).bfloat16()
    head.weight.data.mul_(8)
    loss = token_loss(hidden, head, labels, backend)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, plain(hidden.float(), head.float(), labels), rtol=1e-3, atol=0)


def largest_allocation(work):
    """Bytes of the largest tensor that is allocated, within operations as well."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    sizes, nodes = [0], list(recorded.profiler.kineto_results.experimental_event_tree())
    while nodes:
        node = nodes.pop()
        nodes += node.children
        if node.tag.name == "Allocation":
            sizes.append(node.extra_fields.alloc_size)
    return max(sizes)


def test_logits_are_never_whole(backend):
    """No tensor of all places times the vocabulary is allocated, in either pass; plain cross-entropy does."""
    torch.manual_seed(0)
    places, words = 2049, 1000
    hidden = torch.randn(1, places, WIDTH, requires_grad=True)
    given = hidden, nn.Linear(WIDTH, words, bias=False), torch.randint(words, (1, places))
    chunked, whole = (largest_allocation(lambda one=one: outcome(one, given, backend)) for one in (token_loss, plain))
    assert whole >= (places - 1) * words * 4
    assert chunked <= whole / 20


def test_places_that_are_not_learnt_cost_nothing(backend):
    """Labels at three places of 2,048: no more than those get logits, and the largest tensor is the states'."""
    hidden = torch.randn(1, 2048, WIDTH, requires_grad=True)
    head, labels = nn.Linear(WIDTH, 1000, bias=False), torch.full((1, 2048), IGNORED)
    labels[0, 7:10] = 1
    largest = largest_allocation(lambda: outcome(token_loss, (hidden, head, labels), backend))
    assert largest <= 4 * max(2048 * WIDTH, 3 * 1000, 1000 * WIDTH)
