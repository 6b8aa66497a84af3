"""Video-LLaVA, LLaVA and Qwen2-VL of transformers, tiny and untrained, through the same recipe as VideoLLaMA2."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_vlm
import torch
from bitsandbytes.nn import Linear4bit
from PIL import Image as Picture
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from xmtl_ray.cli.main import app
from xmtl_ray.config.finetune import FinetuneConfig, Generation
from xmtl_ray.config.load import build
from xmtl_ray.data import images, videollama2
from xmtl_ray.data.frames import read_frames
from xmtl_ray.events.records import Conversation, DataError, Media, Turn
from xmtl_ray.generative import folders, hf_vlm
from xmtl_ray.generative.answering import answers
from xmtl_ray.generative.objective import NextToken
from xmtl_ray.models.chat import ChatError
from xmtl_ray.models.checkpoint_files import WeightsError
from xmtl_ray.models.parameter_groups import groups
from xmtl_ray.models.qlora import AdapterError
from xmtl_ray.models.splice import IGNORED

NAMES = ("video_llava", "qwen2_vl", "llava")
CPU = torch.device("cpu")
SCHEMA = {"Life:Die": ("Victim",)}


@pytest.fixture(scope="session")
def vlms(conversations, tmp_path_factory) -> dict[str, Path]:
    """Their folders."""
    texts = [
        text
        for some in conversations.values()
        for one in some
        for turn in one.turns
        for text in (turn.prompt, turn.answer)
    ]
    root = tmp_path_factory.mktemp("vlms")
    return {name: getattr(tiny_vlm, f"write_{name}")(root / name, texts) for name in NAMES}


@pytest.fixture(params=NAMES)
def name(request) -> str:
    """Each of them."""
    return request.param


@pytest.fixture
def chat(vlms, corpus):
    """Makes a chat model of one of them."""

    def make(name: str) -> hf_vlm.HfVlm:
        found = hf_vlm.load(vlms[name], corpus, None, torch.float32, None)
        found.module.eval()
        return found

    return make


def known(name: str, conversations: list[Conversation]) -> list[Conversation]:
    """Those that the model has a sense for, and one of two turns."""
    some = [one for one in conversations if name != "llava" or one.media is None or one.media.kind == "image"]
    first = some[1]
    return [*some, replace(first, id="turns", turns=(*first.turns, Turn("And where?", "Там, 那里.")))]


def turned(folder: Path, to: Path, **changed: str) -> Path:
    """A copy whose files of these names (dots as underscores) have another content; None: are not there."""
    shutil.copytree(folder, to)
    for file, content in changed.items():
        path = to / {"template": "chat_template.jinja", "config": "config.json"}[file]
        path.unlink() if content is None else path.write_text(content)
    return to


# --- Conversations → inputs -------------------------------------------------------------------------------------------


def test_the_loss_is_the_models_own(chat, mixed, name):
    """Of a batch of texts, images and videos: the mean over learnt tokens that ``model(labels=…)`` gives itself."""
    one = chat(name)
    batch = one.collate([one.encode(item) for item in known(name, mixed)])
    with torch.no_grad():
        ours = NextToken(one, "torch")(batch)["lm"] / (batch.labels[:, 1:] != IGNORED).sum()
        own = one.module(**batch.inputs, labels=batch.labels).loss
    torch.testing.assert_close(ours[0], own, rtol=1e-5, atol=0)


def test_a_batch_has_the_loss_of_its_samples(chat, mixed, name):
    """Each alone, in two batches, or in one: sums add up, so nothing sees padding or another's medium."""
    one = chat(name)
    samples = [one.encode(item) for item in known(name, mixed)]

    def total(size: int) -> torch.Tensor:
        parts = [samples[place : place + size] for place in range(0, len(samples), size)]
        with torch.no_grad():
            return torch.stack([NextToken(one, "torch")(one.collate(part))["lm"] for part in parts]).sum()

    whole = total(len(samples))
    for size in (1, 3):
        torch.testing.assert_close(total(size), whole, rtol=1e-5, atol=0)


def test_what_a_medium_shows_counts(chat, mixed):
    """Another video is another loss."""
    one = chat("video_llava")
    video, other = (item for item in mixed if item.media and item.media.kind == "video")
    pair = [one.collate([one.encode(replace(video, media=medium))]) for medium in (video.media, other.media)]
    with torch.no_grad():
        losses = [float(NextToken(one, "torch")(batch)["lm"]) for batch in pair]
    assert abs(losses[0] - losses[1]) > 1e-2


def test_what_is_learnt(chat, mixed, name):
    """Of each row its answers, each with an end token, at their places beside the medium's; nothing of prompts."""
    one = chat(name)
    said = known(name, mixed)
    samples = [one.encode(item) for item in said]
    batch = one.collate(samples)
    end = one.tokenizer.eos_token
    newline = "\n" if name == "qwen2_vl" else ""  # its template's, after each
    before = "" if name == "qwen2_vl" else " "
    for number, (item, sample) in enumerate(zip(said, samples, strict=True)):
        learnt = batch.labels[number] != IGNORED
        assert torch.equal(batch.labels[number][learnt], batch.inputs["input_ids"][number][learnt])
        text = one.tokenizer.decode(batch.labels[number][learnt])
        assert text == "".join(f"{before}{turn.answer}{end}{newline}" for turn in item.turns)
        assert sample.learnt == learnt[1:].sum()


def test_lengths_are_those_of_the_batch(chat, mixed, name, corpus):
    """Also of a model that takes places by a picture's size."""
    one = chat(name)
    Picture.new("RGB", (300, 90)).save(corpus / "wide.png")
    said = [*known(name, mixed), replace(mixed[1], id="wide", media=Media("image", "wide.png"))]
    samples = [one.encode(item) for item in said]
    assert [sample.length for sample in samples] == one.collate(samples).inputs["attention_mask"].sum(1).tolist()
    wide, usual = samples[-1], samples[1]
    assert (wide.length != usual.length) == (name == "qwen2_vl")


def test_prompts_are_the_processors_own(chat, mixed, name, corpus):
    """Ids and pixels that ``apply_chat_template`` makes of the same messages by itself, first token included."""
    one = chat(name)
    for item in known(name, mixed)[:3]:
        content = [{"type": "text", "text": item.turns[0].prompt}]
        if item.media is not None and item.media.kind == "image":
            content.insert(0, {"type": "image", "image": images.read(corpus / item.media.path)})
        elif item.media is not None:
            content.insert(0, {"type": "video", "video": read_frames(corpus / item.media.path, 8)})
        theirs = one.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
            return_tensors="pt", processor_kwargs={"do_sample_frames": False} if item.media else {},
        )  # fmt: skip
        ours = one.collate([one.encode(item)], generation=True).inputs
        assert torch.equal(ours["input_ids"], theirs["input_ids"])
        pixels = [key for key in ours if "pixel" in key]
        assert len(pixels) == (item.media is not None)
        assert all(torch.equal(ours[key], theirs[key]) for key in pixels)
        if name != "qwen2_vl":
            assert ours["input_ids"][0, 0] == one.tokenizer.bos_token_id != ours["input_ids"][0, 1]


def test_video_llava_takes_eight_frames(chat, mixed):
    """Of a video of any length, with five places each: four patches and the class token."""
    one = chat("video_llava")
    batch = one.collate([one.encode(item) for item in mixed])
    assert batch.inputs["pixel_values_videos"].shape == (2, 8, 3, tiny_vlm.SIDE, tiny_vlm.SIDE)
    sign = one.tokenizer.convert_tokens_to_ids("<video>")
    assert (batch.inputs["input_ids"] == sign).sum(1).tolist() == [0, 0, 40, 0, 0, 40, 0]


# --- Answers ----------------------------------------------------------------------------------------------------------


def answered(chat, conversations, batch: int = 4) -> dict[str, str]:
    settings = Generation(greedy=True, max_new_tokens=6, batch=batch)
    return {found.id: found.text for found in answers(chat, [chat.encode(one) for one in conversations], settings, CPU)}


def test_answers_alone_and_together(chat, mixed, name):
    """Greedy answers of a padded batch of all kinds are those of each conversation by itself."""
    one, said = chat(name), known(name, mixed)
    alone = answered(one, said, batch=1)
    assert answered(one, said, batch=len(said)) == alone and answered(one, said, batch=3) == alone
    assert len(set(alone.values())) > 1


def test_the_end_token_ends_an_answer(chat, mixed):
    """A model that has nothing else to say stops at once."""
    one = chat("video_llava")
    with torch.no_grad():
        one.module.model.language_model.embed_tokens.weight.fill_(1)
        for name, weight in one.module.model.language_model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                weight.zero_()
        one.head.weight.zero_()
        one.head.weight[one.tokenizer.eos_token_id] = 1
    settings = Generation(greedy=True, max_new_tokens=6)
    found = list(answers(one, [one.encode(item) for item in mixed], settings, CPU))
    assert {(answer.text, answer.tokens, answer.cut) for answer in found} == {("", 1, False)}


# --- Adapters and folders ---------------------------------------------------------------------------------------------


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
def test_an_adapter_answers_on_its_base(config, chat, mixed, corpus, tmp_path, name, method, bits):
    """Alike before and after; otherwise than the base; and by state as a run resumes it."""
    loaded, said = created(config(name, method, bits)), known(name, mixed)
    learnt = trained(loaded)
    folders.save(tmp_path / "adapter", loaded, learnt)
    again = folders.load(tmp_path / "adapter", media=corpus)
    assert again.base == loaded.base and again.config.adapter.bits == bits
    assert answered(again.chat, said) == answered(loaded.chat, said) != answered(chat(name), said)
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


# --- The command ------------------------------------------------------------------------------------------------------


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


# --- What is not fit --------------------------------------------------------------------------------------------------


def load(folder: Path) -> hf_vlm.HfVlm:
    return hf_vlm.load(folder, folder, None, torch.float32, None)


REFUSES = (
    "{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('only users speak') }}{% endif %}"
    "{{ m.content[0].text }}{% endfor %}"
)
STRINGS = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
SHOWS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
NO_ANSWERS = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content[-1].text }}{% endif %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (REFUSES, "found 'only users speak', expected it to take user, assistant with content as a list"),
        (STRINGS, "expected it to take user, assistant with content as a list"),
        (SHOWS, "expected what was said, given as lists of content"),
        (NO_ANSWERS, "expected what was said, given as lists of content"),
        (None, "its processor has no chat template"),
    ],
)
def test_templates_that_are_not_fit(vlms, tmp_path, template, message):
    """Told with the folder when the model is read: one that raises, one for strings, one that shows lists, none."""
    folder = turned(vlms["llava"], tmp_path / "model", template=template)
    with pytest.raises(ChatError, match=message) as refused:
        load(folder)
    assert str(folder) in str(refused.value)


def test_a_template_without_systems(vlms):
    """Is told by the roles that it was given."""
    one = load(vlms["llava"])
    one.processor.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    said = [{"role": "system", "content": [{"type": "text", "text": "x"}]}]
    with pytest.raises(ChatError, match="chat template: found 'no', expected it to take system with"):
        hf_vlm.written(one.processor, said, generation=True)


def test_a_prompt_that_changes_when_it_is_answered(vlms, tmp_path, conversations):
    """A template that says another thing where an answer follows: labels would be of other places."""
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content[-1].text }}{% if m.role == 'assistant' %}</s>{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}now, assistant: {% endif %}"
    )
    one = load(turned(vlms["llava"], tmp_path / "model", template=template))
    with pytest.raises(ChatError, match="found a prompt that is not the beginning of the conversation"):
        one.encode(conversations["text"][0])


def test_a_template_that_leaves_media_out(vlms, tmp_path, conversations):
    """Is one of a model that does not see them."""
    template = tiny_vlm.LLAVA.replace("<image>\n", "")
    one = load(turned(vlms["video_llava"], tmp_path / "model", template=template))
    with pytest.raises(DataError, match="found 'image', expected a text or video"):
        one.encode(conversations["image"][0])
    assert one.encode(conversations["text"][0])


def test_signs_in_the_text_are_refused(chat, mixed, name):
    """They would be taken for media: named with the record."""
    one = chat(name)
    sign = one.processor.image_token
    said = replace(mixed[0], turns=(Turn(f"what is {sign} here?", "this"),))
    with pytest.raises(DataError, match=rf"record '{mixed[0].id}': conversations: found '.*', expected text without"):
        one.encode(said)


def test_sounds_are_refused(chat, mixed, name):
    """By every one of them."""
    with pytest.raises(DataError, match=r"media: found 'audio'"):
        chat(name).encode(replace(mixed[0], media=Media("audio", "a.wav")))


def test_folders_that_are_no_such_model(vlms, tmp_path, chat):
    """No folder, no weights, a weight too few, a tokenizer alone, another head: each is told."""
    with pytest.raises(ValueError, match=r"model\.path: found .*none, expected a folder"):
        load(tmp_path / "none")
    with pytest.raises(WeightsError, match=r"found no model\.safetensors"):
        load(tmp_path)
    fewer = shutil.copytree(vlms["llava"], tmp_path / "fewer")
    weights = load_file(fewer / "model.safetensors")
    del weights["language_model.model.norm.weight"]
    save_file(weights, fewer / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ValueError, match=r"weights do not fit its config\.json: no model\.language_model\.norm\.weight"
    ):
        load(fewer)
    bare = shutil.copytree(vlms["llava"], tmp_path / "bare")
    (bare / "processor_config.json").unlink()
    with pytest.raises(ValueError, match=str(bare)):
        load(bare)
    for name in ("llava", "qwen2_vl"):
        pieces = shutil.copytree(vlms[name], tmp_path / f"{name} without pieces")
        (pieces / "tokenizer.json").unlink()
        with pytest.raises(ValueError, match=str(pieces)):
            load(pieces)
    raw = json.loads((vlms["llava"] / "config.json").read_text())
    raw["text_config"]["final_logit_softcapping"] = 30.0
    capped = turned(vlms["llava"], tmp_path / "capped", config=json.dumps(raw))
    with pytest.raises(ValueError, match="found final_logit_softcapping, expected logits by one matrix alone"):
        load(capped)
    language = turned(vlms["llava"], tmp_path / "language", config=json.dumps(raw["text_config"]))
    for read in (load, hf_vlm.outside_decoder):
        with pytest.raises(ValueError, match="no image-text-to-text model"):
            read(language)


def test_sharded_weights_are_refused(config):
    """Under ZeRO-3 a batch of text would wait for towers that others run."""
    tree = config("llava").model_dump(mode="json")
    tree["engine"] = {"name": "deepspeed", "zero_stage": 3}
    with pytest.raises(ValueError, match=r"zero_stage: found 3, expected .* with model\.family=hf_vlm"):
        build(tree, FinetuneConfig)


def test_the_head_is_a_matrix(chat, name):
    """What a chunked loss needs."""
    assert type(chat(name).head) is nn.Linear and chat(name).head.bias is None
