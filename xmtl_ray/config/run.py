"""What a run of any model family is configured by: where it is kept, what runs it, and how it is optimised."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from xmtl_ray.config.uris import is_uri, refuse_keys

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A frozen part of the tree that takes no field it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_uri_for_a_folder(cls, value: object, info: ValidationInfo) -> object:
        # Taken as a path, s3://bucket/data would silently be the folder "s3:" here.
        if isinstance(value, str) and is_uri(value):
            kind = cls.model_fields[info.field_name or ""].annotation
            if Path in {kind, *get_args(kind)}:
                raise ValueError(
                    f"found {value!r}, expected a folder or file that every worker sees by the same path: only "
                    "data.root and storage_path may be URIs; for data behind one give data.root=URI, and this by its "
                    "path below it"
                )
        return value


class Optimisation(Section):
    """What every training has, whatever the model; the optimizer is AdamW."""

    epochs: Positive = 10
    """Passes over the data [A: Experimental setup]."""
    global_batch: Positive = 64
    """Examples per optimizer step over all tasks and workers [A: Experimental setup]."""
    accumulation: Positive = 1
    """Micro-batches that one global batch is cut into on each worker."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the rates fall after warm-up (not in the papers)."""
    warmup_fraction: Fraction = 0.1
    """Share of all steps over which the rates rise from 0 (not in the papers)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's, on matrices only (not in the papers)."""
    clip_norm: Rate = 1.0
    """Largest gradient norm (not in the papers)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the device computes it natively, fp32 on CPU. The CRF is always fp32."""
    eval_every_epochs: Positive = 1
    """Epochs between dev evaluations; each ends in a checkpoint, as does the last epoch."""
    eval_every_steps: Annotated[int, Field(ge=0)] = 0
    """Steps between dev evaluations within an epoch, each with a checkpoint, for epochs of hours; 0: none."""
    checkpoint_every_steps: Annotated[int, Field(ge=0)] = 0
    """Steps between checkpoints within an epoch, for epochs of hours; 0: only after dev evaluations."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Stop after so many dev evaluations without a better one; 0: never."""
    keep_checkpoints: Positive = 2
    """Checkpoints kept, the best ones; the last is always kept."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of weights, data order and dropout."""


class Engine(Section):
    """What runs forward, backward and update over the workers."""

    name: Literal["ddp", "deepspeed"] = "ddp"
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 0
    """DeepSpeed ZeRO: what is sharded (1 optimizer state, 2 and gradients, 3 and weights). Only with deepspeed."""

    @model_validator(mode="after")
    def _stage(self) -> Self:
        if self.name == "ddp" and self.zero_stage:
            raise ValueError(f"zero_stage {self.zero_stage} needs engine.name=deepspeed; ddp shards nothing")
        return self


class Cluster(Section):
    """What Ray gives to a run."""

    workers: Annotated[int, Field(ge=0)] = 1
    """Ray Train workers; 0: this process, without a cluster (Ray Train's local mode)."""
    gpu: bool = False
    """One GPU per worker."""
    gpu_memory: Annotated[str | None, Field(pattern=r"^\d+(\.\d+)?\s*([gGmM]([iI]?[bB])?)?$")] = None
    """Of the smallest GPU, e.g. 40GiB: a run that cannot fit is refused before it starts; none: this machine's."""
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    """CPUs reserved per worker, and its torch threads (rounded down, at least 1)."""
    address: str | None = None
    """Ray cluster to join; none: RAY_ADDRESS or a new one on this machine."""
    max_failures: Annotated[int, Field(ge=-1)] = 3
    """Worker failures survived by restarting from the last checkpoint; -1: any number."""
    capacity_timeout_s: Rate = 600.0
    """Seconds to wait for a cluster that has too few resources, at the start and after failures; then an error."""
    worker_timeout_s: Rate = 300.0
    """Seconds without an answer after which a worker counts as dead and all are started again."""
    collective_timeout_s: Rate = 1800.0
    """Seconds that workers wait for one of them, in an exchange or a checkpoint, before all are started again."""
    stop_grace_s: Rate = 120.0
    """Seconds that a run has for its step and a last checkpoint after SIGTERM or Ctrl-C."""

    @field_validator("workers", mode="before")
    @classmethod
    def _one_number(cls, value: object) -> object:
        if isinstance(value, list | tuple) or (isinstance(value, str) and not value.strip().isdigit()):
            raise ValueError(
                f"found {value!r}, expected one number: workers that come and go by themselves are not offered, for "
                "how a run ends would hang on when they did; stop it and give the same command with another number, "
                "which goes on with the same batches"
            )
        return value


class Tracking(Section):
    """Where MLflow keeps runs."""

    uri: str | None = None
    """Tracking URI; none: that of MLFLOW_TRACKING_URI, or a SQLite file mlflow.db in the storage folder."""
    experiment: Annotated[str, Field(min_length=1)] = "xmtl"
    enabled: bool = True
    """False: nothing is sent; numbers stay in the run folder."""
    parent: str | None = None
    """MLflow run that this one is a part of; `xmtl run` and its like set it."""

    @model_validator(mode="after")
    def _without_password(self) -> Self:
        # Settings are saved, logged and shown.
        if self.uri is not None and re.search(r"://[^/?#\s]*:[^/?#\s]*@|[?&](ssl)?password=", self.uri):
            raise ValueError(
                "uri: found a password in the address, expected none; give the whole address in the environment "
                "variable MLFLOW_TRACKING_URI instead, or user and password in MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD"
            )
        return self


class Run(Section):
    """What a run of any model family has."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Of the run: its folder under `storage_path` and its MLflow run. The same name again resumes it."""
    storage_path: str = "runs"
    """Folder or URI (s3://…, gs://…) for runs; on several machines it must be reachable from all."""
    engine: Engine = Engine()
    cluster: Cluster = Cluster()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _runs(self) -> Self:
        refuse_keys("storage_path", self.storage_path)
        if "://" in self.storage_path and self.cluster.workers == 0:
            raise ValueError(
                f"storage_path: {self.storage_path!r} needs cluster.workers of at least 1: a run without workers "
                "keeps its checkpoints in a folder; name one"
            )
        if self.engine.name == "deepspeed" and self.cluster.workers == 0:
            raise ValueError("engine.name: deepspeed needs cluster.workers of at least 1")
        return self
