"""Next-token loss without the logits ever being whole.

A 152,064-word vocabulary and 18,600 tokens make 11 GB of logits in 32 bits, several times over in the backward pass.
Here only places that are learnt from get logits at all, and those in chunks.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from xmtl_ray.models.splice import IGNORED

Backend = Literal["auto", "torch", "liger"]

CHUNK = 1024
"""Places whose logits exist at once where torch has no chunked loss of its own (before 2.15)."""


def token_loss(hidden: Tensor, head: nn.Linear, labels: Tensor, backend: Backend = "auto") -> Tensor:
    """Sum over places of the cross-entropy of the next token; a scalar of 32 bits, in nats.

    Args:
        hidden: last hidden states [R, M, C].
        head: C → vocabulary, without bias.
        labels: [R, M], the id that stands at each place, IGNORED where it is not to be predicted.
        backend: torch, liger (kernels for GPUs, the extra ``kernels``), or auto: liger where it can run.
    """
    learnt = labels[:, 1:] != IGNORED
    states, targets = hidden[:, :-1][learnt], labels[:, 1:][learnt]
    weight = head.weight.to(states.dtype)
    if len(targets) == 0:
        return states.sum().float()  # zero that keeps the graph: every rank has a backward pass
    if backend == "liger" or (backend == "auto" and liger_runs(hidden.device)):
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

        return liger_fused_linear_cross_entropy(states, weight, targets, reduction="sum")
    if hasattr(functional, "linear_cross_entropy"):
        # Its own sum would be one of 16 bits for states of 16 bits, some percent off after a few thousand places.
        options = nn.LinearCrossEntropyOptions()
        return functional.linear_cross_entropy(states, weight, targets, reduction="none", options=options).float().sum()
    return sum(  # type: ignore[return-value]
        checkpoint(_plain, some, weight, wanted, use_reentrant=False)
        for some, wanted in zip(states.split(CHUNK), targets.split(CHUNK), strict=True)
    )


def liger_runs(device: torch.device) -> bool:
    """Whether liger-kernel is installed and has a GPU to run on."""
    return device.type == "cuda" and find_spec("liger_kernel") is not None


def _plain(states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy((states @ weight.T).float(), targets, reduction="sum")
