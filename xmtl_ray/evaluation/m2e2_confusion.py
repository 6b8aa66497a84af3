"""Event types taken for each other in M2E2's texts and images.

In a text a type is taken for another where the trigger's words are the same. An image has no trigger: what is left of
its gold and predicted types once equal ones are paired is paired in order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from xmtl_ray.evaluation.confusion import Confusion
from xmtl_ray.events.predictions import Predictions
from xmtl_ray.events.records import Document


def text_confusion(documents: Iterable[Document], predictions: Predictions) -> Confusion:
    """Of events in sentences: each trigger span by itself."""
    counting = _Counting()
    for document in documents:
        for sentence in document.sentences:
            gold, predicted = dict[object, list[str]](), dict[object, list[str]]()
            for event in sentence.events:
                gold.setdefault(event.trigger, []).append(event.type)
            for event in predictions.text.get(sentence.id, ()):
                predicted.setdefault(event.trigger, []).append(event.type)
            for span in dict.fromkeys((*gold, *predicted)):
                counting.add(gold.get(span, []), predicted.get(span, []))
    return counting.found()


def image_confusion(documents: Iterable[Document], predictions: Predictions) -> Confusion:
    """Of events in images: each image by itself."""
    counting = _Counting()
    for document in documents:
        for image in document.images:
            predicted = [event.type for event in predictions.image.get(image.id, ())]
            counting.add([event.type for event in image.events], predicted)
    return counting.found()


class _Counting:
    def __init__(self) -> None:
        self.pairs, self.missed, self.extra = Counter[tuple[str, str]](), Counter[str](), Counter[str]()

    def add(self, gold: Sequence[str], predicted: Sequence[str]) -> None:
        both = Counter(gold) & Counter(predicted)
        for name, count in both.items():
            self.pairs[name, name] += count
        true, guessed = ([*(Counter(side) - both).elements()] for side in (gold, predicted))
        self.pairs.update(zip(true, guessed, strict=False))
        self.missed.update(true[len(guessed) :])
        self.extra.update(guessed[len(true) :])

    def found(self) -> Confusion:
        types: dict[str, dict[str, int]] = {}
        for true, guess in sorted(self.pairs):
            types.setdefault(true, {})[guess] = self.pairs[true, guess]
        return Confusion(types=types, missed=dict(sorted(self.missed.items())), extra=dict(sorted(self.extra.items())))
