"""X-MTL: two modality-specific encoders, one shared encoder, a head per task (paper A, Eq. 1-4 and Fig. 2).

Shapes: B rows, T word pieces or patches, D hidden. One forward pass runs each encoder at most once, whatever the
number of tasks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from xmtl_ray.config.schema import TaskName
from xmtl_ray.events.ontology import Ontology
from xmtl_ray.models.heads import PooledHead, TorchCrf, TriggerHead
from xmtl_ray.models.inputs import Inputs


class SharedBlock(nn.Module):
    """One pre-LN transformer block, Eq. 3-4."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_ffn = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)
        # Each block begins as the identity, so that what a pretrained encoder knows reaches the heads from step one.
        for last in (self.out, self.ffn[-1]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, h_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        """Attend to real positions only; ``mask`` None means all are real."""
        batch, length, width = h_BTD.shape
        qkv = self.qkv(self.norm_attention(h_BTD)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if mask_BT is None else mask_BT[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        h_BTD = h_BTD + self.drop(self.out(attended.transpose(1, 2).reshape(batch, length, width)))
        return h_BTD + self.drop(self.ffn(self.norm_ffn(h_BTD)))


class SharedEncoder(nn.Module):
    """L blocks that text and image states both pass through, Eq. 2."""

    def __init__(self, layers: int, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(SharedBlock(width, heads, dropout) for _ in range(layers))

    def forward(self, h_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """Aligned states → task-specific states Z."""
        for block in self.blocks:
            h_BTD = block(h_BTD, mask_BT)
        return h_BTD


class States(NamedTuple):
    """Task-specific representations Z of one step's rows; None for a modality that it has not."""

    text: Tensor | None
    """[B, T, D]"""
    image: Tensor | None
    """[B, P, D]"""

    def pooled(self, inputs: Inputs) -> Tensor:
        """The mean of each row's real states, text rows first: [rows, D]."""
        rows = []
        if self.text is not None:
            assert inputs.text is not None
            mask = inputs.text.mask[..., None].to(self.text.dtype)
            rows.append((self.text * mask).sum(1) / mask.sum(1))
        if self.image is not None:
            rows.append(self.image.mean(1))
        return torch.cat(rows)


class XMTL(nn.Module):
    """The model of paper A for any subset of its tasks; an encoder that no task needs is not there.

    Args:
        tasks: which heads to make.
        ontology: gives the labels of each head.
        text: BERT or the like, returning ``last_hidden_state``; None without text tasks.
        image: CLIP's vision transformer; None without image tasks.
        shared: the modality-shared encoder.
        width: its hidden size D.
    """

    def __init__(
        self,
        tasks: Sequence[TaskName],
        ontology: Ontology,
        text: nn.Module | None,
        image: nn.Module | None,
        shared: SharedEncoder,
        width: int,
    ) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.shared = shared
        self.text_encoder, self.image_encoder = text, image
        if text is not None:
            self.align_text = _alignment(text.config.hidden_size, width)
        if image is not None:
            self.align_image = _alignment(image.config.hidden_size, width)
        if "td" in tasks:
            self.td = TriggerHead(width, len(ontology.tags))
            self.crf = TorchCrf(len(ontology.tags))
        if "ae" in tasks:
            self.ae = PooledHead(width, len(ontology.roles))
        if "vc" in tasks:
            self.vc = PooledHead(width, len(ontology.types))
        if "rc" in tasks:
            self.rc = PooledHead(width, len(ontology.roles))

    @property
    def image_px(self) -> int:
        """Side of the square images that the vision encoder takes."""
        assert self.image_encoder is not None
        return int(self.image_encoder.config.image_size)

    def forward(self, inputs: Inputs) -> dict[TaskName, Tensor]:
        """Scores of every task that has rows in ``inputs``.

        td: emissions [sentences, W, tags] for ``crf``; ae: [prompts, roles]; vc: [images, types]; rc: [marked, roles].
        """
        return self.scores(self.states(inputs), inputs)

    def states(self, inputs: Inputs) -> States:
        """Z of every row, Eq. 1-4: one pass of each encoder."""
        text = image = None
        if inputs.text is not None:
            text = self.shared(self.align_text(self._text_states(inputs.text)), inputs.text.mask)
        if inputs.pixels is not None:
            assert self.image_encoder is not None
            image = self.shared(self.align_image(self.image_encoder(pixel_values=inputs.pixels).last_hidden_state))
        return States(text, image)

    def scores(self, states: States, inputs: Inputs) -> dict[TaskName, Tensor]:
        """The heads' scores of states; see :meth:`forward`."""
        scores: dict[TaskName, Tensor] = {}
        if states.text is not None:
            text, z = inputs.text, states.text
            assert text is not None
            if text.sentences:
                scores["td"] = self.td(z[: text.sentences], text.words)
            if len(text.ids) > text.sentences:
                scores["ae"] = self.ae(z[text.sentences :], text.pooled)
        if states.image is not None:
            z = states.image
            if inputs.images:
                scores["vc"] = self.vc(z[: inputs.images])
            if len(z) > inputs.images:
                scores["rc"] = self.rc(z[inputs.images :])
        return scores

    def _text_states(self, text: object) -> Tensor:
        """Eq. 1: H_s = BERT(s)."""
        assert self.text_encoder is not None
        arguments = {"input_ids": text.ids, "attention_mask": text.mask.long()}
        if getattr(self.text_encoder.config, "type_vocab_size", 0) > 1:
            arguments["token_type_ids"] = text.types
        return self.text_encoder(**arguments).last_hidden_state


def _alignment(encoder_width: int, width: int) -> nn.Linear:
    """The linear layer that aligns an encoder's states; it changes nothing at first where the widths are equal."""
    layer = nn.Linear(encoder_width, width)
    if encoder_width == width:
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    return layer


class Group(NamedTuple):
    """What parameters have in common that learn alike."""

    part: Literal["text", "image", "other"]
    """The encoder that holds them, or other."""
    above: int
    """Layers of that encoder above theirs; its embeddings have all of them above."""
    matrix: bool
    """False for biases and norms, which get no weight decay."""


def parameter_groups(model: nn.Module) -> dict[Group, list[nn.Parameter]]:
    """Trainable parameters by encoder, depth and shape."""
    numbers = {name: _LAYER.search(name) for name, _ in model.named_parameters()}
    layers: dict[str, int] = {}
    for name, number in numbers.items():
        if number is not None:
            layers[_part(name)] = max(layers.get(_part(name), 0), int(number[1]) + 1)
    groups: dict[Group, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part, number = _part(name), numbers[name]
        above = layers.get(part, 0) - (int(number[1]) + 1 if number is not None else 0)
        # Read ndim from the unsharded shape where ZeRO-3 has replaced it.
        matrix = len(getattr(parameter, "ds_shape", parameter.shape)) > 1
        groups.setdefault(Group(part, above, matrix), []).append(parameter)
    return groups


_LAYER = re.compile(r"_encoder\.(?:\w+\.)*layers?\.(\d+)\.")


def _part(name: str) -> Literal["text", "image", "other"]:
    return "text" if "text_encoder." in name else "image" if "image_encoder." in name else "other"


@torch.no_grad()
def count_parameters(model: nn.Module) -> int:
    """Number of weights."""
    return sum(parameter.numel() for parameter in model.parameters())
