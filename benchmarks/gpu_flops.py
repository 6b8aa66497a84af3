"""Floating-point operations of VideoLLaMA2, counted from its sizes: two for each multiplication with its addition.

Norms, activations, gates, rotations and the optimizer are left out: less than a hundredth. Attention is causal, so half
of its square is counted, and its backward pass as flash attention makes it: two and a half times the forward one.
``tests/test_gpu_benchmark.py`` holds these counts against those that torch makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PretrainedConfig

from xmtl_ray.models.connector import DEPTH
from xmtl_ray.models.videollama2 import Checkpoint

ATTENTION_BACKWARD = 2.5
"""Times the forward pass."""


class Work(NamedTuple):
    """FLOPs of a training step."""

    model: float
    """What the mathematics asks for: each product once forward, and backward what learns or leads to what learns."""
    hardware: float
    """What is computed, recomputation included."""


class Language(NamedTuple):
    """Multiplications of a language model."""

    projections: int
    """Of one place, in all layers."""
    adapters: int
    """Of one place and rank 1, in all layers."""
    attention: int
    """Of one pair of places, in all layers."""
    head: int
    """Of one place."""


def language(config: PretrainedConfig) -> Language:
    """Of Mistral or Qwen2."""
    width, hidden, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    head_width = getattr(config, "head_dim", None) or width // config.num_attention_heads
    queries, keys = config.num_attention_heads * head_width, config.num_key_value_heads * head_width
    shapes = [(width, queries), (width, keys), (width, keys), (queries, width)]
    shapes += [(width, hidden), (width, hidden), (hidden, width)]
    return Language(
        projections=layers * sum(rows * columns for rows, columns in shapes),
        adapters=layers * sum(rows + columns for rows, columns in shapes),
        attention=layers * 2 * queries,
        head=width * config.vocab_size,
    )


def tower(checkpoint: Checkpoint, frames: int) -> int:
    """Of so many frames through the layers of the tower that run."""
    config, last = checkpoint.tower, checkpoint.select_layer
    width, side = config.hidden_size, config.image_size // config.patch_size
    places = side**2 + config.model_type.startswith("clip")
    layers = last if last >= 0 else config.num_hidden_layers + 1 + last
    layer = places * (4 * width**2 + 2 * width * config.intermediate_size) + 2 * places**2 * width
    return 2 * frames * (layers * layer + side**2 * 3 * config.patch_size**2 * width)


def connector(checkpoint: Checkpoint, frames: Sequence[int]) -> int:
    """Of a forward pass over media of so many frames each; the first stage sees each frame once."""
    narrow, width = checkpoint.tower.hidden_size, checkpoint.language.hidden_size
    side = checkpoint.tower.image_size // checkpoint.tower.patch_size
    rest = 9 * width + width**2  # of a block: its convolution by channels, and the last one
    first = 2 * narrow * width + rest + (DEPTH - 1) * (width**2 + rest)  # with the shortcut's convolution
    after = 8 * width**2 + DEPTH * (width**2 + rest) + 2 * width**2
    return 2 * (sum(frames) * side**2 * first + len(frames) * checkpoint.tokens * after)


def step(
    checkpoint: Checkpoint,
    lengths: Sequence[int],
    learnt: int,
    r: int,
    frames: Sequence[int] = (),
    recomputes: bool = True,
) -> Work:
    """A training step of adapters and connector on a frozen base.

    Args:
        checkpoint: the model.
        lengths: places of each sequence, visual tokens included; padding is no work that is asked for.
        learnt: places that logits are needed of.
        r: rank.
        frames: of each medium, that the tower sees.
        recomputes: all layers and both stages of the connector run again in the backward pass.
    """
    one, places = language(checkpoint.language), sum(lengths)
    attention = one.attention * sum(length**2 for length in lengths)  # half of the square, two for each
    seen = connector(checkpoint, frames)
    forward = 2 * places * (one.projections + r * one.adapters) + attention
    backward = 2 * places * (one.projections + 2 * r * one.adapters) + ATTENTION_BACKWARD * attention
    model = forward + backward + 4 * learnt * one.head + 3 * seen + tower(checkpoint, sum(frames))
    return Work(model, model + recomputes * (forward + seen))


def generation(checkpoint: Checkpoint, prompt: int, new: int, frames: Sequence[int] = ()) -> int:
    """One answer of ``new`` tokens to ``prompt`` places, with a key-value cache."""
    one = language(checkpoint.language)
    words = 2 * (prompt + new) * one.projections + 2 * new * one.head + one.attention * (prompt + new) ** 2
    return words + connector(checkpoint, frames) + tower(checkpoint, sum(frames))
