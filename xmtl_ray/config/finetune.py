"""Every knob of fine-tuning a generative model: VideoLLaMA2 by QLoRA, or another image-text-to-text model.

Defaults are paper B's values where it states them, with the section in brackets ([B]); where it is silent the docstring
says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from xmtl_ray.config.run import Fraction, Optimisation, Positive, Rate, Run, Section

Family = Literal["videollama2", "videollama21", "hf_vlm"]
Select = Literal["dev/tr_accuracy", "dev/arg_accuracy", "dev/mean_accuracy", "dev/token_probability"]


class Conversations(Section):
    """What is learnt from: conversation files in VideoLLaMA2's layout (`xmtl data convert … --to videollama2`)."""

    root: Path = Path(".")
    """Folder that relative paths of this section start from; or its URI (s3://…, gs://…): then each machine of a run
    fetches all that is there once, to ~/.cache/xmtl/data."""
    uri: str | None = None
    """What `root` is a copy of; set by giving a URI as `data.root`."""
    train: Path = Path("train.json")
    """Conversations to learn from."""
    dev: Path | None = None
    """Conversations to choose the checkpoint on; none: a share of the training ones (`data.dev_fraction`), by id."""
    test: Path | None = None
    """Conversations that are answered and scored after training; none: nothing is."""
    media: Path = Path(".")
    """Folder that the records' images and videos lie below."""
    dev_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training conversations held out where no dev file is named. Not in the paper."""
    check: Literal["full", "quick", "none"] = "full"
    """What is looked at before anything starts: full decodes every medium, quick reads headers, none nothing. Records
    that train and test share are an error in both: the paper's 8,592 steps are exactly all of its samples, so the 320
    that it tests on may be among them."""
    max_quarantined: Fraction = 0.01
    """Largest share of conversations that may be left out for a medium that cannot be read; more is an error. The
    original puts a random other sample in the place of such a one."""
    features: Path | None = None
    """Folder that the frozen tower's outputs are kept in and read from again, exact; none: computed every time."""
    media_cache_mib: Annotated[int, Field(ge=0)] = 512
    """Memory per worker (and per loader process) for decoded media, in MiB: starting a video's decoder anew takes a
    quarter of a second."""
    loader_workers: Annotated[int, Field(ge=0)] = 0
    """Processes per worker that decode media ahead; 0: the worker itself does."""


class BuiltLanguage(Section):
    """A small VideoLLaMA2 made from scratch, for tests and the miniature world: `model.path=built`."""

    vocabulary: Positive = 4000
    """Pieces of the tokenizer, which is learnt from the training conversations, at most."""
    width: Positive = 128
    layers: Positive = 4
    heads: Positive = 4
    key_value_heads: Positive = 2
    hidden: Positive = 344
    """Width of the feed-forward layers."""
    vision_width: Positive = 96
    vision_layers: Positive = 4
    vision_heads: Positive = 4
    image_px: Positive = 64
    patch_px: Positive = 8
    frames: Annotated[int, Field(ge=2, le=32)] = 4


class Mllm(Section):
    """The model that is fine-tuned."""

    family: Family = "videollama2"
    """videollama2: CLIP, stc_connector, Mistral. videollama21: SigLIP, stc_connector_v35, Qwen2. hf_vlm: any
    image-text-to-text model of transformers that has a chat template, e.g. Video-LLaVA; its own processor decides on
    prompts and pixels, and its sequences are not packed."""
    path: str = "DAMO-NLP-SG/VideoLLaMA2-7B-16F"
    """Folder of a checkpoint in the public layout, with its tokenizer; or `built`: made from `built`."""
    built: BuiltLanguage = BuiltLanguage()
    train_tower: bool = False
    """Let the vision tower of a built model learn as well: a tower of random weights sees little. Only with
    adapter.method=full."""
    train_connector: bool = True
    """Learn the connector's weights as well, whatever the method, as VideoLLaMA2's scripts do (not in the paper)."""
    pad: bool = True
    """Pad pictures to a square before they are resized, in training and prediction alike. VideoLLaMA2 pads in
    training only; without it CLIP's centre crop cuts the borders off."""
    max_tokens: Annotated[int, Field(ge=16, le=131_072)] = 9300
    """Longest sequence, visual tokens included; what is cut is counted and told [B 3.4]."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass to save memory (not in the paper)."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """How attention is computed."""
    loss: Literal["auto", "torch", "liger"] = "auto"
    """What computes the loss without whole logits: torch's chunks, liger's kernels (a GPU and the extra `kernels`), or
    liger where it runs."""


class Adapter(Section):
    """What is learnt of the language model [B 3.4]."""

    method: Literal["qlora", "lora", "full"] = "qlora"
    """qlora: adapters on 4- or 8-bit weights. lora: adapters on 16-bit weights. full: all weights."""
    bits: Literal[4, 8, 16] = 4
    """Of the language model's frozen weights; tower, connector and output head always keep 16."""
    double_quantization: bool = True
    """Quantise the quantisation constants of 4-bit weights, too."""
    r: Positive = 128
    """Rank."""
    alpha: Rate = 256
    """The adapters' outputs are scaled by alpha / r, as PEFT does it: a factor of 2. Eq. 4 has alpha alone."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """On the adapters' inputs while training (VideoLLaMA2's script; not in the paper)."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Last names of the language model's layers that get an adapter."""
    train_embeddings: bool = False
    """Embeddings and output head learn as well, whole and in 32 bits: where the base's words do not yet mean what the
    task needs, as a briefly pretrained one's. Not paper B's; 1.1 billion weights more of Qwen2-7B's."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.method == "qlora") != (self.bits < 16):
            wanted = "4 or 8" if self.method == "qlora" else "16"
            raise ValueError(f"bits: found {self.bits}, expected {wanted} with method {self.method}")
        return self

    @property
    def scale(self) -> float:
        """alpha / r."""
        return self.alpha / self.r


class Prompt(Section):
    """What the model is told besides the text, in training and prediction alike."""

    instruction: Literal["data", "ours"] = "data"
    """data: the conversations' own first turns. ours: `prompt.schema`, `prompt.shots` and `prompt.reason` around the
    text that they are about."""
    system: bool = True
    """Begin with the family's system message: VideoLLaMA2's own code does so in prediction, not in training, and has
    one for Mistral alone."""
    schema_text: bool = True
    """List the event types and their roles."""
    shots: Annotated[int, Field(ge=0, le=16)] = 0
    """Examples from the training data, in the record's language."""
    reason: bool = False
    """Ask for reasons before the answer (chain of thought); for models that were not fine-tuned."""


class Generation(Section):
    """How answers are written."""

    temperature: Rate = 0.2
    """Of sampling [B 3.3]."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Of sampling [B 3.3]."""
    greedy: bool = False
    """Always the most probable token; reproducible."""
    max_new_tokens: Positive = 512
    """Longest answer."""
    constrained: Literal["none", "schema", "spans"] = "none"
    """none: the model writes what it likes, and what is no JSON is counted. schema: only event JSON of the schema can
    be written. spans: the same, and triggers and arguments are words of the text."""
    batch: Positive = 8
    """Records that are answered together."""


class FinetuneTrain(Optimisation):
    """Optimisation and when to look at the dev set."""

    epochs: Positive = 3
    """Passes over the data [B 3.4]."""
    global_batch: Positive = 2
    """Conversations per optimizer step over all workers [B 3.4]."""
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    """How the rate falls after warm-up (VideoLLaMA2's script; not in the paper)."""
    warmup_fraction: Fraction = 0.03
    """Share of all steps over which the rate rises from 0 (VideoLLaMA2's script; not in the paper)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's, on matrices only (VideoLLaMA2's script; Eq. 8 has its sign wrong)."""
    learning_rate: Rate = 1e-5
    """Peak rate of adapters or weights [B 3.4]."""
    connector_rate: Rate | None = None
    """Peak rate of the connector, and of the tower of a built model; none: as the others."""
    group_by_length: bool = True
    """Put conversations of like length into a batch: less padding. The order is still random."""
    pack: bool = True
    """Put the sequences of a micro-batch into as few rows as they fit; none sees another."""
    dev_samples: Annotated[int, Field(ge=0)] = 200
    """Conversations of the dev set that are answered at each evaluation; the loss is of all. 0: none is answered."""
    select: Select = "dev/mean_accuracy"
    """Dev metric that names the best checkpoint: trigger or argument accuracy (Eq. 9-10), their mean, or the
    mean probability of a gold token (exp of the negative loss, in percent)."""

    @model_validator(mode="after")
    def _selects(self) -> Self:
        if self.dev_samples == 0 and self.select != "dev/token_probability":
            raise ValueError(
                f"select: found {self.select}, but dev_samples=0 answers nothing; set select=dev/token_probability"
            )
        return self


class FinetuneConfig(Run):
    """A whole run of fine-tuning."""

    data: Conversations = Conversations()
    model: Mllm = Mllm()
    adapter: Adapter = Adapter()
    prompt: Prompt = Prompt()
    train: FinetuneTrain = FinetuneTrain()
    generation: Generation = Generation()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        parts = max(1, self.cluster.workers) * self.train.accumulation
        if self.train.global_batch % parts:
            raise ValueError(
                f"train.global_batch: found {self.train.global_batch}, expected a multiple of {parts}: "
                f"{max(1, self.cluster.workers)} workers × {self.train.accumulation} micro-batches"
            )
        if self.model.path == "built" and self.model.family == "hf_vlm":
            raise ValueError("model.path: found built, expected a folder: a model of family hf_vlm is not made here")
        if self.model.path == "built" and self.adapter.method != "full":
            raise ValueError(
                f"adapter.method: found {self.adapter.method}, expected full: adapters on random weights learn nothing"
            )
        if self.model.train_tower and (self.model.path != "built" or self.data.features is not None):
            raise ValueError("model.train_tower: only a built model's tower learns, and without data.features")
        if self.model.family == "hf_vlm" and self.data.features is not None:
            raise ValueError("data.features: found a folder, expected null: features of hf_vlm models are not kept")
        stage = self.engine.zero_stage
        if self.model.family == "hf_vlm" and (stage == 3 or (stage > 0 and self.model.train_connector)):
            raise ValueError(
                f"engine.zero_stage: found {stage}, expected 0 with model.family=hf_vlm"
                f"{'' if stage == 3 else ', or model.train_connector=false'}: where one worker's batch has a medium "
                "and another's has none, they would wait for each other"
            )
        if stage == 3 and self.data.features is not None:
            raise ValueError(
                "data.features: found a folder, expected null with engine.zero_stage=3: a worker that finds its "
                "features there would not run the tower that ZeRO-3 gathers on all workers at once"
            )
        return self
