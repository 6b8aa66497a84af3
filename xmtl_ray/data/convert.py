"""From one format to another: what a record can say in the other format, written as it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from xmtl_ray.data import images, parquet, videollama2
from xmtl_ray.data import label_studio_tasks as tasks
from xmtl_ray.data.format_names import Format
from xmtl_ray.data.formats import Source
from xmtl_ray.data.label_studio import one_per_task
from xmtl_ray.events import predictions
from xmtl_ray.events.records import Annotation, Conversation, Document, Image, Pair, Sentence, Situation

WRITTEN = (Format.VIDEOLLAMA2, Format.LABEL_STUDIO, Format.PREDICTIONS, Format.PARQUET)
"""What can be written; the others are only read."""


def convert(source: Source, out: Path, to: Format, media: Path | None = None, annotator: str = "xmtl") -> int:
    """Write the records of ``source`` to ``out``; returns how many were written.

    Args:
        source: see ``open_source``; read to its end.
        out: the file, which must not exist.
        to: one of ``WRITTEN``. VideoLLaMA2's file takes sentences, conversations and annotations (of several annotators
            of a task the ground truth, else the first); Label Studio takes these, and images that have a file; Parquet
            takes all; ``m2e2-pred-1`` takes documents.
        media: for Label Studio, the folder of its local storage that holds the images; default the source's folder.
        annotator: for Label Studio, whose predictions they are.

    What stood in ``out`` before an error remains there. Raises DataError, and ValueError for a pair of formats between
    which nothing can be carried over.
    """
    if out.exists():
        raise ValueError(f"{out}: found a file or folder, expected a new name")
    if to is Format.PARQUET and source.kind is not predictions.Predictions:
        return parquet.write(out, source.kind, source.records)
    if to is Format.PREDICTIONS and source.kind is Document:
        documents = list(source.records)
        predictions.write(out, predictions.from_gold(documents))  # type: ignore[arg-type]
        return len(documents)
    if to is Format.VIDEOLLAMA2 and source.kind in _TO_CONVERSATIONS:
        return videollama2.write(out, _TO_CONVERSATIONS[source.kind](source))
    folder = media or (source.path if source.path.is_dir() else source.path.parent)
    if to is Format.LABEL_STUDIO and source.kind in _TO_TASKS:
        return tasks.write(out, _TO_TASKS[source.kind](source, folder, annotator))
    written = ", ".join(each.value for each in WRITTEN)
    raise ValueError(
        f"{source.path}: found {source.kind.__name__.lower()} records ({source.format.value}), which cannot be written "
        f"as {to.value}, expected another pair of formats; written are {written}"
    )


_TO_CONVERSATIONS: dict[type, Callable[[Any], Iterator[Conversation]]] = {
    Conversation: lambda source: source.records,
    Annotation: lambda source: (tasks.to_conversation(each, source.path) for each in one_per_task(source.records)),
    Sentence: lambda source: (tasks.to_conversation(tasks.from_sentence(each), source.path) for each in source.records),
}


def _tasks(sentences: Iterable[Sentence], shown: Iterable[Image], folder: Path, by: str) -> Iterator[Annotation]:
    yield from (tasks.from_sentence(sentence, by) for sentence in sentences)
    yield from (tasks.from_image(image, folder, _size, by) for image in shown if image.path is not None)


def _size(path: Path) -> tuple[int, int]:
    facts = images.probe(path)
    return facts.width, facts.height


_TO_TASKS: dict[type, Callable[[Any, Path, str], Iterator[Annotation]]] = {
    Annotation: lambda source, folder, by: source.records,
    Conversation: lambda source, folder, by: (
        tasks.from_conversation(each, source.path, by) for each in source.records
    ),
    Sentence: lambda source, folder, by: _tasks(source.records, (), folder, by),
    Document: lambda source, folder, by: (
        each for document in source.records for each in _tasks(document.sentences, document.images, folder, by)
    ),
    Pair: lambda source, folder, by: (
        each for pair in source.records for each in _tasks((pair.sentence,), (pair.image,), folder, by)
    ),
    Situation: lambda source, folder, by: _tasks((), (each.image for each in source.records), folder, by),
}
