"""The same fine-tuning as one sets it up with transformers' Trainer, PEFT and bitsandbytes, and nothing of ours.

Ours are only the model that is trained (tower, connector, spliced embeddings: the same in both) and the batches. All
else is theirs: ``prepare_model_for_kbit_training``, ``get_peft_model``, logits of all places, the loss of the language
model itself, checkpointing of the language model alone, the Trainer's steps.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from typing import Any

import gpu_clock
import gpu_models
import torch
from gpu_models import RandomChat
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from xmtl_ray.models.splice import Layout
from xmtl_ray.models.videollama2 import VideoLLaMA2


class Whole(nn.Module):
    """Ids and pixels → PEFT's model with its embeddings and labels."""

    def __init__(self, model: VideoLLaMA2, adapted: nn.Module) -> None:
        super().__init__()
        self.model, self.adapted = model, adapted
        self.losses: list[Tensor] = []

    def forward(self, ids: Tensor, labels: Tensor, positions: Tensor, mask: Tensor, pixels: list[Tensor]) -> Any:
        """What the language model gives: its loss and all logits."""
        layout = Layout(ids, labels, positions, mask)
        embeddings = self.model.embeddings(layout, self.model.features(pixels))
        found = self.adapted(inputs_embeds=embeddings, attention_mask=mask.long(), labels=labels)
        self.losses.append(found.loss.detach())
        return found


class Rotated(Dataset):
    """Batches in turn, as often as is asked."""

    def __init__(self, batches: Sequence[Any], count: int) -> None:
        self.batches, self.count = batches, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> dict[str, Any]:
        batch = self.batches[number % len(self.batches)]
        layout = batch.layout
        return {
            "ids": layout.ids, "labels": layout.labels, "positions": layout.positions, "mask": layout.mask,
            "pixels": [medium.tensor for medium in batch.media],
        }  # fmt: skip


class Timer(TrainerCallback):
    """Seconds of each step; ends the training when the time is up."""

    def __init__(self, device: torch.device, warmup: int, least: int, until: float) -> None:
        self.watch, self.device, self.warmup, self.least, self.until = (
            gpu_clock.Stopwatch(device), device, warmup, least, until)  # fmt: skip
        self.seconds: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The clock begins."""
        if state.global_step == self.warmup:
            gpu_clock.forget_peak(self.device)
        self.watch.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The clock stops."""
        self.seconds.append(self.watch.stop())
        enough = len(self.seconds) >= self.warmup + self.least
        control.should_training_stop |= enough and time.time() >= self.until


class InOrder(Trainer):
    """A Trainer that takes batches as they come."""

    def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler:
        return torch.utils.data.SequentialSampler(self.train_dataset)


class Peer:
    """Such a set-up.

    Args:
        bench: ``gpu_sections.Bench``.
        liger: with liger's kernels for norms, rotations, activations and the loss.
    """

    def __init__(self, bench: Any, liger: bool) -> None:
        self.bench = bench
        model = gpu_models.make(bench.settings, bench.device, bench.dtype, 4)
        language, spec = model.language_model, bench.adapter
        if liger:
            from liger_kernel.transformers import _apply_liger_kernel_to_instance

            _apply_liger_kernel_to_instance(model=language)
            if "forward" not in vars(language):  # it says nothing about a model that it does not know
                raise RuntimeError(f"liger: found no kernels for {language.config.model_type}, expected some")
        prepare_model_for_kbit_training(language, gradient_checkpointing_kwargs={"use_reentrant": False})
        config = LoraConfig(task_type="CAUSAL_LM", r=spec.r, lora_alpha=spec.alpha, lora_dropout=spec.dropout,
                            target_modules=list(spec.targets), bias="none")  # fmt: skip
        adapted = get_peft_model(language, config)
        gpu_models.begin(model)
        self.chat = RandomChat(model)
        self.whole = Whole(model, adapted)

    def first_losses(self) -> list[float]:
        """As ``gpu_sections.Ours.first_losses``."""
        from gpu_sections import CHECKED, FASTER

        gpu_models.set_dropout(self.whole, 0)
        held = gpu_models.batches(self.chat, [(self.bench.scale.places, "video")], 0)
        rate = self.bench.train.learning_rate * FASTER[self.bench.tiny]
        self.whole.losses.clear()
        self._train([batch for _, batch in held], CHECKED, rate, None)
        gpu_models.set_dropout(self.whole, self.bench.adapter.dropout)
        return [loss.item() for loss in self.whole.losses]

    def seconds(self, batches: Sequence[Any], until: float) -> list[float]:
        """Of steps on ``batches`` in turn, as ``gpu_clock.timed`` counts them."""
        counts = {"most": 20, "warmup": 2, "least": 3} | self.bench.times(20)
        timer = Timer(self.bench.device, counts["warmup"], counts["least"], until)
        self._train(batches, counts["warmup"] + counts["most"], self.bench.train.learning_rate, timer)
        return timer.seconds[counts["warmup"] :]

    def _train(self, batches: Sequence[Any], steps: int, rate: float, timer: Timer | None) -> None:
        spec, cuda = self.bench.train, self.bench.device.type == "cuda"
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder, max_steps=steps, per_device_train_batch_size=1, learning_rate=rate,
                lr_scheduler_type="constant", max_grad_norm=spec.clip_norm, weight_decay=0.0, bf16=cuda,
                use_cpu=not cuda, save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True,
                remove_unused_columns=False,
            )  # fmt: skip
            trainer = InOrder(
                model=self.whole,
                args=arguments,
                data_collator=_alone,
                train_dataset=Rotated(batches, steps),
                callbacks=[] if timer is None else [timer],
            )
            trainer.train()
            del trainer  # and with it the optimizer, before the next one's is made
            gpu_clock.release(self.bench.device)


def _alone(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch is one item already."""
    return items[0]
