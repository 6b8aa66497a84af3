"""What training and answering need of a generative model, whichever family it is of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from xmtl_ray.events.records import Conversation
from xmtl_ray.generative.samples import Sample


class Batch(Protocol):
    """What a model family makes of samples."""

    labels: Tensor
    """[R, M]: the id that stands at each place, IGNORED where it is not learnt from."""

    def to(self, device: torch.device) -> Any:
        """The same on ``device``."""


class ChatModel(Protocol):
    """A model with what turns conversations into its inputs."""

    module: nn.Module
    """All weights."""
    tokenizer: PreTrainedTokenizerBase

    @property
    def language_model(self) -> nn.Module:
        """The part that adapters go into."""

    @property
    def head(self) -> nn.Linear:
        """From hidden states to logits."""

    @property
    def connector(self) -> nn.Module | None:
        """From the tower's features to the language model's; None where that is not known."""

    def encode(self, conversation: Conversation) -> Sample:
        """Token ids of a conversation. Reads no medium."""

    def collate(self, samples: Sequence[Sample], generation: bool = False) -> Any:
        """A batch, media read: of whole conversations, or of prompts to be answered. Raises DataError."""

    def hidden(self, batch: Any) -> Tensor:
        """Last hidden states [R, M, C]."""

    def generate(self, batch: Any, **settings: Any) -> Tensor:
        """New tokens of each row [R, …]; ``settings`` are those of transformers' ``generate``."""

    def save_whole(self, folder: Path, state: dict[str, Tensor]) -> None:
        """Write a checkpoint of all weights that can be loaded by itself."""

    def read_whole(self, folder: Path) -> dict[str, Tensor]:
        """The weights of such a checkpoint by their names in ``module``."""
