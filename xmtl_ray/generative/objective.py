"""The loss of a language model as an engine takes it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from xmtl_ray.config.schema import Term
from xmtl_ray.generative.chat_model import ChatModel
from xmtl_ray.models.token_loss import Backend, token_loss


class NextToken(nn.Module):
    """Cross-entropy of the next token, summed over the places that are learnt from.

    The mean over the tokens of the global batch follows when each part is divided by their number, which every worker
    knows beforehand; so packing, padding and the number of workers change nothing.
    """

    def __init__(self, chat: ChatModel, backend: Backend = "auto") -> None:
        super().__init__()
        self.model, self.backend = chat.module, backend
        self._chat = (chat,)  # in a tuple: no part of the module

    def forward(self, batch: Any) -> dict[Term, Tensor]:
        """Sum [1] in nats, fp32."""
        (chat,) = self._chat
        return {"lm": token_loss(chat.hidden(batch), chat.head, batch.labels, self.backend).float().reshape(1)}
