"""Every textual and visual prompt goes from an example through the collate function and a small model to scores."""

import numpy as np
import pytest
import torch

from xmtl_ray.data import m2e2
from xmtl_ray.data.images import Canvases
from xmtl_ray.inference.extract import Extractor
from xmtl_ray.models import weights
from xmtl_ray.models.inputs import CLIP_MEAN, CLIP_STD
from xmtl_ray.multitask import examples as task_examples
from xmtl_ray.multitask.batch import Collate


def loaded_with(config):
    """A small model with random weights, the examples, and the collate function for both."""
    torch.set_num_threads(1)
    examples = task_examples.read(config)
    loaded = weights.create(config, weights.make_tokenizer(config, examples.sentences))
    loaded.model.eval()
    prompt = config.data.visual_prompt
    collate = Collate(loaded.codec, Canvases(prompt.canvas_px, 64), 96, config.data.text_prompt, prompt)
    return loaded, examples, collate


@torch.no_grad()
def test_textual_prompts(tiny):
    """``prompt`` marks the entity and pools all; ``span`` marks and pools it alone; ``concat`` puts it behind [SEP]."""
    found = {}
    for argument in ("prompt", "span", "concat"):
        loaded, examples, collate = loaded_with(tiny("multitask.tasks=[td,ae]", f"model.argument={argument}"))
        example = examples.train["ae"][0]
        batch = collate({"ae": [example]})
        text, tokenizer = batch.inputs.text, loaded.codec.tokenizer
        found[argument] = tokenizer.decode(text.ids[0]).replace("[SEP]", "").split("[CLS]")[1].split()
        first = tokenizer.decode(text.ids[0][text.types[0] == 0])
        entity = " ".join(example.words[example.entity.start : example.entity.end]).lower()
        pooled = tokenizer.decode(text.ids[0][text.pooled[0]])
        if argument == "concat":
            assert "$" not in first and first.replace("[CLS]", "").replace("[SEP]", "").split()[0]
            assert tokenizer.decode(text.ids[0][text.types[0] == 1]).startswith(f"{entity} $ ")
        else:
            assert f"$ {entity} $" in first
        assert (pooled.strip() == entity) is (argument == "span")
        assert bool((text.pooled == text.mask).all()) is (argument != "span")
        scores = loaded.model(batch.inputs)["ae"]
        assert scores.shape == (1, len(task_examples.ontology.m2e2().roles)) and scores.isfinite().all()
    assert found["prompt"] == found["span"] != found["concat"]


@torch.no_grad()
def test_visual_prompts(tiny):
    """``box`` and ``circle`` draw red on the canvas, a circle less of it; ``crop`` shows no line, and other pixels."""
    shown = {}
    for kind in ("box", "circle", "crop"):
        loaded, examples, collate = loaded_with(tiny("multitask.tasks=[vc,rc]", f"data.visual_prompt.kind={kind}"))
        largest = max(examples.train["rc"], key=lambda e: (e.box.x1 - e.box.x0) * (e.box.y1 - e.box.y0))
        batch = collate({"vc": examples.train["vc"][:1], "rc": [largest]})
        mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
        pixels = ((batch.inputs.pixels[-1] * std + mean) * 255).round().permute(1, 2, 0).numpy()
        shown[kind] = np.abs(pixels - (255, 0, 0)).max(-1) < 2
        scores = loaded.model(batch.inputs)["rc"]
        assert scores.shape[0] == 1 and scores.isfinite().all()
    assert shown["box"].sum() > shown["circle"].sum() > shown["crop"].sum()


@pytest.mark.parametrize("setting", ["model.argument=concat", "data.visual_prompt.kind=crop"])
def test_extraction_asks_as_training_did(tiny, world, setting):
    """Extraction makes the prompts of the kind that the model was trained with."""
    config = tiny(setting, "inference.trigger_bias=9", "inference.verb_threshold=0.1", "inference.schema_filter=false")
    loaded, _, _ = loaded_with(config)
    documents = m2e2.read(world / "m2e2", objects=world / "m2e2/image_entity.json")[:2]
    predictions = Extractor([loaded], config.inference)(documents)
    assert predictions.text or predictions.image
