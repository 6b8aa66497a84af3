"""Documents to a file of their events: few of them in this process, many on a pool of Ray actors, by the same code.

The unit of progress is a shard of documents, see ``serving.shards``. At the end the shards become the output, in one
step, in the order of the documents.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xmtl_ray.cluster.connection import set_environment
from xmtl_ray.cluster.jobs import Progress
from xmtl_ray.config.schema import Inference, TaskName
from xmtl_ray.data import detectors, fingerprint, ner, user_documents
from xmtl_ray.data.objects import write_whole
from xmtl_ray.data.remote import Copy
from xmtl_ray.data.user_documents import Documents, UserDocument
from xmtl_ray.events import event_lines, predictions
from xmtl_ray.events.records import DataError
from xmtl_ray.models import weights
from xmtl_ray.report.prediction_page import write_prediction_page
from xmtl_ray.serving import shards
from xmtl_ray.serving.predictor import Job, Predictor

log = logging.getLogger(__name__)

Format = Literal["events", "m2e2"]
"""``xmtl-events-1``, JSON lines with everything, or ``m2e2-pred-1``, what `xmtl evaluate m2e2` scores."""


@dataclass(frozen=True)
class Counts:
    """What became of the documents: ``documents`` = ``predicted`` + ``refused``."""

    documents: int
    predicted: int
    refused: int
    """Left out, each with its reason in the quarantine."""
    resumed: int
    """Predicted by an earlier run that was stopped."""
    sentences: int
    images: int
    text_events: int
    visual_events: int
    multimedia_events: int
    cut_words: int
    """Beyond the model's longest input: no trigger is found in them."""
    without_entities: int
    """Documents with sentences that have no argument candidates: none given, and none looked for."""
    without_objects: int
    """Images without argument candidates, likewise."""
    coreference: str
    """How pairs were decided, in words."""
    quarantine: Path
    """Where it stands what was left out; not there if nothing was."""
    missing: tuple[TaskName, ...] = ()
    """Tasks that no model has: what they find is not predicted."""


def predict(
    models: Sequence[Path],
    documents: Path,
    out: Path,
    spec: Inference | None = None,
    *,
    format: Format = "events",
    detector: str | None = None,
    ner_model: str | None = None,
    objects: Path | None = None,
    language: str = "en",
    actors: int | None = None,
    gpu: bool = False,
    shard: int = 16,
    skip_bad: bool = False,
    html: Path | None = None,
    copies: Sequence[Copy] = (),
    progress: Progress | None = None,
) -> Counts:
    """Predict the events of all documents of a source and write them to ``out``, whole or not at all.

    Args:
        models: folders; tasks that none of them has are not predicted, of two with one task the later counts.
        documents: see ``user_documents.find``.
        out: file to write; beside it ``<out>.parts`` holds shards until the end, and with ``skip_bad``
            ``<out>.quarantine.jsonl`` says what was left out.
        spec: thresholds and rules; None: those of the first model's config.
        format: of the output.
        detector: finds objects in images without given ones, see ``detectors.choose``.
        ner_model: finds entities in documents without given ones, see ``ner.choose``.
        objects: given detections.
        language: of documents that name none.
        actors: of Ray; 0: this process; None: see ``shards.run``.
        gpu: one for each actor, or for this process.
        shard: documents that are committed together.
        skip_bad: leave broken documents out instead of stopping at the first.
        html: page to write, see ``report.prediction_page``.
        copies: those of the inputs that were fetched, which other nodes fetch for themselves.
        progress: is told documents.

    On a cluster all other paths must be reachable from every node. Raises ModelFolderError, EncoderError,
    DetectorError, NerError, DataError, ShardError, ClusterError, StorageError.
    """
    set_environment()
    folders = tuple(Path(folder).absolute() for folder in models)
    configs = [weights.config_of(folder) for folder in folders]
    job = Job(
        folders,
        tuple(fingerprint.of_file(folder / weights.WEIGHTS) for folder in folders),
        spec or configs[0].inference,
        None if detector is None else detectors.choose(detector),
        None if ner_model is None else ner.choose(ner_model),
        gpu,
    )
    source = user_documents.find(documents.absolute(), None if objects is None else objects.absolute(), language)
    parts = out.absolute().with_name(f"{out.name}.parts")
    inputs = {f"model {folder.name}": folder for folder in folders} | {"DOCUMENTS": source.root}
    inputs |= {"--objects": objects.absolute()} if objects is not None else {}
    inputs |= {"--detector": job.detector.path} if job.detector is not None else {}
    inputs |= {"--ner": job.ner.path} if job.ner is not None else {}
    cut, refused = _shards(source, job, shard, skip_bad)
    todo = {key: names for key, names in cut.items() if not shards.is_done(shards.path_of(parts, key), skip_bad)}
    resumed = sum(map(len, cut.values())) - sum(map(len, todo.values()))
    if resumed:
        log.info("%s: %d documents were predicted before", parts, resumed)
    shards.run(
        todo,
        Predictor,
        {"job": job, "documents": source, "parts": parts},
        parts,
        actors=actors,
        gpu=gpu,
        skip_bad=skip_bad,
        noun="documents",
        inputs=inputs,
        copies=copies,
        progress=progress,
    )
    counted = _write(out, format, parts, list(cut), job, refused, html, source.root)
    shutil.rmtree(parts)
    tasks = {task for config in configs for task in config.multitask.tasks}
    return Counts(
        documents=len(source.names),
        predicted=counted["documents"],
        refused=len(source.names) - counted["documents"],
        resumed=resumed,
        **{name: counted[name] for name in _COUNTED},
        coreference=counted.coreference,
        quarantine=shards.quarantine_of(out),
        missing=tuple(task for task in ("td", "ae", "vc", "rc") if task not in tasks),
    )


def _shards(
    source: Documents, job: Job, size: int, skip_bad: bool
) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
    """Names of documents by their shard's key; and what cannot be read, with its reason. Raises DataError.

    Reads every document once, so that a broken one is told before anything is started, and an id is there once.
    """
    settings = {
        "models": job.hashes,
        "configs": [fingerprint.of_file(folder / weights.CONFIG) for folder in job.models],
        "spec": job.spec.model_dump(mode="json"),
        "detector": None if job.detector is None else job.detector.hash,
        "ner": None if job.ner is None else job.ner.hash,
    }
    prints: dict[str, str] = {}
    ids: dict[str, str] = {}
    refused: list[tuple[str, str]] = []
    for name in source.names:
        try:
            read = source.read(name)
            own = read.document.id
            if own in ids:
                raise DataError(source.root / name, own, "id", own, f"an id that {ids[own]} does not have")
        except DataError as error:
            if not skip_bad:
                raise
            refused.append((name, str(error)))
            continue
        ids[own], prints[name] = name, _fingerprint(read)
    names = list(prints)
    cut = {}
    for start in range(0, len(names), size):
        some = names[start : start + size]
        cut[shards.key_of(settings, [prints[name] for name in some])] = some
    return cut, refused


def _fingerprint(read: UserDocument) -> str:
    """Of all that a document is; of image files their sizes and times, since reading them would take as long again."""
    files = [image.path.stat() for image in read.document.images if image.path is not None and image.path.exists()]
    text = repr((read, [(file.st_size, file.st_mtime_ns) for file in files]))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


_COUNTED = (
    *("sentences", "images", "text_events", "visual_events", "multimedia_events"),
    *("cut_words", "without_entities", "without_objects"),
)


class _Counter(Counter[str]):
    coreference = ""


def _write(
    out: Path,
    format: Format,
    parts: Path,
    keys: Sequence[str],
    job: Job,
    refused: list[tuple[str, str]],
    html: Path | None,
    root: Path,
) -> _Counter:
    """Make the output of the shards, and the page about it."""
    counted, refused = _Counter(), list(refused)

    def lines() -> Iterator[str]:
        for key in keys:
            with shards.path_of(parts, key).open(encoding="utf-8") as file:
                for line in file:
                    if (reason := shards.refusal(line)) is not None:
                        refused.append((json.loads(line)["refused"], reason))
                        continue
                    _count(counted, line)
                    yield line

    def write_lines(path: Path) -> None:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(lines())

    parts.mkdir(parents=True, exist_ok=True)
    whole = parts / "events.jsonl"
    write_lines(whole)
    if html is not None:
        found = event_lines.read(whole)
        write_whole(html, lambda path: write_prediction_page(path, root, found, counted, len(refused)))
    if format == "events":
        write_whole(out, whole.replace)
    else:
        everything = event_lines.as_predictions(event_lines.read(whole))
        notes = {"coreference": counted.coreference, "models": list(job.hashes)}
        write_whole(out, lambda path: predictions.write(path, everything, **notes))
    shards.write_quarantine(out, "document", refused)
    return counted


def _count(counted: _Counter, line: str) -> None:
    found = json.loads(line)
    counted["documents"] += 1
    for name in ("sentences", "images", "text_events", "visual_events", "multimedia_events"):
        counted[name] += len(found[name])
    counted["cut_words"] += found["cut_words"]
    counted["without_entities"] += bool(found["sentences"]) and found["entities"] == "none"
    counted["without_objects"] += sum(image["objects"] == "none" for image in found["images"])
    counted.coreference = found["coreference"]
