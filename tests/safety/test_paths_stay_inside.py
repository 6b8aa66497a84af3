"""S6: names in files of others lead nowhere outside their folder, their YAML makes no objects, nothing is endless."""

import contextlib
import json
import logging
import struct
import threading
import time
import zlib

import av
import numpy as np
import pytest

from xmtl_ray.config.load import ConfigError, load, loads
from xmtl_ray.config.schema import Config
from xmtl_ray.data import images, videos
from xmtl_ray.events.records import DataError
from xmtl_ray.models import checkpoint_files, weights
from xmtl_ray.registry import gate
from xmtl_ray.registry.server import RegistryError, model_folder
from xmtl_ray.report.pictures import framed
from xmtl_ray.tracking import history
from xmtl_ray.tracking.run import Sender
from xmtl_ray.tuning import ledger, space

# --- Names ------------------------------------------------------------------------------------------------------------

HOSTILE = ("../outside/a.jpg", "/etc/passwd", "out/a.jpg", "out_file", "folder/../../outside/a.jpg")


@pytest.mark.parametrize("name", HOSTILE)
def test_an_index_of_weights_names_files_beside_it(name, root, tmp_path):
    """A shard elsewhere is none."""
    (tmp_path / checkpoint_files.INDEX).write_text(json.dumps({"weight_map": {"a": str(root / name)}}))
    with pytest.raises(checkpoint_files.WeightsError, match="expected a file beside it"):
        checkpoint_files.files(tmp_path)


@pytest.mark.parametrize("name", [*HOSTILE, "with_link", "a.jpg"])
def test_artifacts_are_of_the_runs_own_folder(name, root, caplog):
    """A journal from elsewhere, sent by ``xmtl sync``, gives no other file of this machine away."""

    class Client:
        def __init__(self):
            self.sent = []

        def log_artifact(self, run, path, parent):
            self.sent.append(path)

        log_artifacts = log_artifact

    with contextlib.suppress(FileExistsError):
        (root / "with_link").mkdir()
        (root / "with_link" / "x").symlink_to("/etc/passwd")
    sender, client = Sender(root, "sqlite:///nowhere.db", "xmtl", "run"), Client()
    with caplog.at_level(logging.WARNING):
        sender._send_artifact(client, "run", name)
    assert (client.sent == [str(root / "a.jpg")]) if name == "a.jpg" else not client.sent
    assert ("leads out of the run's folder" in caplog.text) == (name != "a.jpg")


@pytest.mark.parametrize("name", ["../x", "..", "/tmp/x", "a/b", "a\\b", ".hidden", "", "a\0b", "x" * 300, "~root"])
def test_a_servers_name_of_a_run_is_no_path(name):
    """A folder is made by it."""
    assert not history._PLAIN.fullmatch(name)
    assert all(map(history._PLAIN.fullmatch, ("demo", "a run, no: 2".replace(", no:", ""), "día-1", "x@y+1=2")))


@pytest.mark.parametrize("told", ["/etc", "trials/..", "..", "", "trials/link"])
def test_a_sweeps_trials_are_in_its_folder(told, tmp_path):
    """A sweep that was moved is read where it is; one that points elsewhere is not gone on with."""
    (tmp_path / "s" / ledger.TRIALS).mkdir(parents=True)
    (tmp_path / "s" / ledger.TRIALS / "link").symlink_to("/etc")
    one = {"id": "0", "drawn": {}, "parameters": {}, "folder": told, "state": "running", "seconds": 1, "why": ""}
    (tmp_path / "s" / ledger.SWEEP).write_text(json.dumps({"trials": [one], "wall_s": 1}))
    if told == "/etc":  # a name like another
        assert ledger.read_sweep(tmp_path / "s")[0][0].folder == tmp_path / "s" / ledger.TRIALS / "etc"
        return
    with pytest.raises(ledger.LedgerError, match="found the trial's folder"):
        ledger.read_sweep(tmp_path / "s")


# --- YAML -------------------------------------------------------------------------------------------------------------

TAGS = (
    "!!python/object/apply:os.mkdir ['FILE']",
    "!!python/object/new:os.system ['touch FILE']",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/tuple [1, 2]",
    "!own {}",
)


@pytest.mark.parametrize("tag", TAGS)
def test_yaml_makes_no_objects(tag, tmp_path):
    """In a recipe, an override, a saved config, a space, a gate, a registered model's description."""
    tag = tag.replace("FILE", str(tmp_path / "hit"))
    file = tmp_path / "f.yaml"
    file.write_text(f"name: {tag}\n")
    (tmp_path / "MLmodel").write_text(f"flavors: {tag}\n")
    (tmp_path / weights.CONFIG).write_text(f"name: {tag}\n")
    (tmp_path / weights.WEIGHTS).write_bytes(b"")
    for read, kind in (
        (lambda: load(str(file)), ConfigError),
        (lambda: load("xmtl_smoke", [f"name={tag}"]), ConfigError),
        (lambda: loads(file.read_text(), Config), ConfigError),
        (lambda: weights.config_of(tmp_path), ConfigError),
        (lambda: space.load(str(file)), ValueError),
        (lambda: gate.read(file), gate.GateError),
        (lambda: model_folder(tmp_path, "models:/x/1"), RegistryError),
    ):
        with pytest.raises(kind, match=r"YAML|constructor"):
            read()
    assert not (tmp_path / "hit").exists()


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize("text", [BOMB, "a: &a [*a]", "a: " + "[" * 700 + "]" * 700], ids=["laughs", "itself", "deep"])
def test_yaml_that_grows_is_refused(text, tmp_path):
    """A billion values by aliases, a list in itself, nesting: an error, before anything is counted or shown."""
    file = tmp_path / "f.yaml"
    file.write_text(text)
    for read in (lambda: load(str(file)), lambda: gate.read(file), lambda: space.load(str(file))):
        with pytest.raises(ValueError, match=r"more than 100000 values|nested too deeply") as told:
            read()
        assert len(str(told.value)) < 500
    file.write_text("name: &n x\nalso: *n\n")
    with pytest.raises(ConfigError, match="also: no such field"):  # aliases as such are no harm
        load(str(file))


# --- What has no end --------------------------------------------------------------------------------------------------


def png(side: int) -> bytes:
    """A PNG of so many pixels a side, by its header, and rows of zeros as far as a megabyte goes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(50 << 20))) + chunk(b"IEND", b"")


def test_an_image_of_60_000_pixels_squared(tmp_path, caplog):
    """Eleven gigabytes of pixels in a file of 50 kB: refused by its header, by everything that looks at images."""
    path = tmp_path / "a.png"
    path.write_bytes(png(60_000))
    for look in (images.probe, images.read, images.hashes, images.Canvases(16, 0)):
        with pytest.raises(DataError, match=r"exceeds limit|pixels"):
            look(path)
    assert framed(path, (), {}).uri is None and "not shown in the report" in caplog.text


def test_a_video_that_grows_while_it_is_read(tmp_path):
    """Somebody appends to it faster than it is decoded: it ends at a limit, and not with the writing."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w", format="matroska", options={"live": "1"}) as container:
        film = container.add_stream("mpeg4", rate=10)
        film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
        for _ in range(20):
            container.mux(film.encode(picture))
        container.mux(film.encode(None))
    whole = path.read_bytes()
    cluster = whole[whole.index(b"\x1f\x43\xb6\x75") :]
    ended = threading.Event()

    def write():
        with path.open("ab") as file:
            for _ in range(20_000):
                if ended.is_set():
                    return
                file.write(cluster)
                file.flush()
                time.sleep(0.002)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with contextlib.suppress(DataError):
            assert videos.probe(path, videos.Limits(wall_s=10, frames=2_000)).frames <= 2_000
        assert writer.is_alive()
    finally:
        ended.set()
        writer.join()
