"""X-MTL: padding is invisible, the shared encoder is Eq. 3-4, and only what is needed is there and runs."""

import math
from collections import Counter
from itertools import combinations

import pytest
import torch

from xmtl_ray.config.load import load
from xmtl_ray.config.schema import LearningRates
from xmtl_ray.events.records import Span
from xmtl_ray.models import weights
from xmtl_ray.models.inputs import Inputs
from xmtl_ray.models.xmtl import Group, SharedBlock, SharedEncoder, count_parameters, parameter_groups
from xmtl_ray.multitask.batch import Batch
from xmtl_ray.multitask.objective import Objective, total_loss
from xmtl_ray.training.xmtl import rated_groups

TASKS = ("td", "ae", "vc", "rc")
SUBSETS = [some for size in range(1, 5) for some in combinations(TASKS, size)]
SHORT = ["Troops", "shot"]
LONG = ["On", "Monday", "the", "police", "of", "Rome", "arrested", "two", "demonstrators", "near", "the", "bridge"]
SENTENCES = [SHORT, LONG, ["Ministers", "met"]]
EVENT = ["shot", "conflict", "attack"]
PROMPTS = [(["$", "Troops", "$", "shot"], EVENT, Span(1, 2)), (["$", *LONG[:7], "$", *LONG[7:]], EVENT, Span(1, 8))]


def build(*overrides):
    """A small model with random weights; no data is read."""
    torch.set_num_threads(1)
    config = load("xmtl_smoke", ["data.root=/nowhere", "model.shared.layers=2", *overrides])
    return weights.create(config, weights.make_tokenizer(config, SENTENCES))


@pytest.fixture(scope="module", params=["prompt", "span", "concat"])
def loaded(request):
    made = build(f"model.argument={request.param}")
    made.model.eval()
    return made


def batch(loaded, tasks):
    """A few examples of each task, as the collate function would make them."""
    text = pixels = None
    torch.manual_seed(1)
    if {"td", "ae"} & set(tasks):
        text = loaded.codec(SENTENCES if "td" in tasks else [], PROMPTS if "ae" in tasks else [])
    if {"vc", "rc"} & set(tasks):
        pixels = torch.randn(2 * ("vc" in tasks) + 3 * ("rc" in tasks), 3, loaded.model.image_px, loaded.model.image_px)
    return Batch(
        Inputs(text, pixels, 2 if "vc" in tasks else 0),
        td=torch.zeros_like(text.words) if "td" in tasks else None,
        ae=torch.tensor([0, 1]) if "ae" in tasks else None,
        vc=torch.eye(8)[:2] if "vc" in tasks else None,
        rc=torch.tensor([0, 1, 2]) if "rc" in tasks else None,
    )


@torch.no_grad()
def test_padding_changes_no_output(loaded):
    """A short sentence and a short prompt, alone and beside long ones: the same scores to 1e-5."""
    alone_td = loaded.model(Inputs(loaded.codec([SHORT]), None))["td"]
    alone_ae = loaded.model(Inputs(loaded.codec([], PROMPTS[:1]), None))["ae"]
    together = loaded.model(Inputs(loaded.codec([SHORT, LONG], PROMPTS), None))
    assert together["td"].shape[1] == len(LONG)
    assert torch.allclose(together["td"][0, : len(SHORT)], alone_td[0], atol=1e-5)
    assert torch.allclose(together["ae"][:1], alone_ae, atol=1e-5)


@torch.no_grad()
def test_words_do_change_the_output(loaded):
    """The opposite of padding: the other word of a short sentence reaches the first word's scores."""
    one, other = (loaded.model(Inputs(loaded.codec([["Troops", word]]), None))["td"][0, 0] for word in ("shot", "met"))
    assert not torch.allclose(one, other, atol=1e-3)


@torch.no_grad()
def test_what_pads_is_never_read(loaded):
    """Other ids and types in the padding: exactly the same scores."""
    text = loaded.codec([SHORT, LONG], PROMPTS)
    other = {name: getattr(text, name) for name in ("mask", "words", "word_mask", "sentences", "pooled")}
    spoilt = type(text)(ids=torch.where(text.mask, text.ids, 7), types=torch.where(text.mask, text.types, 1), **other)
    before, after = loaded.model(Inputs(text, None)), loaded.model(Inputs(spoilt, None))
    assert not torch.equal(text.ids, spoilt.ids)
    assert torch.allclose(before["td"][text.word_mask], after["td"][text.word_mask], atol=1e-6)
    assert torch.allclose(before["ae"], after["ae"], atol=1e-6)


def layer_norm(states, norm):
    centred = states - states.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def by_hand(block, states, mask):
    """Eq. 3: H' = MSA(LN(H)) + H; Eq. 4: H'' = FFN(LN(H')) + H', one head after the other, one row at a time."""
    width = states.shape[-1] // block.heads
    rows = []
    for row, real in zip(states, mask, strict=True):
        normed = layer_norm(row, block.norm_attention)
        q, k, v = (normed @ part.T + bias for part, bias in zip(
            block.qkv.weight.chunk(3), block.qkv.bias.chunk(3), strict=True))  # fmt: skip
        heads = []
        for head in range(block.heads):
            own = slice(head * width, (head + 1) * width)
            weight = (q[:, own] @ k[real][:, own].T / math.sqrt(width)).exp()
            heads.append(weight / weight.sum(-1, keepdim=True) @ v[real][:, own])
        row = row + torch.cat(heads, -1) @ block.out.weight.T + block.out.bias  # noqa: PLW2901
        first, last = block.ffn[0], block.ffn[2]
        inner = layer_norm(row, block.norm_ffn) @ first.weight.T + first.bias
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        rows.append(row + inner @ last.weight.T + last.bias)
    return torch.stack(rows)


@torch.no_grad()
def test_a_shared_block_is_pre_ln_as_in_equations_3_and_4():
    """Against plain matrix products, with weights far from their start and a row of two real states of five."""
    torch.manual_seed(0)
    block = SharedBlock(8, 2, dropout=0.5).eval()
    for parameter in block.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.5)
    states, mask = torch.randn(2, 5, 8), torch.arange(5)[None] < torch.tensor([[5], [2]])
    expected = by_hand(block, states, mask)
    assert torch.allclose(block(states, mask), expected, atol=1e-4)
    assert torch.allclose(block(states[:1], None), expected[:1], atol=1e-4)


@torch.no_grad()
def test_the_shared_encoder_is_its_blocks_in_turn():
    """Eq. 2 with L = 3, by hand for each; nothing before, between or behind."""
    torch.manual_seed(0)
    encoder = SharedEncoder(3, 8, 4, dropout=0.0).eval()
    states, mask = torch.randn(1, 3, 8), torch.ones(1, 3, dtype=torch.bool)
    expected = states
    for block in encoder.blocks:
        expected = by_hand(block, expected, mask)
    assert torch.allclose(encoder(states), expected, atol=1e-4)


@pytest.mark.parametrize("tasks", SUBSETS, ids="-".join)
def test_only_what_the_tasks_need_is_there_and_all_of_it_learns(tasks):
    """Encoders, alignments and heads of these tasks and no others; one batch gives every parameter a gradient.

    Data-parallel training waits for the gradient of each parameter, so one without would be an error there.
    """
    made = build(f"multitask.tasks=[{','.join(tasks)}]")
    model = made.model
    parts = {name.split(".")[0] for name, _ in model.named_parameters()}
    expected = {"shared", *tasks}
    expected |= {"text_encoder", "align_text"} if {"td", "ae"} & set(tasks) else set()
    expected |= {"image_encoder", "align_image"} if {"vc", "rc"} & set(tasks) else set()
    assert parts == expected | ({"crf"} if "td" in tasks else set())
    assert (made.codec is None) == (model.text_encoder is None) == (not {"td", "ae"} & set(tasks))

    losses = Objective(model)(batch(made, tasks))
    assert tuple(losses) == tasks
    total_loss(losses, {name: len(values) for name, values in losses.items()}, dict.fromkeys(losses, 1.0)).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_each_encoder_runs_once_for_four_tasks():
    """Text, vision once, the shared one once for each modality; one task of a modality is no other pass."""
    made = build()
    passes = Counter()
    for name in ("text_encoder", "image_encoder", "shared"):
        getattr(made.model, name).register_forward_hook(lambda *_, name=name: passes.update([name]))
    scores = made.model(batch(made, TASKS).inputs)
    assert {name: tuple(values.shape) for name, values in scores.items()} == {
        "td": (3, len(LONG), 17), "ae": (2, 17), "vc": (2, 8), "rc": (3, 17)}  # fmt: skip
    assert passes == {"text_encoder": 1, "image_encoder": 1, "shared": 2}
    passes.clear()
    assert set(made.model(batch(made, ("vc",)).inputs)) == {"vc"}
    assert passes == {"image_encoder": 1, "shared": 1}


@torch.no_grad()
def test_tasks_of_a_modality_score_the_same_alone_and_together(loaded):
    """What one task's rows score does not depend on the other tasks' rows in the pass."""
    together = loaded.model(batch(loaded, TASKS).inputs)
    for name in ("td", "ae"):
        assert torch.allclose(loaded.model(batch(loaded, (name,)).inputs)[name], together[name], atol=1e-5)
    pixels = batch(loaded, TASKS).inputs.pixels
    assert torch.allclose(loaded.model(Inputs(None, pixels[:2], 2))["vc"], together["vc"], atol=1e-5)
    assert torch.allclose(loaded.model(Inputs(None, pixels[2:], 0))["rc"], together["rc"], atol=1e-5)


def test_every_parameter_has_one_learning_rate_and_matrices_alone_decay():
    """By kind of layer: text, vision and other rates; weight decay on Linear, Embedding and convolution weights."""
    model = build().model
    rates = {"text": 1e-4, "image": 1e-5, "other": 1e-3}
    groups = rated_groups(model, LearningRates(**rates), weight_decay=0.01)
    settings = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(settings) == len(list(model.parameters()))
    seen = 0
    matrices = (torch.nn.Linear, torch.nn.Embedding, torch.nn.Conv2d)
    for name, module in model.named_modules():
        rate = rates[{"text_encoder": "text", "image_encoder": "image"}.get(name.split(".")[0], "other")]
        for kind, parameter in module.named_parameters(recurse=False):
            decays = (isinstance(module, matrices) and kind == "weight") or kind == "transitions"
            assert settings[id(parameter)] == (rate, 0.01 if decays else 0.0), f"{name}.{kind}"
            seen += 1
    assert seen == len(settings)


def test_layer_decay_falls_from_the_top_layer_to_the_embeddings():
    """Two layers of BERT, three of CLIP, then the embeddings; nothing outside the encoders is slowed."""
    model = build("model.built_text.layers=2", "model.built_image.layers=3").model
    groups = rated_groups(model, LearningRates(text=1.0, image=2.0, other=3.0), 0.0, layer_decay=0.5)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    expected = {
        "text_encoder.encoder.layer.1": 1.0,
        "text_encoder.encoder.layer.0": 0.5,
        "text_encoder.embeddings": 0.25,
        "image_encoder.encoder.layers.2": 2.0,
        "image_encoder.encoder.layers.1": 1.0,
        "image_encoder.encoder.layers.0": 0.5,
        "image_encoder.embeddings": 0.25,
        "image_encoder.pre_layrnorm": 0.25,
    }
    for name, parameter in model.named_parameters():
        found = [value for prefix, value in expected.items() if name.startswith(prefix + ".")]
        assert rate[id(parameter)] == (found[0] if found else 3.0), name


def test_a_frozen_parameter_is_in_no_group():
    """What needs no gradient is not given to the optimizer; the rest still is, each once."""
    model = build("multitask.tasks=[vc]").model
    for parameter in model.image_encoder.parameters():
        parameter.requires_grad_(False)
    groups = parameter_groups(model)
    assert set(groups) == {Group("other", 0, True), Group("other", 0, False)}
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert sorted(map(id, trainable)) == sorted(id(p) for some in groups.values() for p in some)
    assert count_parameters(model) == sum(p.numel() for p in trainable) + count_parameters(model.image_encoder)


def test_a_record_of_inputs_moves_as_one():
    """Inputs, targets and what lies in them go to a device together; numbers and None stay."""
    moved = batch(build(), TASKS).to(torch.device("meta"))
    assert moved.inputs.text.sentences == 3 and moved.inputs.images == 2
    tensors = [moved.td, moved.ae, moved.vc, moved.rc, moved.inputs.pixels, moved.inputs.text.ids]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert Batch(Inputs(None, None)).to(torch.device("meta")) == Batch(Inputs(None, None))
