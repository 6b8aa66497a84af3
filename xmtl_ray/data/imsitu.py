"""imSitu with SWiG's boxes, and its refinement into images of M2E2 events (X-MTL, experimental setup).

imSitu says which verb an image shows and three annotators' nouns per role; SWiG says where each role is. Both key
their records by image name and are joined by it, record by record. Reading touches no pixels: ``missing_images`` looks
for the files.
The surprising fact: SWiG writes "not in the picture" as a box of four -1.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, TypeAdapter

from xmtl_ray.data.joined import join
from xmtl_ray.data.media_paths import inside
from xmtl_ray.events.ontology import NONE, VerbMap
from xmtl_ray.events.records import (
    Box,
    DataError,
    DetectedObject,
    Image,
    Report,
    Situation,
    VisualArgument,
    VisualEvent,
)
from xmtl_ray.events.strict_json import Corners, attempt, positive, read_json, stream_dict

log = logging.getLogger(__name__)

_ABSENT = (-1, -1, -1, -1)


def _absent_or_positive(corners: Corners) -> Corners:
    return corners if corners == _ABSENT else positive(corners)


_Pixels = Annotated[StrictInt, Field(gt=0)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)

    verb: str
    frames: list[dict[str, str]]


class _Grounded(BaseModel):
    model_config = ConfigDict(frozen=True)

    verb: str
    width: _Pixels | None = None
    height: _Pixels | None = None
    bb: dict[str, Annotated[Corners, AfterValidator(_absent_or_positive)]]


class _Verb(BaseModel):
    model_config = ConfigDict(frozen=True)

    order: list[str]


class _Space(BaseModel):
    model_config = ConfigDict(frozen=True)

    verbs: dict[str, _Verb]


_RECORD = TypeAdapter(_Record)
_GROUNDED = TypeAdapter(_Grounded)
_SPACE = TypeAdapter(_Space)


def read(
    annotations: Path, grounding: Path, images: Path, space: Path | None = None, on_error: Report | None = None
) -> tuple[Situation, ...]:
    """All situations of one split; see ``stream``."""
    return tuple(stream(annotations, grounding, images, space, on_error))


def stream(
    annotations: Path, grounding: Path, images: Path, space: Path | None = None, on_error: Report | None = None
) -> Iterator[Situation]:
    """Situations of one split, in the order of ``annotations`` as far as ``grounding`` has the same one (see ``join``).

    Args:
        annotations: imSitu's train.json, dev.json or test.json.
        grounding: SWiG's file of the same split; both must hold the same images with the same verbs and roles.
        images: folder of the image files; an image's id is its name without extension, its path ``images/name``.
        space: imsitu_space.json; verbs and roles are checked against it.
        on_error: see ``strict_json.stream_list``.

    A role's noun is the one that most annotators gave (the first of them on a tie); a role that all left empty has
    none. Raises DataError.
    """
    verbs = None if space is None else read_json(space, _SPACE).verbs

    def situation(name: str, record: _Record | None, grounded: _Grounded | None) -> Situation:
        if record is None:
            raise DataError(grounding, name, "", "an image", f"only images of {annotations}")
        if grounded is None:
            raise DataError(grounding, name, "", "nothing", f"boxes, as {annotations} has this image")
        if grounded.verb != record.verb:
            raise DataError(grounding, name, "verb", grounded.verb, f"{record.verb!r}, as in {annotations}")
        for number, frame in enumerate(record.frames):
            if frame.keys() != grounded.bb.keys():
                expected = f"the roles {sorted(grounded.bb)} of {grounding}"
                raise DataError(annotations, name, f"frames.{number}", sorted(frame), expected)
        if verbs is not None:
            _check_known(annotations, name, record.verb, grounded.bb, verbs)
        return Situation(
            image=Image(Path(name).stem, inside(images, name, annotations, name, "image name")),
            verb=record.verb,
            grounding=tuple((role, _box(corners)) for role, corners in grounded.bb.items()),
            nouns=_majority(record.frames),
        )

    records = stream_dict(annotations, _RECORD, lambda _, record: record, on_error)
    boxes = stream_dict(grounding, _GROUNDED, partial(_inside_image, grounding), on_error)
    # A record that was reported has a pair, which holds None; one without a partner has no pair.
    for name, left, right in join(((n, (r,)) for n, r in records), ((n, (b,)) for n, b in boxes)):
        if (left and not left[0]) or (right and not right[0]):
            continue
        made = attempt(partial(situation, name, left and left[0], right and right[0]), on_error)
        if made is not None:
            yield made


def _inside_image(file: Path, name: str, grounded: _Grounded) -> _Grounded:
    """The record, if each of its boxes shows some of the image, as far as its size is known."""
    width, height = grounded.width or float("inf"), grounded.height or float("inf")
    for role, corners in grounded.bb.items():
        x0, y0, x1, y1 = corners
        if corners != _ABSENT and not (x0 < width and y0 < height and x1 > 0 and y1 > 0):
            raise DataError(file, name, f"bb.{role}", list(corners), f"a box in an image of {width} x {height}")
    return grounded


def _box(corners: Corners) -> Box | None:
    return None if corners == _ABSENT else Box(*corners)


def _check_known(file: Path, name: str, verb: str, roles: Iterable[str], verbs: dict[str, _Verb]) -> None:
    if verb not in verbs:
        raise DataError(file, name, "verb", verb, f"one of the space's {len(verbs)} verbs")
    for role in roles:
        if role not in verbs[verb].order:
            raise DataError(file, name, "frames", role, f"a role of {verb!r}: {verbs[verb].order}")


def _majority(frames: Sequence[dict[str, str]]) -> tuple[tuple[str, str], ...]:
    given: dict[str, list[str]] = {}
    for frame in frames:
        for role, noun in frame.items():
            if noun:
                given.setdefault(role, []).append(noun)
    return tuple((role, max(nouns, key=nouns.count)) for role, nouns in given.items())


def missing_images(images: Iterable[Image]) -> tuple[Path, ...]:
    """Paths that name no file, in order; images without a path are left out."""
    return tuple(image.path for image in images if image.path is not None and not image.path.is_file())


def refine(
    situations: Sequence[Situation], verb_map: VerbMap, keep_unmapped: float = 0.0, seed: int = 0
) -> tuple[Image, ...]:
    """Images of M2E2 events, after the benchmark's schema (X-MTL, experimental setup).

    An image of a mapped verb has one event, whose arguments are the boxes of the mapped roles. ``objects`` are all
    boxes of an image, each distinct one once (a mapped role's first), with the imSitu role as label and confidence
    1: those that are no argument are the ``None`` examples of role classification.

    Args:
        situations: what ``read`` returns.
        verb_map: (verb, role) → (type, role).
        keep_unmapped: share, 0 to 1, of the images of unmapped verbs to keep as images without event (the paper
            keeps none). Rounded to whole images; which ones depends on ``seed`` and their order alone.
        seed: of that choice.

    Raises ValueError for a share outside 0 to 1.
    """
    if not 0 <= keep_unmapped <= 1:
        raise ValueError(f"keep_unmapped: found {keep_unmapped}, expected a share from 0 to 1")
    unmapped = [index for index, situation in enumerate(situations) if situation.verb not in verb_map.type_of]
    chosen = set(random.Random(seed).sample(unmapped, round(keep_unmapped * len(unmapped))))  # noqa: S311
    kept = tuple(
        _refined(situation, verb_map)
        for index, situation in enumerate(situations)
        if situation.verb in verb_map.type_of or index in chosen
    )
    log.info(
        "imSitu: %d images of mapped verbs and %d of %d others kept",
        *(len(kept) - len(chosen), len(chosen), len(unmapped)),
    )
    return kept


def _refined(situation: Situation, verb_map: VerbMap) -> Image:
    arguments, labels = list[VisualArgument](), dict[Box, str]()
    boxes = [(verb_map.role_of.get((situation.verb, label), NONE), label, box) for label, box in situation.grounding]
    for role, label, box in sorted(boxes, key=lambda item: item[0] == NONE):
        if box is None:
            continue
        labels.setdefault(box, label)
        if role != NONE:
            arguments.append(VisualArgument(role, box))
    event_type = verb_map.type_of.get(situation.verb)
    return replace(
        situation.image,
        events=() if event_type is None else (VisualEvent(event_type, tuple(arguments)),),
        objects=tuple(DetectedObject(box, label, 1.0) for box, label in labels.items()),
    )
