"""Every knob of X-MTL: one frozen typed tree.

The same dotted path names a setting in a recipe, on the command line, in MLflow and in an error. Defaults are paper
A's values (X-MTL) where it states them, with the section in brackets; where it is silent the docstring says so.
Numbers that follow from others are functions, not fields.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from xmtl_ray.config.run import Fraction, Optimisation, Positive, Rate, Run, Section

TaskName = Literal["td", "ae", "vc", "rc"]
TEXT_TASKS: tuple[TaskName, ...] = ("td", "ae")
IMAGE_TASKS: tuple[TaskName, ...] = ("vc", "rc")

Term = Literal["td", "ae", "vc", "rc", "td_pseudo", "ae_pseudo", "vc_pseudo", "rc_pseudo", "consistency", "lm"]
"""What a loss is of: a task, its pseudo-label twin (k' of Eq. 14), ARK's agreement with its teacher, or the next token
of a language model."""
PSEUDO: dict[TaskName, Term] = {"td": "td_pseudo", "ae": "ae_pseudo", "vc": "vc_pseudo", "rc": "rc_pseudo"}
"""Each task's twin."""


class AceData(Section):
    """ACE 2005 in the JMEE layout: trains td and ae."""

    train: Path
    """JSON file of training sentences."""
    dev: Path | None = None
    """JSON file of dev sentences; none: a share of the training sentences (`data.dev_fraction`)."""
    extent: Literal["head", "full"] = "head"
    """Which words are an entity: its head, as M2E2 annotates, or ACE's full extent."""


class ImsituData(Section):
    """imSitu with SWiG's boxes, refined by the M2E2 schema: trains vc and rc [Main results]."""

    train: Path
    """imSitu's annotations of the training images (JSON)."""
    train_boxes: Path
    """SWiG's boxes of the training images (JSON)."""
    dev: Path | None = None
    """As `train`, of the dev images; none: a share of the training images (`data.dev_fraction`)."""
    dev_boxes: Path | None = None
    """As `train_boxes`, of the dev images."""
    images: Path
    """Folder with the image files."""
    space: Path | None = None
    """imsitu_space.json, to check verbs and roles against; none: not checked."""
    verb_map: Path | None = None
    """(verb, role) → (type, role) table; none: the one in the package."""
    keep_unmapped: Fraction = 0.0
    """Share of images of unmapped verbs to keep, as images without event. The paper keeps none."""


class PairsData(Section):
    """Image-text pairs without gold, for teachers to label [Training Strategy]."""

    source: Path
    """A folder in VOA's layout, or a Parquet file of pairs (`xmtl data convert`)."""
    images: Path | None = None
    """Folder of the image files; none: where the source keeps them."""
    objects: Path | None = None
    """A store of `xmtl data objects` with the images' detections; none: the source's own."""


class TextPrompt(Section):
    """How an entity and its event are put to the text encoder [Fig. 2]."""

    marker: Annotated[str, Field(min_length=1)] = "$"
    """Word set before and after the entity."""
    event_type: bool = True
    """Whether the type's words ("justice arrest jail") follow the trigger's after [SEP]."""


class VisualPrompt(Section):
    """How an object is put to the vision encoder: marked on the image [Fig. 2]."""

    kind: Literal["box", "circle", "crop"] = "box"
    """A box or an ellipse within it drawn on the image, or the box's content alone [Fig. 3b]."""
    canvas_px: Positive = 512
    """Side of the square that the image is resized to before the mark is drawn, in pixels."""
    line_px: Positive = 2
    """Width of the mark's line on that canvas, in pixels; crop has none."""
    color: tuple[int, int, int] = (255, 0, 0)
    """Red, green, blue, 0 to 255."""


class Data(Section):
    """What is learnt from and what is scored."""

    root: Path = Path(".")
    """Folder that relative paths of this section start from; or its URI (s3://…, gs://…): then each machine of a run
    fetches all that is there once, to ~/.cache/xmtl/data."""
    uri: str | None = None
    """What `root` is a copy of; set by giving a URI as `data.root`."""
    train: Path | None = None
    """Folder in the M2E2 layout whose documents train the text tasks; none where `ace` does."""
    test: Path | None = None
    """Folder in the M2E2 layout that is extracted from and scored after training; none: nothing is."""
    test_objects: Path | None = None
    """Detections of the test images, needed to find visual arguments: a store of `xmtl data objects`, or a JSON file in
    VOA's or MMUTF's layout."""
    ace: AceData | None = None
    """ACE 2005; none: the text tasks learn from `train`."""
    imsitu: ImsituData | None = None
    """imSitu and SWiG; needed by vc and rc."""
    pairs: PairsData | None = None
    """Image-text pairs that `xmtl pseudo-label` labels."""
    dev_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training documents (or records) held out where no dev file is named. Not in the paper."""
    world_sentences: Annotated[int, Field(ge=0)] = 0
    """Sentences of the miniature news world, drawn from `train.seed`, that the text tasks learn from as well; none are
    held out. Our own invention, not in the paper: they hold trigger words, and contexts in which those trigger nothing,
    of which a few hundred annotated events show too few."""
    text_prompt: TextPrompt = TextPrompt()
    visual_prompt: VisualPrompt = VisualPrompt()
    image_cache_mib: Annotated[int, Field(ge=0)] = 512
    """Memory per worker for decoded images, in MiB."""
    loader_workers: Annotated[int, Field(ge=0)] = 0
    """Processes per worker that prepare batches ahead; 0: the worker itself does."""
    check: Literal["full", "quick", "none"] = "full"
    """What is looked at before anything starts: full as `xmtl data check` does, quick without decoding images (a few
    milliseconds each), none nothing. Errors stop the run, warnings are told."""


class BuiltText(Section):
    """A BERT made from scratch, for tests and the miniature world."""

    vocabulary: Positive = 2000
    """Word pieces learnt from the training text, at most."""
    width: Positive = 128
    layers: Positive = 2
    heads: Positive = 4
    dropout: Fraction = 0.1


class BuiltImage(Section):
    """A CLIP vision transformer made from scratch, for tests and the miniature world."""

    image_px: Positive = 96
    """Side of the square input, in pixels."""
    patch_px: Positive = 12
    width: Positive = 128
    layers: Positive = 3
    heads: Positive = 4
    dropout: Fraction = 0.0


class Shared(Section):
    """The modality-shared encoder, Eq. 2-4 [Experimental setup]."""

    layers: Positive = 2
    """L."""
    width: Positive = 1024
    """Hidden size that both alignment layers map to."""
    heads: Positive = 16
    """Attention heads (not in the paper)."""
    dropout: Fraction = 0.1
    """On attention and residual branches while training (not in the paper)."""

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class Model(Section):
    """X-MTL's encoders and heads."""

    text_encoder: str = "bert-base-uncased"
    """A Hugging Face folder or name (NAME@COMMIT pins it), or `built`: made from `built_text`."""
    image_encoder: str = "openai/clip-vit-base-patch32"
    """A Hugging Face folder or name (NAME@COMMIT pins it) of a CLIP model, or `built`: made from `built_image`."""
    built_text: BuiltText = BuiltText()
    built_image: BuiltImage = BuiltImage()
    shared: Shared = Shared()
    argument: Literal["prompt", "span", "concat"] = "prompt"
    """What stands for a textual argument [Fig. 3a]: the mean of all states of its prompt (prompt), of the entity's own
    (span), or of all states of the sentence without markers and with the entity put behind it (concat)."""
    crf: Literal["torchcrf"] = "torchcrf"
    """What computes Eq. 5-6."""
    max_tokens: Annotated[int, Field(ge=8, le=8192)] = 300
    """Longest text input in word pieces; what is cut is counted and told [Experimental setup]."""
    gradient_checkpointing: bool = False
    """Recompute the encoders' activations in the backward pass to save memory."""


class PerTask(Section):
    """A positive number for each task, 1 unless said otherwise."""

    td: Rate = 1.0
    ae: Rate = 1.0
    vc: Rate = 1.0
    rc: Rate = 1.0


class Thresholds(Section):
    """What a pseudo-label's confidence must exceed [Experimental setup]."""

    td: Fraction = 0.8
    """Of the sentence's best tag path: its probability by Eq. 5."""
    ae: Fraction = 0.8
    """Of an entity's most probable role, None included."""
    vc: Fraction = 0.8
    """Of each type of an image."""
    rc: Fraction = 0.8
    """Of an object's most probable role, None included."""


class PseudoLabels(Section):
    """What the pseudo-label twins of the tasks learn from; used by strategy xmtl only [Training Strategy]."""

    store: Path | None = None
    """Folder that `xmtl pseudo-label` has written; `xmtl run` makes it itself."""
    beta: Annotated[float, Field(ge=0)] = 0.5
    """Factor on the weight of every pseudo-label twin, Eq. 14."""
    threshold: Thresholds = Thresholds()
    agreement: Literal["shared", "same", "none"] = "shared"
    """Which pairs are kept: both sides have a type in common (shared, as the paper), have exactly the same types
    (same), or each side by itself, whatever the other shows (none)."""
    schema_filter: bool = True
    """Leave out a role that the ontology does not give to the type; false: learn it all the same."""
    max_drift: Fraction = 1.0
    """How much larger an event type's share of the kept pseudo-labels may be than its share of gold, of sentences or of
    images; more is an error that names the type, for a flood of one type is what poisoned pairs look like. 1: no limit.
    Not in the paper."""
    rate: Rate = 1.0
    """How often a twin's examples come, relative to its task's; 1 is in proportion to how many there are."""


class Weighting(Section):
    """W of Eq. 14: how much each loss counts. Weights are made of losses reduced over all workers."""

    name: Literal["dwa", "fixed", "uncertainty", "famo", "upgrad"] = "dwa"
    """dwa: Eq. 13. fixed: `multitask.weighting.fixed`. uncertainty: learnt variances (Kendall et al. 2018). famo:
    losses fall at like rates (Liu et al. 2023; one more forward pass a step). upgrad: gradients that pull against each
    other are projected (Quinton and Rey 2024, by torchjd; two more passes a step, and one gradient per loss in
    memory)."""
    alpha: Rate = 0.5
    """Temperature factor of Eq. 13; 0.5 is the temperature T = 2 of the original method [Experimental setup]."""
    interval: Annotated[str, Field(pattern=r"^(epoch|steps:[1-9]\d*)$")] = "epoch"
    """The time step t of Eq. 13: `epoch`, or `steps:N` for every N optimizer steps. Weights are 1 for the first two."""
    fixed: PerTask = PerTask()
    """Weights of `fixed`; a pseudo-label twin has its task's, times beta."""
    learning_rate: Rate = 0.025
    """Adam's, of what uncertainty and famo learn; the value of FAMO's paper."""
    decay: Annotated[float, Field(ge=0)] = 0.001
    """Pull of famo's logits towards equal weights; the value of its paper."""


class Ark(Section):
    """Cyclic training with a teacher of one's own past (Ma et al. 2023, "Foundation Ark"), after its idea."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Share of the teacher that is kept at each step; the rest becomes the student's: an exponential moving average."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Of the mean squared distance between student's and teacher's pooled states."""


class Multitask(Section):
    """Which tasks are learnt together, and how."""

    tasks: Annotated[tuple[TaskName, ...], Field(min_length=1)] = ("td", "ae", "vc", "rc")
    """td trigger detection, ae argument extraction, vc verb classification, rc role classification."""
    strategy: Literal["single", "alternating", "ark", "joint", "xmtl"] = "joint"
    """single: one task alone, a teacher. alternating: tasks in turn, cyclically. ark: the same, held together by a
    teacher that is the model's moving average (and is the model that is kept). joint: every step learns from every
    task, in proportion to their data. xmtl: joint, and from pseudo-labels; with weighting dwa the paper's own."""
    cycle: Annotated[str, Field(pattern=r"^(epoch|steps:[1-9]\d*)$")] = "epoch"
    """A task's turn in alternating and ark: all its data of an epoch (`epoch`), or `steps:N` optimizer steps."""
    rate: PerTask = PerTask()
    """How often a task's examples come, relative to how many it has; 1 for all is the paper's proportional sampling."""
    weighting: Weighting = Weighting()
    pseudo: PseudoLabels = PseudoLabels()
    ark: Ark = Ark()

    @model_validator(mode="after")
    def _strategy(self) -> Self:
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks lists one twice: {self.tasks}")
        if self.strategy == "single" and len(self.tasks) > 1:
            raise ValueError(f"strategy single learns one task, tasks lists {len(self.tasks)}: {', '.join(self.tasks)}")
        if self.strategy in {"alternating", "ark"} and len(self.tasks) == 1:
            raise ValueError(f"strategy {self.strategy} needs tasks to take turns, tasks lists only {self.tasks[0]}")
        if not self.summed and self.weighting.name != "fixed":
            raise ValueError(
                f"weighting.name {self.weighting.name} weighs losses that are summed; strategy {self.strategy} learns "
                "from one task at a time: set multitask.weighting.name=fixed"
            )
        return self

    @property
    def summed(self) -> bool:
        """Whether a step's loss is a sum over tasks."""
        return self.strategy in {"joint", "xmtl"}

    @property
    def terms_per_step(self) -> int:
        """How many losses a step may sum."""
        return len(self.tasks) * (2 if self.strategy == "xmtl" else 1) if self.summed else 1


class Teachers(Section):
    """Folders of single-task models, as `xmtl train` leaves them; one folder may serve several tasks."""

    td: Path | None = None
    ae: Path | None = None
    vc: Path | None = None
    rc: Path | None = None


class Distill(Section):
    """How teachers label image-text pairs (`xmtl pseudo-label`)."""

    teachers: Teachers = Teachers()
    floor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Arguments are labelled for pairs whose sides share a type that both are surer of than this; thresholds of a
    selection may not be lower."""
    shard: Positive = 64
    """Pairs that are labelled and committed together."""
    actors: Positive = 1
    """Actors of each of the stages (triggers, types, arguments)."""
    gpu: bool = False
    """A share of a GPU for each actor."""
    max_quarantined: Fraction = 0.05
    """Largest share of pairs that may be left out for their broken images; more is an error."""


class LearningRates(Section):
    """Peak learning rates [Experimental setup]."""

    text: Rate = 1e-4
    """Of the text encoder."""
    image: Rate = 1e-5
    """Of the vision encoder."""
    other: Rate = 1e-3
    """Of alignment layers, shared encoder and heads."""


class Train(Optimisation):
    """Optimisation and when to look at the dev set."""

    learning_rate: LearningRates = LearningRates()
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the learning rate from each layer of an encoder to the one below it; 1: all learn alike, as in the
    paper. Below 1 a pretrained encoder keeps more of what it knows, which helps where examples are few."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each target that is spread over all labels; 0 as in the paper. Helps where gold has gaps."""
    select: Literal["dev/mean_f1", "dev/trigger_f1", "dev/argument_f1", "dev/verb_f1", "dev/role_f1"] = "dev/mean_f1"
    """Dev metric that names the best checkpoint."""


class Coreference(Section):
    """When a text and a visual event of one document and type are one [Coreference]."""

    encoder: str | None = None
    """Hugging Face CLIP folder or name for image-text similarity; none: the same type is enough."""
    threshold: Annotated[float, Field(ge=-1, le=1)] = 0.2
    """Cosine similarity must exceed it [Experimental setup]."""


class Inference(Section):
    """From scores to events."""

    trigger_bias: Annotated[float, Field(ge=-20, le=20)] = 0.0
    """Lowers every word's score for "no trigger" before the best tags are sought, in nats: above 0 more triggers are
    found, with less precision. The paper has none. Also used on the dev set."""
    verb_threshold: Fraction = 0.5
    """An image shows the types whose probability exceeds it, on the dev set too."""
    object_confidence: Fraction = 0.8
    """Detections below it are no argument candidates [Experimental setup]."""
    all_types: bool = True
    """Arguments for every predicted type of an image; false: only for its most probable one."""
    schema_filter: bool = True
    """A role that the ontology does not give to the type becomes None."""
    batch: Positive = 64
    """Inputs per forward pass."""
    coreference: Coreference = Coreference()


class Config(Run):
    """A whole run of X-MTL."""

    data: Data = Data()
    model: Model = Model()
    multitask: Multitask = Multitask()
    train: Train = Train()
    distill: Distill = Distill()
    inference: Inference = Inference()

    @model_validator(mode="after")
    def _sources(self) -> Self:
        tasks = self.multitask.tasks
        if set(tasks) & set(TEXT_TASKS) and self.data.ace is None and self.data.train is None:
            raise ValueError("data.train: td and ae need data.train (M2E2 layout) or data.ace (JMEE layout)")
        if self.data.ace is not None and self.data.train is not None:
            raise ValueError("data.train: both data.train and data.ace name text to train on; set one to null")
        if set(tasks) & set(IMAGE_TASKS) and self.data.imsitu is None:
            raise ValueError("data.imsitu: vc and rc need it")
        self._engine_fits()
        workers, terms = max(1, self.cluster.workers), self.multitask.terms_per_step
        smallest = terms * workers * self.train.accumulation
        if self.train.global_batch < smallest:
            raise ValueError(
                f"train.global_batch: {self.train.global_batch} is too small: {terms} tasks × {workers} workers × "
                f"{self.train.accumulation} micro-batches need {smallest}"
            )
        return self

    def _engine_fits(self) -> None:
        """Raises ValueError for what an engine cannot do, before anything starts."""
        engine, multitask = self.engine, self.multitask
        if multitask.weighting.name == "upgrad" and engine.zero_stage >= 2:
            raise ValueError(
                f"multitask.weighting.name: upgrad needs each loss's whole gradient on every worker, which ZeRO stage "
                f"{engine.zero_stage} shards; set engine.zero_stage to 0 or 1, or weigh by dwa, uncertainty or famo"
            )
        if multitask.weighting.name == "famo" and self.train.accumulation > 1:
            raise ValueError(
                f"multitask.weighting.name: famo must know the losses of the whole global batch before its backward "
                f"pass, and train.accumulation={self.train.accumulation} cuts it in parts; set it to 1"
            )
        if multitask.strategy == "ark" and engine.zero_stage == 3:
            raise ValueError(
                "multitask.strategy: ark averages whole weights on every worker, which ZeRO stage 3 shards; set "
                "engine.zero_stage to 2 or lower"
            )
