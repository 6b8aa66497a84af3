"""A run whose data lie behind a URI is the same run wherever its copy lies, and another one when they have changed."""

import buckets
import pytest

from xmtl_ray.config.load import dump, load
from xmtl_ray.data.remote import here
from xmtl_ray.training.launch import LaunchError, check, on_all_nodes


def test_a_run_goes_on_with_the_data_that_it_began_with(world, tmp_path, monkeypatch):
    """Another machine's cache is no other data; an object that was put there since makes others of them."""
    settings = ["data.root=s3://news/w", f"storage_path={tmp_path}", "name=run", "tracking.enabled=false"]
    with buckets.server() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        buckets.make(environment, "news")
        for part in ("ace", "imsitu"):
            buckets.upload(environment, world / part, f"news/w/{part}")

        def asked(cache):
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / cache))
            return here(load("xmtl_smoke", [*settings, "data.test=null", "data.test_objects=null"]))

        config = asked("one")
        assert config.data.ace.train.is_file() and not on_all_nodes(config), "nothing that each node must have"
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.yaml").write_text(dump(config), encoding="utf-8")
        again = asked("two")
        assert again.data.root != config.data.root
        check(again)
        buckets.put(environment, "news/w/ace/more.json", b"[]")
        with pytest.raises(LaunchError, match=r"with other settings:\n  data\.root: was "):
            check(asked("two"))
