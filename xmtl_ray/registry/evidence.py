"""What models show on an evaluation set: scores, groups, validity of their JSON, time and size, all measured now.

Challenger and champion go through this together, so with the same documents, protocol, candidates and machine, and by
turns, see ``latency``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from xmtl_ray.evaluation.m2e2 import METRICS, Scores
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.registry.latency import Answered, Latency, by_turns, latency

Groups = Mapping[str, Mapping[str, Prf]]
"""``event_type`` and ``language`` → group → counts."""
T = TypeVar("T")


@dataclass(frozen=True)
class Evidence:
    """A version's, on one evaluation set."""

    version: str
    metrics: Mapping[str, float]
    """F1 (and accuracies of a generative model), percent."""
    counts: Mapping[str, Scores]
    """Document or sample → metric → counts."""
    groups: Groups
    valid: float | None
    """Share of answers that are event JSON as they stand, percent; None of X-MTL."""
    latency: Latency | None
    """Of a document; None: too few were there to tell."""
    size_bytes: int
    predictions: tuple[str, ...] = field(default=(), repr=False)
    """Lines: what was found in each document, or each answer."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the predictions are files of their own."""
        return {
            "version": self.version,
            "metrics": {name: round(value, 4) for name, value in self.metrics.items()},
            "groups": {kind: {name: c.as_dict() for name, c in some.items()} for kind, some in self.groups.items()},
            "json_valid_percent": self.valid,
            "latency": None if self.latency is None else asdict(self.latency),
            "size_bytes": self.size_bytes,
            "documents": {
                name: {metric: [c.correct, c.predicted, c.gold] for metric, c in scores.items()}
                for name, scores in self.counts.items()
            },
        }


def of_documents(
    models: Mapping[str, Path], data: Path, objects: Path | None, protocol: str, gpu: bool = False, turns: bool = True
) -> dict[str, Evidence]:
    """What X-MTL models find in documents with gold, in M2E2's layout, one by one as `xmtl predict` does.

    Args:
        models: version → the model's own folder.
        data: folder with M2E2's files.
        objects: detections of its images, see ``m2e2.read``.
        protocol: name of M2E2's.
        gpu: predict there.
        turns: the models take turns, and all of them are loaded at once; else one follows the other.

    Returns the evidence by version. Raises ValueError.
    """
    from xmtl_ray.data import fingerprint, m2e2, user_documents
    from xmtl_ray.evaluation.m2e2 import score_by_document
    from xmtl_ray.events.event_lines import DocumentEvents, as_line, as_predictions
    from xmtl_ray.models import weights
    from xmtl_ray.report.by_type import scores_by_type
    from xmtl_ray.serving.predictor import Job, Predictor

    gold = m2e2.read(data, objects=objects)
    documents = user_documents.find(data, objects)
    asked = [documents.read(name) for name in documents.names]

    def load(folder: Path) -> Callable[[int], DocumentEvents]:
        hashes = (fingerprint.of_file(folder / weights.WEIGHTS),)
        job = Job((folder,), hashes, weights.config_of(folder).inference, gpu=gpu)
        predictor = Predictor(job, documents, Path())
        return lambda number: predictor.predict(asked[number])

    found = {}
    loaders = {version: partial(load, folder) for version, folder in models.items()}
    for version, answered in _answered(loaders, len(asked), gpu, turns):
        predictions = as_predictions(answered.answers)
        counts = score_by_document(gold, predictions, protocol)
        total = {metric: sum((each[metric] for each in counts.values()), Prf()) for metric in METRICS}
        types = {name: text + image for name, text, image in scores_by_type(gold, predictions)}
        found[version] = Evidence(
            version,
            {name: each.f1 for name, each in total.items()},
            counts,
            {"event_type": types, "language": {}},
            None,
            latency(answered.seconds),
            _size(models[version]),
            tuple(as_line(each) for each in answered.answers),
        )
    return found


def of_conversations(
    models: Mapping[str, Path],
    data: Path,
    media: Path | None,
    base: Path | None,
    gpu: bool = False,
    turns: bool = True,
) -> dict[str, Evidence]:
    """What generative models answer to conversations whose own answers are event JSON, in batches as `xmtl generate`.

    Args:
        models: version → the model's own folder.
        data: conversations in VideoLLaMA2's layout; those without gold are not asked.
        media: folder that images and videos lie below; None: the file's.
        base: where an adapter's base lies now; None: where it lay. Its hash must be the pinned one.
        gpu: answer there.
        turns: the models take turns with each batch, and all of them are loaded at once; else one follows the other.

    Returns the evidence by version. Raises ValueError.
    """
    from xmtl_ray.cluster.connection import set_environment
    from xmtl_ray.data import videollama2
    from xmtl_ray.evaluation import generative
    from xmtl_ray.evaluation.generative_labels import by_type
    from xmtl_ray.events.answers import answer_line
    from xmtl_ray.generative import folders
    from xmtl_ray.generative.prompting import prompted
    from xmtl_ray.serving.answer import costliest_first, schema_of_prompts
    from xmtl_ray.serving.answerer import Answerer, AnswerJob

    set_environment()
    conversations = videollama2.read(data)
    samples = videollama2.samples(conversations, data)
    named = {sample.id for sample in samples}
    if not named:
        raise ValueError(f"{data}: found no answer that is event JSON, expected gold to score by")
    configs = {version: folders.saved_config(folder) for version, folder in models.items()}
    size = max(1, min(len(named) // 4, *(config.generation.batch for config in configs.values())))
    # The same batches for all models, whatever prompts they make of them.
    ordered = costliest_first(one for one in conversations if one.id in named)
    batches = [ordered[at : at + size] for at in range(0, len(ordered), size)]
    root = (media or data.parent).absolute()

    def load(version: str) -> Callable[[int], list[dict[str, Any]]]:
        folder, config = models[version], configs[version]
        schema = schema_of_prompts(folder, config)
        answerer = Answerer(AnswerJob(folder, base, None, config, schema, root, gpu=gpu), Path())
        return lambda number: answerer.answer(prompted(batches[number], config.prompt, schema))

    found = {}
    loaders = {version: partial(load, version) for version in models}
    for version, answered in _answered(loaders, len(batches), gpu, turns):
        rows = {row["id"]: row for batch in answered.answers for row in batch}
        prompt = configs[version].prompt
        reasons = prompt.instruction == "ours" and prompt.reason
        scored = generative.score(samples, {name: row["output"] for name, row in rows.items()}, reasons)
        report = generative.summary(scored, 0, reason=reasons)
        types = {one.name: sum(one.triggers, Prf()) for one in by_type(scored)}
        metrics = {side: report["pooled"][side]["all"]["F1"] for side in ("trigger", "argument")}
        for side, group in (("trigger", report["trigger"]), ("argument", report["argument"])):
            whole = group["all"]
            mean = whole["accuracy_mean_of_samples"] if isinstance(whole, dict) else None
            metrics[f"{side}_accuracy"] = mean or 0.0
        found[version] = Evidence(
            version,
            metrics,
            {each.sample.id: dict(each.counts) for each in scored},
            {"event_type": types, "language": _languages(scored)},
            report["rates"]["all"]["ok"],
            latency([took / len(batch) for took, batch in zip(answered.seconds, batches, strict=True)]),
            _size(models[version]),
            tuple(answer_line(name, rows[name]["output"], rows[name]["cut"]) for name in (one.id for one in samples)),
        )
    return found


def as_lines(evidence: Evidence) -> str:
    """The predictions as a file's text."""
    return "".join(f"{line}\n" for line in evidence.predictions)


def _answered(
    loaders: Mapping[str, Callable[[], Callable[[int], T]]], documents: int, gpu: bool, turns: bool
) -> Iterator[tuple[str, Answered[T]]]:
    """Each model's answers. Raises GpuMemoryError where models that take turns do not fit side by side."""
    from xmtl_ray.serving.shards import one_thread

    with contextlib.nullcontext() if gpu else one_thread():
        if turns:
            found = by_turns(_loaded(loaders), documents)
            yield from found.items()
        else:
            for version, load in loaders.items():
                yield from by_turns({version: load()}, documents).items()


def _loaded(loaders: Mapping[str, Callable[[], Callable[[int], T]]]) -> dict[str, Callable[[int], T]]:
    import torch

    try:
        return {version: load() for version, load in loaders.items()}
    except torch.OutOfMemoryError as error:
        from xmtl_ray.serving.answerer import GpuMemoryError

        raise GpuMemoryError(
            f"{str(error).partition('. ')[0]}: expected memory for versions {' and '.join(loaders)} at once, which "
            "cost.latency measures by turns; use a larger GPU, or a gate without that rule"
        ) from None


def _languages(scored: Sequence[Any]) -> dict[str, Prf]:
    found: dict[str, Prf] = {}
    for each in scored:
        own = each.counts["trigger"] + each.counts["argument"]
        found[each.sample.language] = found.get(each.sample.language, Prf()) + own
    return found


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
