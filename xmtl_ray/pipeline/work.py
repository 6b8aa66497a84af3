"""What X-MTL's stages do, each in a process of its own: from a config and the folders before it to files.

Heavy things are imported where they are used: a plan is made without them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from xmtl_ray.config.schema import Config
from xmtl_ray.data.remote import here
from xmtl_ray.pipeline.stages import Work
from xmtl_ray.tracking.journal import Journal
from xmtl_ray.tracking.run import Run

log = logging.getLogger(__name__)


def train(config: Config, work: Work) -> None:
    """Train in the stage's folder, which is the run's; a start that was cut short goes on from its checkpoint."""
    from xmtl_ray.training.launch import launch

    journal = Journal(work.folder)
    journal.tags(work.facts)  # the run's own lines follow
    journal.close()
    pseudo, name = config.multitask.pseudo, {"name": work.folder.name, "storage_path": str(work.folder.parent)}
    if (labels := work.before.get("pseudo_labels")) is not None:
        pseudo = pseudo.model_copy(update={"store": labels / "store"})
    summary = launch(
        config.model_copy(
            update={
                **name,
                "multitask": config.multitask.model_copy(update={"pseudo": pseudo}),
                "tracking": config.tracking.model_copy(update={"parent": work.parent}),
                "data": config.data.model_copy(update={"check": "none"}),  # looked at once, before the first stage
            }
        )
    )
    log.info("dev: %s", "  ".join(f"{name} {value:.1f}" for name, value in summary["dev"].items()))


def label(config: Config, work: Work) -> None:
    """Label ``data.pairs`` by the teachers before it."""
    from dataclasses import asdict

    from xmtl_ray.config.schema import Teachers
    from xmtl_ray.distill.pseudo_label import label as label_pairs

    folders = {name.removeprefix("teacher_"): folder / "model" for name, folder in work.before.items()}
    own = config.model_copy(
        update={"distill": config.distill.model_copy(update={"teachers": Teachers.model_validate(folders)})}
    )

    def tell(done: int, of: int) -> None:
        log.info("%d of %d pairs labelled", done, of)

    with _tracked(config, work) as run:
        counts = asdict(label_pairs(own, work.folder / "store", tell))
        log.info("%s", counts)
        told = {f"pseudo/{name}": float(value) for name, value in counts.items() if isinstance(value, int | float)}
        run.journal.metrics(0, told)
        run.journal.artifact("store/store.json")


def extract(config: Config, work: Work) -> None:
    """Extract from ``data.test`` by the models before it, each the tasks that it has."""
    import torch

    from xmtl_ray.data import m2e2
    from xmtl_ray.events import predictions as prediction_files
    from xmtl_ray.inference.coreference import clip_similarity, how
    from xmtl_ray.inference.extract import Extractor
    from xmtl_ray.models import weights

    config = here(config)
    assert config.data.test is not None
    with _tracked(config, work) as run:
        device = torch.device("cuda") if config.cluster.gpu else torch.device("cpu")
        torch.set_num_threads(max(1, int(config.cluster.cpus_per_worker)))
        models = [weights.load(folder / "model") for folder in work.before.values()]
        for loaded in models:
            loaded.model.to(device)
        spec = config.inference.coreference
        similarity = clip_similarity(spec.encoder, spec.threshold, device)
        documents = m2e2.read(config.data.test, objects=config.data.test_objects)
        predictions = Extractor(models, config.inference, similarity)(documents)
        path = work.folder / "predictions.json"
        prediction_files.write(path, predictions, coreference=how(similarity), run=work.folder.name)
        run.journal.artifact(path.name)
        log.info("%d text events, %d visual events, %d pairs", *_counts(predictions))


def score(config: Config, work: Work) -> None:
    """Score the predictions before it under the protocols that a training run reports."""
    from xmtl_ray.data import m2e2
    from xmtl_ray.evaluation.m2e2 import tables
    from xmtl_ray.events import predictions as prediction_files

    config = here(config)
    assert config.data.test is not None
    with _tracked(config, work) as run:
        documents = m2e2.read(config.data.test, objects=config.data.test_objects)
        scores = tables(documents, prediction_files.read(work.before["extract"] / "predictions.json"))
        (work.folder / "scores.json").write_text(json.dumps(scores, indent=1), encoding="utf-8")
        for protocol, metrics in scores.items():
            run.journal.metrics(0, {f"test/{protocol}/{name}_f1": values["F1"] for name, values in metrics.items()})
        run.journal.artifact("scores.json")


def _counts(predictions: object) -> tuple[int, int, int]:
    from xmtl_ray.events.predictions import Predictions

    assert isinstance(predictions, Predictions)
    return (
        sum(map(len, predictions.text.values())),
        sum(map(len, predictions.image.values())),
        len(predictions.multimedia),
    )


@contextmanager
def _tracked(config: Config, work: Work) -> Iterator[Run]:
    """The stage's run in MLflow, with where it comes from."""
    spec = config.tracking
    run = Run(work.folder, spec.uri if spec.enabled else None, spec.experiment, work.folder.name)
    run.journal.tags({**work.facts, **({"mlflow.parentRunId": work.parent} if work.parent else {})})
    try:
        yield run
    except BaseException:
        run.journal.status("FAILED")
        run.close(grace_s=15)
        raise
    run.journal.status("FINISHED")
    run.close()
