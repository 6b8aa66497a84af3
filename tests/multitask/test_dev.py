"""Dev scores counted by hand, and the same for any number of ranks."""

import pytest
import torch
from torch import nn

from xmtl_ray.data.images import Canvases
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.events.ontology import m2e2
from xmtl_ray.models import weights
from xmtl_ray.models.heads import TorchCrf
from xmtl_ray.models.inputs import Inputs, TextInputs
from xmtl_ray.multitask import examples as task_examples
from xmtl_ray.multitask.batch import Batch, Collate
from xmtl_ray.multitask.dev import METRICS, evaluate, task_counts

TAGS = m2e2().tags


class Fixed(nn.Module):
    """A model that has learnt its scores by heart; its CRF finds no tag more likely after another."""

    def __init__(self, scores):
        super().__init__()
        self.scores, self.crf = scores, TorchCrf(len(TAGS))
        for parameter in self.crf.parameters():
            nn.init.zeros_(parameter)

    def forward(self, inputs):
        return self.scores


def tagged(*rows):
    """Tag indices [B, W] and which of them are words."""
    width = max(map(len, rows))
    indices = [[*(TAGS.index(tag) for tag in row), *[0] * (width - len(row))] for row in rows]
    return torch.tensor(indices), torch.tensor([[at < len(row) for at in range(width)] for row in rows])


def trigger_counts(gold, predicted, bias=0.0):
    """Counts where the emissions are 5 for the predicted tag, and rubbish behind each sentence."""
    target, mask = tagged(*gold)
    best, _ = tagged(*predicted)
    emissions = 5.0 * nn.functional.one_hot(best, len(TAGS))
    emissions[~mask] = torch.arange(len(TAGS), dtype=torch.float)
    text = TextInputs(target, mask, target, target, mask, len(target), mask[:0])
    return task_counts(Fixed({"td": emissions}), "td", Batch(Inputs(text, None), td=target), trigger_bias=bias)


def test_triggers_count_by_type_and_span():
    """Row 1: one right, one of a wrong type. Row 2: a span too short. Row 3: nothing there, one found."""
    gold = [
        ["B-Life:Die", "I-Life:Die", "O", "B-Contact:Meet"],
        ["B-Conflict:Attack", "I-Conflict:Attack"],
        ["O", "O", "O"],
    ]
    predicted = [
        ["B-Life:Die", "I-Life:Die", "O", "B-Life:Die"],
        ["B-Conflict:Attack", "O"],
        ["O", "B-Contact:Meet", "O"],
    ]
    assert trigger_counts(gold, predicted) == Prf(1, 4, 3)
    assert trigger_counts(gold, gold) == Prf(3, 3, 3)
    assert trigger_counts([["O"]], [["O"]]) == Prf(0, 0, 0)


def test_a_trigger_bias_turns_words_into_triggers_at_its_size():
    """O is 5 above every tag: a bias of 4.9 changes nothing, one of 5.1 makes each of two words a trigger."""
    gold = predicted = [["O", "O"]]
    assert trigger_counts(gold, predicted, bias=4.9) == Prf(0, 0, 0)
    assert trigger_counts(gold, predicted, bias=5.1).predicted == 2
    assert trigger_counts([["B-Life:Die"]], [["B-Life:Die"]], bias=-4.9) == Prf(1, 1, 1)
    assert trigger_counts([["B-Life:Die"]], [["B-Life:Die"]], bias=-5.1) == Prf(0, 0, 1)


def test_a_trigger_that_begins_with_i_is_a_mention_all_the_same():
    """I- that continues nothing begins one: it equals the mention that B- begins."""
    assert trigger_counts([["O", "B-Life:Die"]], [["O", "I-Life:Die"]]) == Prf(1, 1, 1)


@pytest.mark.parametrize("task", ["ae", "rc"])
def test_roles_other_than_none_count(task):
    """Right, wrong role, missed, invented, rightly None: 1 correct of 3 predicted and 3 gold."""
    gold, best = torch.tensor([3, 4, 5, 0, 0]), torch.tensor([3, 5, 0, 2, 0])
    scores = nn.functional.one_hot(best, len(m2e2().roles)).float()
    batch = Batch(Inputs(None, None), **{task: gold})
    assert task_counts(Fixed({task: scores}), task, batch) == Prf(1, 3, 3)


def test_types_count_one_by_one_and_zero_is_not_above_zero():
    """Two of two; one of one with another invented; a logit of exactly 0, probability 0.5, is no prediction."""
    gold = torch.tensor([[1.0, 1, 0], [0, 0, 1], [1, 0, 0]])
    scores = torch.tensor([[2.0, 0.1, -1], [-1, 3, 0.5], [0.0, -2, -2]])
    batch = Batch(Inputs(None, None), vc=gold)
    assert task_counts(Fixed({"vc": scores}), "vc", batch) == Prf(3, 4, 4)
    # 0.1, 0.5 and 0.0 are probabilities of 0.525, 0.62 and 0.5
    assert task_counts(Fixed({"vc": scores}), "vc", batch, verb_threshold=0.55) == Prf(2, 3, 4)
    assert task_counts(Fixed({"vc": scores}), "vc", batch, verb_threshold=0.49) == Prf(4, 5, 4)


@pytest.fixture(scope="module")
def setting(world):
    """A small real model, four tasks, a few dev examples of each."""
    from xmtl_ray.config.load import load

    torch.set_num_threads(1)
    config = load("xmtl_smoke", [f"data.root={world}"])
    examples = task_examples.read(config)
    loaded = weights.create(config, weights.make_tokenizer(config, examples.sentences))
    prompt = config.data.visual_prompt
    collate = Collate(loaded.codec, Canvases(prompt.canvas_px, 64), 96, config.data.text_prompt, prompt)
    return loaded.model, collate, {name: list(items)[:11] for name, items in examples.dev.items()}


def counted(setting, batch, ranks):
    """Dev counts of each task over all ranks (as the reduction sees them), and the forward passes of each rank."""
    model, collate, dev = setting
    counts, passes = [], []
    for rank in range(ranks):
        seen, number = [], []
        hook = model.register_forward_hook(lambda *_, number=number: number.append(1))
        evaluate(model, collate, dev, batch, rank, ranks, lambda mine, seen=seen: seen.append(mine.clone()) or mine)
        hook.remove()
        counts.append(torch.stack(seen))
        passes.append(len(number))
    return sum(counts).tolist(), passes


def test_ranks_and_batches_change_no_count(setting):
    """One rank in one batch, in batches of 3, and three ranks with batches of 2: 11 examples are counted once each.

    Three ranks take 6 at a time, so in the second round one rank has one example and none is without a pass: with
    weights spread over the ranks every rank must run equally often.
    """
    whole, _ = counted(setting, 64, 1)
    assert sum(gold for _, _, gold in whole) > 0 and sum(found for _, found, _ in whole) > 0
    assert counted(setting, 3, 1)[0] == whole
    shared, passes = counted(setting, 2, 3)
    assert shared == whole and passes == [8, 8, 8]
    many, passes = counted(setting, 4, 4)
    assert many == whole and passes == [4, 4, 4, 4], "the fourth rank has no example of its own and repeats one"


def test_metrics_are_f1_and_their_mean(setting):
    """From counts of 1, 4, 3 each: 2 · 1 / 7 is 28.57 %; training mode is as it was before."""
    model, collate, dev = setting
    for training in (True, False):
        model.train(training)
        found = evaluate(model, collate, dev, 64, 0, 1, lambda _: torch.tensor([1, 4, 3]))
        assert model.training is training
    assert list(found) == [*METRICS.values(), "dev/mean_f1"]
    assert list(found.values()) == pytest.approx([200 / 7] * 5)
    some = evaluate(model, collate, {"vc": dev["vc"]}, 64, 0, 1, lambda _: torch.tensor([1, 1, 3]))
    assert some == {"dev/verb_f1": pytest.approx(50), "dev/mean_f1": pytest.approx(50)}
