"""The losses by hand, and a global batch whose loss does not depend on how it is cut."""

import copy
import math
from collections import Counter

import pytest
import torch
from torch import nn

from xmtl_ray.config.schema import PSEUDO
from xmtl_ray.data.images import Canvases
from xmtl_ray.data.mixture import rank_share
from xmtl_ray.models import weights
from xmtl_ray.models.inputs import Inputs
from xmtl_ray.models.xmtl import States
from xmtl_ray.multitask import examples as task_examples
from xmtl_ray.multitask.batch import Batch, Collate
from xmtl_ray.multitask.objective import Objective, total_loss


def test_total_loss_by_hand():
    """2 × (1 + 2 + 3) / 6 + 0.5 × (4 + 6) / 4 = 2 + 1.25: of the six and the four examples these are a part."""
    losses = {"td": torch.tensor([1.0, 2.0, 3.0]), "vc": torch.tensor([4.0, 6.0])}
    assert float(total_loss(losses, {"td": 6, "vc": 4}, {"td": 2.0, "vc": 0.5})) == 3.25


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_the_parts_add_up_to_the_weighted_means(parts):
    """Cut any way, uneven parts and parts without a task included: Σ W_k · mean(L_k), and so are the gradients."""
    torch.manual_seed(0)
    losses = {name: torch.rand(size, requires_grad=True) for name, size in (("td", 7), ("ae", 12), ("vc", 2))}
    shares = {name: len(values) for name, values in losses.items()}
    factors = {"td": 1.0, "ae": 0.3, "vc": 2.5}
    total = torch.zeros(())
    for part in range(parts):
        held = {name: values[part::parts] for name, values in losses.items() if len(values) > part}
        total = total + total_loss(held, shares, factors)
    expected = sum(factors[name] * float(values.detach().mean()) for name, values in losses.items())
    assert float(total.detach()) == pytest.approx(expected, rel=1e-6)
    total.backward()
    for name, values in losses.items():
        assert values.grad.tolist() == pytest.approx([factors[name] / shares[name]] * shares[name])


class Fixed(nn.Module):
    """A model that has learnt its scores by heart."""

    def __init__(self, scores):
        super().__init__()
        self.told = scores

    def states(self, inputs):
        return States(None, None)

    def scores(self, states, inputs):
        return self.told


def test_cross_entropy_and_binary_cross_entropy_by_hand():
    """Eq. 8 and 12: log Σ exp - own score. Eq. 10: the sum over types of -log p or -log(1 - p), one value an image."""
    scores = {
        "ae": torch.tensor([[0.0, 0.0, 0.0, 0.0], [2.0, 1.0, 0.0, -1.0]]),
        "rc": torch.tensor([[0.0, math.log(3)]]),
        "vc": torch.tensor([[0.0, math.log(3), -math.log(4)], [0.0, 0.0, 0.0]]),
    }
    batch = Batch(
        Inputs(None, None),
        ae=torch.tensor([3, 1]),
        rc=torch.tensor([1]),
        vc=torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]),
    )
    losses = Objective(Fixed(scores))(batch)
    assert list(losses) == ["ae", "vc", "rc"]
    partition = math.log(sum(math.exp(score) for score in (2, 1, 0, -1)))
    assert losses["ae"].tolist() == pytest.approx([math.log(4), partition - 1], rel=1e-6)
    assert losses["rc"].tolist() == pytest.approx([-math.log(3 / 4)], rel=1e-6)
    expected = -(math.log(1 / 2) + math.log(1 / 4) + math.log(4 / 5))
    assert losses["vc"].tolist() == pytest.approx([expected, 3 * math.log(2)], rel=1e-6)


def test_label_smoothing_by_hand(tiny):
    """A tenth of each target over all labels: 4 roles, 2 types; of a tag path, a tenth of its words' mean -log p."""
    scores = {"ae": torch.tensor([[2.0, 1.0, 0.0, -1.0]]), "vc": torch.tensor([[math.log(3), 0.0]])}
    batch = Batch(Inputs(None, None), ae=torch.tensor([1]), vc=torch.tensor([[1.0, 0.0]]))
    losses = Objective(Fixed(scores), smoothing=0.1)(batch)
    logs = torch.tensor([2.0, 1.0, 0.0, -1.0]).log_softmax(0).tolist()
    assert losses["ae"].tolist() == pytest.approx([-0.9 * logs[1] - 0.1 * sum(logs) / 4], rel=1e-6)
    first = -0.95 * math.log(3 / 4) - 0.05 * math.log(1 / 4)
    assert losses["vc"].tolist() == pytest.approx([first + math.log(2)], rel=1e-6)

    torch.set_num_threads(1)
    config = tiny("multitask.tasks=[td]")
    examples = task_examples.read(config)
    loaded = weights.create(config, weights.make_tokenizer(config, examples.sentences))
    collate = Collate(loaded.codec, None, 0, config.data.text_prompt, config.data.visual_prompt)
    batch = collate({"td": examples.train["td"][:5]})
    model = loaded.model.eval()
    with torch.no_grad():
        plain, smooth = (Objective(model, smoothing)(batch)["td"] for smoothing in (0.0, 0.1))
        logs = model(batch.inputs)["td"].log_softmax(-1)
    for row, example in enumerate(examples.train["td"][:5]):
        spread = -sum(float(logs[row, word].mean()) for word in range(len(example.words)))
        assert float(smooth[row]) == pytest.approx(0.9 * float(plain[row]) + 0.1 * spread, rel=1e-5)


def test_losses_are_fp32_whatever_the_scores_are():
    """Scores in bf16, as autocast gives them: 300 equal labels have log 300 to fp32's digits."""
    batch = Batch(Inputs(None, None), ae=torch.tensor([7]), vc=torch.ones(1, 300), rc=torch.tensor([7]))
    losses = Objective(Fixed({name: torch.zeros(1, 300, dtype=torch.bfloat16) for name in ("ae", "vc", "rc")}))(batch)
    assert {values.dtype for values in losses.values()} == {torch.float32}
    assert float(losses["ae"]) == float(losses["rc"]) == pytest.approx(math.log(300), rel=1e-6)
    assert float(losses["vc"]) == pytest.approx(300 * math.log(2), rel=1e-6)


def test_a_real_global_batch_has_one_loss_however_it_is_shared(tiny):
    """Four tasks on the world: in one piece, on two ranks, on three ranks with two micro-batches each."""
    torch.set_num_threads(1)
    config = tiny()
    examples = task_examples.read(config)
    loaded = weights.create(config, weights.make_tokenizer(config, examples.sentences))
    prompt = config.data.visual_prompt
    collate = Collate(loaded.codec, Canvases(prompt.canvas_px, 64), 96, config.data.text_prompt, prompt)
    objective = Objective(loaded.model.eval())
    shares, factors = {"td": 8, "ae": 13, "vc": 6, "rc": 9}, {"td": 1.0, "ae": 2.0, "vc": 0.5, "rc": 3.0}
    step = {name: torch.arange(size).numpy() for name, size in shares.items()}
    totals, seen = [], Counter()
    with torch.no_grad():
        for ranks, accumulation in ((1, 1), (2, 1), (3, 2)):
            parts = [part for rank in range(ranks) for part in rank_share(step, rank, ranks, accumulation)]
            total = 0.0
            for part in parts:
                losses = objective(collate({n: [examples.train[n][i] for i in some] for n, some in part.items()}))
                seen.update({name: len(values) for name, values in losses.items()})
                total += float(total_loss(losses, shares, factors))
            totals.append(total)
    assert seen == {name: 3 * size for name, size in shares.items()}
    assert totals[1:] == pytest.approx([totals[0]] * 2, rel=1e-5)
    assert totals[0] > 0


def test_gold_and_pseudo_labels_share_a_pass_and_have_losses_of_their_own(tiny):
    """All eight losses of Eq. 14 in one batch are those of eight batches; each encoder runs once."""
    torch.set_num_threads(1)
    config = tiny()
    examples = task_examples.read(config)
    loaded = weights.create(config, weights.make_tokenizer(config, examples.sentences))
    prompt = config.data.visual_prompt
    collate = Collate(loaded.codec, Canvases(prompt.canvas_px, 64), 96, config.data.text_prompt, prompt)
    objective, passes = Objective(loaded.model.eval()), Counter()
    some = {task: examples.train[task][:3] for task in PSEUDO} | {
        twin: examples.train[task][3:8] for task, twin in PSEUDO.items()
    }
    with torch.no_grad():
        apart = {name: objective(collate({name: items}))[name] for name, items in some.items()}
        for name in ("text_encoder", "image_encoder"):
            getattr(loaded.model, name).register_forward_hook(lambda *_, name=name: passes.update([name]))
        together = objective(collate(some))
    assert passes == {"text_encoder": 1, "image_encoder": 1}
    assert set(together) == set(some)
    for name, values in apart.items():
        assert len(values) == len(some[name])
        assert together[name].tolist() == pytest.approx(values.tolist(), rel=1e-4, abs=1e-5), name


def test_consistency_is_the_squared_distance_from_the_teacher(tiny):
    """Nothing from itself; from a teacher whose shared encoder adds a constant, that constant squared."""
    torch.set_num_threads(1)
    config = tiny("multitask.strategy=ark", "multitask.weighting.name=fixed")
    examples = task_examples.read(config)
    loaded = weights.create(config, weights.make_tokenizer(config, examples.sentences))
    prompt = config.data.visual_prompt
    collate = Collate(loaded.codec, Canvases(prompt.canvas_px, 64), 96, config.data.text_prompt, prompt)
    batch = collate({task: examples.train[task][:4] for task in ("td", "vc")})
    model = loaded.model.eval()
    assert Objective(model, teacher=copy.deepcopy(model))(batch)["consistency"].tolist() == [0.0] * 8
    teacher = copy.deepcopy(model)
    with torch.no_grad():
        teacher.shared.blocks[-1].ffn[-1].bias += 0.5
    objective = Objective(model, teacher=teacher)
    loss = objective(batch)["consistency"]
    assert loss.tolist() == pytest.approx([0.25] * 8, rel=1e-4)
    assert not any(name.startswith("_teacher") or "teacher" in name for name, _ in objective.named_parameters())
    loss.sum().backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
