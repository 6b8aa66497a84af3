"""What a VideoLLaMA2 keeps for its backward pass, and what its widest moments need besides: bytes from sizes alone.

The terms follow transformers' Mistral and Qwen2, PEFT's LoRA layers, timm's RegNet blocks and torch's autocast as they
are: which tensor each operation saves, and in how many bits. C width, I hidden width, A width of all heads, K of the
key-value heads, D vision width, L places, M places of a row, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Method = Literal["qlora", "lora", "full"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]

FP32, BF16 = 4, 2
BLOCKS = 4
"""RegNet blocks of each of the connector's two stages."""


@dataclass(frozen=True)
class Projection:
    """A linear layer that every decoder layer has."""

    name: str
    width_in: int
    width_out: int


@dataclass(frozen=True)
class Decoder:
    """Sizes of a language model."""

    layers: int
    width: int
    hidden: int
    heads: int
    key_value_heads: int
    head_width: int
    vocabulary: int
    projections: tuple[Projection, ...]
    """Of one layer: what is quantised, and what adapters go on."""
    other: int
    """Weights that are neither projections, embeddings nor head: norms and biases, of all layers."""
    embeddings: int
    head: int
    """0 where it is the embeddings' weight."""

    @property
    def projected(self) -> int:
        """Weights of all projections."""
        return self.layers * sum(one.width_in * one.width_out for one in self.projections)

    @property
    def largest(self) -> int:
        """Weights of the largest projection."""
        return max(one.width_in * one.width_out for one in self.projections)

    def adapters(self, r: int, targets: Collection[str]) -> int:
        """Weights of adapters of rank ``r``."""
        return self.layers * sum(r * (one.width_in + one.width_out) for one in self.projections if one.name in targets)


@dataclass(frozen=True)
class Vision:
    """Sizes of a tower and of what leads from it to the language model."""

    tower: int
    """Weights."""
    connector: int
    """Weights."""
    width: int
    hidden: int
    layers: int
    places: int
    """That the tower sees of a frame, a class token included."""
    frames: int
    """Of a video."""
    patches: int
    """Of a frame that the connector sees; 0: it is none of ours, and is not learnt."""
    tokens: int
    """Places that a medium takes in the language model."""
    unrolled: int = 0
    """Weights of the connector outside its two stages, which are never recomputed."""


@dataclass(frozen=True)
class Step:
    """How one worker makes a training step."""

    method: Method
    product: int
    """Bytes of a product and of weights that are not learnt: 2 under autocast, 4 without."""
    sequences: int
    """Of a micro-batch on this worker."""
    tokens: int
    """Places of each, at most."""
    media: int
    """Videos among them."""
    checkpointing: bool
    attention: Attention
    bits: int = 16
    r: int = 0
    targets: tuple[str, ...] = ()
    dropout: bool = False
    device: Literal["cuda", "cpu"] = "cuda"
    masked: bool = False
    """Sequences share rows, so that attention needs a mask."""
    train_connector: bool = True
    train_tower: bool = False
    train_embeddings: bool = False
    """Besides adapters, and the output head with them."""

    @property
    def embeddings_learn(self) -> bool:
        """Whether embeddings and output head are among what learns."""
        return self.method == "full" or self.train_embeddings

    @property
    def places(self) -> int:
        """L."""
        return self.sequences * self.tokens

    @property
    def mixed(self) -> bool:
        """Whether weights that learn have more bits than products."""
        return self.product < FP32

    @property
    def casts(self) -> bool:
        """Whether adapters cast their input to 32 bits: PEFT's on packed weights leave that to autocast, CUDA's."""
        return self.mixed and (self.bits == 16 or self.device == "cpu")

    @property
    def dropout_mask(self) -> int:
        """Bytes that dropout keeps of each number: a mask on a GPU, what it multiplies with on a CPU."""
        return 0 if not self.dropout else 1 if self.device == "cuda" else FP32 if self.casts else self.product

    @property
    def normed(self) -> int:
        """Bytes of what a layer norm gives: CUDA's autocast computes it in 32 bits, a CPU's does not."""
        return FP32 if self.device == "cuda" else self.product

    @property
    def stream(self) -> int:
        """Bytes of the residual stream: those of the embeddings, which are 32 bits where they learn."""
        return FP32 if self.embeddings_learn else self.product


def layer_kept(sizes: Decoder, step: Step) -> int:
    """Bytes that one decoder layer keeps for its backward pass, its input included."""
    b, c, i = step.product, sizes.width, sizes.hidden
    a, k = sizes.heads * sizes.head_width, sizes.key_value_heads * sizes.head_width
    each = 2 * FP32 * c  # both norms: their input in 32 bits
    if step.method == "full":
        each += 2 * FP32 * c  # and normalised, for the norms' own weights
    shared = _inputs_shared(step)
    each += (2 * step.stream * c if shared else 0) + _inputs_kept(sizes, step)
    each += b * i if shared or step.method == "full" else 0  # of down
    each += b * 3 * i  # gate, its activation, up
    each += b * (a + 2 * (a if step.masked or step.attention == "eager" else k) + a)  # queries, keys, values, result
    if step.attention == "eager":
        squares = sizes.heads * (FP32 + (b if step.mixed else 0))
    else:
        squares, each = b if step.masked else 0, each + FP32 * sizes.heads
    return step.places * each + step.places * step.tokens * squares


def _inputs_shared(step: Step) -> bool:
    """Whether projections keep one input together: nothing casts it or drops numbers of it for each of them."""
    if step.method == "full":
        return not step.mixed
    return not step.dropout and not step.casts


def _inputs_kept(sizes: Decoder, step: Step) -> int:
    """Bytes per place that projections keep of their inputs, each for itself, and of what adapters made of them."""
    if step.method == "full":
        return (
            0
            if not step.mixed
            else step.product
            * sum(
                one.width_in
                for one in sizes.projections
                if one.width_in == sizes.width and one.width_out != sizes.width
            )
        )
    copy = 0 if _inputs_shared(step) else step.product
    return sum((copy + step.dropout_mask) * one.width_in + step.product * step.r
               for one in sizes.projections if one.name in step.targets)  # fmt: skip


def layer_recomputed(sizes: Decoder, step: Step) -> int:
    """Bytes that one layer keeps once it is recomputed: its input is kept anyhow, and is no copy in 32 bits."""
    return layer_kept(sizes, step) - (step.places * FP32 * sizes.width if step.stream == FP32 else 0)


def layer_stored(sizes: Decoder, step: Step) -> int:
    """Bytes that lie there of one layer from its forward to its backward pass: with checkpointing, its input."""
    stored = step.places * step.stream * sizes.width if step.checkpointing else layer_kept(sizes, step)
    return stored + packed_kept(sizes, step)


def embedded(sizes: Decoder, step: Step) -> int:
    """Bytes kept before the first layer: the rotary angles, and, so that a frozen model's checkpoints have a gradient,
    the embeddings as they were before the media were put among them."""
    leaf = step.checkpointing and not step.embeddings_learn
    return step.places * step.stream * (2 * sizes.head_width + leaf * sizes.width)


def packed_kept(sizes: Decoder, step: Step) -> int:
    """Bytes of inputs that bitsandbytes' 8-bit layers hold on to in each decoder layer, where recomputing does not see
    them: with 8 bits checkpointing therefore saves less. 4-bit layers hold none."""
    if step.bits != 8 or (not step.checkpointing and _inputs_shared(step)):
        return 0
    attended = sizes.heads * sizes.head_width if step.checkpointing else 0
    return step.places * step.product * (2 * sizes.width + attended + sizes.hidden)


def layer_working(sizes: Decoder, step: Step) -> int:
    """Bytes that a layer's backward pass has at most besides what the layer keeps; its weights for a moment included.

    Two moments compete, both in the feed-forward layer: the backward pass through its product, where the gradients of
    the product and of both factors exist, and the product itself no more; and the forward pass of the last adapter,
    where PEFT casts the product to 32 bits and drops numbers of that.
    """
    b, i, stream = step.product, sizes.hidden, step.stream * sizes.width
    wide = 2 * b * i
    if step.method != "full" and step.casts:
        cast = (b + FP32 * (2 if step.dropout else 1)) * i
        wide = max(wide, cast + step.checkpointing * 3 * stream)  # a recomputed layer's own variables
    attending = 0
    if step.attention == "eager":  # the gradient of its weights before and after softmax; the rest is gone by then
        attending = 2 * FP32 * sizes.heads * step.tokens - 4 * b * i
    return step.places * (stream + max(wide, attending)) + _weights_working(sizes, step)


def _weights_working(sizes: Decoder, step: Step) -> int:
    if step.method == "full":
        return sizes.largest * (step.product + FP32) if step.mixed else 0
    return sizes.largest * step.product if step.bits < 16 else 0


def layer_forward(sizes: Decoder, step: Step, places: int, tokens: int, masked: bool) -> int:
    """Bytes of a layer's forward pass alone, of ``places`` in rows of ``tokens``: what an evaluation needs of it."""
    b, i = step.product, sizes.hidden
    adapted = max(4 * b, 2 * b + FP32 * step.casts) * i  # the gate, a layer's result, its adapter's, that scaled
    wide = 3 * b * i if step.method == "full" else adapted
    if step.attention == "eager":
        mask, attending = b * tokens, (2 * FP32 + b * step.mixed) * sizes.heads * tokens
    else:
        mask, attending = (tokens, b * tokens) if masked else (0, 0)  # of bits, and as numbers
    return places * (2 * step.stream * sizes.width + max(wide, attending) + mask) + _weights_working(sizes, step)


def loss(sizes: Decoder, step: Step, places: int) -> int:
    """Bytes from the last hidden states to the loss: states of the final norm and of all places, and torch's chunk of
    logits in 32 bits, which is as many numbers as the states have."""
    target = math.ceil(places / math.ceil(sizes.vocabulary / sizes.width))
    chunk = min(1 << (target - 1).bit_length(), places)
    states = places * sizes.width * (FP32 + 2 * step.stream)
    return states + chunk * sizes.vocabulary * FP32


def tower_forward(sizes: Vision, step: Step) -> int:
    """Bytes of the widest moment of the frozen tower, all frames at once."""
    places = step.media * sizes.frames * sizes.places
    return places * step.product * (2 * sizes.width + 3 * sizes.hidden)


def tower_kept(sizes: Vision, step: Step) -> int:
    """Bytes that a tower keeps which learns."""
    places = step.media * sizes.frames * sizes.places
    return places * step.product * sizes.layers * (8 * sizes.width + 3 * sizes.hidden) if step.train_tower else 0


def connector_kept(sizes: Vision, width: int, step: Step) -> tuple[int, int]:
    """Bytes that the connector keeps for its backward pass: its first stage, and all after it.

    Args:
        sizes: its own.
        width: the language model's.
        step: a training step.
    """
    if not _connector_learns(sizes, step):
        return 0, 0
    if not sizes.patches:  # two linear layers and what is between them
        return 0, step.media * sizes.tokens * 3 * step.product * width
    first, second = _maps(sizes, step)
    block, inputs = (0 if step.checkpointing else BLOCKS * _block(step)), step.normed
    before = first * (FP32 * sizes.width + ((BLOCKS - 1) * inputs + block) * width)
    sampler = step.product * (first + second) * width  # its input, its result before the activation
    return before, sampler + second * (BLOCKS * inputs + block + 3 * step.product) * width


def connector_working(sizes: Vision, width: int, step: Step) -> int:
    """Bytes that a block of the connector's first stage has at most besides what is kept."""
    if not sizes.patches:
        return 0
    first, _ = _maps(sizes, step)
    kept = _block(step) if step.checkpointing and _connector_learns(sizes, step) else 0
    return first * width * (kept + 4 * step.normed)


def _connector_learns(sizes: Vision, step: Step) -> bool:
    return bool(sizes.connector) and (step.train_connector or step.train_tower)


def _maps(sizes: Vision, step: Step) -> tuple[int, int]:
    """Positions of both stages' maps."""
    return step.media * sizes.frames * sizes.patches, step.media * sizes.tokens


def _block(step: Step) -> int:
    """Bytes per number of a map that a RegNet block keeps besides its input.

    The results of three convolutions, the inputs of three activations, the gate's input and the last two convolutions'
    inputs. Where norms give 32 bits under autocast, each convolution keeps a cast copy of its input.
    """
    return 6 * step.product + 4 * FP32 if step.normed > step.product else 9 * step.product
