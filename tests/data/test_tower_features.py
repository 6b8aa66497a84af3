"""A store of tower features: what was put comes back bit by bit; whatever else lies there is a miss."""

import multiprocessing
import os
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file

from xmtl_ray.data.pixels import Preprocess
from xmtl_ray.data.tower_features import TowerFeatures, key
from xmtl_ray.events.records import DataError

PARTS = {
    "content": "0" * 64,
    "preprocess": Preprocess.built_in("clip", 8, False).identity(),
    "frames": ["video", 8, None],
    "weights": "1" * 64,
    "select_layer": -2,
    "dtype": "bfloat16",
}
KEY = key(**PARTS)


def features(seed: int = 0, dtype=torch.bfloat16) -> torch.Tensor:
    return torch.randn(4, 9, 16, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture
def store(tmp_path) -> TowerFeatures:
    return TowerFeatures(tmp_path / "features")


def only_file(store: TowerFeatures):
    (file,) = (path for path in store.folder.rglob("*") if path.is_file())
    return file


def counts(store: TowerFeatures) -> tuple[int, int, int]:
    return store.hits, store.misses, store.torn


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_what_was_put_comes_back(store, dtype):
    """Bit by bit, in its type; also of a tensor that is a view with strides and wants a gradient."""
    assert store.get(KEY) is None
    given = features(dtype=torch.float32).transpose(0, 1).to(dtype).requires_grad_()
    store.put(KEY, given)
    found = store.get(KEY)
    assert found.dtype == dtype and torch.equal(found, given) and not found.requires_grad
    assert counts(store) == (1, 1, 0)


def test_layout(store):
    """Two digits, then the whole key; a file that other programs can read; sizes are those of files."""
    store.put(KEY, features())
    file = only_file(store)
    assert file.relative_to(store.folder).as_posix() == f"{KEY[:2]}/{KEY}.safetensors"
    assert torch.equal(load_file(file)["features"], features())
    other = key(**PARTS | {"select_layer": -1})
    store.put(other, features(1))
    sizes = [path.stat().st_size for path in store.folder.glob("*/*")]
    assert store.size_bytes() == sum(sizes) > 2 * 4 * 9 * 16 * 2
    assert torch.equal(store.get(KEY), features()) and torch.equal(store.get(other), features(1))
    assert TowerFeatures(store.folder / "none").size_bytes() == 0


@pytest.mark.parametrize(
    "change",
    [
        {"content": "2" * 64},
        {"preprocess": Preprocess.built_in("clip", 8, True).identity()},
        {"frames": ["video", 16, None]},
        {"frames": ["video", 8, [0.0, 1.0]]},
        {"frames": ["image", 8, None]},
        {"weights": "2" * 64},
        {"select_layer": -1},
        {"dtype": "float16"},
    ],
)
def test_each_part_changes_the_key(change):
    """And nothing else does."""
    assert key(**PARTS) == KEY != key(**PARTS | change)


def cut(file):
    os.truncate(file, file.stat().st_size - 5)


def zeros_inside(file):
    body = bytearray(file.read_bytes())
    body[-64:-32] = bytes(32)
    file.write_bytes(body)


TORN = {
    "empty": lambda file: file.write_bytes(b""),
    "cut": cut,
    "zeros inside": zeros_inside,
    "only zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "text": lambda file: file.write_text("not features"),
    "no key": lambda file: save_file({"features": features()}, file),
    "another name": lambda file: save_file({"other": features()}, file, {"key": KEY}),
    "another key": lambda file: save_file({"features": features()}, file, {"key": "0" * 64, "crc32": "0"}),
    "a huge header": lambda file: file.write_bytes(b"\xff" * 8 + file.read_bytes()[8:]),
}


@pytest.mark.parametrize("name", TORN)
def test_a_torn_or_foreign_file_is_a_miss_that_is_counted_and_replaced(store, name):
    """Cut off, of the right length with zeros inside, of somebody else: never an answer, never an error."""
    store.put(KEY, features())
    TORN[name](only_file(store))
    assert store.get(KEY) is None and counts(store) == (0, 1, 1)
    store.put(KEY, features())
    assert torch.equal(store.get(KEY), features()) and counts(store) == (1, 1, 1)


def test_a_file_under_anothers_name_is_foreign(store):
    """Copied by hand to another key's place."""
    store.put(KEY, features())
    other = key(**PARTS | {"dtype": "float16"})
    place = store.folder / other[:2] / f"{other}.safetensors"
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(only_file(store).read_bytes())
    assert store.get(other) is None and store.torn == 1


def writer(folder, rounds: int) -> None:
    store = TowerFeatures(folder)
    for _ in range(rounds):
        store.put(KEY, features())


def test_processes_may_write_one_key_at_once(store):
    """Three write while one reads: each answer is whole or none, and none is torn; no temporary file stays."""
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=writer, args=(store.folder, 40)) for _ in range(3)]
    for process in writers:
        process.start()
    while any(process.is_alive() for process in writers):
        found = store.get(KEY)
        assert found is None or torch.equal(found, features())
    assert [process.exitcode for process in writers] == [0, 0, 0]
    assert store.torn == 0 and store.hits and torch.equal(store.get(KEY), features())
    only_file(store)


def test_a_killed_writer_leaves_nothing_that_is_read(store):
    """SIGKILL in the middle of one of many writes; the store works on."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=writer, args=(store.folder, 10**6))
    process.start()
    while store.get(KEY) is None:
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert torch.equal(store.get(KEY), features()) and store.torn == 0
    size = store.size_bytes()
    store.put(KEY, features())
    assert store.size_bytes() == size  # what the killed one left does not count


def test_an_interrupted_write_keeps_the_old_file(store, monkeypatch):
    """The disk is full: the error goes to the caller, the store has what it had, and no temporary file stays."""
    store.put(KEY, features())
    before = only_file(store).read_bytes()

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("xmtl_ray.data.tower_features.save_file", full)
    with pytest.raises(DataError, match=r"No space left on device after 4 bytes.*expected room for it"):
        store.put(KEY, features(1))
    assert only_file(store).read_bytes() == before


@pytest.mark.parametrize(
    ("wrong", "given"),
    [
        ("../" + "0" * 61, features()),
        ("A" * 64, features()),
        (KEY + "\n", features()),
        (KEY, features()[0]),
        (KEY, torch.zeros(1, 1, 1, dtype=torch.int64)),
    ],
)
def test_what_is_no_key_or_no_features_is_an_error(store, wrong, given):
    """Nothing is written."""
    with pytest.raises(ValueError, match=r"64 hexadecimal digits|are expected"):
        store.put(wrong, given)
    assert not store.folder.exists()
