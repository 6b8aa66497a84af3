"""S3: nothing that is read can run code: no way to in the sources, and files that try to, one for each reader."""

import io
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from random_xmtl import make_model
from safetensors.torch import save_file
from sources_of_code import found
from torch import nn

import xmtl_ray
from xmtl_ray.config.run import Optimisation
from xmtl_ray.data import pseudo_labels, tower_features
from xmtl_ray.data.pseudo_labels import LabelledPair
from xmtl_ray.events import predictions
from xmtl_ray.models import plain_pickles, qlora, weights
from xmtl_ray.registry.server import check_endings
from xmtl_ray.training.engine import Ddp
from xmtl_ray.tuning import ledger

PACKAGE = Path(xmtl_ray.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
ALLOWED = {("data/detectors.py", "import pickle")}
"""For the class of an error alone, which the test below sees to."""


def test_no_module_can_run_what_a_file_says():
    """No unpickling but ``weights_only`` in one module, no shell, eval, archive, unsafe YAML or code of models'."""
    assert len(SOURCES) > 200
    bad = [
        (module, line, what)
        for path in SOURCES
        for module in [path.relative_to(PACKAGE).as_posix()]
        for line, what in found(path.read_text(encoding="utf-8"), module)
        if (module, what) not in ALLOWED
    ]
    assert not bad
    detectors = (PACKAGE / "data/detectors.py").read_text(encoding="utf-8")
    assert detectors.count("pickle.") == detectors.count("pickle.UnpicklingError")


def test_nothing_listens_for_others():
    """S1, S2: the package starts no server, and no dashboard but on loopback, in one place."""
    texts = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in SOURCES}
    words = (
        r'0\.0\.0\.0|\bserve\.(run|start)|http\.server|uvicorn|mlflow", "server|socketserver|create_server|\.listen\('
    )
    assert not [(name, said[0]) for name, text in texts.items() for said in [re.search(words, text)] if said]
    assert re.search(words, "serve.run(app, host='0.0.0.0')") and re.search(words, '["mlflow", "server"]')
    assert [name for name, text in texts.items() if "dashboard_host" in text] == ["cluster/connection.py"]
    assert re.findall(r'"dashboard_host": ([^,}]*)', texts["cluster/connection.py"]) == ['"127.0.0.1"']


BAD = """\
import pickle
from pickle import loads
import cloudpickle as c
from tarfile import open
import zipfile
torch.load(f)
torch.load(f, weights_only=True)
torch.load(f, weights_only=False)
np.load(f, allow_pickle=True)
yaml.load(t)
yaml.load(t, Loader=yaml.Loader)
yaml.unsafe_load(t)
eval(t)
exec(t)
__import__(t)
importlib.import_module(t)
load = torch.jit.load
os.system(t)
subprocess.run(t, shell=True)
subprocess.Popen(t, shell=yes)
box.extractall(place)
shutil.unpack_archive(a)
Tuner.restore(p)
AutoModel.from_pretrained(p)
AutoModel.from_pretrained(p, trust_remote_code=True)
AutoModel.from_pretrained(p, trust_remote_code=asked)
AutoConfig.from_pretrained(p, **given)
given = {"trust_remote_code": True}
"""


@pytest.mark.parametrize("line", BAD.splitlines())
def test_the_search_finds_each(line):
    """The control: what it is to find, as the whole of a module."""
    assert list(found(line, "anywhere.py"))


def test_the_search_lets_the_rest_pass():
    """What looks alike."""
    fine = (
        "from pickle import UnpicklingError\nmodel.eval()\nre.compile(t)\nyaml.load(t, Loader=_Loader)\n"
        "safe = {'trust_remote_code': False}\nAutoModel.from_pretrained(p, **safe)\nsubprocess.run([a], shell=False)\n"
    )
    assert not list(found(fine, "anywhere.py"))
    assert not list(found("torch.load(f, weights_only=True)", "models/plain_pickles.py"))


# --- Files that make a folder when they are unpickled -----------------------------------------------------------------


class Payload:
    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.fixture
def payload(tmp_path):
    """Bytes of pickles, bare, in PyTorch's two formats and among tensors; at the end none has been executed."""
    evil = Payload(tmp_path / "executed")

    def saved(value, **how):
        file = io.BytesIO()
        torch.save(value, file, **how)
        return file.getvalue()

    yield {
        "bare": pickle.dumps(evil),
        "torch": saved({"state": {}, "param_groups": evil}),
        "legacy": saved(evil, _use_new_zipfile_serialization=False),
        "among tensors": saved({"a.lora_A.weight": torch.zeros(2), "cpu": torch.get_rng_state(), "x": evil}),
    }
    executed = (tmp_path / "executed").exists()
    if not executed:
        pickle.loads(pickle.dumps(evil))  # it would have been seen
    assert not executed and (tmp_path / "executed").exists()


KINDS = ("bare", "torch", "legacy", "among tensors")


@pytest.mark.parametrize("kind", KINDS)
def test_pytorchs_files(payload, kind, tmp_path):
    """Generators of a checkpoint, and all else that PyTorch has written."""
    (tmp_path / "generators_0.pt").write_bytes(payload[kind])
    with pytest.raises(plain_pickles.PickleError, match=r"generators_0.pt: found .*, expected plain tensors"):
        plain_pickles.read(tmp_path / "generators_0.pt")


def test_the_optimizer_of_a_checkpoint(payload, tmp_path):
    """As a run that is resumed reads it, in any context."""
    objective = nn.Module()
    objective.model = nn.Linear(2, 1)
    group = {"params": list(objective.parameters()), "lr": 1.0, "peak": 1.0, "weight_decay": 0.0}
    engine = Ddp(objective, Optimisation(precision="fp32"), [group], torch.device("cpu"), True, lambda _: True)
    for kind in KINDS:
        (tmp_path / "optimizer.pt").write_bytes(payload[kind])
        with pytest.raises(ValueError, match=r"optimizer.pt: found .*, expected plain tensors"):
            engine.load(tmp_path, objective.model.state_dict)


@pytest.fixture(scope="module")
def model(world, tmp_path_factory):
    """A model folder of X-MTL."""
    return make_model(world, tmp_path_factory.mktemp("model"), "multitask.tasks=[td]")


def test_a_model_folder(payload, model, tmp_path):
    """Weights that are a pickle by another name; and a pickle beside the weights, which nobody looks at."""
    for kind in KINDS:
        folder = shutil.copytree(model, tmp_path / kind)
        (folder / "pytorch_model.bin").write_bytes(payload[kind])
        (folder / weights.TEXT / "pytorch_model.bin").write_bytes(payload[kind])
        weights.load(folder)
        (folder / weights.WEIGHTS).write_bytes(payload[kind])
        with pytest.raises(weights.ModelFolderError, match=r"safetensors: found .*, expected this model's weights"):
            weights.load(folder)


def test_a_pretrained_encoders_folder(payload, model, tmp_path):
    """Weights of a BERT as the hub once had them, by transformers."""
    from xmtl_ray.models import encoders

    folder = shutil.copytree(model / weights.TEXT, tmp_path / "bert")
    config = encoders.configuration(str(folder), "model.text_encoder")
    for kind in KINDS:
        (folder / "pytorch_model.bin").write_bytes(payload[kind])
        with pytest.raises(encoders.EncoderError, match=r"model.text_encoder: cannot load weights"):
            encoders.text_encoder(config, str(folder))


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapters_folder(payload, file, tmp_path):
    """PEFT's new and old file."""
    language = nn.Sequential(nn.Linear(2, 2))
    settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "lora_dropout": 0.0, "target_modules": ["0"]}
    (tmp_path / qlora.ADAPTER_CONFIG).write_text(json.dumps(settings))
    for kind in KINDS:
        (tmp_path / file).write_bytes(payload[kind])
        with pytest.raises(qlora.AdapterError, match="expected the weights of an adapter"):
            qlora.attach(tmp_path, language)
    assert type(language[0]) is nn.Linear


def row(name="D_0") -> LabelledPair:
    return LabelledPair(name, f"{name}.jpg", "a" * 64, ("Rebels",), (), (), reason="no image")


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_of_pseudo_labels(payload, kind, pseudo_store):
    """A shard that is none, with its own hash in the store's list."""
    store = pseudo_store([row()])
    manifest = json.loads((store / pseudo_labels.MANIFEST).read_text())
    shard = manifest["shards"][0]
    path = pseudo_labels.shard_path(store, shard["key"])
    path.write_bytes(payload[kind])
    with pytest.raises(ValueError, match="delete this file and label again"):
        list(pseudo_labels.stream(store))
    shard["sha256"] = pseudo_labels._file_sha256(path)
    (store / pseudo_labels.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="expected a Parquet file"):
        list(pseudo_labels.stream(store))


@pytest.mark.parametrize(
    "extension", ["arrow.py_extension_type", "ray.data.arrow_tensor", "ray.data.arrow_pickled_object"]
)
def test_a_column_whose_type_is_a_pickle(payload, extension, tmp_path):
    """Types of Arrow's and Ray's that once were unpickled when a file was opened (CVE-2026-41486); Ray is loaded."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import ray.data  # noqa: F401 - registers its types

    from xmtl_ray.data import parquet

    about = {"ARROW:extension:name": extension, "ARROW:extension:metadata": payload["bare"]}
    schema = pa.schema([pa.field("id", pa.string(), metadata=about)], metadata={"xmtl_ray.record": "LabelledPair"})
    pq.write_table(pa.table({"id": ["a"]}, schema), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a.parquet.*(schema|file)"):
        list(parquet.stream(tmp_path / "a.parquet", LabelledPair))


def test_files_that_are_json_or_safetensors(payload, tmp_path):
    """Predictions, a sweep that is resumed, features of towers: a pickle in their place is no file of theirs."""
    key = "0" * 64
    features = tower_features.TowerFeatures(tmp_path / "features")
    features.put(key, torch.zeros(1, 2, 3))
    for kind in KINDS:
        (tmp_path / "predictions.json").write_bytes(payload[kind])
        with pytest.raises(ValueError, match=r"predictions.json"):
            predictions.read(tmp_path / "predictions.json")
        (tmp_path / ledger.SWEEP).write_bytes(payload[kind])
        with pytest.raises(ValueError):
            ledger.read_sweep(tmp_path)
        next((tmp_path / "features").rglob("*.safetensors")).write_bytes(payload[kind])
        assert features.get(key) is None
    assert features.torn == len(KINDS)


def test_pickles_beside_what_is_read(payload, tmp_path):
    """A sweep's folder with Tune's own state in it, whose files are pickles, and a model's of the registry."""
    trial = tmp_path / ledger.TRIALS / "s-0"
    trial.mkdir(parents=True)
    one = {
        "id": "0",
        "drawn": {},
        "parameters": {},
        "folder": str(trial),
        "state": "running",
        "seconds": 1.0,
        "why": "",
    }
    (tmp_path / ledger.SWEEP).write_text(json.dumps({"trials": [one], "wall_s": 2.0}))
    for name in ("tuner.pkl", "trainable.pkl", "searcher-state.pkl", "experiment_state.json"):
        (tmp_path / name).write_bytes(payload["bare"])
        (trial / name).write_bytes(payload["bare"])
    (trials, wall_s) = ledger.read_sweep(tmp_path)
    assert (trials[0].state, trials[0].folder, wall_s) == ("waiting", trial, 2.0)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"expected safetensors and text files alone"):
        check_endings(tmp_path)
