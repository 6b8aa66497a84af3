"""The heads: the CRF against every tag path there is, and a mean that knows what is real."""

from itertools import pairwise, product

import pytest
import torch

from xmtl_ray.models.heads import PooledHead, TorchCrf, TriggerHead

LENGTHS = (1, 2, 4)


@pytest.fixture(scope="module", params=[1, 2, 3])
def case(request):
    """A CRF over ``param`` tags with random transitions, and emissions of rows of 1, 2 and 4 words."""
    torch.manual_seed(request.param)
    crf = TorchCrf(request.param)
    for parameter in crf.parameters():
        torch.nn.init.normal_(parameter, std=1.0)
    emissions = torch.randn(len(LENGTHS), max(LENGTHS), request.param) * 2
    return crf.eval(), emissions, torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]


def path_score(crf, emissions, path):
    """Eq. 5's exponent of one path, added up word by word in double precision."""
    start, end, step = (p.double() for p in (crf.start_transitions, crf.end_transitions, crf.transitions))
    score = start[path[0]] + end[path[-1]] + sum(emissions[word, tag].double() for word, tag in enumerate(path))
    return float(score + sum(step[a, b] for a, b in pairwise(path)))


@torch.no_grad()
def enumerated(crf, emissions, length):
    """Every path of ``length`` words with its score, and the log of the partition."""
    scores = {path: path_score(crf, emissions, path) for path in product(range(emissions.shape[1]), repeat=length)}
    return scores, float(torch.tensor(list(scores.values()), dtype=torch.float64).logsumexp(0))


def padded(path, rows=1):
    return torch.tensor([[*path, *[0] * (max(LENGTHS) - len(path))]] * rows)


@torch.no_grad()
def test_the_loss_of_every_path_is_log_partition_minus_score(case):
    """Eq. 6 by enumeration, for ragged rows; so the probabilities of all paths of a row add up to 1."""
    crf, emissions, mask = case
    for row, length in enumerate(LENGTHS):
        scores, partition = enumerated(crf, emissions[row], length)
        tags = torch.cat([padded(path) for path in scores])
        loss, given = crf(emissions[row].expand(len(scores), -1, -1), mask[row].expand(len(scores), -1), tags)
        assert given is tags
        assert loss.tolist() == pytest.approx([partition - score for score in scores.values()], abs=1e-4)
        assert float((-loss).exp().sum()) == pytest.approx(1, abs=1e-5)


@torch.no_grad()
def test_viterbi_is_the_best_path_and_its_probability_is_its_share(case):
    """Without tags: the path of highest score among all, and exp(score - log Z); 0 beyond a row's words."""
    crf, emissions, mask = case
    probability, best = crf(emissions, mask)
    for row, length in enumerate(LENGTHS):
        scores, partition = enumerated(crf, emissions[row], length)
        path = max(scores, key=scores.get)
        assert tuple(best[row, :length].tolist()) == path
        assert best[row, length:].eq(0).all()
        assert float(probability[row]) == pytest.approx(float(torch.tensor(scores[path] - partition).exp()), abs=1e-5)


@torch.no_grad()
def test_rows_do_not_see_each_other_or_their_padding(case):
    """Alone without padding, or beside longer rows with rubbish behind its words: the same loss and path."""
    crf, emissions, mask = case
    rubbish = torch.where(mask[..., None], emissions, torch.full_like(emissions, 50.0))
    tags = torch.zeros(mask.shape, dtype=torch.long)
    together, _ = crf(rubbish, mask, tags)
    probability, best = crf(rubbish, mask)
    for row, length in enumerate(LENGTHS):
        alone = slice(row, row + 1), slice(0, length)
        loss, _ = crf(emissions[alone], mask[alone], tags[alone])
        assert float(loss) == pytest.approx(float(together[row]), abs=1e-5)
        own, path = crf(emissions[alone], mask[alone])
        assert float(own) == pytest.approx(float(probability[row]), abs=1e-5)
        assert path[0].tolist() == best[row, :length].tolist()


@torch.no_grad()
def test_the_crf_computes_in_fp32_under_autocast(case):
    """With bf16 emissions within autocast: exactly the fp32 result on those same numbers."""
    crf, emissions, mask = case
    rounded, tags = emissions.bfloat16(), torch.zeros(mask.shape, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = crf(rounded, mask, tags)
        probability, _ = crf(rounded, mask)
    assert loss.dtype == probability.dtype == torch.float32
    assert torch.equal(loss, crf(rounded.float(), mask, tags)[0])
    assert torch.equal(probability, crf(rounded.float(), mask)[0])


def test_the_trigger_head_reads_each_words_first_piece():
    """With the identity as weights the emission of a word is the state at its position."""
    head, states = TriggerHead(3, 3), torch.randn(2, 5, 3)
    torch.nn.init.eye_(head.scores.weight)
    torch.nn.init.zeros_(head.scores.bias)
    found = head(states, torch.tensor([[1, 3, 4], [1, 2, 0]]))
    assert torch.equal(found[0], states[0, [1, 3, 4]])
    assert torch.equal(found[1], states[1, [1, 2, 0]])


def test_the_pooled_head_averages_real_states_only():
    """(1 + 3) / 2 = 2 whatever stands at the third place; without a mask all three count: (1 + 3 + 8) / 3 = 4."""
    head = PooledHead(1, 2)
    torch.nn.init.constant_(head.scores.weight, 1.0)
    head.scores.bias.data = torch.tensor([0.0, 10.0])
    states, mask = torch.tensor([[[1.0], [3.0], [8.0]]]), torch.tensor([[True, True, False]])
    assert head(states, mask).tolist() == [[2.0, 12.0]]
    assert head(states).tolist() == [[4.0, 14.0]]
    states[0, 2] = 1e6
    assert head(states, mask).tolist() == [[2.0, 12.0]]


def test_the_pooled_mean_is_each_rows_own():
    """Rows with one, two and three real states, against a plain loop."""
    torch.manual_seed(0)
    head, states = PooledHead(4, 3), torch.randn(3, 3, 4)
    mask = torch.arange(3)[None] < torch.tensor([1, 2, 3])[:, None]
    expected = torch.stack([head.scores(states[row, : row + 1].mean(0)) for row in range(3)])
    assert torch.allclose(head(states, mask), expected, atol=1e-6)
