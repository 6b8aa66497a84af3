"""VideoLLaMA2 and 2.1 against the original: every stored quantity of a folder of conformance vectors, with tolerance.

``python tests/conformance_videollama2.py FOLDER`` takes any folder that is laid out like the public set (its README.md
describes each file); models, cases, tokenizers and media are found by listing. It prints a table, and ends with 0 where
every quantity is within its tolerance and with 1 where one is not; a part that the folder lacks is told, and a folder
without models or cases is an error (2).

Ours differs on purpose: an image is given once, and a row of text consumes no medium, so media that stand for such rows
in the vectors are left out here; a loss is a sum over places, so it is divided here.
"""

from __future__ import annotations

import math
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import conformance_media
import conformance_text
import torch
from conformance_vectors import EXACT, Case, Check, Found, Unchecked, case_of, far, listing, read, relative, unequal
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import logging as transformers_logging

from xmtl_ray.models import qlora
from xmtl_ray.models.connector import Connector
from xmtl_ray.models.parameter_groups import groups
from xmtl_ray.models.splice import IGNORED, Layout
from xmtl_ray.models.token_loss import token_loss
from xmtl_ray.models.videollama2 import VideoLLaMA2, connector_weights, parse_checkpoint, public_name

VISION, CONNECTOR, GEOMETRY, LOGITS, LOSS, GRADIENT, TRAJECTORY, CHANGE = 5e-5, 1e-4, 2e-4, 1e-3, 1e-4, 1e-3, 2e-3, 5e-3


def mean_loss(model: VideoLLaMA2, case: Case) -> Tensor:
    """The mean over supervised places."""
    hidden = model.hidden(case.layout, model.features(case.used) if case.used else [])
    return token_loss(hidden, model.head, case.layout.labels) / (case.layout.labels[:, 1:] != IGNORED).sum()


def check_cases(folder: Path) -> Iterator[Found | Unchecked]:
    """Towers, connectors, merged rows, logits, losses, gradients and greedy decoding of every model's cases."""
    for place in listing(folder / "models", "*/config.json"):
        name = place.parent.name
        files = [file for file in listing(folder / "cases" / name, "*.json")]
        if not files:
            yield Unchecked(f"cases/{name}", "no case")
        model = VideoLLaMA2.from_pretrained(place.parent)
        for file in files:
            case = case_of(file, model.tokens)
            yield from check_tower_and_connector(model, case)
            yield from check_language(model, case)
            yield from check_generation(model, case)


@torch.no_grad()
def check_tower_and_connector(model: VideoLLaMA2, case: Case) -> Iterator[Found]:
    """README §3: what the case has of it."""
    stored = case.tensors
    features = model.features(case.every) if case.every else []
    if "connector_output" in stored:
        yield Found("connector_output", far(model.visual_tokens(features), stored["connector_output"]), CONNECTOR)
    if "vision_features" in stored:
        yield Found("vision_features", far(torch.cat(features), stored["vision_features"]), VISION)
    if "connector_s1" in stored:
        first = model.connector.first(features, model.frames)
        middle = model.connector.sampler(first)
        second = model.connector.s2(middle.transpose(1, 2).flatten(0, 1))
        yield Found("connector_s1", far(first.transpose(1, 2).flatten(0, 1), stored["connector_s1"]), CONNECTOR)
        yield Found("connector_sampler", far(middle, stored["connector_sampler"]), CONNECTOR)
        yield Found("connector_s2", far(second, stored["connector_s2"]), CONNECTOR)
    chosen = model.tower.select_layer
    for key in stored:
        if key.startswith("vision_hidden_state_"):
            model.tower.select_layer = int(key.rpartition("_")[2])
            theirs = stored[key][:, 1:] if model.tower.family == "clip" else stored[key]
            yield Found("vision_hidden_state_*", far(model.features(case.every)[0], theirs), VISION)
    model.tower.select_layer = chosen


def check_language(model: VideoLLaMA2, case: Case) -> Iterator[Found]:
    """Merged rows, logits, loss and gradients."""
    stored, told = case.tensors, case.told
    mask = torch.zeros(case.layout.mask.shape, dtype=torch.long)
    mask[:, : case.real.mask.shape[1]] = case.real.mask
    yield Found("merged_attention_mask", far(mask, stored["merged_attention_mask"]), EXACT)
    yield Found("merged_labels", far(case.layout.labels, stored["merged_labels"]), EXACT)
    features = model.features(case.used) if case.used else []
    with torch.no_grad():
        embeddings = model.embeddings(case.layout, features)
        logits = model.head(model.hidden(case.layout, features))
    yield Found("merged_inputs_embeds", far(embeddings, stored["merged_inputs_embeds"]), CONNECTOR)
    keep = stored["merged_attention_mask"].bool()
    yield Found("logits", far(logits[keep], stored["logits"][keep]), LOGITS)
    loss = mean_loss(model, case)
    yield Found("loss", abs(loss.item() - told["loss"]), LOSS)
    if told.get("grad_norms"):
        model.zero_grad()
        model.language_model.requires_grad_(True)
        loss.backward()
        yield from check_gradients({public_name(n): p.grad for n, p in model.named_parameters()}, case)
        model.zero_grad()


def check_gradients(gradients: Mapping[str, Tensor | None], case: Case) -> Iterator[Found]:
    """Norms of all, and those tensors that are stored."""
    ours = {name: value.norm().item() for name, value in gradients.items() if value is not None}
    theirs = case.told["grad_norms"]
    yield Found("names that have a gradient", unequal(ours.keys(), theirs.keys()), EXACT)
    for name in theirs:
        yield Found("grad_norms (relative)", relative(ours.get(name, math.nan), theirs[name], 1e-5), GRADIENT)
    for key, value in case.tensors.items():
        if key.startswith("grad:"):
            found = gradients[key.removeprefix("grad:")]
            gap = math.inf if found is None else ((found - value).norm() / value.norm()).item()
            yield Found("grad:* (relative)", gap, GRADIENT)


def greedy(model: VideoLLaMA2, layout: Layout, media: Sequence[Tensor], new: int) -> Any:
    """Tokens and raw logits of greedy decoding."""
    with torch.no_grad():
        return model.generate(
            layout, model.features(media) if media else [], max_new_tokens=new, do_sample=False,
            output_logits=True, return_dict_in_generate=True, pad_token_id=model.language_model.config.eos_token_id,
        )  # fmt: skip


def check_generation(model: VideoLLaMA2, case: Case) -> Iterator[Found]:
    """Ids exactly and the logits that they were chosen by."""
    wanted = case.told.get("generated_ids")
    if not wanted:
        return
    found = greedy(model, case.layout, case.used, max(map(len, wanted)))
    yield Found("generated_ids", unequal(found.sequences.tolist(), wanted), EXACT)
    scores = torch.stack(found.logits, 1)
    yield Found("generation_scores", far(scores, case.tensors["generation_scores"]), LOGITS)


@torch.no_grad()
def check_geometry(folder: Path) -> Iterator[Found | Unchecked]:
    """README §4: the connector alone on full-size grids, with few channels."""
    for file in listing(folder / "connector_geometry", "*.safetensors"):
        stored = load_file(file)
        weights = {name.removeprefix("weights."): v for name, v in stored.items() if name.startswith("weights.")}
        kind = "stc_connector_v35" if file.stem.startswith("v35") else "stc_connector"
        connector = Connector(kind, stored["input"].shape[-1], stored["output"].shape[-1])
        connector.load_state_dict(weights)
        ours = connector.eval()(list(stored["input"]), stored["input"].shape[1])
        yield Found("connector_geometry output", far(ours, stored["output"]), GEOMETRY)


def check_round_trip(folder: Path) -> Iterator[Found | Unchecked]:
    """A checkpoint written by us: the tensors of the original, bit for bit, and its config.json."""
    for place in listing(folder / "models", "*/config.json"):
        with tempfile.TemporaryDirectory() as made:
            VideoLLaMA2.from_pretrained(place.parent).save_pretrained(Path(made))
            ours, theirs = (load_file(where / "model.safetensors") for where in (Path(made), place.parent))
            yield Found("checkpoint: names", unequal(ours.keys(), theirs.keys()), EXACT)
            for name in ours.keys() & theirs.keys():
                yield Found("checkpoint: values", unequal(torch.equal(ours[name], theirs[name]), True), EXACT)
            yield Found("checkpoint: config.json", unequal(read(Path(made) / "config.json"), read(place)), EXACT)


# --- Training ---------------------------------------------------------------------------------------------------------


def adapted_name(name: str) -> str:
    """Our name of a weight → PEFT's in the original."""
    return "base_model.model." + public_name(name)


def check_training(folder: Path) -> Iterator[Found | Unchecked]:
    """README §8: optimizer groups, trajectories, what each weight moved by; with all weights and with adapters."""
    for file in listing(folder / "training", "*.json"):
        told = read(file)
        source, batch = folder / "models" / told["model"], folder / "cases" / told["model"] / f"{told['case']}.json"
        if not source.is_dir() or not batch.is_file():
            yield Unchecked(f"training/{file.name}", f"found no model or case {told['model']}/{told['case']}")
            continue
        case = case_of(batch, VideoLLaMA2.from_pretrained(source).tokens)
        for run in told["runs"].values():
            model = VideoLLaMA2.from_pretrained(source)
            learning = {name for group in run["optimizer_groups"] for name in group["names"]}
            for name, weight in model.named_parameters():
                weight.requires_grad_(public_name(name) in learning)
            yield from check_run(model, case, told["hyperparameters"], run, public_name)
        adapters = folder / "training" / f"{file.stem}_lora"
        if "lora_attached_before_vision_modules" not in told or not adapters.is_dir():
            yield Unchecked(str(adapters.relative_to(folder)), "not there")
        else:
            yield from check_adapters(source, case, told, adapters)


def check_run(
    model: VideoLLaMA2, case: Case, rates: Mapping[str, Any], run: Mapping[str, Any], naming: Callable[[str], str]
) -> Iterator[Found]:
    """Groups as the original's trainer makes them, and its few steps."""
    stored = [group for group in run["optimizer_groups"] if group["names"]]
    separate = len({group["lr"] for group in stored}) > 1
    ours = list(groups(model, separate_connector=separate, norms_decay=True))
    lr = [rates["proj_lr"] if separate and group.connector else rates["lr"] for group in ours]
    decay = [rates["wd"] if group.decays else 0.0 for group in ours]
    made = [(sorted(map(naming, group.names)), *of) for group, *of in zip(ours, lr, decay, strict=True)]
    wanted = [(sorted(group["names"]), group["lr"], group["weight_decay"]) for group in stored]
    yield Found("optimizer groups (names, lr, decay)", unequal(sorted(made), sorted(wanted)), EXACT)
    optimizer = torch.optim.AdamW(
        [{"params": group.parameters, "lr": rate, "weight_decay": of}
         for group, rate, of in zip(ours, lr, decay, strict=True)],
        betas=tuple(rates["betas"]), eps=rates["eps"],
    )  # fmt: skip
    before = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    for number, theirs in enumerate(losses := run["losses_before_each_step_then_final"]):
        loss = mean_loss(model, case)
        yield Found("training losses", abs(loss.item() - theirs), TRAJECTORY)
        if number < len(losses) - 1:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    moved = {naming(name): (model.get_parameter(name) - value).norm().item() for name, value in before.items()}
    norms = run["parameter_change_norms"]
    yield Found("weights that moved", unequal({n for n in moved if moved[n]}, {n for n in norms if norms[n]}), EXACT)
    for name, theirs in norms.items():
        gap = relative(moved.get(name, math.nan), theirs)
        yield Found("parameter_change_norms (relative)", gap, CHANGE)


def adapted(source: Path, adapters: Path) -> VideoLLaMA2:
    """A model with the connector and the adapters of one of the original's folders."""
    model = VideoLLaMA2.from_pretrained(source)
    model.connector.load_state_dict(connector_weights(adapters / "non_lora_trainables.bin"))
    qlora.attach(adapters, model.language_model)
    return model


def check_adapters(source: Path, case: Case, told: Mapping[str, Any], adapters: Path) -> Iterator[Found]:
    """Adapters as the original wrote them: logits with them and merged, gradients, steps."""
    stored = told["lora_attached_before_vision_modules"]
    model, merged = adapted(source, adapters), adapted(source, adapters)
    names = [adapted_name(name) for name in qlora.trainable_names(model)]
    yield Found("LoRA trainable names", unequal(sorted(names), sorted(stored["trainable"])), EXACT)
    written = [name.replace(".default", "") for name in names]
    lora, rest = ([name for name in written if ("lora_" in name) == wanted] for wanted in (True, False))
    yield Found("LoRA names in files", unequal(sorted(lora), sorted(stored["adapter_keys"])), EXACT)
    yield Found("LoRA names in files", unequal(sorted(rest), sorted(stored["non_lora_keys"])), EXACT)
    logits = load_file(adapters / "outputs.safetensors")["logits"]
    keep = case.tensors["merged_attention_mask"].bool()
    qlora.merge(merged.language_model)
    for state, one in (("active", model), ("merged", merged)):
        with torch.no_grad():
            ours = one.head(one.hidden(case.layout, one.features(case.used)))
        yield Found(f"LoRA logits ({state})", far(ours[keep], logits[keep]), LOGITS)
    loss = mean_loss(model, case)
    yield Found("LoRA loss", abs(loss.item() - stored["loss"]), LOSS)
    loss.backward()
    gradients = {adapted_name(name): value.grad for name, value in model.named_parameters()}
    yield from check_gradients(gradients, case._replace(told=stored, tensors={}))
    yield from check_run(model, case, told["hyperparameters"], stored, adapted_name)
    again = told.get("lora_on_checkpoint_that_already_has_vision_modules")
    if again is not None:  # the original makes frozen adapters in the tower as well, ours does not
        yield Found("LoRA trainable count", unequal(len(names), again["n_trainable"]), EXACT)


# --- Full size --------------------------------------------------------------------------------------------------------

MISTRAL = {
    "model_type": "videollama2_mistral", "mm_projector_type": "stc_connector", "vocab_size": 32000,
    "mm_vision_tower": "openai/clip-vit-large-patch14-336", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
}  # fmt: skip
QWEN2 = {
    "model_type": "videollama2_qwen2", "mm_projector_type": "stc_connector_v35", "vocab_size": 152064,
    "mm_vision_tower": "google/siglip-so400m-patch14-384", "hidden_size": 3584, "intermediate_size": 18944,
    "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False,
}  # fmt: skip
"""spec §1: the real dimensions."""


def check_layout(folder: Path) -> Iterator[Found | Unchecked]:
    """README §9: names and shapes of the models of 7 billion weights, none of which is made."""
    for file in listing(folder / "full_size_layout", "*.json"):
        told = read(file)
        raw = QWEN2 if "model.layers.0.self_attn.q_proj.bias" in told["tensors"] else MISTRAL
        with torch.device("meta"):
            model = VideoLLaMA2(parse_checkpoint(raw))
        shapes = {public_name(name): list(value.shape) for name, value in model.state_dict().items()}
        yield Found("full_size_layout names", unequal(shapes.keys(), told["tensors"].keys()), EXACT)
        for name, shape in told["tensors"].items():
            yield Found("full_size_layout shapes", unequal(shapes.get(name), shape), EXACT)
        parts = {"vision_tower": model.tower, "connector": model.connector, "language_model": model.language_model}
        counts = {
            part: sum(value.numel() for value in of.parameters()) for part, of in (parts | {"total": model}).items()
        }
        yield Found("full_size_layout counts", unequal(counts, told["parameters"]), EXACT)


# --- The report -------------------------------------------------------------------------------------------------------

CHECKS: Sequence[tuple[Check, Sequence[str]]] = (
    (check_cases, ("models", "cases")),
    (check_geometry, ("connector_geometry",)),
    (check_round_trip, ("models",)),
    (check_training, ("training", "models", "cases")),
    (conformance_text.check_tokenisation, ("text/multimodal_tokenisation.json", "tokenizers")),
    (conformance_text.check_prompts, ("text/inference_prompts.json", "tokenizers")),
    (conformance_text.check_labels, ("text/training_labels.json", "tokenizers")),
    (conformance_text.check_stopping, ("text/stopping.json", "tokenizers")),
    (conformance_media.check_batches, ("text/batches.json", "text/dataset.json", "tokenizers", "media")),
    (conformance_media.check_frames, ("preprocess/frame_sampling.json",)),
    (conformance_media.check_pixels, ("preprocess/cases.json", "media")),
    (conformance_media.check_end_to_end, ("end_to_end.json", "models", "tokenizers", "media")),
    (check_layout, ("full_size_layout",)),
)
"""Each check with the files and folders that it reads."""


def main(folder: Path) -> int:
    """Compare everything, print the table; see the module for what is returned."""
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    worst: dict[str, tuple[float, float, int]] = {}
    unchecked = list[Unchecked]()
    for check, needs in CHECKS:
        absent = [name for name in needs if not (folder / name).exists()]
        findings = [Unchecked(needs[0], f"found no {', '.join(absent)}")] if absent else list(check(folder))
        unchecked += [found for found in findings if isinstance(found, Unchecked)]
        for found in findings:
            if isinstance(found, Found):
                largest, _, seen = worst.get(found.quantity, (0.0, 0.0, 0))
                difference = math.inf if math.isnan(found.difference) else found.difference
                worst[found.quantity] = (max(largest, difference), found.tolerance, seen + 1)
        if not findings:
            unchecked.append(Unchecked(needs[0], "found nothing in it"))
    width = max(map(len, worst), default=0)
    print(f"{'quantity':{width}}  difference  tolerance  compared")
    for name, (largest, allowed, seen) in worst.items():
        failed = "" if largest <= allowed else "  FAILED"
        print(f"{name:{width}}  {largest:10.2g}  {allowed if allowed else 'exact':>9}  {seen:8}{failed}")
    for part, reason in unchecked:
        print(f"not checked: {part}: {reason}")
    if "logits" not in worst:
        print(f"{folder}: found no models with cases, expected a folder of conformance vectors", file=sys.stderr)
        return 2
    return int(any(largest > allowed for largest, allowed, _ in worst.values()))


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=UserWarning)
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/conformance_videollama2.py FOLDER")
    sys.exit(main(Path(sys.argv[1])))
