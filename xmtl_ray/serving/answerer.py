"""What answers conversations, in this process or as an actor of Ray: a generative model and what holds its answers.

The conversations of a shard are answered in batches among themselves, so neither how many shards there are nor which
actor has one can change an answer; which ones share its shard can, in the last digits of a sum. Sampling begins anew
with each shard, by a seed made of the job's and of what is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from transformers.utils import logging as transformers_logging

from xmtl_ray.config.finetune import FinetuneConfig
from xmtl_ray.events.records import Conversation, DataError, Turn
from xmtl_ray.generative import folders
from xmtl_ray.generative.answering import Answer, answers
from xmtl_ray.generative.prompting import Schema
from xmtl_ray.generative.samples import Sample, encode_all
from xmtl_ray.models.qlora import Bits
from xmtl_ray.serving import shards

_CONVERSATION = TypeAdapter(Conversation)


class GpuMemoryError(ValueError):
    """A GPU whose memory is too small for what was asked of it."""


@dataclass(frozen=True)
class AnswerJob:
    """What is answered with; paths must be reachable where it is done."""

    model: Path
    base: Path | None
    """Where the base of an adapter lies now."""
    bits: Bits | None
    config: FinetuneConfig
    """The model's, with prompts and generation as they were asked for."""
    schema: Schema
    media: Path
    seed: int = 0
    """Of sampling."""
    gpu: bool = False


def as_item(conversation: Conversation) -> str:
    """The first prompt of a conversation and its medium as one text; the answer is nobody's business here."""
    asked = replace(conversation, turns=(Turn(conversation.turns[0].prompt, ""),))
    return _CONVERSATION.dump_json(asked).decode()


class Answerer:
    """Answers shards of conversations and commits each as a file.

    A line of it is ``{"id", "output", "cut", "tokens", "lost"}``: how many tokens were generated, and how many the
    prompt lost at its end because it was too long for the model.

    Args:
        job: what to answer with.
        parts: folder of the shards' files.

    Raises ValueError, see ``generative.folders.load``.
    """

    def __init__(self, job: AnswerJob, parts: Path) -> None:
        transformers_logging.disable_progress_bar()  # ours is shown
        self.job, self.parts = job, parts
        self.device = torch.device("cuda" if job.gpu else "cpu")
        self.bf16 = job.gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = torch.bfloat16 if self.bf16 else torch.float32
        loaded = folders.load(job.model, job.base, job.bits, dtype, self.device, job.media, job.config)
        self.chat = loaded.chat
        self.constraint = folders.constraint(job.config.generation, replace(loaded, schema=job.schema))

    def __call__(self, batch: shards.Batch) -> shards.Done:
        """Commit each shard that is not there yet."""
        return shards.commit(batch, self.parts, self._lines, self.job.gpu)

    def answer(self, conversations: Sequence[Conversation]) -> list[dict[str, Any]]:
        """The rows of conversations that are answered as a shard. Raises ShardError, for one that cannot be read."""
        lines = self._lines("", [as_item(one) for one in conversations])
        if (reason := next(filter(None, map(shards.refusal, lines)), None)) is not None:
            raise shards.ShardError(reason)
        return [json.loads(line) for line in lines]

    def _lines(self, _: str, items: Sequence[str]) -> list[str]:
        conversations = [_CONVERSATION.validate_json(item) for item in items]
        samples, lost, reasons = list[Sample](), dict[str, int](), dict[str, str]()
        for one in conversations:
            try:
                encoded, cut = encode_all([one], self.chat.encode, self.job.config.model.max_tokens)
            except DataError as error:
                reasons[one.id] = str(error)
                continue
            samples += encoded
            lost[one.id] = cut.tokens
            if cut.dropped:
                most = self.job.config.model.max_tokens
                reasons[one.id] = (
                    f"{one.id}: found a prompt that is too long without its source, expected {most} tokens"
                )
        seed = int(shards.key_of(self.job.seed, items)[:15], 16)
        found = self._answered(seed, samples, reasons)
        lines = []
        for one in conversations:
            if one.id in reasons:
                lines.append(shards.refused(one.id, reasons[one.id]))
                continue
            told = found[one.id]
            row = {"id": one.id, "output": told.text, "cut": told.cut, "tokens": told.tokens, "lost": lost[one.id]}
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        return lines

    def _answered(self, seed: int, samples: Sequence[Sample], reasons: dict[str, str]) -> dict[str, Answer]:
        """Answers by id; ``reasons`` is told what cannot be read, found only when it is."""
        try:
            return self._answers(seed, samples)
        except DataError:
            found = {sample.conversation.id: reason for sample in samples if (reason := self._broken(sample))}
            if not found:
                raise
            reasons |= found
            return self._answers(seed, [sample for sample in samples if sample.conversation.id not in found])

    def _answers(self, seed: int, samples: Iterable[Sample]) -> dict[str, Answer]:
        given = self.job.config.generation, self.device, self.constraint
        try:
            return {one.id: one for one in answers(self.chat, list(samples), *given, seed=seed, bf16=self.bf16)}
        except torch.OutOfMemoryError as error:
            first = str(error).partition(". ")[0]
            raise GpuMemoryError(
                f"{first}: expected enough for generation.batch={given[0].batch}; lower it, or --bits 4"
            ) from None

    def _broken(self, sample: Sample) -> str | None:
        try:
            self.chat.collate([sample], generation=True)
        except DataError as error:
            return str(error)
        return None
