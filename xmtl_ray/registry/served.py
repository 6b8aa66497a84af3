"""Registered models as MLflow calls them: a document in, events out. **A name in here stays: registered code asks for
``model("documents")`` or ``model("conversations")`` and nothing else of this package, also in versions to come.**

MLflow runs a script of two lines (``document_model.py``, ``conversation_model.py``) that lies in the model's folder,
so no pickle is read and no renamed class breaks a model that was registered long ago. A document is always answered by
itself on one thread, as `xmtl predict` does it, so the answer is the same, bit for bit, whatever else was asked.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel

from xmtl_ray.data import detectors, fingerprint, ner, user_documents
from xmtl_ray.data.videollama2 import source
from xmtl_ray.events.event_lines import as_json
from xmtl_ray.events.json_format import dumps, parse
from xmtl_ray.events.schema_prompt import parse_reasoned
from xmtl_ray.registry.inputs import ConversationInput, DocumentInput, read_conversation, read_document
from xmtl_ray.serving.shards import one_thread
from xmtl_ray.tracking.registry import MANIFEST_ARTIFACT, MODEL_ARTIFACT, check_manifest

# MLflow tells at each load that it does not check fields of several types: pydantic does.
logging.getLogger("mlflow.types.type_hints").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message=".*AnyType", module="mlflow")

BASE = "XMTL_BASE"
"""Environment variable: folder of an adapter's base."""
SETTINGS = {"base": None, "bits": None, "gpu": False, "ner": None, "detector": None}
"""What ``mlflow.pyfunc.load_model(…, model_config={…})`` takes: as the options of `xmtl predict` and `generate`."""


def model(kind: Literal["documents", "conversations"]) -> PythonModel:
    """What the script of a registered model sets. Raises ValueError for a kind that this version does not know."""
    if kind == "documents":
        return DocumentModel()
    if kind == "conversations":
        return ConversationModel()
    raise ValueError(f"kind: found {kind!r}, expected documents or conversations: registered by a newer xmtl_ray?")


class DocumentModel(PythonModel):
    """X-MTL: documents to ``xmtl-events-1``, see docs/prediction.md."""

    def load_context(self, context: Any) -> None:
        """Read the model. Raises ValueError, also where a file is not what registration wrote down."""
        from xmtl_ray.models import weights
        from xmtl_ray.serving.predictor import Job, Predictor

        folder, settings = _folder(context), {**SETTINGS, **(context.model_config or {})}
        finder, detector = settings["ner"], settings["detector"]
        job = Job(
            (folder,),
            (fingerprint.of_file(folder / weights.WEIGHTS),),
            weights.config_of(folder).inference,
            None if detector is None else detectors.choose(detector),
            None if finder is None else ner.choose(finder),
            bool(settings["gpu"]),
        )
        self._predictor = Predictor(job, user_documents.JsonDocuments(Path(), [], None, "en"), Path())
        self._lock = threading.Lock()

    def predict(self, model_input: list[DocumentInput], params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Events of each document, as a line of `xmtl predict` has them."""
        found = []
        with self._lock, one_thread(), _told():
            for number, asked in enumerate(model_input):
                with tempfile.TemporaryDirectory() as folder:
                    found.append(as_json(self._predictor.predict(read_document(asked, number, Path(folder)))))
        return found


class ConversationModel(PythonModel):
    """A generative model: conversations to event JSON. Greedy answers are always the same."""

    def load_context(self, context: Any) -> None:
        """Read the model and its base. Raises ValueError, also for a base that is not the one it was trained on."""
        from xmtl_ray.generative import folders
        from xmtl_ray.models import qlora
        from xmtl_ray.serving.answerer import Answerer, AnswerJob

        folder, settings = _folder(context), {**SETTINGS, **(context.model_config or {})}
        given = settings["base"] or os.environ.get(BASE)
        base = Path(given).absolute() if given and (folder / qlora.BASE).is_file() else None
        self._config, self._schema = folders.saved_config(folder), folders.saved_schema(folder)
        self._media = tempfile.TemporaryDirectory()
        media = Path(self._media.name)
        job = AnswerJob(folder, base, settings["bits"], self._config, self._schema, media, gpu=bool(settings["gpu"]))
        self._answerer = Answerer(job, media)
        self._lock = threading.Lock()

    def predict(
        self, model_input: list[ConversationInput], params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """``{"id", "output", "state", "cut", "events"}`` of each; ``output`` is the answer as it was written."""
        from xmtl_ray.generative.prompting import prompted

        found = []
        spec = self._config.prompt
        reasons = spec.instruction == "ours" and spec.reason
        with self._lock, one_thread(), _told():
            for number, asked in enumerate(model_input):
                one = read_conversation(asked, number, Path(self._media.name))
                # A whole prompt is the asker's own; a text gets the instruction that the model was trained with.
                if asked.prompt is None and source(one):
                    (one,) = prompted([one], spec, self._schema)
                (row,) = self._answerer.answer([one])
                parsed = parse_reasoned(row["output"]).parsed if reasons else parse(row["output"])
                events = json.loads(dumps(parsed.events))["events"]
                told = {name: row[name] for name in ("id", "output", "cut")}
                found.append({**told, "state": parsed.state, "events": events})
        return found


@contextlib.contextmanager
def base_at(folder: Path | None) -> Iterator[None]:
    """Within it models loaded in this process look for their base in ``folder``; None changes nothing."""
    before = os.environ.get(BASE)
    if folder is not None:
        os.environ[BASE] = str(folder.absolute())
    try:
        yield
    finally:
        if folder is not None:
            os.environ.pop(BASE)
            if before is not None:
                os.environ[BASE] = before


def _folder(context: Any) -> Path:
    """The model's folder, whose files are those that were registered. Raises RegistryError."""
    folder = Path(context.artifacts[MODEL_ARTIFACT])
    check_manifest(folder, Path(context.artifacts[MANIFEST_ARTIFACT]))
    return folder


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What the asker can mend, as an error that MLflow's server answers with status 400 and these words."""
    try:
        yield
    except ValueError as error:
        raise MlflowException.invalid_parameter_value(str(error)) from error
