"""Named entities as argument candidates, where a user gives none: any token classification model of transformers."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmtl_ray.data import hugging_face
from xmtl_ray.data.ace05 import distinct_spans
from xmtl_ray.data.sentences import covered
from xmtl_ray.events.records import Entity, Span


class NerError(ValueError):
    """A model of named entities that cannot be had: what was asked for, and what is in its way."""


@dataclass(frozen=True)
class NerChoice:
    """The model that a user asked for."""

    path: Path

    @property
    def hash(self) -> str:
        """sha256 of the model's files."""
        return hugging_face.hash_of_folder({"kind": "ner"}, self.path)


def choose(asked: str) -> NerChoice:
    """What ``hf:FOLDER`` names, checked as far as it can be without loading it. Raises NerError."""
    found = re.fullmatch(r"hf:(.+)", asked)
    if not found:
        raise NerError(f"ner: found {asked!r}, expected hf:FOLDER")
    path = Path(found[1]).absolute()
    if problem := hugging_face.problem(path):
        raise NerError(f"ner: {problem}")
    return NerChoice(path)


class EntityFinder:
    """Finds entities in sentences, each by itself: what else is in the document changes nothing.

    Args:
        choice: a folder; its tokenizer must be a fast one, which knows where in the text its pieces stand.
        device: of torch.

    Raises NerError.
    """

    def __init__(self, choice: NerChoice, device: str) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            tokenizer = AutoTokenizer.from_pretrained(choice.path, **local)
            model, loading = AutoModelForTokenClassification.from_pretrained(
                choice.path, use_safetensors=True, output_loading_info=True, **local
            )
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            raise NerError(f"ner: {choice.path}: {str(error).strip().splitlines()[0]}") from None
        if missing := sorted(loading["missing_keys"]):
            # transformers would go on with random numbers in their place.
            expected = "a model trained for token classification"
            raise NerError(f"ner: {choice.path}: found no weights of {missing[0]}, expected {expected}")
        if not tokenizer.is_fast:
            raise NerError(f"ner: {choice.path}: found a slow tokenizer, expected one with tokenizer.json")
        longest = int(getattr(model.config, "max_position_embeddings", 512))
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
        self._pipe = pipeline(
            "token-classification", model=model.eval(), tokenizer=tokenizer, aggregation_strategy="first", device=device
        )

    def __call__(self, text: str, words: Sequence[Span]) -> tuple[Entity, ...]:
        """The entities of a sentence, in whole words.

        Args:
            text: the sentence.
            words: characters of its words, counted from the start of ``text``.
        """
        found = []
        for item in self._pipe(text) if text.strip() else ():
            span = covered(words, Span(int(item["start"]), int(item["end"])))
            if span is not None:
                found.append(Entity(span, str(item["entity_group"])))
        return distinct_spans(found)
