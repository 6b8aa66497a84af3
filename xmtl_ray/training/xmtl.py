"""X-MTL's part in a run: its data and model, its dev scores and files, and what is done with the best checkpoint."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from xmtl_ray.config.schema import Config, LearningRates, Term
from xmtl_ray.data import m2e2, pseudo_labels
from xmtl_ray.data.fingerprint import fingerprints
from xmtl_ray.data.images import Canvases
from xmtl_ray.evaluation.m2e2 import tables
from xmtl_ray.events import predictions as prediction_files
from xmtl_ray.events.predictions import Predictions
from xmtl_ray.events.records import DataError, Document
from xmtl_ray.inference.coreference import clip_similarity, how
from xmtl_ray.inference.extract import Extractor
from xmtl_ray.models import encoders, weights
from xmtl_ray.models.xmtl import parameter_groups
from xmtl_ray.multitask import dev
from xmtl_ray.multitask import examples as task_examples
from xmtl_ray.multitask import weighting as weightings
from xmtl_ray.multitask.batch import Collate
from xmtl_ray.multitask.objective import Objective
from xmtl_ray.multitask.pseudo import check_drift, pseudo_examples
from xmtl_ray.training.batches import Batches
from xmtl_ray.training.context import WorkerContext, sum_over_ranks
from xmtl_ray.training.learner import Track
from xmtl_ray.training.loop import Position

log = logging.getLogger(__name__)


class Built(NamedTuple):
    """What a run needs, all of it read or made before the first step."""

    examples: task_examples.Examples
    loaded: weights.LoadedModel
    collate: Collate
    test: tuple[Document, ...]


class XmtlLearner:
    """The four tasks of X-MTL, under any strategy; see ``training.learner.Learner``."""

    def __init__(
        self,
        context: WorkerContext,
        config: Config,
        loaded: weights.LoadedModel,
        collate: Collate,
        examples: task_examples.Examples,
    ) -> None:
        self.config, self.loaded, self.collate, self.examples = config, loaded, collate, examples
        self.steps = Batches(config, examples.train, collate, context.rank, context.world_size, context.device)
        self.average = _average(config, loaded, context)
        teacher = None if self.average is None else self.average.module
        self.objective = Objective(loaded.model, config.train.label_smoothing, teacher)
        self.every_weight = config.multitask.summed
        spec = config.multitask
        terms: list[Term] = list(self.steps.sizes)
        if spec.strategy == "ark":
            terms.append("consistency")
        base = weightings.base_weights(spec.weighting, terms, spec.pseudo.beta, spec.ark.weight)
        self.weighting = weightings.create(spec.weighting, terms, base)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Three learning rates, one below the other from layer to layer."""
        spec = self.config.train
        return rated_groups(self.loaded.model, spec.learning_rate, spec.weight_decay, spec.layer_decay)

    def kept(self, name: str) -> bool:
        """All of it."""
        return True

    def evaluate(self, context: WorkerContext) -> dict[str, float]:
        """F1 of each task on its dev examples."""
        return dev.evaluate(
            self.loaded.model if self.average is None else self.average.module,
            self.collate,
            self.examples.dev,
            self.config.inference.batch,
            context.rank,
            context.world_size,
            lambda counts: sum_over_ranks(counts, context),
            self.config.inference.verb_threshold,
            self.config.inference.trigger_bias,
        )

    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """A model folder."""
        weights.save(folder, self.loaded, state)

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Of a model folder."""
        return load_file(folder / weights.WEIGHTS)


def rated_groups(
    model: nn.Module, rates: LearningRates, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """AdamW's groups with the three learning rates; no decay on biases and norms. ``peak`` keeps each group's rate.

    An encoder's layer with n layers above it learns at its encoder's rate times ``layer_decay ** n``.
    """
    groups = []
    for group, parameters in parameter_groups(model).items():
        rate = getattr(rates, group.part) * layer_decay**group.above
        decay = weight_decay if group.matrix else 0.0
        groups.append({"params": parameters, "lr": rate, "peak": rate, "weight_decay": decay})
    return groups


def build(context: WorkerContext, config: Config) -> Built:
    """Data, model and what makes batches. Raises ValueError for whatever the user gave us wrong."""
    test = () if config.data.test is None else m2e2.read(config.data.test, objects=config.data.test_objects)
    if config.inference.coreference.encoder is not None:
        encoders.configuration(config.inference.coreference.encoder, "inference.coreference.encoder")
    examples = task_examples.read(config)
    if config.multitask.strategy == "xmtl":
        twins = pseudo_examples(config.multitask.pseudo, config.multitask.tasks)
        check_drift(examples.train | twins, config.multitask.pseudo.max_drift)
        examples = replace(examples, train=examples.train | twins)
    loaded = weights.create(config, weights.make_tokenizer(config, examples.sentences))
    spec = config.data
    image_px = loaded.model.image_px if loaded.model.image_encoder is not None else 0
    canvases = Canvases(spec.visual_prompt.canvas_px, spec.image_cache_mib)
    collate = Collate(loaded.codec, canvases, image_px, spec.text_prompt, spec.visual_prompt)
    if loaded.codec is not None and context.rank == 0:
        _tell_cut(loaded.codec, examples.sentences)
    return Built(examples, loaded, collate, test)


def learner(context: WorkerContext, config: Config, built: Built) -> XmtlLearner:
    """What the loop trains."""
    return XmtlLearner(context, config, built.loaded, built.collate, built.examples)


def finish(
    context: WorkerContext, config: Config, built: Built, position: Position, folder: Path, track: Track
) -> dict[str, Any]:
    """Keep the best checkpoint's model, extract from and score the test documents; returns what a summary has of it."""
    scores: dict[str, Any] = {}
    with context.best(config.train.select) as checkpoint:
        best = weights.load(checkpoint / "model")
    best.model.to(context.device)
    if context.rank == 0:
        weights.save(folder / "model", best)
    if config.data.test is not None:
        scores = _score_test(context, config, best, built.test, folder)
        for protocol, metrics in scores.items():
            track(position.step, {f"test/{protocol}/{name}_f1": values["F1"] for name, values in metrics.items()})
    return {"scores": scores}


def write_page(folder: Path, built: Built) -> Path:
    """The run's report; drawing is for rank 0 alone to load."""
    from xmtl_ray.report.page import write_report

    return write_report(folder, built.test)


def origin(config: Config) -> dict[str, str]:
    """Tags that say what a run learns from."""
    found = {f"sha256.{name}": value for name, value in fingerprints(config.data).items()}
    if (store := config.multitask.pseudo.store) is not None and config.multitask.strategy == "xmtl":
        with suppress(DataError):  # for every rank to tell, when the store is read
            found |= pseudo_labels.lineage(store)
    return found


ARTIFACTS = ("model", "summary.json", "predictions.json", "scores.json", "report.html", "MODEL_CARD.md")


def _average(config: Config, loaded: weights.LoadedModel, context: WorkerContext) -> AveragedModel | None:
    """ARK's teacher, the exponential moving average of the model; None for other strategies."""
    if config.multitask.strategy != "ark":
        return None
    loaded.model.to(context.device)
    average = AveragedModel(loaded.model, multi_avg_fn=get_ema_multi_avg_fn(config.multitask.ark.momentum))
    return average.requires_grad_(False).eval()


def _score_test(
    context: WorkerContext, config: Config, best: weights.LoadedModel, documents: tuple[Document, ...], folder: Path
) -> dict[str, Any]:
    """Extract from the test documents, each rank its share, and score on rank 0."""
    spec = config.inference.coreference
    similarity = clip_similarity(spec.encoder, spec.threshold, context.device)
    extractor = Extractor([best], config.inference, similarity)
    predictions = _gather(context, extractor(documents[context.rank :: context.world_size]))
    if context.rank != 0:
        return {}
    prediction_files.write(folder / "predictions.json", predictions, coreference=how(similarity), run=config.name)
    scores = tables(documents, predictions)
    (folder / "scores.json").write_text(json.dumps(scores, indent=1), encoding="utf-8")
    return scores


def _gather(context: WorkerContext, mine: Predictions) -> Predictions:
    if context.world_size == 1:
        return mine
    parts: list[Any] = [None] * context.world_size
    dist.all_gather_object(parts, mine)
    text, image, pairs = {}, {}, []
    for part in parts:
        text |= part.text
        image |= part.image
        pairs += part.multimedia
    return Predictions(text, image, tuple(pairs))


def _tell_cut(codec: weights.TextCodec, sentences: Sequence[Sequence[str]]) -> None:
    """Count what the longest input cuts off, once, before training."""
    for start in range(0, len(sentences), 256):
        codec(sentences[start : start + 256])
    if codec.cut_words:
        log.warning("model.max_tokens: %d cuts %d words of the training text", codec.max_tokens, codec.cut_words)
