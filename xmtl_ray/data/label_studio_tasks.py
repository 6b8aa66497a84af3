"""Label Studio tasks with predictions, made of our records: people correct what is there instead of starting anew.

Imported into a project whose local storage holds the media; its labelling configuration names its tags label, box,
timeline, event, transcription and events_json. The surprising fact: Label Studio takes a prediction's offsets as code
points and stores what people then mark in UTF-16 units; ``label_studio`` reads both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from urllib.parse import quote

from xmtl_ray.data import videollama2
from xmtl_ray.data.label_studio import EVENTS_JSON, LOCAL_FILES
from xmtl_ray.events.json_format import dumps, parse
from xmtl_ray.events.records import (
    Annotation,
    Box,
    Conversation,
    DataError,
    GenerativeArgument,
    GenerativeEvent,
    Image,
    Media,
    Region,
    Relation,
    Sentence,
    Span,
    Turn,
)
from xmtl_ray.events.strict_json import write_list

ARGUMENT = "Argument"
"""Label of what fills a role; the role is the relation's."""


def write(path: Path, annotations: Iterable[Annotation]) -> int:
    """Write one task per annotation, with it as the prediction; returns how many. Raises DataError.

    Its ``annotator`` becomes the model's version; ``ground_truth`` has no place in a prediction.
    """
    return write_list(path, map(task, annotations))


def task(annotation: Annotation) -> dict[str, object]:
    """One task as JSON values. Raises DataError for a region that its medium has no place for."""
    media = annotation.media
    data: dict[str, str] = {
        **({"text": annotation.text} if annotation.text or media is None else {}),
        **({} if media is None else {media.kind: LOCAL_FILES + quote(media.path)}),
        **({} if annotation.language is None else {"language": annotation.language}),
    }
    about = media.kind if media else "text"
    result: list[dict[str, object]] = []
    for region in annotation.regions:
        result += _region(annotation, region)
    for relation in annotation.relations:
        ends = {"from_id": relation.source, "to_id": relation.target}
        result.append({**ends, "type": "relation", "direction": "right", "labels": [relation.role]})
    if annotation.choices:
        value = {"choices": list(annotation.choices)}
        result.append({"id": "events", "from_name": "event", "to_name": about, "type": "choices", "value": value})
    if annotation.events_json is not None:
        area = {"from_name": EVENTS_JSON, "to_name": about, "type": "textarea"}
        result.append({"id": EVENTS_JSON, **area, "value": {"text": [annotation.events_json]}})
    return {
        "id": annotation.id,
        "data": data,
        "predictions": [{"model_version": annotation.annotator, "result": result}],
    }


def _region(annotation: Annotation, region: Region) -> list[dict[str, object]]:
    labels = list(region.labels)
    base = {"id": region.id, "from_name": "label", "to_name": annotation.media.kind if annotation.media else "text"}
    if region.characters is not None:
        span = {"start": region.characters.start, "end": region.characters.end, "text": region.text, "labels": labels}
        return [{**base, "to_name": "text", "type": "labels", "value": span}]
    if region.box is not None:
        if annotation.size is None:
            raise DataError("annotation", annotation.id, "size", None, "width and height, as boxes are in per cent")
        width, height = annotation.size
        size = {"original_width": width, "original_height": height, "image_rotation": 0}
        value = {**_percent(region.box, width, height), "rectanglelabels": labels}
        made = [{**base, "from_name": "box", "type": "rectanglelabels", **size, "value": value}]
    elif region.seconds is not None:
        heard = {"start": region.seconds.start, "end": region.seconds.end, "channel": 0, "labels": labels}
        made = [{**base, "type": "labels", "value": heard}]
    elif region.frames:
        ranges = [{"start": span.start, "end": span.end - 1} for span in region.frames]
        shown = {"ranges": ranges, "timelinelabels": labels}
        made = [{**base, "from_name": "timeline", "type": "timelinelabels", "value": shown}]
    elif region.track:
        keys = [{"frame": k.frame, "enabled": k.enabled, **_percent(k.box, 1, 1)} for k in region.track]
        value = {"sequence": keys, "labels": labels}
        made = [{**base, "from_name": "box", "type": "videorectangle", "value": value}]
    else:
        raise DataError("annotation", annotation.id, f"region {region.id}", region, "a place in the sample")
    if region.text:
        note = {**base, "from_name": "transcription", "type": "textarea"}
        made.append({**note, "value": {"text": [region.text]}})
    return made


def _percent(box: Box, width: float, height: float) -> dict[str, float]:
    across, down = 100 / width, 100 / height
    return {
        "x": box.x0 * across,
        "y": box.y0 * down,
        "width": (box.x1 - box.x0) * across,
        "height": (box.y1 - box.y0) * down,
        "rotation": 0,
    }


def from_sentence(sentence: Sentence, annotator: str = "") -> Annotation:
    """A sentence with its events: words joined by spaces, one region per trigger and per argument of it."""
    text, starts = " ".join(sentence.words), [0]
    for word in sentence.words:
        starts.append(starts[-1] + len(word) + 1)

    def region(name: str, label: str, words: Span) -> Region:
        place = Span(starts[words.start], starts[words.end] - 1)
        return Region(name, (label,), text[place.start : place.end], characters=place)

    regions, relations = list[Region](), list[Relation]()
    for number, event in enumerate(sentence.events):
        regions.append(region(f"T{number}", event.type, event.trigger))
        for place, argument in enumerate(event.arguments):
            regions.append(region(f"T{number}A{place}", ARGUMENT, argument.span))
            relations.append(Relation(f"T{number}", f"T{number}A{place}", argument.role))
    return Annotation(sentence.id, text, annotator=annotator, regions=tuple(regions), relations=tuple(relations))


def from_image(image: Image, root: Path, size: Callable[[Path], tuple[int, int]], annotator: str = "") -> Annotation:
    """An image with its events: their types as choices, their boxes with the role as label.

    Which of several events a box belongs to is not said. ``root`` is the folder of the media; ``size`` gives an
    image's width and height. Raises DataError for an image without a file below ``root``.
    """
    if image.path is None or not image.path.is_relative_to(root):
        raise DataError(root, image.id, "path", image.path, "the file of the image, in this folder")
    arguments = [argument for event in image.events for argument in event.arguments]
    regions = tuple(Region(f"B{n}", (argument.role,), box=argument.box) for n, argument in enumerate(arguments))
    return Annotation(
        image.id,
        media=Media("image", image.path.relative_to(root).as_posix()),
        annotator=annotator,
        size=size(image.path),
        regions=regions,
        choices=tuple(dict.fromkeys(event.type for event in image.events)),
    )


def from_conversation(conversation: Conversation, file: Path | str, annotator: str = "") -> Annotation:
    """The first turn: marked in the text where all its strings are in it, otherwise as JSON to be edited.

    A string that stands in the text more than once is marked at its first place. Raises DataError for an answer that is
    no JSON of events.
    """
    text = videollama2.source(conversation)
    events = videollama2.events(conversation, file)
    whole = Annotation(
        conversation.id, text, conversation.media, conversation.language, annotator, events_json=dumps(events)
    )
    regions, relations = list[Region](), list[Relation]()
    find = partial(_found, text)
    for number, event in enumerate(events):
        marks = [(f"T{number}", event.event_type, find(event.trigger))]
        for place, (role, value) in enumerate(event.arguments):
            marks.append((f"T{number}A{place}", ARGUMENT, find(value)))
            relations.append(Relation(f"T{number}", f"T{number}A{place}", role))
        for name, label, span in marks:
            if span is None:
                return whole
            regions.append(Region(name, (label,), text[span.start : span.end], characters=span))
    if conversation.media is not None or not regions:
        return whole
    return Annotation(
        conversation.id,
        text,
        None,
        conversation.language,
        annotator,
        regions=tuple(regions),
        relations=tuple(relations),
    )


def _found(text: str, value: str) -> Span | None:
    start = text.find(value) if value else -1
    return None if start < 0 else Span(start, start + len(value))


def to_conversation(annotation: Annotation, file: Path | str) -> Conversation:
    """What an annotation teaches: the instruction of its language and its text, and its events as the answer.

    The events are those written down as JSON; without, those marked in the text: each label of a region that has an
    argument, or is not one, with the region's text as trigger. An image or a sound whose events are not in words has no
    answer. Raises DataError.
    """
    if annotation.events_json is not None:
        parsed = parse(annotation.events_json)
        if parsed.state != "ok":
            raise DataError(file, annotation.id, EVENTS_JSON, annotation.events_json, "events as JSON")
        events: tuple[GenerativeEvent, ...] = parsed.events
    else:
        events = _marked(annotation)
        if not events and (annotation.choices or any(r.characters is None for r in annotation.regions)):
            raise DataError(file, annotation.id, "regions", list(annotation.choices), f"spans of text or {EVENTS_JSON}")
    turn = Turn(videollama2.prompt(annotation.language, annotation.text), dumps(events))
    return Conversation(annotation.id, (turn,), annotation.language, annotation.media)


def _marked(annotation: Annotation) -> tuple[GenerativeEvent, ...]:
    spans = {region.id: region for region in annotation.regions if region.characters is not None}
    fillers = {relation.target for relation in annotation.relations}
    heads = {relation.source for relation in annotation.relations}
    events = []
    for region in spans.values():
        if region.id not in heads and (region.id in fillers or region.labels == (ARGUMENT,)):
            continue
        arguments = tuple(
            GenerativeArgument(relation.role, spans[relation.target].text)
            for relation in annotation.relations
            if relation.source == region.id and relation.target in spans
        )
        events += [GenerativeEvent(label, region.text, arguments) for label in region.labels]
    return tuple(events)
