"""What one Ray Train worker runs: unpack the config, build, train, extract, score.

The surprising facts: Ray changes a worker's folder, so every path in the config is absolute; and with no workers at
all (``cluster.workers=0``) Ray calls this same function in the driver's process, where it keeps no checkpoints.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from xmtl_ray.config.load import dump, flatten
from xmtl_ray.config.schema import Config
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
from xmtl_ray.multitask import examples as task_examples
from xmtl_ray.multitask.batch import Collate
from xmtl_ray.multitask.pseudo import pseudo_examples
from xmtl_ray.tracking.run import Run, environment_tags, installed_packages
from xmtl_ray.training.context import Local, WorkerContext
from xmtl_ray.training.loop import NonFiniteLoss, train
from xmtl_ray.training.storage import CONFIG, is_local, run_folder

log = logging.getLogger(__name__)

T = TypeVar("T")

LOCAL_CHECKPOINTS = "checkpoints"


class Unusable(ValueError):
    """Data or a model that a rank could not make sense of."""


class _Built(NamedTuple):
    """What a run needs, all of it read or made before the first step."""

    examples: task_examples.Examples
    loaded: weights.LoadedModel
    collate: Collate
    test: tuple[Document, ...]


class RayContext:
    """A worker of Ray Train; its storage keeps the checkpoints."""

    def __init__(self, publish: Callable[[], None] = lambda: None) -> None:
        self.publish = publish
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()

    def report(self, metrics: Mapping[str, float], checkpoint: Path) -> None:
        """A barrier: the files of all ranks become one checkpoint, with rank 0's metrics."""
        ray.train.report(dict(metrics), checkpoint=ray.train.Checkpoint.from_directory(str(checkpoint)))
        self.publish()

    def restore(self) -> AbstractContextManager[Path] | None:
        """The newest checkpoint that Ray has committed for this run name."""
        checkpoint = ray.train.get_checkpoint()
        return None if checkpoint is None else _AsPath(checkpoint)

    def best(self, metric: str) -> AbstractContextManager[Path]:
        """The best checkpoint that Ray still keeps."""
        reported = ray.train.get_all_reported_checkpoints()
        return _AsPath(max(reported, key=lambda item: item.metrics[metric]).checkpoint)


class _AsPath(AbstractContextManager[Path]):
    def __init__(self, checkpoint: ray.train.Checkpoint) -> None:
        self._folder = checkpoint.as_directory()

    def __enter__(self) -> Path:
        return Path(self._folder.__enter__())

    def __exit__(self, *error: object) -> None:
        self._folder.__exit__(*error)  # type: ignore[arg-type]


def train_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """Train, then extract and score; returns rank 0's summary, or ``{"failed": why}`` where trying again cannot help.

    Args:
        settings: a config as plain values.
    """
    config = Config.model_validate(settings)
    rank = ray.train.get_context().get_world_rank() if config.cluster.workers else 0
    with run_folder(config.storage_path, config.name, rank) as (folder, publish):
        context = _context(config, folder, publish)
        _configure(context, config)
        tracked = _track(config, folder) if context.rank == 0 else None
        try:
            summary = _run(context, config, folder, tracked)
        except (Unusable, NonFiniteLoss) as error:
            # Every rank is here. Raised further, Ray would start the workers again for the same end.
            _close(tracked, "FAILED")
            return {"failed": str(error)}
        except BaseException:
            _close(tracked, "FAILED")
            raise
        if tracked is not None:
            tracked.close()
        return summary


def _close(tracked: Run | None, status: str) -> None:
    if tracked is not None:
        tracked.journal.status(status)
        tracked.close(grace_s=15)


def _run(context: WorkerContext, config: Config, folder: Path, tracked: Run | None) -> dict[str, Any]:
    examples, loaded, collate, test = _agree(context, lambda: _build(context, config))

    def track(step: int, metrics: Mapping[str, float]) -> None:
        if tracked is not None:
            tracked.journal.metrics(step, metrics)

    position = train(context, config, loaded, collate, examples, track)
    summary: dict[str, Any] = {"epochs": position.epoch, "steps": position.step, "dev": position.dev, "scores": {}}
    with context.best(config.train.select) as checkpoint:
        best = weights.load(checkpoint / "model")
    best.model.to(context.device)
    if context.rank == 0:
        weights.save(folder / "model", best)
    if config.data.test is not None:
        summary["scores"] = _score_test(context, config, best, test, folder)
        for protocol, metrics in summary["scores"].items():
            track(position.step, {f"test/{protocol}/{name}_f1": values["F1"] for name, values in metrics.items()})
    if tracked is not None:
        (folder / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
        tracked.journal.status("FINISHED")
        from xmtl_ray.report.page import write_report  # drawing is for rank 0 alone to load

        page = write_report(folder, test)
        for name in ("model", "summary.json", "predictions.json", "scores.json", page.name):
            if (folder / name).exists():
                tracked.journal.artifact(name)
    return summary


def _build(context: WorkerContext, config: Config) -> _Built:
    """Data, model and what makes batches. Raises ValueError for whatever the user gave us wrong."""
    test = () if config.data.test is None else m2e2.read(config.data.test, objects=config.data.test_objects)
    if config.inference.coreference.encoder is not None:
        encoders.configuration(config.inference.coreference.encoder, "inference.coreference.encoder")
    examples = task_examples.read(config)
    if config.multitask.strategy == "xmtl":
        twins = pseudo_examples(config.multitask.pseudo, config.multitask.tasks)
        examples = replace(examples, train=examples.train | twins)
    loaded = weights.create(config, weights.make_tokenizer(config, examples.sentences))
    spec = config.data
    image_px = loaded.model.image_px if loaded.model.image_encoder is not None else 0
    canvases = Canvases(spec.visual_prompt.canvas_px, spec.image_cache_mib)
    collate = Collate(loaded.codec, canvases, image_px, spec.text_prompt, spec.visual_prompt)
    if loaded.codec is not None and context.rank == 0:
        _tell_cut(loaded.codec, examples.sentences)
    return _Built(examples, loaded, collate, test)


def _agree(context: WorkerContext, build: Callable[[], T]) -> T:
    """What ``build`` makes, if it does on every rank; else Unusable on every rank, so that none waits for another."""
    problem, built = None, None
    try:
        built = build()
    except ValueError as error:
        problem = str(error)
    problems: list[Any] = [problem]
    if context.world_size > 1:
        problems = [None] * context.world_size
        dist.all_gather_object(problems, problem)
    for found in problems:
        if found is not None:
            raise Unusable(found)
    return built  # type: ignore[return-value]


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


def _context(config: Config, folder: Path, publish: Callable[[], None]) -> WorkerContext:
    if config.cluster.workers:
        return RayContext(publish)
    device = torch.device("cuda") if config.cluster.gpu else torch.device("cpu")
    return Local(folder / LOCAL_CHECKPOINTS, config.train.select, config.train.keep_checkpoints, device)


def _configure(context: WorkerContext, config: Config) -> None:
    """Logging to the worker's output (Ray shows it on the driver), and as many threads as CPUs were reserved."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Ray Train has set the root logger to INFO, and tells every report through one that no name of its own reaches.
    logging.basicConfig(format="%(message)s", stream=sys.stdout, level=logging.WARNING, force=True)
    logging.getLogger("xmtl_ray").setLevel(logging.INFO if context.rank == 0 else logging.WARNING)
    torch.set_num_threads(max(1, int(config.cluster.cpus_per_worker)))


def _track(config: Config, folder: Path) -> Run:
    spec = config.tracking
    uri = spec.uri or (f"sqlite:///{config.storage_path}/mlflow.db" if is_local(config.storage_path) else None)
    if uri is None and spec.enabled:
        log.warning("tracking.uri: none, and storage_path is no local folder: numbers stay in the run folder")
    run = Run(folder, uri if spec.enabled else None, spec.experiment, config.name)
    (folder / CONFIG).write_text(dump(config), encoding="utf-8")
    run.journal.parameters({name: value for name, value in flatten(config).items() if value is not None})
    origin = {f"sha256.{name}": value for name, value in fingerprints(config.data).items()}
    if (store := config.multitask.pseudo.store) is not None and config.multitask.strategy == "xmtl":
        with suppress(DataError):  # for every rank to tell, when the store is read
            origin |= pseudo_labels.lineage(store)
    if spec.parent is not None:
        origin["mlflow.parentRunId"] = spec.parent
    run.journal.tags(environment_tags(origin))
    (folder / "environment.txt").write_text(installed_packages(), encoding="utf-8")
    for name in (CONFIG, "environment.txt"):
        run.journal.artifact(name)
    return run


def _tell_cut(codec: weights.TextCodec, sentences: Sequence[Sequence[str]]) -> None:
    """Count what the longest input cuts off, once, before training."""
    for start in range(0, len(sentences), 256):
        codec(sentences[start : start + 256])
    if codec.cut_words:
        log.warning("model.max_tokens: %d cuts %d words of the training text", codec.max_tokens, codec.cut_words)
