"""The four task heads: Eq. 5-12.

Shapes: B sentences, W words, D hidden, L labels. ``Crf`` is the seam behind which another implementation can stand:
one ``forward`` for both uses, so that sharded parameters are gathered around it (ZeRO-3 hooks on ``forward``).
"""

from __future__ import annotations

from typing import Protocol

import torch
import torchcrf
from torch import Tensor, nn


class Crf(Protocol):
    """A linear-chain CRF over tags, Eq. 5-6."""

    def __call__(self, emissions_BWL: Tensor, mask_BW: Tensor, tags_BW: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """With gold tags: (negative log-likelihood [B], tags). Without: (path probability [B], best tags [B, W])."""
        ...


class TorchCrf(torchcrf.CRF):
    """pytorch-crf behind :class:`Crf`, always in fp32: its sums of exponentials lose too much in bf16."""

    def __init__(self, labels: int) -> None:
        super().__init__(labels, batch_first=True)

    def forward(self, emissions_BWL: Tensor, mask_BW: Tensor, tags_BW: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Eq. 6 when tags are given, else Viterbi's path and its probability by Eq. 5. Every row needs a word."""
        with torch.autocast(emissions_BWL.device.type, enabled=False):
            emissions = emissions_BWL.float()
            if tags_BW is not None:
                return -super().forward(emissions, tags_BW, mask_BW, reduction="none"), tags_BW
            best = torch.zeros_like(mask_BW, dtype=torch.long)
            for row, path in enumerate(self.decode(emissions, mask_BW)):
                best[row, : len(path)] = torch.tensor(path, device=best.device)
            return super().forward(emissions, best, mask_BW, reduction="none").exp(), best


class TriggerHead(nn.Module):
    """Trigger detection: tag scores of every word, for the CRF."""

    def __init__(self, width: int, labels: int) -> None:
        super().__init__()
        self.scores = nn.Linear(width, labels)

    def forward(self, z_BTD: Tensor, words_BW: Tensor) -> Tensor:
        """States of word pieces and each word's first piece → emissions [B, W, L]."""
        index = words_BW[..., None].expand(-1, -1, z_BTD.shape[-1])
        return self.scores(z_BTD.gather(1, index))


def favour_events(emissions_BWL: Tensor, bias: float) -> Tensor:
    """Emissions with tag O (index 0) lowered by ``bias``: paths with more triggers become the best ones."""
    lowered = emissions_BWL.clone()
    lowered[..., 0] -= bias
    return lowered


class PooledHead(nn.Module):
    """Argument extraction, verb and role classification: a linear layer on a mean of states (Eq. 7, 9, 11)."""

    def __init__(self, width: int, labels: int) -> None:
        super().__init__()
        self.scores = nn.Linear(width, labels)

    def forward(self, z_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """States → logits [B, L]; only states where ``mask`` is True count."""
        if mask_BT is None:
            return self.scores(z_BTD.mean(1))
        weight = mask_BT[..., None].to(z_BTD.dtype)
        return self.scores((z_BTD * weight).sum(1) / weight.sum(1))
