"""Shared by all tests: a small miniature world, tiny settings, and Ray's environment."""

import importlib.util
import os
from pathlib import Path

import pytest

# Before anything imports ray: no token files, no telemetry, quick polling.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world, made once."""
    from xmtl_ray.data.world import write_world

    folder = tmp_path_factory.mktemp("world")
    write_world(folder, seed=0, size="small")
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference data, or a skip that says so."""
    if not SHARED.is_dir():
        pytest.skip(f"reference data is not at {SHARED}")
    return SHARED


@pytest.fixture
def tiny(world: Path, tmp_path: Path):
    """Makes configs of the smoke recipe on the small world: no dropout, in this process, nothing sent to MLflow."""
    from xmtl_ray.config.load import load

    def make(*overrides: str):
        return load(
            "xmtl_smoke",
            [
                "name=run",
                f"storage_path={tmp_path}",
                f"data.root={world}",
                "data.test=null",
                "cluster.workers=0",
                "tracking.enabled=false",
                "model.built_text.dropout=0",
                "model.shared.dropout=0",
                "train.global_batch=160",
                "multitask.rate.ae=0.2",
                *overrides,
            ],
        )

    return make


@pytest.fixture(scope="session")
def yolo(tmp_path_factory):
    """Weights of an untrained YOLOv8n with two classes whose detections are sure by its bias."""
    if importlib.util.find_spec("ultralytics") is None:
        pytest.skip("the extra detect is not installed")
    import torch

    from xmtl_ray.data import detectors

    detectors.ultralytics()
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    model = DetectionModel("yolov8n.yaml", nc=2, verbose=False)
    for layer in model.model[-1].cv3:
        torch.nn.init.constant_(layer[-1].bias, 0.5)
    path = tmp_path_factory.mktemp("yolo") / "weights.safetensors"
    detectors.save_yolo(path, model, ["person", "car"], 64)
    return path, model


@pytest.fixture
def pseudo_store(tmp_path: Path):
    """Writes a store of pseudo-labels made by hand: rows, in shards of two, by teachers that only have hashes."""
    from xmtl_ray.data import pseudo_labels

    def make(rows, tasks=("td", "ae", "vc", "rc"), floor=0.5, images=tmp_path / "images", name="store"):
        store = tmp_path / name
        shards = [rows[start : start + 2] for start in range(0, len(rows), 2)]
        keys = [pseudo_labels.shard_key(some, {}, floor, 8) for some in shards]
        for key, some in zip(keys, shards, strict=True):
            pseudo_labels.commit(store, key, some)
        teachers = {task: pseudo_labels.Teacher(folder=f"runs/{task}/model", sha256="0" * 64) for task in tasks}
        pseudo_labels.seal(store, keys, teachers, floor, Path("pairs"), "1" * 64, images)
        return store

    return make
