"""The detectors that can be asked for: YOLO by ultralytics, and what transformers calls object detection.

``ultralytics`` is AGPL-3.0 and an extra (``xmtl_ray[detect]``); it is imported here and nowhere else, and only when a
YOLO is asked for. The surprising facts: left to itself it sends usage statistics, installs packages and fetches
weights, so it is kept off the network and gets settings of its own; and its ``.pt`` files are pickles, so weights are
kept as safetensors that carry their architecture, and a ``.pt`` is read only if its sha256 is given, and then only as
classes that ultralytics lists.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image as Pictures
from PIL.Image import Image as Picture
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xmtl_ray.data import fingerprint, hugging_face
from xmtl_ray.data.objects import FLOOR, Detector
from xmtl_ray.events.records import Box, DetectedObject

HOME_ALONE = {
    "YOLO_OFFLINE": "true",
    "YOLO_AUTOINSTALL": "false",
    "YOLO_VERBOSE": "false",
    "ULTRALYTICS_SAFE_LOAD": "true",
    "ULTRALYTICS_SKIP_REQUIREMENTS_CHECKS": "true",
}
"""Environment under which ultralytics is imported: no network, no pip, no pickle of unknown classes."""

_INTEGRATIONS = ("sync", "clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb", "vscode_msg")
_HEADER = "xmtl_yolo"


class DetectorError(ValueError):
    """A detector that cannot be had: what was asked for, and what is in its way."""


@dataclass(frozen=True)
class Suppression:
    """Which of overlapping boxes stay, and how many: part of a YOLO's hash."""

    iou: float = 0.7
    """Of two boxes of one class that overlap more, the surer one stays."""
    most: int = 300
    """Detections of an image."""


@dataclass(frozen=True)
class Choice:
    """Which detector a user asked for: ``yolo:FILE``, ``yolo:FILE.pt#sha256=HEX`` or ``hf:FOLDER``."""

    kind: str
    path: Path
    sha256: str | None = None

    @property
    def hash(self) -> str:
        """sha256 of the weights' files and of the settings. Raises DetectorError."""
        if self.kind == "yolo":
            return hugging_face.hash_of({"kind": "yolo", "floor": FLOOR, **asdict(Suppression())}, [self.path])
        return hugging_face.hash_of_folder({"kind": "hf", "floor": FLOOR}, self.path)


def choose(asked: str) -> Choice:
    """What ``asked`` names, checked as far as it can be without loading it. Raises DetectorError."""
    found = re.fullmatch(r"(yolo|hf):([^#]+)(?:#sha256=([0-9a-f]{64}))?", asked)
    if not found:
        raise DetectorError(f"detector: found {asked!r}, expected yolo:WEIGHTS, yolo:FILE.pt#sha256=HEX or hf:FOLDER")
    choice = Choice(found[1], Path(found[2]).absolute(), found[3])
    path = choice.path
    if choice.kind == "hf":
        if problem := hugging_face.problem(path):
            raise DetectorError(f"detector: {problem}")
        return choice
    if not path.is_file() or path.suffix not in {".pt", ".safetensors"}:
        raise DetectorError(f"detector: {path}: expected an existing .safetensors or .pt file")
    digest = fingerprint.of_file(path)
    if path.suffix == ".pt" and choice.sha256 is None:
        raise DetectorError(
            f"detector: {path} is a pickle; if its sha256 {digest} is what its publisher says, "
            f"ask for yolo:{found[2]}#sha256={digest}"
        )
    if choice.sha256 not in {None, digest}:
        raise DetectorError(f"detector: {path}: found sha256 {digest}, expected {choice.sha256}")
    return choice


def load(choice: Choice) -> Detector:
    """The detector, on a GPU if there is one. Raises DetectorError."""
    return Yolo(choice) if choice.kind == "yolo" else Transformer(choice)


class Yolo:
    """A YOLO of ultralytics."""

    def __init__(self, choice: Choice) -> None:
        ultralytics()
        import torch
        from ultralytics.models.yolo.detect import DetectionPredictor

        self.hash = choice.hash
        model, self.names, image_px = _from_pickle(choice.path) if choice.path.suffix == ".pt" else _built(choice.path)
        rules = Suppression()
        self._predict = DetectionPredictor(
            overrides={
                "conf": FLOOR,
                "iou": rules.iou,
                "max_det": rules.most,
                "imgsz": image_px,
                "device": "cuda" if torch.cuda.is_available() else "cpu",
                "mode": "predict",
                "save": False,
                "verbose": False,
            }
        )
        self._predict.setup_model(model, verbose=False)

    def __call__(self, pictures: Sequence[Picture]) -> tuple[tuple[DetectedObject, ...], ...]:
        """See ``Detector``; one forward pass for all pictures."""
        # its arrays are BGR
        arrays = [np.ascontiguousarray(np.asarray(picture)[:, :, ::-1]) for picture in pictures]
        found = self._predict(arrays) if arrays else []
        return tuple(
            _kept(
                picture, each.boxes.xyxy.tolist(), each.boxes.cls.int().tolist(), each.boxes.conf.tolist(), self.names
            )
            for picture, each in zip(pictures, found, strict=True)
        )


class Transformer:
    """A detector of transformers (RT-DETR, D-FINE, DETR, ...) in a local folder, without code of its own."""

    def __init__(self, choice: Choice) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import torch
        from transformers import AutoImageProcessor, AutoModelForObjectDetection

        self.hash = choice.hash
        local = {"local_files_only": True, "trust_remote_code": False}
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self.processor = AutoImageProcessor.from_pretrained(choice.path, **local)  # type: ignore[no-untyped-call]
            self.model = AutoModelForObjectDetection.from_pretrained(choice.path, use_safetensors=True, **local)
        except (OSError, ValueError, ImportError) as error:
            raise DetectorError(f"detector: {choice.path}: {error}") from None
        self.model.to(self.device).eval()

    def __call__(self, pictures: Sequence[Picture]) -> tuple[tuple[DetectedObject, ...], ...]:
        """See ``Detector``; one forward pass for all pictures."""
        import torch

        if not pictures:
            return ()
        with torch.inference_mode():
            inputs = self.processor(images=list(pictures), return_tensors="pt").to(self.device)
            sizes = [(picture.height, picture.width) for picture in pictures]
            found = self.processor.post_process_object_detection(self.model(**inputs), FLOOR, sizes)
        return tuple(
            _kept(
                picture, each["boxes"].tolist(), each["labels"].tolist(), each["scores"].tolist(),
                self.model.config.id2label,
            )
            for picture, each in zip(pictures, found, strict=True)
        )  # fmt: skip


def _kept(
    picture: Picture,
    boxes: list[list[float]],
    classes: list[int],
    confidences: list[float],
    names: Mapping[int, str],
) -> tuple[DetectedObject, ...]:
    """Boxes cut at the picture's border, those without an area left out; surest first."""
    found = []
    for (x0, y0, x1, y1), kind, confidence in zip(boxes, classes, confidences, strict=True):
        box = Box(max(x0, 0.0), max(y0, 0.0), min(x1, float(picture.width)), min(y1, float(picture.height)))
        if box.x0 < box.x1 and box.y0 < box.y1 and confidence >= FLOOR:
            found.append(DetectedObject(box, names[kind], min(confidence, 1.0)))
    return tuple(sorted(found, key=lambda item: -item.confidence))


class YoloHeader(BaseModel):
    """What a YOLO's safetensors file says about itself, as JSON in its header."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: dict[str, Any]
    """ultralytics' description of the layers."""
    names: list[str] = Field(min_length=1)
    """Labels, by class number."""
    image_px: int = Field(ge=32, le=4096, multiple_of=32)
    """Longer side of the pictures that it was trained on."""


def save_yolo(path: Path, model: Any, names: Sequence[str], image_px: int) -> None:
    """Write a detection model of ultralytics as safetensors that ``yolo:`` loads."""
    from safetensors.torch import save_file

    keys = ("scales", "scale", "backbone", "head", "nc", "channels")
    architecture = {key: model.yaml[key] for key in keys if key in model.yaml}
    header = YoloHeader(architecture=architecture, names=list(names), image_px=image_px)
    tensors = {name: value.detach().float().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, path, {_HEADER: header.model_dump_json()})


def _built(path: Path) -> tuple[Any, dict[int, str], int]:
    from safetensors import SafetensorError, safe_open
    from ultralytics.nn.tasks import DetectionModel

    try:
        with safe_open(path, "pt") as file:
            header = YoloHeader.model_validate_json((file.metadata() or {}).get(_HEADER, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        model = DetectionModel(header.architecture, nc=len(header.names), verbose=False)  # type: ignore[no-untyped-call]
        model.load_state_dict(tensors)
    except (SafetensorError, ValidationError) as error:
        raise DetectorError(f"detector: {path}: expected what `xmtl data train-detector` writes: {error}") from None
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise DetectorError(f"detector: {path}: its architecture cannot be built: {error}") from None
    return model, dict(enumerate(header.names)), header.image_px


def _from_pickle(path: Path) -> tuple[Any, dict[int, str], int]:
    """Weights-only unpickling: an unknown class in the file is an error, not a call."""
    import pickle

    from ultralytics.nn.tasks import DetectionModel, torch_safe_load

    try:
        stored, _ = torch_safe_load(path, safe_only=True)  # type: ignore[no-untyped-call]
    except (pickle.UnpicklingError, TypeError, RuntimeError, OSError, LookupError, EOFError) as error:
        raise DetectorError(f"detector: {path}: {str(error).strip().splitlines()[0]}") from None
    model = stored.get("ema") or stored.get("model")
    if not isinstance(model, DetectionModel):
        raise DetectorError(f"detector: {path}: found {type(model).__name__}, expected a YOLO for detection")
    arguments = stored.get("train_args") or {}
    return model.float(), {int(key): str(name) for key, name in model.names.items()}, int(arguments.get("imgsz", 640))


@cache
def ultralytics() -> ModuleType:
    """The library, kept at home: see ``HOME_ALONE``. Raises DetectorError where it is not installed or not obedient."""
    home = tempfile.mkdtemp(prefix="ultralytics-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ.update(HOME_ALONE, YOLO_CONFIG_DIR=home)
    opener = Pictures.open
    try:
        import ultralytics as library
        from ultralytics import utils
    except ImportError:
        raise DetectorError("detector: a YOLO needs ultralytics (AGPL-3.0): pip install 'xmtl_ray[detect]'") from None
    finally:
        Pictures.open = opener  # it puts one there that looks for further packages when a file cannot be read
    if utils.ONLINE or utils.AUTOINSTALL or not utils.SAFE_LOAD:
        raise DetectorError("detector: ultralytics was imported before with the network on; use a new process")
    folders = {name: home for name in ("datasets_dir", "weights_dir", "runs_dir")}
    utils.SETTINGS.update({**dict.fromkeys(_INTEGRATIONS, False), **folders})  # type: ignore[no-untyped-call]
    return library
