"""A small YOLOv8 from scratch on the boxes of the miniature news world: a real detector for where none can be had.

Its pictures are those of the world's imSitu part, in which SWiG says where each role is and imSitu by which noun, and
those of its captions with their detections; the documents that are tested on are not looked at. The surprising fact:
SWiG's boxes are not all that a picture shows (a second guard has none), so the detector learns to be less sure of an
object than it could be, and is best used with a low threshold.
"""

from __future__ import annotations

import json
import logging
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, TypeAdapter

from xmtl_ray.data import images as image_files
from xmtl_ray.data import imsitu, objects
from xmtl_ray.data.detectors import save_yolo, ultralytics
from xmtl_ray.events.records import Box, DataError
from xmtl_ray.events.strict_json import read_json

log = logging.getLogger(__name__)

ARCHITECTURE = "yolov8n.yaml"
BATCH = 32
SURE = 0.5
"""Detections of the captions' pictures that are taken for true."""

Labelled = tuple[Path, list[tuple[str, Box]]]
"""A picture with its boxes and their labels."""


class _Noun(BaseModel):
    gloss: list[str]


class _Space(BaseModel):
    nouns: dict[str, _Noun]


def labelled(world: Path) -> Iterator[Labelled]:
    """The pictures of a world that a detector may learn from, the fully labelled first. Raises DataError."""
    voa = world / "voa"
    for name, found in objects.read(voa / "image_entity.json", SURE).items():
        yield voa / "images" / f"{name}.jpg", [(item.label, item.box) for item in found]
    folder = world / "imsitu"
    space = folder / "imsitu_space.json"
    nouns = read_json(space, TypeAdapter(_Space)).nouns
    for situation in imsitu.read(folder / "train.json", folder / "swig" / "train.json", folder / "images", space):
        assert situation.image.path is not None
        named = dict(situation.nouns)
        boxes = {box: named[role] for role, box in situation.grounding if box is not None and role in named}
        yield situation.image.path, [(nouns[noun].gloss[0], box) for box, noun in boxes.items()]


def train(world: Path, out: Path, images: int = 2000, epochs: int = 4, image_px: int = 128, seed: int = 0) -> int:
    """Train on the first ``images`` of ``labelled`` and write the weights; returns how many there were.

    Args:
        world: folder that ``xmtl world`` wrote.
        out: safetensors that the detector ``yolo:`` loads.
        images: at most this many.
        epochs: passes over them.
        image_px: longer side that they are scaled to; a multiple of 32.
        seed: of the initial weights and the order.

    Runs on the CPU with one thread unless OMP_NUM_THREADS says otherwise. Raises DataError, DetectorError.
    """
    if image_px % 32:
        raise DataError(out, None, "image_px", image_px, "a multiple of 32")
    rows = [row for row, _ in zip(labelled(world), range(images), strict=False)]
    names = sorted({label for _, boxes in rows for label, _ in boxes})
    ultralytics()
    from ultralytics.models.yolo.detect import DetectionTrainer

    random.seed(seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = DetectionTrainer(
            overrides={
                "model": ARCHITECTURE,
                "data": str(_dataset(Path(scratch), rows, names)),
                "imgsz": image_px,
                "epochs": epochs,
                "batch": BATCH,
                "seed": seed,
                "optimizer": "AdamW",
                "lr0": 0.002,
                "warmup_epochs": 0.5,
                "mosaic": 0.0,
                "device": "cpu",
                "workers": 0,
                "cache": "ram",
                "project": scratch,
                "name": "run",
                # What a run from scratch on a CPU has no use for, or what would look for something on the network.
                **dict.fromkeys(("amp", "pretrained", "plots", "val", "save", "verbose"), False),
            }
        )
        trainer.train()  # type: ignore[no-untyped-call]
        objects.write_whole(out, lambda file: save_yolo(file, trainer.ema.ema, names, image_px))  # type: ignore[attr-defined]
    return len(rows)


def _dataset(folder: Path, rows: Sequence[Labelled], names: Sequence[str]) -> Path:
    """``rows`` in ultralytics' layout, the pictures as links; returns the file that describes it."""
    for part in ("images", "labels"):
        (folder / part).mkdir()
    for number, (path, boxes) in enumerate(rows):
        facts = image_files.probe(path)
        lines = ""
        for label, box in boxes:
            x, width = (box.x0 + box.x1) / 2 / facts.width, (box.x1 - box.x0) / facts.width
            y, height = (box.y0 + box.y1) / 2 / facts.height, (box.y1 - box.y0) / facts.height
            lines += f"{names.index(label)} {x:.6f} {y:.6f} {width:.6f} {height:.6f}\n"
        (folder / "images" / f"{number}{path.suffix}").symlink_to(path.absolute())
        (folder / "labels" / f"{number}.txt").write_text(lines, encoding="utf-8")
    # It scores the last epoch whatever it is told, so that is one picture.
    (folder / "dev.txt").write_text(f"./images/0{rows[0][0].suffix}\n", encoding="utf-8")
    layout: dict[str, object] = {"path": str(folder), "train": "images", "val": "dev.txt", "names": list(names)}
    (folder / "data.yaml").write_text(json.dumps(layout), encoding="utf-8")
    return folder / "data.yaml"
