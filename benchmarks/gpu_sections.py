"""What the benchmark of a GPU measures, section by section; each row is handed on as soon as it is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gpu_clock
import gpu_flops
import gpu_models
import torch
from gpu_models import FULL, TINY, RandomChat, Scale
from torch import Tensor, nn
from transformers import LogitsProcessor

from xmtl_ray.config.finetune import Adapter, FinetuneConfig, FinetuneTrain, Generation, Mllm
from xmtl_ray.config.run import Engine
from xmtl_ray.events.ontology import m2e2
from xmtl_ray.events.records import Conversation
from xmtl_ray.generative import memory_plan
from xmtl_ray.generative.answering import answers
from xmtl_ray.generative.model_sizes import sizes_of
from xmtl_ray.generative.objective import NextToken
from xmtl_ray.generative.samples import Sample
from xmtl_ray.models import towers
from xmtl_ray.models.parameter_groups import groups
from xmtl_ray.models.token_loss import Backend
from xmtl_ray.models.towers import Tower
from xmtl_ray.models.videollama2 import Checkpoint, VideoLLaMA2
from xmtl_ray.training import engine as engines

Row = dict[str, Any]
CHECKED = 5
"""First steps, without dropout, whose losses are compared."""
FASTER = {True: 100.0, False: 10.0}
"""Times the paper's learning rate that these are made with, for tiny models and whole ones: so that losses move."""


@dataclass(frozen=True)
class Bench:
    """What all sections share."""

    family: str
    tiny: bool
    device: torch.device
    report: Callable[[Row], None]
    until: float
    """When the section's time is up, of ``time.time()``."""

    @property
    def settings(self) -> Checkpoint:
        """Of the model."""
        return gpu_models.checkpoint(self.family, self.tiny)

    @property
    def scale(self) -> Scale:
        """How large everything is."""
        return TINY if self.tiny else FULL

    @property
    def dtype(self) -> torch.dtype:
        """Of weights that do not learn, and of products."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    @property
    def adapter(self) -> Adapter:
        """Paper B's, of a smaller rank where all is tiny."""
        return Adapter(r=self.scale.r, alpha=self.scale.alpha)

    @property
    def train(self) -> FinetuneTrain:
        """Paper B's."""
        return FinetuneTrain()

    def share(self, left: int) -> float:
        """When the first of ``left`` measurements that are still to be made must end."""
        return time.time() + max(0.0, self.until - time.time()) / left

    def times(self, most: int) -> dict[str, int]:
        """How often something is measured: less where all is tiny."""
        return {"most": 2, "least": 1, "warmup": 1} if self.tiny else {"most": most}

    def row(self, section: str, name: str, **found: Any) -> None:
        """Hand on what was found, with the clocks as they now are."""
        dtype = str(self.dtype).removeprefix("torch.")
        self.report({"section": section, "name": name, "dtype": dtype, **found, "clocks_after": gpu_clock.clocks()})


def ceilings(bench: Bench) -> None:
    """The largest product of matrices and the fastest copy, of random numbers."""
    device, scale = bench.device, bench.scale
    left, right = (torch.randn(scale.matrix, scale.matrix, device=device, dtype=bench.dtype) for _ in range(2))
    found = gpu_clock.told(gpu_clock.timed(lambda _: left @ right, device, bench.share(2), **bench.times(20)))
    flops = 2 * scale.matrix**3
    bench.row("ceilings", f"product of {scale.matrix}³", **found, rate=flops / found["s"], unit="FLOP/s")
    source = torch.randint(0, 256, (scale.copied,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    found = gpu_clock.told(gpu_clock.timed(lambda _: target.copy_(source), device, bench.until, **bench.times(20)))
    name = f"copy of {2 * scale.copied / 1e9:g} GB, read and written"
    bench.row("ceilings", name, **found, rate=2 * scale.copied / found["s"], unit="B/s")


class Ours:
    """The project's own step: chat model, objective and engine of one process, without Ray."""

    def __init__(self, bench: Bench, backend: Backend) -> None:
        self.bench = bench
        model = gpu_models.make(bench.settings, bench.device, bench.dtype, 4)
        gpu_models.adapt(model, bench.adapter)
        self.chat = RandomChat(model, capacity=bench.scale.places)
        objective, spec = NextToken(self.chat, backend).train(), bench.train
        held = [
            {"params": group.parameters, "lr": spec.learning_rate, "peak": spec.learning_rate, "weight_decay": 0.0}
            for group in groups(model, separate_connector=True)
        ]
        self.engine = engines.create(Engine(), spec, objective, held, bench.device)

    def step(self, samples: Sequence[Sample], batch: Any, factor: float = 1.0) -> Tensor:
        """One update; the batch's mean loss before it, in nats."""
        learnt = sum(one.learnt for one in samples)
        (found,) = self.engine.step([batch.to(self.bench.device)], lambda losses: losses["lm"].sum() / learnt, factor)
        return found["lm"].sum() / learnt

    def first_losses(self) -> list[float]:
        """Of two batches of one video each in turn, without dropout."""
        gpu_models.set_dropout(self.chat.module, 0)
        gpu_models.checkpointing(self.chat.module, True)
        held = list(gpu_models.batches(self.chat, [(self.bench.scale.places, "video")], 0))
        factor = FASTER[self.bench.tiny]
        found = [self.step(*held[number % 2], factor).item() for number in range(CHECKED)]
        gpu_models.set_dropout(self.chat.module, self.bench.adapter.dropout)
        return found

    def measure(
        self, section: str, name: str, kinds: Sequence[Any], recomputes: bool, until: float, more: Mapping[str, Any]
    ) -> None:
        """Report steps on conversations of ``kinds``, with ``more`` that is known of them."""
        gpu_models.checkpointing(self.chat.module, recomputes)
        held = list(gpu_models.batches(self.chat, kinds, 10))

        def seconds() -> list[float]:
            return gpu_clock.timed(
                lambda number: self.step(*held[number % 2]), self.bench.device, until, **self.bench.times(20)
            )

        measured(self.bench, section, name, *held[0], recomputes, seconds, more)


def measured(
    bench: Bench,
    section: str,
    name: str,
    samples: Sequence[Sample],
    batch: Any,
    recomputes: bool,
    seconds: Callable[[], list[float]],
    more: Mapping[str, Any],
) -> None:
    """Report steps on batches like ``batch``, made and timed by ``seconds``, or that memory was not enough for them."""
    shape = shape_of(bench, samples, batch, recomputes) | dict(more)
    try:
        taken = seconds()
    except torch.OutOfMemoryError:
        out_of_memory = True
    else:
        out_of_memory = False
    if out_of_memory:  # outside, where the traceback holds no tensors any more
        gpu_clock.release(bench.device)
        bench.row(section, name, out_of_memory=True, **shape)
        return
    found = gpu_clock.told(taken) | gpu_clock.peak(bench.device)
    rates = {"samples_per_s": len(samples) / found["s"], "rate": shape["real_tokens"] / found["s"], "unit": "tok/s"}
    bench.row(section, name, **found, **rates, **shape)
    gpu_clock.release(bench.device)


def shape_of(bench: Bench, samples: Sequence[Sample], batch: Any, recomputes: bool) -> Row:
    """What a step is about, and its counted work."""
    lengths, learnt = [one.length for one in samples], sum(one.learnt for one in samples)
    frames = [len(medium.tensor) for medium in batch.media]
    work = gpu_flops.step(bench.settings, lengths, learnt, bench.scale.r, frames, recomputes)
    return {
        "rows": list(batch.labels.shape), "lengths": lengths, "frames": frames, "learnt": learnt,
        "real_tokens": int(batch.layout.mask.sum()), "padded_tokens": int((~batch.layout.mask).sum()),
        "checkpointing": recomputes, "model_flop": work.model, "hardware_flop": work.hardware,
    }  # fmt: skip


class Plan:
    """What the project's own plan says of a step's peak, CUDA's own memory left out."""

    def __init__(self, family: str) -> None:
        spec = Mllm(family=family, path=gpu_models.NAMES[family])
        train = FinetuneTrain(precision="bf16", pack=False, dev_samples=0, select="dev/token_probability")
        self.config = FinetuneConfig(name="plan", model=spec, train=train)
        self.sizes = sizes_of(self.config)

    def gib(self, batch: int, recomputes: bool) -> float:
        """Of a step on ``batch`` sequences of the greatest length."""
        model = self.config.model.model_copy(update={"gradient_checkpointing": recomputes})
        train = self.config.train.model_copy(update={"global_batch": batch})
        config = self.config.model_copy(update={"model": model, "train": train})
        found = memory_plan.Plan(0, memory_plan.moments_of(config, *self.sizes))
        return found.training.total / gpu_clock.GIB


def step(bench: Bench) -> None:
    """Our step at paper B's setting, and what memory was planned for it."""
    plan = None if bench.tiny else Plan(bench.family)
    ours, video = Ours(bench, "torch"), (bench.scale.places, "video")
    bench.row("step", "first losses", losses=ours.first_losses())
    runs = [
        ("ours, batch 1", [video], True),
        ("ours, batch 2", [video] * 2, True),
        ("ours, mixed and packed", gpu_models.mixed(bench.settings, bench.scale), True),
        ("ours, batch 1, nothing recomputed", [video], False),
        ("ours, batch 2, nothing recomputed", [video] * 2, False),
    ]
    for number, (name, kinds, recomputes) in enumerate(runs):
        planned = {} if plan is None or "mixed" in name else {"planned_gib": plan.gib(len(kinds), recomputes)}
        ours.measure("step", name, kinds, recomputes, bench.share(len(runs) - number), planned)


def plain(bench: Bench, liger: bool = False) -> None:
    """transformers' Trainer, PEFT and bitsandbytes on the same batches."""
    from gpu_peer import Peer

    section, kind = ("liger", "plain + liger") if liger else ("plain", "plain")
    peer = Peer(bench, liger)
    bench.row(section, f"first losses of {kind}", losses=peer.first_losses())
    video = (bench.scale.places, "video")
    for number, kinds in enumerate(([video], [video] * 2)):
        held = list(gpu_models.batches(peer.chat, kinds, 10))
        seconds = partial(peer.seconds, [batch for _, batch in held], bench.share(2 - number))
        measured(bench, section, f"{kind}, batch {len(kinds)}", *held[0], True, seconds, {})


def liger(bench: Bench) -> None:
    """Ours with liger's loss; then the plain one with all of liger's kernels."""
    ours, video = Ours(bench, "liger"), (bench.scale.places, "video")
    bench.row("liger", "first losses", losses=ours.first_losses())
    ours.measure("liger", "ours, batch 1", [video], True, bench.share(4), {})
    ours.measure("liger", "ours, batch 2", [video] * 2, True, bench.share(3), {})
    del ours
    gpu_clock.release(bench.device)
    plain(bench, liger=True)


class Onward(LogitsProcessor):
    """A mask, if there is one, and then a push away from ``endings``, so that all answers have their full length."""

    def __init__(self, mask: LogitsProcessor | None, endings: Tensor) -> None:
        self.mask, self.endings = mask, endings

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Logits."""
        allowed = scores.clone() if self.mask is None else self.mask(input_ids, scores)
        allowed[:, self.endings] -= 1e4
        return allowed


@dataclass(frozen=True)
class Held:
    """Answers in a grammar, or in none; see ``generative.answering.Constraint``."""

    grammars: Any
    endings: Tensor

    def processor(self, conversations: Iterable[Conversation]) -> LogitsProcessor:
        """Of a batch."""
        return Onward(None if self.grammars is None else self.grammars.processor(conversations), self.endings)

    def close(self, text: str) -> tuple[str, bool]:
        """As it is."""
        return text, False


def generation(bench: Bench) -> None:
    """Answers of one batch of prompts about an image each, greedy, with and without the grammar of event JSON."""
    from constrained import tokenizer

    from xmtl_ray.generative.constrained import AnswerGrammars

    settings, scale, device = bench.settings, bench.scale, bench.device
    vocabulary = settings.language.vocab_size
    words = tokenizer(vocabulary)
    chat = RandomChat(gpu_models.make(settings, device, bench.dtype, 16), words)
    length = scale.words + settings.tokens
    asked = [gpu_models.sample(settings, number, length, "image") for number in range(scale.requests)]
    grammars = AnswerGrammars(words, vocabulary, m2e2().roles_of, events=1000)
    began = time.perf_counter()
    grammars.compiled(None)
    bench.row("generation", "grammar compiled once", s=time.perf_counter() - began)
    last = torch.tensor([token for text, token in words.get_vocab().items() if text.startswith("]")], device=device)
    end = torch.tensor([words.eos_token_id], device=device)
    work = gpu_flops.generation(settings, length, scale.new, [1]) * scale.requests
    shape = {"requests": scale.requests, "prompt": length, "words": scale.words, "bits": 16, "model_flop": work}

    def answered(new: int, constraint: Held) -> list[int]:
        spec = Generation(greedy=True, max_new_tokens=new, batch=scale.requests)
        return [one.tokens for one in answers(chat, asked, spec, device, constraint, bf16=device.type == "cuda")]

    answered(scale.new, Held(grammars, last))  # a cache that grows for the first time is slow: memory is asked for
    plans = [("first token", 1, Held(None, end)), ("greedy", scale.new, Held(None, end)),
             ("greedy, event JSON", scale.new, Held(grammars, last))]  # fmt: skip
    for number, (name, new, constraint) in enumerate(plans):
        tokens: list[int] = []

        def go(_: int, new: int = new, constraint: Held = constraint, tokens: list[int] = tokens) -> None:
            tokens[:] = answered(new, constraint)

        taken = gpu_clock.timed(go, device, bench.share(len(plans) - number), most=3, warmup=0, least=1)
        found = gpu_clock.told(taken) | gpu_clock.peak(device)
        rates = {"rate": sum(tokens) / found["s"], "unit": "new tok/s", "requests_per_s": len(tokens) / found["s"]}
        bench.row("generation", name, **found, **rates, **shape, new=new, new_tokens=sum(tokens))


@torch.no_grad()
def tower(bench: Bench) -> None:
    """Frames a second of both frozen towers, and an image as one frame against as many as a video has."""
    device, scale, settings = bench.device, bench.scale, bench.settings
    shown = {settings.tower_name: settings.tower} if bench.tiny else towers.RELEASED
    for number, (name, config) in enumerate(shown.items()):
        with torch.device(device):
            frozen = Tower(config, settings.select_layer).to(bench.dtype).eval()
        seen = [torch.randn(scale.frames, 3, config.image_size, config.image_size, device=device) for _ in range(2)]
        until = bench.share(len(shown) + 2 - number)
        taken = gpu_clock.timed(lambda turn, f=frozen, s=seen: f(s[turn % 2]), device, until, **bench.times(20))
        found = gpu_clock.told(taken) | gpu_clock.peak(device)
        work = gpu_flops.tower(Checkpoint(settings.raw, settings.language, config), scale.frames)
        rates = {"rate": scale.frames / found["s"], "unit": "frames/s", "model_flop": work, "frames": scale.frames}
        bench.row("tower", name.rpartition("/")[2], **found, **rates)
        del frozen, seen
    _images(bench)


def _images(bench: Bench) -> None:
    """Images to visual tokens: ours, and as the original repeats them before the tower."""
    settings, device = bench.settings, bench.device
    with torch.device(device):
        model = VideoLLaMA2(settings, nn.Module()).eval()  # type: ignore[arg-type]
    model.tower.to(bench.dtype)
    model.connector.to(bench.dtype)
    count = max(1, bench.scale.frames // settings.frames)
    once = [gpu_models.pixels(settings, "image", number).to(device) for number in range(count)]
    repeated = [one.expand(settings.frames, -1, -1, -1) for one in once]
    tokens = {}
    for number, (name, media) in enumerate((("images, one frame each", once), ("images, repeated", repeated))):
        until = bench.share(2 - number)

        def go(_: int, media: list[Tensor] = media, name: str = name) -> None:
            tokens[name] = model.visual_tokens(model.features(media))

        found = gpu_clock.told(gpu_clock.timed(go, device, until, **bench.times(20))) | gpu_clock.peak(device)
        rates = {"rate": count / found["s"], "unit": "images/s", "frames": sum(map(len, media))}
        bench.row("tower", name, **found, **rates)
    ours, theirs = (value.float() for value in tokens.values())
    difference = (ours - theirs).abs().max() / theirs.abs().max()
    bench.row("tower", "images differ", largest_relative_difference=difference.item())


SECTIONS: dict[str, Callable[[Bench], None]] = {
    "ceilings": ceilings,
    "step": step,
    "plain": plain,
    "liger": liger,
    "generation": generation,
    "tower": tower,
}
