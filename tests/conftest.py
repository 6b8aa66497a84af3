"""Shared by all tests: a small miniature world, tiny settings, and Ray's environment."""

import importlib.util
import os
from pathlib import Path
from typing import Literal

import pytest

# Before anything imports ray: no token files, no telemetry, quick polling.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """With several processes (-n) files that start Ray go by two lanes, the others file by file.

    Many Ray clusters on one machine are in each other's way, two are not; and a folder's fixtures are to be made once.
    (``--dist loadgroup`` would say it by marks, but has no effect with this version of pytest.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class Lanes(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return f"ray {_lane(file)}" if starts_ray(config.rootpath / file) else file

    return Lanes(config, log)


def starts_ray(file: Path) -> bool:
    """Whether tests of a file start Ray."""
    return "mark.ray" in file.read_text(encoding="utf-8")


def _lane(file: str) -> Literal["first", "last"]:
    return "first" if file.startswith(("tests/training", "tests/distill")) else "last"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One process begins with Ray's first lane, the longest; another does what needs no Ray, then the last lane."""
    lanes = {item.path: starts_ray(item.path) and _lane(item.nodeid) for item in items}
    items.sort(key=lambda item: ("first", False, "last").index(lanes[item.path]))


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


@pytest.fixture(scope="session")
def tagger(tmp_path_factory):
    """A token classification model that tags by the word alone: Anna, Kovel are persons, Rome is a place."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "anna", "ko", "##vel", "rome", "saw"]
    tokenizer = Tokenizer(WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    labels = ["O", "B-PER", "I-PER", "B-LOC"]
    config = BertConfig(
        vocab_size=len(pieces), hidden_size=8, num_hidden_layers=0, num_attention_heads=1, intermediate_size=8,
        max_position_embeddings=16, id2label=dict(enumerate(labels)), label2id={n: i for i, n in enumerate(labels)},
    )  # fmt: skip
    model = BertForTokenClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.bert.embeddings.LayerNorm.weight.fill_(1)
        for label, some in {1: ["anna"], 2: ["ko", "##vel"], 3: ["rome"]}.items():
            for piece in some:
                model.bert.embeddings.word_embeddings.weight[pieces.index(piece), label] = 1
            model.classifier.weight[label, label] = 5
        model.classifier.bias[0] = 1
    folder = tmp_path_factory.mktemp("ner")
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


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
