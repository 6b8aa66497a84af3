"""Models, templates and records that a model of transformers cannot be given: each is told before training."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_vlm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from xmtl_ray.config.finetune import FinetuneConfig
from xmtl_ray.config.load import build
from xmtl_ray.events.records import DataError, Media, Turn
from xmtl_ray.generative import hf_vlm
from xmtl_ray.generative.hf_template import written
from xmtl_ray.models.chat import ChatError
from xmtl_ray.models.checkpoint_files import WeightsError


def turned(folder: Path, to: Path, **changed: str) -> Path:
    """A copy whose files of these names (dots as underscores) have another content; None: are not there."""
    shutil.copytree(folder, to)
    for file, content in changed.items():
        path = to / {"template": "chat_template.jinja", "config": "config.json"}[file]
        path.unlink() if content is None else path.write_text(content)
    return to


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
        written(one.processor, said, generation=True)


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


def test_signs_in_the_text_are_refused(vlm, mixed, name):
    """They would be taken for media: named with the record."""
    one = vlm(name)
    sign = one.processor.image_token
    said = replace(mixed[0], turns=(Turn(f"what is {sign} here?", "this"),))
    with pytest.raises(DataError, match=rf"record '{mixed[0].id}': conversations: found '.*', expected text without"):
        one.encode(said)


def test_sounds_are_refused(vlm, mixed, name):
    """By every one of them."""
    with pytest.raises(DataError, match=r"media: found 'audio'"):
        vlm(name).encode(replace(mixed[0], media=Media("audio", "a.wav")))


def test_folders_that_are_no_such_model(vlms, tmp_path, vlm):
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


def test_sharded_weights_are_refused(vlms):
    """Under ZeRO-3 a batch of text would wait for towers that others run."""
    model = {"family": "hf_vlm", "path": str(vlms["llava"])}
    tree = {"name": "run", "model": model, "engine": {"name": "deepspeed", "zero_stage": 3}}
    with pytest.raises(ValueError, match=r"zero_stage: found 3, expected .* with model\.family=hf_vlm"):
        build(tree, FinetuneConfig)


def test_the_head_is_a_matrix(vlm, name):
    """What a chunked loss needs."""
    assert type(vlm(name).head) is nn.Linear and vlm(name).head.bias is None
