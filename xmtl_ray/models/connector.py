"""VideoLLaMA2's spatial-temporal connector: from a vision tower's patches to visual tokens of a language model.

Two stages of RegNet blocks (timm's, which have the checkpoint's parameter names) with a 3-D convolution between them
that halves time, height and width, and a two-layer read-out. K media, T frames, P = g² patches, D vision width,
C language width, N visual tokens. The surprising fact: the first stage sees one frame at a time, so an image needs it
once although it stands for T equal frames; only the convolution mixes time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from timm.layers import LayerNorm2d
from timm.models.regnet import RegStage
from torch import Tensor, nn

ConnectorKind = Literal["stc_connector", "stc_connector_v35"]
PADDING: dict[ConnectorKind, int] = {"stc_connector": 1, "stc_connector_v35": 0}
"""Of the 3-D convolution, on all three axes: with 1 the first and, for even T, the last slice mix in zeros."""

DEPTH = 4


class Connector(nn.Module):
    """See the module.

    Args:
        kind: which padding.
        vision_width: D.
        width: C.
    """

    def __init__(self, kind: ConnectorKind, vision_width: int, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.s1 = _stage(vision_width, width)
        self.sampler = nn.Sequential(nn.Conv3d(width, width, 2, stride=2, padding=PADDING[kind]), nn.SiLU())
        self.s2 = _stage(width, width)
        self.readout = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, media: Sequence[Tensor], frames: int) -> Tensor:
        """Features [T or 1, P, D] of each of K media → visual tokens [K, N, C]; one frame alone is held T times."""
        volumes = self.first(media, frames)
        return self.last(self.sampler(volumes))

    def first(self, media: Sequence[Tensor], frames: int) -> Tensor:
        """The first stage, each frame once: [K, C, T, g, g]."""
        side = math.isqrt(media[0].shape[1])
        grids = torch.cat(list(media)).transpose(1, 2).unflatten(2, (side, side))
        maps = self.s1(grids).split([len(features) for features in media])
        return torch.stack([one.expand(frames, -1, -1, -1) for one in maps]).transpose(1, 2)

    def last(self, slices: Tensor) -> Tensor:
        """The second stage and the read-out: [K, C, t, h, h] → [K, t·h·h, C], time first, then rows, then columns."""
        count, _, steps = slices.shape[:3]
        maps = self.s2(slices.transpose(1, 2).flatten(0, 1))
        tokens = maps.flatten(2).transpose(1, 2).unflatten(0, (count, steps)).flatten(1, 2)
        return self.readout(tokens)

    def checkpoint_activations(self) -> None:
        """Recompute both stages in the backward pass: their maps are wider than the language model's states."""
        self.s1.grad_checkpointing = self.s2.grad_checkpointing = True


def tokens_per_medium(kind: ConnectorKind, frames: int, side: int) -> int:
    """N for ``frames`` frames of ``side``² patches, of an image as well.

    >>> tokens_per_medium("stc_connector", 16, 24), tokens_per_medium("stc_connector_v35", 16, 27)
    (1521, 1352)
    """
    steps, cells = ((size + 2 * PADDING[kind] - 2) // 2 + 1 for size in (frames, side))
    return steps * cells * cells


def _stage(width_in: int, width: int) -> RegStage:
    return RegStage(DEPTH, width_in, width, stride=1, dilation=1, act_layer=nn.SiLU, norm_layer=LayerNorm2d)
