"""Which text and visual events of a document are one multimedia event (paper A, Coreference).

Same type, same document, and an image-text similarity above the threshold. Without a similarity model the type alone
decides; predictions then say so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from cachetools import LRUCache

from xmtl_ray.data.images import Canvases
from xmtl_ray.events.records import Document, MultimediaEvent, TextEvent, VisualEvent
from xmtl_ray.models.encoders import BROKEN, EncoderError, first_line, located
from xmtl_ray.models.inputs import normalise

_KEPT = 4096
"""Encoded images, and as many sentences."""
TYPE_ONLY = "same type in one document; no image-text similarity"


@dataclass(frozen=True)
class Similarity:
    """Cosine of image and sentence, and what it must exceed."""

    cosine: Callable[[Path, Sequence[str]], float]
    threshold: float
    source: str

    def describe(self) -> str:
        """The rule in words."""
        return f"same type in one document and cosine > {self.threshold} by {self.source}"


def pairs(
    document: Document,
    text: Mapping[str, Sequence[TextEvent]],
    image: Mapping[str, Sequence[VisualEvent]],
    similarity: Similarity | None,
) -> list[MultimediaEvent]:
    """All (sentence, image, type) of ``document`` that corefer, each once."""
    found = []
    for sentence in document.sentences:
        for picture in document.images:
            types = {event.type for event in text.get(sentence.id, ())}
            types &= {event.type for event in image.get(picture.id, ())}
            cosine = None
            if types and similarity is not None:
                assert picture.path is not None  # an image without a file has no event
                cosine = similarity.cosine(picture.path, sentence.words)
                if not cosine > similarity.threshold:
                    continue
            found += [MultimediaEvent(sentence.id, picture.id, event_type, cosine) for event_type in sorted(types)]
    return found


def how(similarity: Similarity | None) -> str:
    """How pairs are decided, for the prediction file."""
    return TYPE_ONLY if similarity is None else similarity.describe()


def clip_similarity(name: str | None, threshold: float, device: torch.device) -> Similarity | None:
    """Similarity by the CLIP model in a Hugging Face folder or of a name; None without one.

    The last thousands of images and sentences are encoded once. Raises EncoderError.
    """
    if name is None:
        return None
    from transformers import AutoTokenizer, CLIPModel

    place, revision = located(name, "inference.coreference.encoder")
    try:
        model = CLIPModel.from_pretrained(place, revision=revision, trust_remote_code=False).to(device).eval()
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=False)
    except BROKEN as error:
        problem = f"found {name!r}, expected a CLIP folder or name: {first_line(error)}"
        raise EncoderError(f"inference.coreference.encoder: {problem}") from None
    side = model.config.vision_config.image_size
    canvases, longest = Canvases(side, 0), model.config.text_config.max_position_embeddings
    images: LRUCache[Path, torch.Tensor] = LRUCache(_KEPT)
    texts: LRUCache[tuple[str, ...], torch.Tensor] = LRUCache(_KEPT)

    @torch.inference_mode()
    def cosine(path: Path, words: Sequence[str]) -> float:
        if (image := images.get(path)) is None:
            states = model.vision_model(pixel_values=normalise([canvases(path).array], side).to(device))
            image = torch.nn.functional.normalize(model.visual_projection(states.pooler_output), dim=-1)[0]
            images[path] = image
        if (text := texts.get(key := tuple(words))) is None:
            encoded = tokenizer(" ".join(words), truncation=True, max_length=longest, return_tensors="pt").to(device)
            states = model.text_model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"])
            text = torch.nn.functional.normalize(model.text_projection(states.pooler_output), dim=-1)[0]
            texts[key] = text
        return float(image @ text)

    return Similarity(cosine, threshold, name)
