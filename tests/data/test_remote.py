"""Data behind a URI: brought once for a machine, whole or not at all, and nowhere else than into its folder."""

import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import buckets
import pytest

from xmtl_ray.config.load import ConfigError, dump, load, loads
from xmtl_ray.config.schema import Config
from xmtl_ray.config.uris import cache_of
from xmtl_ray.data import remote
from xmtl_ray.data.remote import Copy, FetchError

FILES = {"ace/train.json": b"[1, 2]", "m2e2/images/a.png": b"\x89PNG" * 500_000, "notes.txt": b"", "é/.hidden": b"x"}


@pytest.fixture(scope="module")
def server():
    """Environment that leads to a server."""
    with buckets.server() as environment:
        yield environment


@pytest.fixture
def news(server, request, tmp_path, monkeypatch):
    """URI of ``FILES`` in a bucket of their own; and what puts a further object there."""
    for name, value in (server | {"XDG_CACHE_HOME": str(tmp_path / "cache")}).items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{abs(hash(request.node.name))}"
    buckets.make(server, bucket)
    for name, content in FILES.items():
        buckets.put(server, f"{bucket}/news/{name}", content)
    buckets.put(server, f"{bucket}/news-of-others/x", b"not ours")
    return f"s3://{bucket}/news", lambda key, content: buckets.put(server, f"{bucket}/{key}", content)


def files(folder):
    """Path → content of all that is in a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fetches(caplog):
    """How often something was fetched, in its own words."""
    return [record.getMessage() for record in caplog.records if ": fetching " in record.getMessage()]


def test_all_of_it_is_brought_once_for_all_processes(news, caplog):
    """Four at a time have one folder, byte for byte; its size is told before; given again nothing is transferred."""
    caplog.set_level(logging.INFO)
    with ThreadPoolExecutor(4) as pool:
        places = [copy.place for copy in pool.map(remote.bring, [news[0]] * 4)]
    assert len(set(places)) == 1 and files(places[0]) == FILES
    assert fetches(caplog) == [f"{news[0]}: fetching 4 files, 1.9 MiB, to {places[0]}"]
    assert remote.bring(news[0]).place == places[0] and len(fetches(caplog)) == 1
    assert {path.name for path in places[0].parent.iterdir()} == {places[0].name, f".{places[0].name}.lock"}


def test_data_that_have_changed_are_other_data(news, tmp_path):
    """The first copy stays as it was; a machine that lacks it does not get the new state under its name."""
    first = remote.bring(news[0]).place
    news[1]("news/ace/train.json", b"[1, 2, 3]")
    second = remote.bring(news[0]).place
    assert second != first
    assert files(first) == FILES and files(second) == FILES | {"ace/train.json": b"[1, 2, 3]"}
    Copy(news[0], first).ensure()
    elsewhere = tmp_path / "other" / first.name
    with pytest.raises(FetchError, match="found other files than when the run began"):
        Copy(news[0], elsewhere).ensure()
    Copy(news[0], tmp_path / "other" / second.name).ensure()
    assert files(tmp_path / "other" / second.name) == files(second) and not elsewhere.exists()


@pytest.mark.parametrize(
    "key", ["../../evil", "a/../../evil", "ace/./x", "x//y", "/etc/evil", "ace/train.json/x", "n" * 300]
)
def test_a_name_that_is_no_path_in_the_folder_is_refused_before_anything_is_fetched(news, key, tmp_path):
    """Objects may be called anything; the control is the first test, whose names are odd, too."""
    news[1](f"news/{key}", b"evil")
    with pytest.raises(FetchError, match="found"):
        remote.bring(news[0])
    assert not (tmp_path / "cache").exists() and not list(tmp_path.rglob("*evil*"))


def test_a_fetch_that_was_killed_is_gone_on_with(news):
    """What had its name already stays; what was on its way is fetched anew."""
    place = remote.bring(news[0]).place
    partial = place.with_name(f".{place.name}")
    (partial / "going").mkdir(parents=True)
    (partial / "going" / "0").write_bytes(b"half a fi")
    place.rename(partial / "whole")
    (partial / "whole" / "ace" / "train.json").unlink()
    kept = (partial / "whole" / "m2e2" / "images" / "a.png").stat().st_ino
    assert remote.bring(news[0]).place == place and files(place) == FILES
    assert (place / "m2e2" / "images" / "a.png").stat().st_ino == kept and not partial.exists()


def spoilt(uri, names):
    """Give objects another content under the ETag that they have."""
    from moto.s3.models import s3_backends

    bucket = uri.split("/")[2]
    for backend in s3_backends["123456789012"].values():
        for name in names if bucket in backend.buckets else ():
            key = backend.buckets[bucket].keys[f"news/{name}"]
            before = key.etag
            key.value = bytes(len(FILES[name]))
            key._etag = before.strip('"')


def test_content_that_is_not_what_its_etag_tells_is_refused(news, caplog):
    """One file of four: no folder gets its name. All of them: the store's ETags are no hashes, which is told."""
    spoilt(news[0], ["m2e2/images/a.png"])
    with pytest.raises(FetchError, match=r"m2e2/images/a\.png: found another content than its ETag tells"):
        remote.bring(news[0])
    assert [path for path in cache_of(news[0]).iterdir() if not path.name.startswith(".")] == []
    shutil.rmtree(cache_of(news[0]))
    spoilt(news[0], ["ace/train.json", "é/.hidden"])
    news[1]("news/notes.txt", b"n")
    spoilt(news[0], ["notes.txt"])
    remote.bring(news[0])
    assert "ETags are no MD5s of the files, so sizes alone were checked" in caplog.text


def test_what_is_not_there_is_told(news, tmp_path):
    """An empty place, another bucket, another protocol, a file that is none; one file alone, and with its folder."""
    for uri in (f"{news[0]}/nowhere", "s3://no-such-bucket/x", "ftp://host/x"):
        with pytest.raises(FetchError, match=r"found no files|cannot be read"):
            remote.bring(uri)
    with pytest.raises(FetchError, match=r"there is no such file"):
        remote.bring_file(f"{news[0]}/ace/dev.json", alone=False)
    alone, beside = (remote.bring_file(f"{news[0]}/ace/train.json", alone=one)[1] for one in (True, False))
    assert alone.read_bytes() == beside.read_bytes() == b"[1, 2]" and alone.parent != beside.parent


def test_no_room_is_told_before_anything_is_fetched(news, monkeypatch):
    """A disk that has a byte less than is needed."""
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=sum(map(len, FILES.values())) - 1))
    with pytest.raises(FetchError, match=r"1\.9 MiB, and .* has 1\.9 MiB free"):
        remote.bring(news[0])
    assert not list(cache_of(news[0]).glob("*/*"))


def test_settings_of_a_run_name_the_copy_of_its_data(news, tmp_path):
    """All paths below the root; a path of one's own stays; what was saved brings the same copy again, elsewhere too."""
    asked = load("xmtl_smoke", [f"data.root={news[0]}", "data.ace.dev=/own/dev.json"])
    assert asked.data.uri == news[0] and not asked.data.root.exists()
    config = remote.here(asked)
    place = remote.bring(news[0]).place
    assert config.data.root == place and config.data.ace.train == place / "ace" / "train.json"
    assert config.data.ace.dev == Path("/own/dev.json")
    assert remote.here(config) == config == loads(dump(config), Config)
    shutil.rmtree(place)
    assert remote.here(config) == config and files(place) == FILES
    assert load("xmtl_smoke", [f"data.root={tmp_path}"]).data.uri is None
    (tmp_path / "saved.yaml").write_text(dump(config), encoding="utf-8")
    again = load(str(tmp_path / "saved.yaml"), [f"data.root={tmp_path}"])
    assert again.data.uri is None and remote.here(again) == again


def test_keys_in_the_address_of_data_are_refused():
    """Settings are saved, logged and shown."""
    with pytest.raises(ConfigError, match=r"data\.root: found keys in the address"):
        load("xmtl_smoke", ["data.root=s3://key:secret@bucket/news"])
