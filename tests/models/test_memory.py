"""Planned memory against what an allocator gave out; counts against the public layout; what moves which part."""

import dataclasses
import json
import logging
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForImageTextToText, CLIPVisionConfig, LlamaConfig, LlavaConfig
from typer.testing import CliRunner

from xmtl_ray.config.finetune import BuiltLanguage, FinetuneConfig
from xmtl_ray.config.load import ConfigError, changed, load_as
from xmtl_ray.config.load import build as build_config
from xmtl_ray.generative import built, memory_plan
from xmtl_ray.generative.memory_plan import Cost, Plan, fits, moments_of
from xmtl_ray.generative.model_sizes import RELEASED, SizesError, sizes_of
from xmtl_ray.models import memory, qlora
from xmtl_ray.models.activations import Step
from xmtl_ray.models.memory import (
    BUCKET,
    GIB,
    JOINED,
    OVERHEAD,
    Engine,
    Evaluation,
    SizeError,
    learnt,
    moments,
    peak,
    resident,
)
from xmtl_ray.models.parameter_groups import groups
from xmtl_ray.models.splice import Row, lay_out, pack
from xmtl_ray.models.token_loss import token_loss
from xmtl_ray.models.videollama2 import VideoLLaMA2, parse_checkpoint
from xmtl_ray.training import engine as engines
from xmtl_ray.training.launch import LaunchError, check

TAG, FAMILIES = -201, ("videollama2", "videollama21")
BIG = {"videollama2": "DAMO-NLP-SG/VideoLLaMA2-7B-16F", "videollama21": "DAMO-NLP-SG/VideoLLaMA2.1-7B-16F"}
SMALL = BuiltLanguage(
    vocabulary=500, width=128, layers=3, heads=4, key_value_heads=2, hidden=344, vision_width=64, vision_layers=3,
    vision_heads=4, image_px=64, patch_px=8, frames=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A small model of each family as a folder."""
    root = tmp_path_factory.mktemp("models")
    for family in FAMILIES:
        small = built.checkpoint(SMALL, family, built.learn_tokenizer((), 300, family))
        checkpoint = parse_checkpoint(dict(small.raw) | {"vocab_size": SMALL.vocabulary}, tower=small.tower)
        VideoLLaMA2(checkpoint).save_pretrained(root / family)
    return root


def made(folder, family="videollama2", *overrides):
    """Settings of a run in 32 bits without dropout, so that a CPU keeps what a GPU does."""
    tree = {
        "name": "run", "tracking": {"enabled": False}, "cluster": {"workers": 0},
        "model": {"family": family, "path": str(folder), "gradient_checkpointing": False, "max_tokens": 300},
        "adapter": {"method": "lora", "bits": 16, "r": 8, "alpha": 16, "dropout": 0.0},
        "train": {"precision": "fp32", "global_batch": 1},
    }  # fmt: skip
    return changed(build_config(tree, FinetuneConfig), overrides)


class Objective(nn.Module):
    """The loss of a batch of rows and videos."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        layout, media = batch
        hidden = self.model.hidden(layout, self.model.features(media))
        return {"lm": token_loss(hidden, self.model.head, layout.labels, "torch").reshape(1)}


def trained(config):
    """The model of ``config``, as a run makes it."""
    dtype = torch.bfloat16 if config.train.precision == "bf16" else torch.float32
    spec, adapter = config.model, config.adapter
    packed = qlora.quantization(adapter.bits, dtype, adapter.double_quantization)
    model = VideoLLaMA2.from_pretrained(Path(spec.path), dtype, packed)
    model.language_model.set_attn_implementation(spec.attention)
    model.requires_grad_(False)
    if adapter.method == "full":
        model.language_model.requires_grad_(True)
    else:
        qlora.add_adapters(model.language_model, adapter.r, adapter.alpha, adapter.dropout, adapter.targets)
        model.language_model.get_input_embeddings().requires_grad_(adapter.train_embeddings)
        model.head.requires_grad_(adapter.train_embeddings)
    model.connector.requires_grad_(spec.train_connector)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if spec.gradient_checkpointing:
        model.language_model.activation_checkpointing_enable()
        model.connector.checkpoint_activations()
    return model


def batch(model, rows, tokens, packed=None):
    """Sequences of ``tokens`` places, each with a video, a row for each or in rows of ``packed`` places."""
    torch.manual_seed(0)
    media = [torch.randn(SMALL.frames, 3, SMALL.image_px, SMALL.image_px) for _ in range(rows)]
    ids = [[5, TAG, *torch.randint(5, 500, (tokens - model.tokens - 1,)).tolist()] for _ in range(rows)]
    sequences = [Row(one, [-100, -100, *one[2:]]) for one in ids]
    layout = lay_out(sequences, model.tokens) if packed is None else pack(sequences, model.tokens, packed)[0]
    return layout, media


def allocated(work):
    """Bytes that torch's allocator had given out at most during ``work``, over what there was before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most


def stored(model, optimizer):
    """Bytes of weights, with what packed ones need to be unpacked, and of the optimizer's state."""
    tensors = [*model.parameters(), *model.buffers()]
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            tensors += [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    tensors += [value for state in optimizer.state.values() for value in state.values()]
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def measured(config, rows, packed=None):
    """Bytes that stay, and that the second optimizer step has at most besides."""
    model = trained(config)
    objective = Objective(model).train()
    parameters = [
        {"params": group.parameters, "lr": 1e-4, "peak": 1e-4, "weight_decay": 0.0}
        for group in groups(model, separate_connector=True)
    ]
    engine = engines.create(config.engine, config.train, objective, parameters, torch.device("cpu"))
    given = batch(model, rows, config.model.max_tokens, packed)

    def step():
        engine.step([given], lambda losses: losses["lm"].sum() / 100, 1.0)

    step()
    return stored(model, engine.optimizer), allocated(step)


def planned(found):
    """Bytes that stay and those of the widest training moment besides."""
    held = sum(found[0].parts[name] for name in (*memory.WEIGHTS, "optimizer", "engine"))
    return held, peak(found[:-1]).total - held


# --- Against the allocator --------------------------------------------------------------------------------------------

FULL = ("adapter.method=full",)
NF4 = ("adapter.method=qlora", "adapter.bits=4")
INT8 = ("adapter.method=qlora", "adapter.bits=8")
RECOMPUTED = ("model.gradient_checkpointing=true",)
SETTINGS = [
    ("videollama2", 1, ()),
    ("videollama21", 2, ("train.global_batch=2", "train.pack=false")),
    ("videollama21", 1, (*FULL, *RECOMPUTED)),
    ("videollama2", 1, (*NF4, *RECOMPUTED)),
    ("videollama21", 1, (*NF4, *RECOMPUTED, "adapter.train_embeddings=true")),
    ("videollama21", 2, (*NF4, *RECOMPUTED, "train.global_batch=2", "train.pack=false", "model.max_tokens=160")),
    ("videollama2", 1, (*INT8, *RECOMPUTED)),
    ("videollama2", 1, (*RECOMPUTED, "model.train_connector=false", "adapter.r=32", "model.max_tokens=500")),
    ("videollama2", 1, (*RECOMPUTED, "model.attention=eager")),
]


@pytest.mark.parametrize(("family", "rows", "overrides"), SETTINGS)
def test_plan_is_what_a_step_takes(checkpoints, family, rows, overrides):
    """A plan from config.json alone tells the bytes of the real model's step: weights, and all else, within 10 %."""
    config = made(checkpoints / family, family, *overrides)
    held, moving = measured(config, rows)
    planned_held, planned_moving = planned(moments_of(config, *sizes_of(config)))
    assert planned_held == pytest.approx(held, rel=0.01)
    assert planned_moving == pytest.approx(moving, rel=0.1)


def test_dropout_and_16_bits_are_planned_as_a_cpu_has_them(checkpoints):
    """Casts to 32 bits, a mask for each adapter, copies by autocast: what 16 bits keep, on the device that is here."""
    config = made(checkpoints / "videollama2", "videollama2", "adapter.dropout=0.1", "train.precision=bf16")
    _, moving = measured(config, 1)
    targets = config.adapter.targets
    step = Step("lora", 2, 1, 300, 1, False, "sdpa", r=8, targets=targets, dropout=True, device="cpu")
    found = moments(*sizes_of(config), step, Engine(), None)
    assert peak(found).total - sum(found[-1].parts.values()) + found[-1].parts["gradients"] == pytest.approx(
        moving, rel=0.1
    )


def test_packed_rows_need_a_mask(checkpoints):
    """Two sequences in one row of 300 places: keys and values for each head, and a mask."""
    config = made(checkpoints / "videollama2", "videollama2", "model.max_tokens=150")
    _, moving = measured(config, 2, packed=300)
    step = Step("lora", 4, 1, 300, 2, False, "sdpa", r=8, targets=config.adapter.targets, masked=True)
    found = moments(*sizes_of(config), step, Engine(), None)
    held = sum(resident(*sizes_of(config), step, Engine()).values())
    assert peak(found).total - held == pytest.approx(moving, rel=0.1)
    unmasked = moments(*sizes_of(config), dataclasses.replace(step, masked=False), Engine(), None)
    assert peak(unmasked).total - held < 0.95 * moving


@pytest.mark.parametrize("method", ["lora", "full"])
def test_evaluation_is_what_answering_takes(checkpoints, method):
    """Prompts of unlike length at once, their cache, and one layer's forward pass; and the loss alone."""
    config = made(checkpoints / "videollama2", "videollama2", f"adapter.method={method}")
    model = trained(config).eval()
    rows = [Row([5] * length, [-100, *[5] * (length - 1)]) for length in (300, 290, 280)]
    left, right = lay_out(rows, model.tokens, left=True), lay_out(rows, model.tokens)

    def answer():
        asked = {"max_new_tokens": 20, "min_new_tokens": 20, "do_sample": False, "eos_token_id": 2, "pad_token_id": 2}
        model.generate(left, [], **asked)

    def loss():
        token_loss(model.hidden(right, []), model.head, right.labels, "torch")

    with torch.no_grad():
        found = {20: allocated(answer), 0: allocated(loss)}
    decoder, vision = sizes_of(config)
    step = Step(method, 4, 1, 300, 0, False, "sdpa", r=8, targets=config.adapter.targets)
    held = sum(resident(decoder, vision, step, Engine()).values())
    for tokens, bytes_found in found.items():
        moment = moments(decoder, vision, step, Engine(), Evaluation(3, tokens))[-1]
        assert moment.name == ("dev answers" if tokens else "dev loss")
        assert moment.total - held == pytest.approx(bytes_found, rel=0.1)


# --- Counts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "file"),
    [("videollama2", "videollama2_mistral_7b"), ("videollama21", "videollama2_1_qwen2_7b")],
)
def test_released_models_are_counted_as_published(shared, family, file):
    """Weights of every part of the full-size models, which need not be here, as the public layout has them."""
    layout = json.loads((shared / "vectors/videollama2/full_size_layout" / f"{file}.json").read_text())["parameters"]
    decoder, vision = sizes_of(load_as(FinetuneConfig, family, [f"model.path={BIG[family]}"]))
    assert vision.tower == layout["vision_tower"] and vision.connector == layout["connector"]
    assert decoder.projected + decoder.other + decoder.embeddings + decoder.head == layout["language_model"]
    assert set(BIG.values()) < set(RELEASED)


def test_sizes_of_a_built_model_and_of_its_folder_agree(checkpoints):
    """Whether sizes are read from the recipe or from config.json."""
    folder = sizes_of(made(checkpoints / "videollama21", "videollama21"))
    small = json.dumps(SMALL.model_dump())
    smoke = load_as(FinetuneConfig, "videollama21_smoke", [f"model.built={small}"])
    assert sizes_of(smoke) == folder


def test_models_of_transformers_are_counted_whole(tmp_path):
    """A LLaVA of a few thousand weights, from config.json: every weight is in one part."""
    text = LlamaConfig(
        vocab_size=60, hidden_size=16, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    tower = CLIPVisionConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=12, patch_size=4
    )
    config = LlavaConfig(text_config=text, vision_config=tower, image_token_index=59)
    config.save_pretrained(tmp_path)
    decoder, vision = sizes_of(made(tmp_path, "hf_vlm"))
    whole = sum(parameter.numel() for parameter in AutoModelForImageTextToText.from_config(config).parameters())
    parts = decoder.projected + decoder.other + decoder.embeddings + decoder.head + vision.tower + vision.connector
    assert parts == whole
    assert (decoder.layers, decoder.hidden, decoder.head, decoder.other) == (3, 40, 60 * 16, 7 * 16)
    assert vision.connector == 8 * 16 + 16 + 16 * 16 + 16


def test_a_model_of_unknown_sizes_is_refused(tmp_path):
    """Neither a folder nor a name that is known: what was found and what is expected."""
    with pytest.raises(SizesError, match=r"model\.path: found '.*nowhere'.*VideoLLaMA2\.1-7B-16F"):
        sizes_of(made(tmp_path / "nowhere"))


# --- What moves which part --------------------------------------------------------------------------------------------


def big(*overrides, family="videollama2"):
    """Paper B's recipe on one GPU, without an engine's buffers."""
    alone = ("cluster.workers=1", "engine.name=ddp", "engine.zero_stage=0", "train.global_batch=1")
    return load_as(FinetuneConfig, family, [f"model.path={BIG[family]}", *alone, *overrides])


@cache
def sizes():
    """Of VideoLLaMA2."""
    return sizes_of(big())


def parts(config, name):
    """Parts of the moment of ``name``."""
    (found,) = [moment for moment in moments_of(config, *sizes()) if moment.name == name]
    return found.parts


def test_parts_are_the_arithmetic_that_a_person_can_do():
    """VideoLLaMA2, r 128: adapters of 335,544,320 weights, their gradients and moments; 4.127 bits; a cache."""
    found = parts(big(), "optimizer")
    learns = 335_544_320 + 489_188_608
    assert found["adapters"] == 4 * 335_544_320 and found["connector"] == 4 * 489_188_608
    assert found["gradients"] == 4 * learns and found["optimizer"] == 8 * learns
    assert found["embeddings"] == found["output head"] == 2 * 32_000 * 4096
    assert found["language model"] == pytest.approx(4.127 / 8 * 6_979_321_856 + 2 * 65 * 4096, rel=1e-4)
    assert parts(big(), "dev answers")["KV cache"] == 8 * (9300 + 512) * 32 * 2 * 8 * 128 * 2
    assert parts(big(), "loss")["activations"] == 9300 * 2 * (32 * 4096 + 4096 + 2 * 128)


@pytest.mark.parametrize(
    ("moment", "part", "less", "more"),
    [
        ("optimizer", "optimizer", "adapter.r=64", "adapter.r=128"),
        ("optimizer", "gradients", "model.train_connector=false", "model.train_connector=true"),
        ("optimizer", "connector", "model.train_connector=false", "model.train_connector=true"),
        ("loss", "activations", "model.gradient_checkpointing=true", "model.gradient_checkpointing=false"),
        ("loss", "activations", "model.max_tokens=2048", "model.max_tokens=4096"),
        ("loss", "loss", "model.max_tokens=2048", "model.max_tokens=4096"),
        ("loss", "activations", "train.global_batch=1", "train.global_batch=2"),
        ("loss", "vision", "model.gradient_checkpointing=true", "model.gradient_checkpointing=false"),
        ("last layer's backward", "layer", "model.attention=sdpa", "model.attention=eager"),
        ("last layer's backward", "layer", "adapter.dropout=0", "adapter.dropout=0.05"),
        ("optimizer", "language model", "adapter.double_quantization=true", "adapter.double_quantization=false"),
        ("optimizer", "language model", "adapter.bits=4", "adapter.bits=8"),
        ("dev answers", "KV cache", "generation.batch=1", "generation.batch=8"),
        ("dev answers", "KV cache", "generation.max_new_tokens=64", "generation.max_new_tokens=512"),
    ],
)
def test_each_part_moves_the_right_way(moment, part, less, more):
    """One setting, one part of one moment."""
    assert parts(big(less), moment)[part] < parts(big(more), moment)[part]


def test_8_bits_undo_much_of_checkpointing():
    """bitsandbytes' 8-bit layers hold on to their inputs, so a step of long sequences needs more than with 4 or 16."""
    bits = {4: big("adapter.bits=4"), 8: big("adapter.bits=8"), 16: big("adapter.method=lora", "adapter.bits=16")}
    rows = {number: parts(config, "loss")["activations"] for number, config in bits.items()}
    assert rows[4] == rows[16] < rows[8] / 5


def test_zero_shards_what_its_stage_says():
    """Over 4 workers: moments and copies from stage 1, gradients from 2, weights from 3; buffers do not shrink."""
    decoder, vision = sizes()
    step = Step("qlora", 2, 1, 512, 1, True, "sdpa", bits=4, r=128, targets=big().adapter.targets)
    learns = learnt(decoder, vision, step).total
    found = {stage: moments(decoder, vision, step, Engine("deepspeed", stage, 4), None) for stage in range(4)}
    last = {stage: {moment.name: moment.parts for moment in found[stage]} for stage in found}
    optimizer = {stage: named["optimizer"] for stage, named in last.items()}
    assert [optimizer[stage]["optimizer"] * 4 // (8 * learns) for stage in range(4)] == [4, 1, 1, 1]
    assert [optimizer[stage]["gradients"] * 4 // (4 * learns) for stage in range(4)] == [4, 4, 1, 1]
    assert [optimizer[stage]["language model"] * 4 > optimizer[0]["language model"] for stage in range(4)] == [
        1,
        1,
        1,
        0,
    ]
    assert optimizer[0]["engine"] == 4 * JOINED  # gradients of more weights than a bucket holds
    assert last[2]["last layer's backward"]["engine"] == learns + 2 * 4 * BUCKET + 2 * BUCKET
    assert last[3]["start"]["language model"] == optimizer[0]["language model"]
    joined = moments(decoder, vision, step, Engine("ddp", 0, 4), None)
    assert {moment.parts["gradients"] for moment in joined} == {4 * learns}


# --- Fitting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "gib"), [("40GiB", 40), ("80GB", 80), ("24g", 24), ("24", 24), ("0.5 G", 0.5), ("2048MiB", 2)]
)
def test_sizes_of_gpus(text, gib):
    """As they are written on boxes."""
    assert memory.size(text) == gib * GIB


@pytest.mark.parametrize("text", ["", "lots", "-4g", "0", "40TiB"])
def test_other_sizes_are_refused(text):
    """Also by the setting, unless nothing is written there."""
    with pytest.raises(SizeError, match="expected a size like 40GiB"):
        memory.size(text)


def test_what_is_advised_makes_it_fit():
    """The settings named fit when they are set, each change saves what it says, and time is spent before weights."""
    plan = fits(big(), 20 * GIB)
    assert not plan.fits and plan.margin == 20 * GIB - plan.peak.total - OVERHEAD
    assert plan.enough and fits(big(*plan.enough), 20 * GIB).fits
    for change in plan.changes:
        then = Plan(20 * GIB, moments_of(big(*change.settings), *sizes()))
        assert (then.total, plan.total - then.total) == (change.total, change.saves)
        assert plan.training.total - then.training.total == change.saves_training
    assert [change.saves for change in plan.changes] == sorted((c.saves for c in plan.changes), reverse=True)
    assert plan.enough[:2] == ("generation.batch=1", "model.train_connector=false")
    assert {change.cost for change in plan.changes} == set(Cost)
    assert fits(big(), 80 * GIB).enough == ()


def test_nothing_fits_a_gigabyte():
    """No advice where none helps."""
    plan = fits(big(), GIB)
    assert plan.enough is None and not plan.possible


def test_paper_b_runs_on_two_gpus_of_40_gib_but_not_on_10():
    """Both families, as their recipes are; 10 GiB hold neither, whatever the length."""
    for family, name in BIG.items():
        recipe = load_as(FinetuneConfig, family, [f"model.path={name}"])
        assert fits(recipe, 40 * GIB).fits
        assert not fits(recipe, 10 * GIB).possible


@pytest.mark.parametrize("gpu", ["10GiB", "24GiB"])
def test_a_run_that_cannot_fit_is_refused_before_it_starts(tmp_path, caplog, gpu):
    """No, where weights and the optimizer's state alone are too much; a word, where long sequences would be."""
    (tmp_path / "train.json").write_text("[]")
    data = [f"data.root={tmp_path}", "data.dev=null", "data.test=null", "data.media=.", f"storage_path={tmp_path}"]
    config = big(f"cluster.gpu_memory={gpu}", *data)
    assert config.cluster.gpu
    if gpu == "10GiB":
        with pytest.raises(LaunchError, match=r"layer \(\d+\.\d GiB\).*to make it fit.*generation\.batch=1"):
            check(config)
    else:
        with caplog.at_level(logging.WARNING, logger="xmtl_ray"):
            check(config)
        assert "sequences of 9300 places do not fit" in caplog.text
    check(changed(config, ["cluster.gpu=false"]))


def test_gpu_memory_is_a_size():
    """A setting that is none is refused where settings are read."""
    with pytest.raises(ConfigError, match="gpu_memory"):
        big("cluster.gpu_memory=plenty")


def test_a_run_notes_how_far_its_plan_was_off():
    """In percent of what it took; planned for its longest conversation, not for what the settings allow."""
    assert memory.compared(6 * GIB, 5 * GIB) == {
        "memory/planned_gib": 6.0, "memory/peak_gib": 5.0, "memory/error_percent": pytest.approx(20),
    }  # fmt: skip
    assert memory_plan.planned(big(), 2048) == fits(big("model.max_tokens=2048"), GIB).peak.total
    assert memory_plan.planned(big(), 99_999) == fits(big(), GIB).peak.total


def test_the_verb_prints_and_ends_with_1_where_it_does_not_fit():
    """A table, or JSON with the same numbers; no weights are read."""
    from xmtl_ray.cli.plan import app

    given = ["videollama21", f"model.path={BIG['videollama21']}"]
    shown = CliRunner().invoke(app, [*given, "--gpu", "24GB"])
    assert shown.exit_code == 1 and "does not fit 24.00 GiB" in shown.output and "KV cache" in shown.output
    told = CliRunner().invoke(app, [*given, "--gpu", "40GiB", "--json"])
    found = json.loads(told.output)
    assert told.exit_code == 0 and found["fits"] and found["peak"] == "dev answers"
    assert f"{found['needed_gib'] - 24:.2f} too much" in shown.output
    wrong = CliRunner().invoke(app, [*given, "--gpu", "many"])
    assert wrong.exit_code == 2 and "expected a size like 40GiB" in wrong.output
