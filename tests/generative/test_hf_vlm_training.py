"""Models of transformers with adapters, as folders, and through the same recipe as VideoLLaMA2."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file, save_file
from tiny_vlm import answered, known
from typer.testing import CliRunner

from xmtl_ray.cli.main import app
from xmtl_ray.config.finetune import FinetuneConfig
from xmtl_ray.config.load import build
from xmtl_ray.data import videollama2
from xmtl_ray.generative import folders, hf_vlm
from xmtl_ray.generative.answering import answers
from xmtl_ray.generative.objective import NextToken
from xmtl_ray.models.parameter_groups import groups
from xmtl_ray.models.qlora import AdapterError

CPU = torch.device("cpu")
SCHEMA = {"Life:Die": ("Victim",)}


@pytest.fixture
def config(vlms, corpus):
    """Makes a run's config."""

    def make(name: str, method: str = "lora", bits: int = 16, **model) -> FinetuneConfig:
        model = {"family": "hf_vlm", "path": str(vlms[name]), "gradient_checkpointing": False, **model}
        adapter = {"method": method, "bits": bits, "r": 4, "alpha": 8, "dropout": 0.0}
        tree = {"name": "run", "data": {"media": str(corpus)}, "model": model, "adapter": adapter}
        return build(tree, FinetuneConfig)

    return make


def created(config: FinetuneConfig) -> folders.Loaded:
    """Before the first step."""
    return folders.create(config, (), torch.float32, SCHEMA)


def trained(loaded: folders.Loaded) -> dict[str, torch.Tensor]:
    """What learns of it, after it has learnt something."""
    generator, found = torch.Generator().manual_seed(1), {}
    for name, value in loaded.chat.module.named_parameters():
        if value.requires_grad:
            value.data += 0.05 * torch.randn(value.shape, generator=generator)
            found[name] = value.detach()
    loaded.chat.module.eval()
    return found


def loss(chat, conversations) -> torch.Tensor:
    with torch.no_grad():
        return NextToken(chat, "torch")(chat.collate([chat.encode(one) for one in conversations]))["lm"]


def test_adapters_are_in_the_decoder_alone(config, name):
    """Of seven layers in each of its two blocks; the connector learns beside them, no tower and no head does."""
    loaded = created(config(name))
    learnt = [key for key, value in loaded.chat.module.named_parameters() if value.requires_grad]
    adapters = [key for key in learnt if "lora_" in key]
    assert len(adapters) == 2 * 2 * 7 and all(key.startswith("model.language_model.layers.") for key in adapters)
    connector = "model.visual.merger." if name == "qwen2_vl" else "model.multi_modal_projector."
    assert len(learnt) > len(adapters) and all(key.startswith(connector) for key in learnt if "lora_" not in key)
    without = created(config(name, train_connector=False)).chat.module
    assert [key for key, value in without.named_parameters() if value.requires_grad] == adapters


def test_the_connector_has_a_rate_of_its_own(config, name):
    """Its weights are in groups apart, by whatever name the model has for it."""
    chat = created(config(name)).chat
    prefix = folders.prefix(chat.module, chat.connector)
    found = list(groups(chat.module, separate_connector=True, connector_prefix=prefix))
    apart = {key for group in found if group.connector for key in group.names}
    assert apart == {f"{prefix}{key}" for key, _ in chat.connector.named_parameters()}
    assert all("lora_" in key for group in found if not group.connector for key in group.names)


def test_only_the_decoder_is_packed(config, name):
    """All of its linear layers, and no layer of a tower, of the connector, or the head."""
    loaded = created(config(name, "qlora", 4))
    packed = {key for key, layer in loaded.chat.module.named_modules() if isinstance(layer, Linear4bit)}
    assert len(packed) == 2 * 7 and all(key.startswith("model.language_model.layers.") for key in packed)
    outside = hf_vlm.outside_decoder(Path(loaded.config.model.path))
    towers = {
        "video_llava": {"model.video_tower", "model.image_tower", "model.multi_modal_projector", "lm_head"},
        "llava": {"model.vision_tower", "model.multi_modal_projector", "lm_head"},
        "qwen2_vl": {"model.visual", "lm_head"},
    }
    assert set(outside) == towers[name]


def test_steps_lower_the_loss(config, mixed, name):
    """With 4 bits and recomputed activations; the gradients are those without recomputing."""
    gradients = []
    for recomputed in (False, True):
        chat = created(config(name, "qlora", 4, gradient_checkpointing=recomputed)).chat
        said = known(name, mixed)[:3]
        objective = NextToken(chat, "torch")
        batch = chat.collate([chat.encode(one) for one in said])
        weights = [value for value in chat.module.parameters() if value.requires_grad]
        optimizer, losses = torch.optim.AdamW(weights, lr=3e-3), []
        for step in range(3):
            value = objective(batch)["lm"]
            losses.append(value.item())
            optimizer.zero_grad()
            value.backward()
            if not step:
                gradients.append(
                    {key: v.grad.clone() for key, v in chat.module.named_parameters() if v.grad is not None}
                )
            optimizer.step()
        assert losses[2] < losses[1] < losses[0]
    plain, recomputed = gradients
    assert plain.keys() == recomputed.keys() and any("lora_B" in key for key in plain)
    for key, value in plain.items():
        torch.testing.assert_close(recomputed[key], value, rtol=1e-4, atol=1e-6 * value.abs().max().item() + 1e-8)


@pytest.mark.parametrize(("method", "bits"), [("lora", 16), ("qlora", 4)])
def test_an_adapter_answers_on_its_base(config, vlm, mixed, corpus, tmp_path, name, method, bits):
    """Alike before and after; otherwise than the base; and by state as a run resumes it."""
    loaded, said = created(config(name, method, bits)), known(name, mixed)
    learnt = trained(loaded)
    folders.save(tmp_path / "adapter", loaded, learnt)
    again = folders.load(tmp_path / "adapter", media=corpus)
    assert again.base == loaded.base and again.config.adapter.bits == bits
    assert answered(again.chat, said) == answered(loaded.chat, said) != answered(vlm(name), said)
    assert torch.equal(loss(again.chat, said), loss(loaded.chat, said))
    state = folders.read_state(tmp_path / "adapter", loaded)
    assert state.keys() == learnt.keys() and all(torch.equal(value, learnt[key]) for key, value in state.items())


def test_another_base_is_refused(config, vlms, tmp_path, name):
    """One value of its weights differs."""
    loaded = created(config(name))
    folders.save(tmp_path / "adapter", loaded, trained(loaded))
    other = shutil.copytree(vlms[name], tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    next(value for key, value in weights.items() if key.endswith("norm.weight"))[0] += 1e-3
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(AdapterError, match="was trained on weights"):
        folders.load(tmp_path / "adapter", other)


def test_merging(config, mixed, corpus, tmp_path, name):
    """A checkpoint that transformers reads, with the adapter's loss and answers, and no adapter inside."""
    loaded, said = created(config(name)), known(name, mixed)
    folders.save(tmp_path / "adapter", loaded, trained(loaded))
    folders.merge(tmp_path / "adapter", tmp_path / "merged", dtype=torch.float32)
    merged = folders.load(tmp_path / "merged", media=corpus)
    torch.testing.assert_close(loss(merged.chat, said), loss(loaded.chat, said), rtol=1e-5, atol=0)
    assert answered(merged.chat, said) == answered(loaded.chat, said)
    assert not any("lora_" in key for key in load_file(tmp_path / "merged" / "model.safetensors"))
    folders.merge(tmp_path / "adapter", tmp_path / "half")
    written = load_file(tmp_path / "half" / "model.safetensors")
    assert {value.dtype for value in written.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_whole_checkpoint_comes_back(config, mixed, corpus, tmp_path, name):
    """All weights by the module's names, tied ones too; the head learns with the others."""
    loaded, said = created(config(name, "full")), known(name, mixed)
    learnt = trained(loaded)
    assert any(loaded.chat.head.weight is value for value in loaded.chat.module.parameters() if value.requires_grad)
    assert not any("tower" in key or "visual.blocks" in key for key in learnt)
    state = loaded.chat.module.state_dict()
    folders.save(tmp_path / "whole", loaded, state)
    read = folders.read_state(tmp_path / "whole", loaded)
    assert read.keys() == state.keys() and all(torch.equal(value, read[key]) for key, value in state.items())
    again = folders.load(tmp_path / "whole", media=corpus)
    assert torch.equal(loss(again.chat, said), loss(loaded.chat, said))
    assert answered(again.chat, said) == answered(loaded.chat, said)


@pytest.fixture
def finetune():
    """The command, in this process; its worker's log goes where the command's output does, and no further."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield lambda *settings: CliRunner().invoke(app, ["finetune", "videollama2_smoke", *map(str, settings)])
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def data(corpus, conversations, tmp_path):
    """Settings of a run on some conversations of each kind."""

    def make(*kinds: str) -> list[str]:
        test = [
            one for one in videollama2.read(corpus / "test.json") if (one.media.kind if one.media else "text") in kinds
        ]
        videollama2.write(tmp_path / "train.json", [one for kind in kinds for one in conversations[kind][:6]])
        videollama2.write(tmp_path / "dev.json", [one for kind in kinds for one in conversations[kind][6:8]])
        videollama2.write(tmp_path / "test.json", test[:6])
        files = [f"data.{part}={tmp_path / f'{part}.json'}" for part in ("train", "dev", "test")]
        common = ["model.family=hf_vlm", "model.train_tower=false", "cluster.workers=0", "tracking.enabled=false"]
        short = ["train.global_batch=4", "train.dev_samples=3", "generation.max_new_tokens=24"]
        return [*files, f"data.media={corpus}", f"storage_path={tmp_path}", "name=run", *common, *short]

    return make


def test_video_llava_by_the_recipe(data, vlms, tmp_path, corpus, finetune):
    """QLoRA on 4 bits, answers held to the schema: scores, an adapter that answers the same, and a run that is over."""
    settings = [*data("text", "image", "video"), f"model.path={vlms['video_llava']}", "adapter.method=qlora"]
    settings += ["adapter.bits=4", "generation.constrained=schema"]
    done = finetune(*settings)
    assert done.exit_code == 0, done.output
    run = tmp_path / "run"
    found = {row["id"]: row["output"] for row in map(json.loads, (run / "answers.jsonl").read_text().splitlines())}
    test = videollama2.read(tmp_path / "test.json")
    assert list(found) == [one.id for one in test]
    scores = json.loads((run / "scores.json").read_text())
    assert scores["samples"] == 6 and scores["states"]["ok"] == 6
    assert scores["pooled"]["trigger"]["all"]["gold"] > 0
    again = folders.load(run / "model", media=corpus)
    assert again.base.bits == 4 and again.base.path == str(vlms["video_llava"])
    constraint = folders.constraint(again.config.generation, again)
    samples = [again.chat.encode(one) for one in test]
    texts = {one.id: one.text for one in answers(again.chat, samples, again.config.generation, CPU, constraint)}
    assert texts == found
    summary = (run / "summary.json").read_text()
    assert finetune(*settings).exit_code == 0 and (run / "summary.json").read_text() == summary


def test_qwen2_vl_is_resumed(data, vlms, tmp_path, finetune):
    """All weights, of which head and embeddings are one: from its first checkpoint on it ends as it did unbroken."""
    settings = [*data("text", "image"), f"model.path={vlms['qwen2_vl']}", "adapter.method=full", "adapter.bits=16"]
    settings += ["train.epochs=2", "generation.max_new_tokens=4", "train.learning_rate=1e-2"]
    done = finetune(*settings)
    assert done.exit_code == 0, done.output
    run = tmp_path / "run"
    unbroken, answered = load_file(run / "model" / "model.safetensors"), (run / "answers.jsonl").read_text()
    assert "model.language_model.embed_tokens.weight" in unbroken and "lm_head.weight" not in unbroken
    first, last = sorted((run / "checkpoints").glob("checkpoint_*"))
    earlier = load_file(first / "model" / "model.safetensors")
    assert any(not torch.equal(value, unbroken[key]) for key, value in earlier.items())
    for path in (last, run / "model"):
        shutil.rmtree(path)
    for name in ("answers.jsonl", "summary.json"):
        (run / name).unlink()
    done = finetune(*settings)
    assert "resumed after epoch 1, step 3" in done.output
    assert done.exit_code == 0, done.output
    resumed = load_file(run / "model" / "model.safetensors")
    assert resumed.keys() == unbroken.keys() and all(
        torch.equal(value, unbroken[key]) for key, value in resumed.items()
    )
    assert (run / "answers.jsonl").read_text() == answered


def test_llava_sees_no_videos(data, vlms, tmp_path, finetune):
    """A video in the data is an error before anything is learnt, with the record's name; images and texts are not."""
    done = finetune(*data("text", "image", "video"), f"model.path={vlms['llava']}", "adapter.method=lora")
    assert done.exit_code == 2
    first = next(one for one in videollama2.read(tmp_path / "train.json") if one.media and one.media.kind == "video")
    assert f"record '{first.id}': media: found 'video', expected a text or image" in " ".join(done.output.split())
    assert "LlavaForConditionalGeneration takes nothing else" in " ".join(done.output.split())
    assert not list(tmp_path.rglob("checkpoint_*"))
    done = finetune(*data("text", "image"), f"model.path={vlms['llava']}", "adapter.method=lora", "name=images")
    assert done.exit_code == 0, done.output
