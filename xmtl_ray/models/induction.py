"""A small language model that can copy from its first step on.

Whatever a sentence's words are, the words of its events are among them, so a model that extracts must copy what it has
never seen. Large language models do that by induction heads: one head looks one token back, a later one finds where the
token at hand stood before and reads what followed (Olsson et al. 2022, arXiv:2209.11895). They find them early in their
training, but after far more tokens than a model can see in minutes on a CPU. So small ones begin with them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_STRENGTH = 6.5
"""Of the biases by which a head looks a fixed number of tokens back: one it looks at gets 95 % of its attention."""
_SHARPNESS = 3.0
"""Of the match of two tokens, of unit length each, per dimension."""
_PAIRS = 6
"""Fastest pairs of rotary dimensions: these tell neighbours apart."""
_REACH = 64
"""Tokens over which what is matched must not be turned away by rotary positions."""


@torch.no_grad()
def begin_with_induction(language_model: Any) -> bool:
    """Make two heads of the first layer look one and two tokens back, and two of the second match what those found.

    One of the second layer's reads on where the token at hand stood before, the other where the one before it stood
    (words may have spaces between them, which match everywhere). All weights learn on from there.

    Args:
        language_model: a causal one with biases on queries and keys (Qwen2's), rotary positions, random weights.

    Returns whether it could be done: two layers, two heads and two key-value heads are needed, and the biases.
    """
    if language_model.config.num_hidden_layers < 2:
        return False
    first, second = (layer.self_attn for layer in language_model.model.layers[:2])
    config, size, group = language_model.config, first.head_dim, first.num_key_value_groups
    if first.q_proj.bias is None or config.num_key_value_heads < 2:
        return False
    embeddings = language_model.get_input_embeddings().weight
    spread = embeddings.std()
    turns = config.rope_parameters["rope_theta"] ** (-torch.arange(size // 2) / (size / 2))

    def heads(weight: Tensor, number: int) -> Tensor:
        return weight[number * size : (number + 1) * size]

    seen = _orthogonal(config.hidden_size, size)
    written = _orthogonal(config.hidden_size, 2 * size)
    for back, where in enumerate(written.split(size), 1):
        head, pair = back - 1, slice(0, min(_PAIRS, size // 2))
        query, key = torch.zeros(size), torch.zeros(size)
        key[pair] = _STRENGTH
        query[pair] = _STRENGTH * torch.cos(turns[pair] * back)
        query[size // 2 :][pair] = -_STRENGTH * torch.sin(turns[pair] * back)
        heads(first.q_proj.bias, head).copy_(query)
        heads(first.k_proj.bias, head // group).copy_(key)
        heads(first.v_proj.weight, head // group).copy_(seen)
        heads(first.o_proj.weight.T, head).copy_(where * spread)
    slow = (turns * _REACH < 1).repeat(2)[:, None]
    before, earlier = written.split(size)
    for kept, (asked, found) in enumerate(((seen, before), (before, earlier))):
        heads(second.q_proj.weight, kept * group).copy_(asked * slow * _SHARPNESS)
        heads(second.k_proj.weight, kept).copy_(found * slow * _SHARPNESS)
        copied = _orthogonal(config.hidden_size, size)
        heads(second.v_proj.weight, kept).copy_(copied)
        heads(second.o_proj.weight.T, kept * group).copy_(copied * spread)
    return True


def _orthogonal(width: int, rows: int) -> Tensor:
    """[rows, width] with orthonormal rows."""
    return torch.linalg.qr(torch.randn(width, rows))[0].T
