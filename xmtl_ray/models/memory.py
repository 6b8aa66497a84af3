"""Memory that fine-tuning a generative model takes on one GPU: arithmetic on sizes, without weights and without a GPU.

A run is looked at in the moments that can be its peak. What is counted is what ``torch.cuda.max_memory_allocated``
counts, tensors; `OVERHEAD` is added for what that does not see. The figures follow from what modules keep, and in which
order (``activations``); ``tests/models/test_memory.py`` holds them against the bytes that an allocator gave out, and
``benchmarks/gpu_videollama2.py`` against a GPU's (docs/videollama2.md). A run on GPUs notes how far they were off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from xmtl_ray.models import activations
from xmtl_ray.models.activations import BF16, FP32, Decoder, Step, Vision

GIB = 2**30
OVERHEAD = GIB
"""CUDA's context and libraries (about half of it), workspaces of cuBLAS and NCCL, and gaps that the allocator cannot
fill. Stated, not measured."""
BUCKET = 50_000_000
"""Gradients that ZeRO exchanges at a time: it holds buffers for so many, however few there are. DeepSpeed's default is
ten times as many, 1.9 GiB for each kind of number."""
JOINED = 500_000_000
"""Gradients that DeepSpeed without ZeRO copies together to exchange them; it has no setting."""
LIVE = 1_000_000_000
"""Weights that ZeRO-3 keeps gathered at most (its default)."""
ADAM = 8
"""Bytes of AdamW's two moments."""
NF4, NF4_DOUBLE = 0.5 + FP32 / 64, 0.5 + 1 / 64 + FP32 / (64 * 256)
"""Bytes of a 4-bit weight: a scale for each 64, which double quantisation packs into a byte with one for each 256."""
WEIGHTS = ("language model", "embeddings", "output head", "tower", "connector", "adapters")
FIXED = (*WEIGHTS, "optimizer", "gradients", "engine")
"""Parts that no sequence is too short for."""


class SizeError(ValueError):
    """A size of memory that cannot be read."""


@dataclass(frozen=True)
class Engine:
    """What joins the workers."""

    name: Literal["ddp", "deepspeed"] = "ddp"
    zero_stage: int = 0
    workers: int = 1
    accumulation: int = 1

    @property
    def shards_state(self) -> int:
        """Parts of the optimizer's state."""
        return self.workers if self.zero_stage >= 1 else 1

    @property
    def shards_gradients(self) -> int:
        """Parts of the gradients."""
        return self.workers if self.zero_stage >= 2 else 1

    @property
    def shards_weights(self) -> int:
        """Parts of the weights."""
        return self.workers if self.zero_stage >= 3 else 1


@dataclass(frozen=True)
class Evaluation:
    """Dev conversations: how many at once, and the longest answer; 0: none is answered, the loss is looked at alone."""

    batch: int
    answer: int


@dataclass(frozen=True)
class Moment:
    """What lies in memory at once: part → bytes."""

    name: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """Bytes of all tensors."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Learnt:
    """Numbers of weights that learn."""

    language: int
    """Of the language model: all, or its adapters and, if they learn, its embeddings and head."""
    connector: int
    tower: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.language + self.connector + self.tower


def learnt(decoder: Decoder, vision: Vision, step: Step) -> Learnt:
    """What learns by ``step``."""
    words = (decoder.embeddings + decoder.head) * step.embeddings_learn
    if step.method == "full":
        language = decoder.projected + decoder.other + words
    else:
        language = decoder.adapters(step.r, step.targets) + words
    return Learnt(language, vision.connector * step.train_connector, vision.tower * step.train_tower)


def moments(
    decoder: Decoder, vision: Vision, step: Step, engine: Engine, evaluation: Evaluation | None, double: bool = True
) -> tuple[Moment, ...]:
    """Every moment that can be a run's peak, in its order.

    Args:
        decoder: sizes of the language model.
        vision: of what is before it.
        step: a training step.
        engine: what is sharded.
        evaluation: of dev conversations; None: it is left out.
        double: whether the scales of 4-bit weights are quantised.
    """
    learns = learnt(decoder, vision, step)
    held = resident(decoder, vision, step, engine, double)
    before, after = _gradients(learns.total, engine), FP32 * learns.total // engine.shards_gradients
    backward = held | {"engine": held["engine"] + _buffers(learns, engine, step)}

    def gradients(weights: int) -> int:
        return max(before, FP32 * weights // engine.shards_gradients)

    rows = activations.embedded(decoder, step) + decoder.layers * activations.layer_stored(decoder, step)
    layer = activations.layer_working(decoder, step) + step.checkpointing * activations.layer_recomputed(decoder, step)
    first, rest = activations.connector_kept(vision, decoder.width, step)
    first += activations.tower_kept(vision, step)
    block = activations.connector_working(vision, decoder.width, step)
    copies = BF16 * learns.total * step.mixed  # autocast keeps them until the forward pass ends
    unrolled = BF16 * vision.unrolled * step.mixed * (learns.connector > 0)
    later = unrolled if step.checkpointing else copies
    head, embeddings = (size * step.embeddings_learn for size in (decoder.head, decoder.embeddings))
    first_stage = (learns.connector - vision.unrolled) // 2 if learns.connector else 0
    done = (learns.language - embeddings) * (decoder.layers - 1) // decoder.layers
    found = [
        Moment("tower and connector", held | {
            "gradients": before, "vision": max(activations.tower_forward(vision, step), first + rest + block)}),
        Moment("loss", held | {
            "gradients": gradients(head), "activations": rows, "vision": first + rest, "16-bit copies": copies,
            "loss": activations.loss(decoder, step, step.places)}),
        Moment("last layer's backward", backward | {
            "gradients": gradients(head), "activations": rows, "layer": layer, "vision": first + rest,
            "16-bit copies": later}),
        Moment("first layer's backward", backward | {
            "gradients": gradients(done), "activations": rows // decoder.layers, "layer": layer,
            "vision": first + rest, "16-bit copies": later}),
        Moment("connector's backward", backward | {
            "gradients": gradients(learns.language - embeddings + learns.connector - first_stage),
            "vision": first + block, "16-bit copies": unrolled}),
        Moment("optimizer", held | {"gradients": after} | _stepping(learns, engine, held["engine"])),
    ]  # fmt: skip
    if engine.zero_stage == 3:  # which shards what lies on the GPU whole
        found.insert(0, Moment("start", {**resident(decoder, vision, step, Engine(), double), "optimizer": 0}))
    if evaluation is not None:
        found.append(_evaluating(decoder, vision, step, evaluation, held | {"gradients": before}, copies))
    return tuple(found)


def resident(decoder: Decoder, vision: Vision, step: Step, engine: Engine, double: bool = True) -> dict[str, int]:
    """Parts that stay from the first optimizer step to the end: weights, the optimizer's state, the engine's own."""
    learns, language = learnt(decoder, vision, step), FP32 if step.method == "full" else step.product
    words = FP32 if step.embeddings_learn else step.product
    packed = {4: NF4_DOUBLE if double else NF4, 8: 1.0, 16: float(language)}[step.bits]
    weights = {
        "language model": round(decoder.projected * packed) + decoder.other * language,
        "embeddings": decoder.embeddings * words,
        "output head": decoder.head * words,
        "tower": vision.tower * (FP32 if learns.tower else step.product),
        "connector": vision.connector * (FP32 if learns.connector else step.product),
        "adapters": 0 if step.method == "full" else FP32 * decoder.adapters(step.r, step.targets),
    }
    found = {name: value // engine.shards_weights for name, value in weights.items()}
    found["optimizer"] = ADAM * learns.total // engine.shards_state
    found["engine"] = 0
    if engine.zero_stage:  # its optimizer steps on copies of the weights
        found["engine"] = FP32 * learns.total // engine.shards_state
    if engine.zero_stage == 3:
        found["engine"] += min(sum(weights.values()), LIVE * step.product) + _buffers(learns, engine, step, always=True)
    return found


def largest(moment: Moment, count: int = 2) -> list[tuple[str, int]]:
    """The largest parts of a moment."""
    return sorted(moment.parts.items(), key=lambda part: -part[1])[:count]


def peak(found: tuple[Moment, ...]) -> Moment:
    """The moment with most in it."""
    return max(found, key=lambda moment: moment.total)


def compared(planned: int, found: int) -> dict[str, float]:
    """Metrics of a plan held against the bytes that a run had at most; its error in percent of those."""
    return {
        "memory/planned_gib": planned / GIB,
        "memory/peak_gib": found / GIB,
        "memory/error_percent": 100 * (planned / found - 1),
    }


def least(found: tuple[Moment, ...]) -> int:
    """Bytes that a run needs with the shortest of sequences: what cannot fit without this cannot fit at all."""
    return max(sum(moment.parts.get(name, 0) for name in FIXED) for moment in found)


def size(text: str) -> int:
    """Bytes of "40GiB", "80GB", "24g" or "24". A GPU's GB are GiB, whatever the letters: so they are sold.

    Raises SizeError.
    """
    read = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([gGmM])(?:[iI]?[bB])?)?\s*", text)
    if read is None or not float(read[1]):
        raise SizeError(f"memory of a GPU: found {text!r}, expected a size like 40GiB, 80GB or 24g")
    return round(float(read[1]) * (2**20 if (read[2] or "g").lower() == "m" else GIB))


def _gradients(weights: int, engine: Engine) -> int:
    """Bytes that lie there before a backward pass begins."""
    joined = engine.name == "ddp" and engine.workers > 1  # its buckets are the gradients
    lasting = joined or engine.accumulation > 1 or engine.zero_stage == 3
    return FP32 * weights // engine.shards_gradients if lasting else 0


def _buffers(learns: Learnt, engine: Engine, step: Step, always: bool = False) -> int:
    """Bytes of ZeRO's buckets of gradients: one for each kind of number that they are exchanged in.

    Linear layers and convolutions are exchanged in 16 bits under autocast, norms and embeddings in 32. Stages 1 and 2
    hold 32-bit buckets during the backward pass and cast them, stage 3 has them always and in these kinds.
    """
    if not engine.zero_stage or (engine.zero_stage == 3) != always:
        return 0
    kinds = [BF16] if step.mixed else [FP32]
    if step.mixed and (step.embeddings_learn or learns.connector or learns.tower):
        kinds.append(FP32)
    if always:
        return BUCKET * sum(kinds)
    return BUCKET * FP32 * len(kinds) + (BF16 * min(BUCKET, learns.total) if step.mixed else 0)


def _stepping(learns: Learnt, engine: Engine, held: int) -> dict[str, int]:
    """The engine's part while the optimizer steps: ZeRO flattens the gradients, DeepSpeed without it a bucket's."""
    if engine.zero_stage in (1, 2):
        return {"engine": held + FP32 * learns.total // engine.shards_state}
    if engine.name == "deepspeed" and not engine.zero_stage:
        return {"engine": held + FP32 * min(learns.total, JOINED)}
    return {}


def _evaluating(
    decoder: Decoder, vision: Vision, step: Step, evaluation: Evaluation, held: dict[str, int], copies: int
) -> Moment:
    """Prompts of the longest kind, read at once, with the room that their answers will take."""
    answered = evaluation.answer > 0
    places = evaluation.batch * step.tokens
    masked = evaluation.batch > 1 and (answered or step.masked)
    layer = activations.layer_forward(decoder, step, places, step.tokens, masked)
    inputs = (2 + answered) * decoder.width + 2 * decoder.head_width
    parts = {"activations": places * step.stream * inputs, "16-bit copies": copies}
    if not answered:
        final = activations.loss(decoder, step, places)
        return Moment("dev loss", held | parts | ({"loss": final} if final > layer else {"layer": layer}))
    cached = 2 * decoder.key_value_heads * decoder.head_width * step.product
    cache = evaluation.batch * (step.tokens + evaluation.answer) * cached * decoder.layers
    return Moment("dev answers", held | parts | {"layer": layer, "KV cache": cache})
