"""Answers of a model to conversations' first prompts: in batches of like length, with a key-value cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import LogitsProcessor

from xmtl_ray.config.finetune import Generation
from xmtl_ray.events.records import Conversation
from xmtl_ray.generative.chat_model import ChatModel
from xmtl_ray.generative.samples import Sample


class Constraint(Protocol):
    """A language that answers must be in."""

    def processor(self, conversations: Sequence[Conversation]) -> LogitsProcessor:
        """Masks what cannot come next in the answer to each conversation of a batch."""

    def close(self, text: str) -> tuple[str, bool]:
        """The beginning of an answer → a whole one, and whether something begun was left out."""


@dataclass(frozen=True)
class Answer:
    """What a model wrote."""

    id: str
    text: str
    tokens: int
    """That were generated, the end token included."""
    cut: bool
    """Stopped by ``max_new_tokens``; where answers are constrained, what it had begun was then closed."""


@torch.no_grad()
def answers(
    chat: ChatModel,
    samples: Sequence[Sample],
    settings: Generation,
    device: torch.device,
    constraint: Constraint | None = None,
    seed: int = 0,
    bf16: bool = False,
    together: Callable[[int], int] | None = None,
) -> Iterator[Answer]:
    """Answer the first prompt of each sample; longest prompts first, so that memory fails early if it does.

    Args:
        chat: the model.
        samples: conversations; their own answers are not looked at.
        settings: sampling, length, batch.
        device: where the model is.
        constraint: the language that answers must be in; None: anything.
        seed: of sampling.
        bf16: compute in 16 bits.
        together: where weights are sharded all workers must run equally often: takes this one's number of batches and
            gives the largest; what is lacking is filled with the last batch, whose answers are not given again.
    """
    order = sorted(samples, key=lambda sample: len(sample.row.ids) - len(sample.asked) - sample.length)
    batches: list[Sequence[Sample]] = [order[at : at + settings.batch] for at in range(0, len(order), settings.batch)]
    chat.module.eval()
    total = len(batches) if together is None else together(len(batches))
    # Of its own, or every epoch after an evaluation would have the same dropout, on all workers.
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for number in range(total):
            batch = batches[min(number, len(batches) - 1)]
            given: dict[str, Any] = sampling(settings) | {"synced_gpus": together is not None}
            if constraint is not None:
                given["logits_processor"] = [constraint.processor([sample.conversation for sample in batch])]
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                new = chat.generate(chat.collate(batch, generation=True).to(device), **given, **ends(chat))
            if number < len(batches):
                found = zip(batch, new.tolist(), strict=True)
                yield from (_answer(chat, sample, ids, constraint) for sample, ids in found)


def sampling(settings: Generation) -> dict[str, Any]:
    """Arguments of transformers' ``generate``."""
    if settings.greedy:
        drawn: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    else:
        drawn = {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
    return drawn | {"max_new_tokens": settings.max_new_tokens, "use_cache": True}


def ends(chat: ChatModel) -> dict[str, Any]:
    """The end token, which also fills rows that have ended."""
    end = chat.tokenizer.eos_token_id
    return {"eos_token_id": end, "pad_token_id": end}


def _answer(chat: ChatModel, sample: Sample, ids: Sequence[int], constraint: Constraint | None) -> Answer:
    end = chat.tokenizer.eos_token_id
    length = ids.index(end) + 1 if end in ids else len(ids)
    text = chat.tokenizer.decode(ids[:length], skip_special_tokens=True).strip()
    cut = end not in ids
    if constraint is not None and cut:
        text, _ = constraint.close(text)
    return Answer(sample.conversation.id, text, length, cut)
