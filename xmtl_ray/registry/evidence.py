"""What a model shows on an evaluation set: scores, groups, validity of its JSON, time and size, all measured now.

Challenger and champion go through this one function, so with the same documents, protocol, candidates and machine. The
latency is a median over documents after the first, so that neither loading nor warming up counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from xmtl_ray.evaluation.m2e2 import METRICS, Scores
from xmtl_ray.evaluation.prf import Prf

Groups = Mapping[str, Mapping[str, Prf]]
"""``event_type`` and ``language`` → group → counts."""


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
    latency_s: float | None
    """Median for a document; None: too few were there to tell."""
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
            "latency_s": self.latency_s,
            "size_bytes": self.size_bytes,
            "documents": {
                name: {metric: [c.correct, c.predicted, c.gold] for metric, c in scores.items()}
                for name, scores in self.counts.items()
            },
        }


def of_documents(
    version: str, folder: Path, data: Path, objects: Path | None, protocol: str, gpu: bool = False
) -> Evidence:
    """What an X-MTL model finds in documents with gold, in M2E2's layout, one by one as `xmtl predict` does.

    Args:
        version: of the registered model.
        folder: the model's own.
        data: folder with M2E2's files.
        objects: detections of its images, see ``m2e2.read``.
        protocol: name of M2E2's.
        gpu: predict there.

    Raises ValueError.
    """
    import torch

    from xmtl_ray.data import fingerprint, m2e2, user_documents
    from xmtl_ray.evaluation.m2e2 import score_by_document
    from xmtl_ray.events.event_lines import as_line, as_predictions
    from xmtl_ray.models import weights
    from xmtl_ray.report.by_type import scores_by_type
    from xmtl_ray.serving.predictor import Job, Predictor

    gold = m2e2.read(data, objects=objects)
    documents = user_documents.find(data, objects)
    job = Job((folder,), (fingerprint.of_file(folder / weights.WEIGHTS),), weights.config_of(folder).inference, gpu=gpu)
    predictor = Predictor(job, documents, Path())
    found, seconds, threads = [], [], torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name in documents.names:
            asked = documents.read(name)
            started = time.perf_counter()
            found.append(predictor.predict(asked))
            seconds.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    predictions = as_predictions(found)
    counts = score_by_document(gold, predictions, protocol)
    total = {metric: sum((each[metric] for each in counts.values()), Prf()) for metric in METRICS}
    types = {name: text + image for name, text, image in scores_by_type(gold, predictions)}
    return Evidence(
        version,
        {name: each.f1 for name, each in total.items()},
        counts,
        {"event_type": types, "language": {}},
        None,
        statistics.median(seconds[1:]) if len(seconds) > 1 else None,
        _size(folder),
        tuple(as_line(each) for each in found),
    )


def of_conversations(
    version: str,
    folder: Path,
    data: Path,
    media: Path | None,
    base: Path | None,
    gpu: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Evidence:
    """What a generative model answers to conversations whose own answers are event JSON, as `xmtl generate` does.

    Args:
        version: of the registered model.
        folder: the model's own.
        data: conversations in VideoLLaMA2's layout; those without gold are not asked.
        media: folder that images and videos lie below; None: the file's.
        base: where an adapter's base lies now; None: where it lay. Its hash must be the pinned one.
        gpu: answer there.
        progress: is told samples.

    Raises ValueError.
    """
    from xmtl_ray.data import videollama2
    from xmtl_ray.evaluation import generative
    from xmtl_ray.events.answers import read_answers, read_samples
    from xmtl_ray.generative import folders
    from xmtl_ray.serving.answer import answer

    config = folders.saved_config(folder)
    reasons = config.prompt.instruction == "ours" and config.prompt.reason
    conversations = videollama2.read(data)
    named = {sample.id for sample in videollama2.samples(conversations, data)}
    if not named:
        raise ValueError(f"{data}: found no answer that is event JSON, expected gold to score by")
    times: list[tuple[int, float]] = []

    def tick(done: int, of: int) -> None:
        times.append((done, time.perf_counter()))
        if progress is not None:
            progress(done, of)

    with TemporaryDirectory(prefix="xmtl-evidence-") as temporary:
        asked, out = Path(temporary) / "asked.json", Path(temporary) / "answers.jsonl"
        videollama2.write(asked, [one for one in conversations if one.id in named])
        shard = max(1, min(config.generation.batch, len(named) // 4))
        answer(
            *(folder, asked, out, config), media=media or data.parent, base=base, actors=0, gpu=gpu, shard=shard,
            progress=tick,
        )  # fmt: skip
        samples = read_samples(out.with_name(f"{out.name}.gold.jsonl"))
        answers, lines = read_answers(out, samples), out.read_text(encoding="utf-8").splitlines()
    scored = generative.score(samples, answers, reasons)
    report = generative.summary(scored, 0, reason=reasons)
    metrics = {side: report["pooled"][side]["all"]["F1"] for side in ("trigger", "argument")}
    for side, group in (("trigger", report["trigger"]), ("argument", report["argument"])):
        whole = group["all"]
        mean = whole["accuracy_mean_of_samples"] if isinstance(whole, dict) else None
        metrics[f"{side}_accuracy"] = mean or 0.0
    return Evidence(
        version,
        metrics,
        {each.sample.id: dict(each.counts) for each in scored},
        {"event_type": _types(scored), "language": _languages(scored)},
        report["rates"]["all"]["ok"],
        _median_s(times[1:]),  # the first is told before the model is loaded
        _size(folder),
        tuple(lines),
    )


def as_lines(evidence: Evidence) -> str:
    """The predictions as a file's text."""
    return "".join(f"{line}\n" for line in evidence.predictions)


def _types(scored: Any) -> dict[str, Prf]:
    """Triggers by event type, of gold or answers."""
    from xmtl_ray.evaluation.accuracy import normalised_label, triggers

    found: dict[str, Prf] = {}
    for each in scored:
        kinds = {normalised_label(event.event_type) for event in (*each.sample.events, *each.events)}
        for kind in sorted(kinds):
            gold, told = (
                [event for event in events if normalised_label(event.event_type) == kind]
                for events in (each.sample.events, each.events)
            )
            found[kind] = found.get(kind, Prf()) + triggers(gold, told, each.sample.language)
    return found


def _languages(scored: Any) -> dict[str, Prf]:
    found: dict[str, Prf] = {}
    for each in scored:
        own = each.counts["trigger"] + each.counts["argument"]
        found[each.sample.language] = found.get(each.sample.language, Prf()) + own
    return found


def _median_s(times: list[tuple[int, float]]) -> float | None:
    """Of a sample, from (samples done, when) after each shard; the first shard is to warm up."""
    each = [(later - earlier) / (done - before) for (before, earlier), (done, later) in pairwise(times)]
    return statistics.median(each) if each else None


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
