"""Settings that name a folder take no URI: pathlib would make of it a folder of this machine."""

import pytest

from xmtl_ray.config.load import ConfigError, load, load_any


@pytest.mark.parametrize("setting", ["data.ace.train", "data.test", "multitask.pseudo.store"])
def test_a_uri_where_a_folder_is_needed_is_told_by_its_setting(setting):
    """What to do stands in the error; a file system's path, and data and a storage by URI, are taken."""
    with pytest.raises(ConfigError, match=rf"{setting}: found 's3://b/w', expected a folder .* only data.root and"):
        load("xmtl_smoke", [f"{setting}=s3://b/w"])
    assert str(load("xmtl_smoke", [f"{setting}=/b/w"])) and load(
        "xmtl_smoke", ["storage_path=s3://b/w", "data.root=s3://b/w"]
    )


def test_the_other_family_has_the_same_rule():
    """Conversations and their media lie in folders."""
    with pytest.raises(ConfigError, match=r"data\.media: found 'gs://b/m'"):
        load_any("videollama2", ["data.media=gs://b/m"])
