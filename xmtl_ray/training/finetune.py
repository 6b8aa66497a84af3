"""A generative model's part in a run: conversations and weights, dev scores and files, answers at the end."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from xmtl_ray.config.finetune import FinetuneConfig
from xmtl_ray.data import videollama2
from xmtl_ray.data.fingerprint import of_file
from xmtl_ray.data.mixture import epoch_batches, rank_share
from xmtl_ray.evaluation import generative
from xmtl_ray.events.records import GenerativeSample
from xmtl_ray.events.schema_prompt import schema_of
from xmtl_ray.generative import dev, folders, memory_plan
from xmtl_ray.generative.answering import Answer, answers
from xmtl_ray.generative.media_check import Refused, readable
from xmtl_ray.generative.objective import NextToken
from xmtl_ray.generative.prompting import prompted
from xmtl_ray.generative.samples import Sample, encode_all
from xmtl_ray.models import memory, qlora
from xmtl_ray.models.parameter_groups import groups
from xmtl_ray.multitask.examples import hold_out
from xmtl_ray.multitask.weighting import Fixed
from xmtl_ray.training.context import WorkerContext, sum_over_ranks
from xmtl_ray.training.engine import put, use_bf16
from xmtl_ray.training.learner import Step, Track
from xmtl_ray.training.loop import MODEL, Position

log = logging.getLogger(__name__)

ARTIFACTS = (
    "model",
    "summary.json",
    "answers.jsonl",
    "samples.jsonl",
    "scores.json",
    "quarantine.jsonl",
    "report.html",
    "MODEL_CARD.md",
)


class Built(NamedTuple):
    """What a run needs, all of it read or made before the first step."""

    loaded: folders.Loaded
    train: list[Sample]
    dev: list[Sample]
    dev_gold: list[GenerativeSample]
    test: list[Sample]
    test_gold: list[GenerativeSample]
    refused: list[Refused]
    """Conversations left out for their media."""


class ConversationSteps:
    """Conversations as steps; see ``training.learner.Steps``."""

    def __init__(self, config: FinetuneConfig, built: Built, context: WorkerContext) -> None:
        self.config, self.samples, self.chat = config, built.train, built.loaded.chat
        self.rank, self.world_size, self.device = context.rank, context.world_size, context.device
        spec = config.train
        self.steps = len(self.samples) // spec.global_batch
        if not self.steps:
            raise ValueError(f"train.global_batch: {spec.global_batch} asks for more than {len(self.samples)} examples")
        lengths = np.array([sample.length for sample in self.samples])
        self.lengths = {"lm": lengths} if spec.group_by_length else None
        self.learnt = np.array([sample.learnt for sample in self.samples])

    def epoch(self, epoch: int, first_step: int) -> Iterator[Step]:
        """See :class:`Steps`; a global batch's loss is its mean over tokens, whoever holds them."""
        spec = self.config.train
        sizes, shares = {"lm": len(self.samples)}, {"lm": spec.global_batch}
        steps = list(epoch_batches(sizes, shares, self.steps, spec.seed, epoch, first_step, self.lengths))
        micro_batches = [
            [self.samples[index] for index in micro["lm"]]
            for step in steps
            for micro in rank_share(step, self.rank, self.world_size, spec.accumulation)
        ]
        # The loader draws a seed from the global generator unless it has its own, and would break resumption.
        loader = iter(
            DataLoader(
                micro_batches,  # type: ignore[arg-type]
                batch_size=None,
                collate_fn=self.chat.collate,
                num_workers=self.config.data.loader_workers,
                generator=torch.Generator().manual_seed(0),
            )
        )
        for step in steps:
            batches = [next(loader).to(self.device) for _ in range(spec.accumulation)]
            yield Step(batches, {"lm": max(1, int(self.learnt[step["lm"]].sum()))})

    def tell(self) -> None:
        """See :class:`Steps`."""
        lengths = [sample.length for sample in self.samples]
        log.info(
            "%d conversations of %d places on average (%d at most), %d of them learnt from; %d steps an epoch",
            *(len(self.samples), np.mean(lengths), max(lengths), self.learnt.mean(), self.steps),
        )
        if left := len(self.samples) % self.config.train.global_batch:
            log.info("an epoch leaves %d conversations out, others the next time", left)


@dataclass
class ChatLearner:
    """Next tokens of conversations; see ``training.learner.Learner``."""

    config: FinetuneConfig
    built: Built
    steps: ConversationSteps

    def __post_init__(self) -> None:
        self.average: AveragedModel | None = None
        self.objective = NextToken(self.built.loaded.chat, self.config.model.loss)
        self.weighting = Fixed({"lm": 1.0})
        chat, module = self.built.loaded.chat, self.built.loaded.chat.module
        learnt = set(qlora.trainable_names(module))
        self._kept = set(module.state_dict()) if self.built.loaded.base is None else learnt
        # A batch of text alone needs neither connector nor tower.
        spoken = {id(weight) for part in (chat.language_model, chat.head) for weight in part.parameters()}
        self.every_weight = all(id(weight) in spoken for weight in module.parameters() if weight.requires_grad)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One rate, the connector's own where it has one; no decay on biases and norms."""
        spec = self.config.train
        rates = {False: spec.learning_rate, True: spec.connector_rate or spec.learning_rate}
        chat = self.built.loaded.chat
        own = {} if chat.connector is None else {"connector_prefix": folders.prefix(chat.module, chat.connector)}
        return [
            {
                "params": group.parameters,
                "lr": rates[group.connector],
                "peak": rates[group.connector],
                "weight_decay": spec.weight_decay * group.decays,
            }
            for group in groups(chat.module, separate_connector=True, **own)
        ]

    def kept(self, name: str) -> bool:
        """What is learnt; where all weights are, also the frozen tower, so that the folder is whole."""
        return name in self._kept

    def evaluate(self, context: WorkerContext) -> dict[str, float]:
        """Loss of all dev conversations, accuracies of the answers to some."""
        objective, chat, config = self.objective, self.built.loaded.chat, self.config
        objective.eval()
        bf16 = use_bf16(config.train.precision, context.device)
        size = config.generation.batch
        batches, tokens = [], []
        for start in range(0, len(self.built.dev), size * context.world_size):
            mine = self.built.dev[start + context.rank * size : start + (context.rank + 1) * size]
            shown = mine or self.built.dev[:1]
            batches.append(lambda shown=shown: chat.collate(shown).to(context.device))
            tokens.append(sum(sample.learnt for sample in mine))
        with torch.autocast(context.device.type, torch.bfloat16, enabled=bf16):
            total, count = dev.loss(objective, batches, tokens)
        sums = sum_over_ranks(torch.tensor([total, count], dtype=torch.double), context).tolist()
        chosen = dev.spread(self.built.dev_gold, config.train.dev_samples)
        asked = [self.built.dev[number] for number in chosen]
        found = {one.id: one.text for one in answer_all(context, config, self.built, asked)}
        return dev.metrics([self.built.dev_gold[number] for number in chosen], found, sums[0] / max(1, sums[1]))

    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """An adapter's folder, or a whole checkpoint's."""
        folders.save(folder, self.built.loaded, state)

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Of such a folder."""
        return folders.read_state(folder, self.built.loaded)


def build(context: WorkerContext, config: FinetuneConfig) -> Built:
    """Conversations, model and what joins them. Raises ValueError for whatever the user gave us wrong."""
    spec = config.data
    files = {"train": spec.train, "dev": spec.dev, "test": spec.test}
    read = {name: list(videollama2.read(path)) for name, path in files.items() if path is not None}
    if "dev" not in read:
        rest, held = hold_out(read["train"], lambda one: one.id, spec.dev_fraction, config.train.seed)
        read |= {"train": list(rest), "dev": list(held)}
    read.setdefault("test", [])
    everything = [one for conversations in read.values() for one in conversations]
    refused = readable(everything, spec.media, spec.check, spec.max_quarantined, context.rank, context.world_size)
    bad = {one.id for one in refused}
    read = {name: [one for one in conversations if one.id not in bad] for name, conversations in read.items()}
    dtype = torch.bfloat16 if use_bf16(config.train.precision, context.device) else torch.float32
    examples = videollama2.samples(read["train"], spec.train)
    schema = schema_of(examples)
    read = {name: prompted(some, config.prompt, schema, examples, config.train.seed) for name, some in read.items()}
    loaded = folders.create(config, read["train"], dtype, schema)
    encoded: dict[str, list[Sample]] = {}
    for name, conversations in read.items():
        encoded[name], cut = encode_all(conversations, loaded.chat.encode, config.model.max_tokens)
        if context.rank == 0 and (cut.samples or cut.dropped):
            log.warning(
                "model.max_tokens: %d cuts %d tokens off the prompts of %d %s conversations and leaves %d out whose "
                "answers alone are longer%s",
                *(config.model.max_tokens, cut.tokens, cut.samples, name, len(cut.dropped)),
                f", e.g. {cut.dropped[0]}" if cut.dropped else "",
            )
    answered = {"dev": bool(config.train.dev_samples), "test": True}  # what is not answered need hold no events
    gold = {
        name: [videollama2.sample(sample.conversation, files[name] or spec.train) for sample in encoded[name] if asked]
        for name, asked in answered.items()
    }
    return Built(loaded, encoded["train"], encoded["dev"], gold["dev"], encoded["test"], gold["test"], refused)


def learner(context: WorkerContext, config: FinetuneConfig, built: Built) -> ChatLearner:
    """What the loop trains."""
    if context.rank == 0:
        parameters = list(built.loaded.chat.module.parameters())
        learnt = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        spec = config.adapter
        how = f"r {spec.r}, alpha {spec.alpha:g}, scale {spec.scale:g}"
        how += ", embeddings and output head" if spec.train_embeddings else ""
        how = "all weights" if spec.method == "full" else how
        log.info("%s, %d bits: %s; %.2f million weights learn", spec.method, spec.bits, how, learnt / 1e6)
    return ChatLearner(config, built, ConversationSteps(config, built, context))


def finish(
    context: WorkerContext, config: FinetuneConfig, built: Built, position: Position, folder: Path, track: Track
) -> dict[str, Any]:
    """Keep the best checkpoint's model, answer and score the test conversations; returns what a summary has of it."""
    chat = built.loaded.chat
    with context.best(config.train.select) as checkpoint:
        state = folders.read_state(checkpoint / MODEL, built.loaded)
    if context.rank == 0:
        _write_lines(folder / "quarantine.jsonl", [one._asdict() for one in built.refused])
        folders.save(folder / MODEL, built.loaded, state)
    if not built.test:
        _note_memory(context, config, built, position, track)
        return {"scores": {}}
    put(chat.module, state)
    found = answer_all(context, config, built, built.test)
    if context.rank != 0:
        return {}
    _write_lines(folder / "answers.jsonl", [{"id": one.id, "output": one.text, "cut": one.cut} for one in found])
    scores = generative.report(built.test_gold, {one.id: one.text for one in found})
    (folder / "scores.json").write_text(json.dumps(scores, indent=1, ensure_ascii=False), encoding="utf-8")
    track(position.step, dev.scores(scores, "test"))
    _note_memory(context, config, built, position, track)
    return {"scores": scores}


def answer_all(context: WorkerContext, config: FinetuneConfig, built: Built, samples: Sequence[Sample]) -> list[Answer]:
    """Answers to ``samples``, each rank's share put together in their order, on every rank."""
    mine = samples[context.rank :: context.world_size] or samples[:1]
    sharded = config.engine.zero_stage == 3 and context.world_size > 1
    # Sampling has a seed of its own; dropout goes on where it was.
    with torch.random.fork_rng([context.device] if context.device.type == "cuda" else []):
        found = list(
            answers(
                built.loaded.chat,
                mine,
                config.generation,
                context.device,
                folders.constraint(config.generation, built.loaded),
                seed=config.train.seed,
                bf16=use_bf16(config.train.precision, context.device),
                together=partial(_largest, context) if sharded else None,
            )
        )
    parts: list[Any] = [found]
    if context.world_size > 1:
        parts = [None] * context.world_size
        dist.all_gather_object(parts, found)
    by_id = {one.id: one for part in parts for one in cast(list[Answer], part)}
    return [by_id[sample.conversation.id] for sample in samples]


def write_page(folder: Path, built: Built) -> Path:
    """The run's report; drawing is for rank 0 alone to load."""
    from xmtl_ray.report.finetune_page import write_run_pages

    return write_run_pages(folder, built.loaded.config, built.test_gold)


def origin(config: FinetuneConfig) -> dict[str, str]:
    """Tags that say what a run learns from."""
    spec = config.data
    paths = {"train": spec.train, "dev": spec.dev, "test": spec.test}
    return {f"sha256.data.{name}": of_file(path) for name, path in paths.items() if path is not None}


def _note_memory(
    context: WorkerContext, config: FinetuneConfig, built: Built, position: Position, track: Track
) -> None:
    """On a GPU: the bytes that rank 0 had at most, and what was planned for the longest conversation that there is."""
    if context.rank != 0 or context.device.type != "cuda":
        return
    longest = max(sample.length for sample in (*built.train, *built.dev, *built.test))
    found = memory.compared(memory_plan.planned(config, longest), torch.cuda.max_memory_allocated(context.device))
    log.info("memory: {memory/peak_gib:.2f} GiB, planned {memory/planned_gib:.2f}".format_map(found))
    track(position.step, found)


def _largest(context: WorkerContext, count: int) -> int:
    value = torch.tensor(count, device=context.device)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return int(value)


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
