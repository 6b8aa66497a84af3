"""What of a working directory goes to a cluster: Ray's own package, file for file, and not too large."""

import zipfile
from pathlib import Path

import pytest

from xmtl_ray.cluster import upload
from xmtl_ray.cluster.upload import Upload, UploadError

ROOT = Path(__file__).parents[2]


def packed(folder, out):
    """Names and bytes of the package that Ray makes, and its size."""
    from ray._private import ray_constants
    from ray._private.runtime_env.packaging import create_package

    create_package(str(folder), out, include_gitignore=True, excludes=ray_constants.get_runtime_env_default_excludes())
    with zipfile.ZipFile(out) as package:
        return {item.filename: item.file_size for item in package.infolist()}, out.stat().st_size


def test_the_listing_is_rays_package_file_for_file(tmp_path):
    """Also with ignore files at two depths, an empty folder, and a name that is not ASCII; to the byte."""
    folder = tmp_path / "work"
    for name in ("a.py", "sub/b.py", "sub/deep/c.bin", "sub/é.txt", ".git/config", ".venv/x", "runs/old.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name * 3)
    (folder / "empty").mkdir()
    (folder / ".gitignore").write_text("/runs/\n")
    (folder / "sub" / ".rayignore").write_text("*.bin\n")
    found = upload.listing(folder)
    assert set(found.files) == {"a.py", "sub/b.py", "sub/é.txt", "empty/", ".gitignore", "sub/.rayignore"}
    names, size = packed(folder, tmp_path / "package.zip")
    assert found.files == names and found.package_bytes == size


def test_this_repository_sends_its_code_and_nothing_else(tmp_path):
    """The file that is checked in lets the whole package and its spaces go, and keeps data, secrets and tests here."""
    import subprocess

    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    code = {name for name in tracked if name.startswith(("xmtl_ray/", "tune_spaces/")) and (ROOT / name).exists()}
    if not code:
        pytest.skip("not a git clone")
    folder = tmp_path / "clone"
    for name in [*code, ".rayignore", ".gitignore", "setup.cfg"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    kept = [
        *("world/ace/train.json", "data/x.json", "xmtl_ray/model.safetensors", "runs/r/config.yaml", "demo/x.txt"),
        *("tests/test_a.py", ".env", "a.pem", "auth_token", "sub/credentials.json", ".git/HEAD", ".venv/bin/python"),
    ]
    for name in kept:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    found = upload.listing(folder)
    assert set(found.files) == {*code, ".rayignore", ".gitignore", "setup.cfg"}
    assert found.package_bytes < 10 * upload.MIB


def test_a_package_that_ray_would_refuse_is_refused_with_its_largest_files(tmp_path):
    """100 MiB are too many, one byte less is none too many; five files are named, the largest first."""
    assert upload.limit() == 100 * 2**20
    files = {f"data/{number}.bin": number * 2**20 for number in range(1, 9)}
    rest = 100 * 2**20 - Upload(tmp_path, files | {"rest": 0}).package_bytes
    upload.check(Upload(tmp_path, files | {"rest": rest - 1}), upload.limit())
    with pytest.raises(UploadError) as error:
        upload.check(Upload(tmp_path, files | {"rest": rest}), upload.limit())
    told = str(error.value)
    assert "100.0 MiB in 9 files, expected less than Ray's 100 MiB" in told
    assert [line.split()[-1] for line in told.splitlines()[1:6]] == ["rest", *(f"data/{n}.bin" for n in (8, 7, 6, 5))]


def test_a_folder_goes_along_if_something_of_it_does():
    """Paths are looked up as they are written on a command line."""
    some = Upload(Path("/w"), {"sub/a.yaml": 1})
    assert some.holds("sub/a.yaml") and some.holds("sub") and some.holds("./sub/") and some.holds(".")
    assert not some.holds("su") and not some.holds("../w/sub")


def test_a_file_of_120_mib_is_refused_before_the_cluster_is_even_asked(tmp_path):
    """By the command itself, with name and size; left out by an ignore file, the cluster is asked (there is none)."""
    from typer.testing import CliRunner

    from xmtl_ray.cli.main import app

    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(120 * 2**20)
    line = ["submit", "--address", "http://127.0.0.1:9", "--working-dir", str(tmp_path), "recipes"]
    refused = CliRunner().invoke(app, line)
    assert refused.exit_code == 2
    assert "120.0 MiB in 1 files, expected less than Ray's 100 MiB" in refused.output
    assert "120.0 MiB  weights.bin" in refused.output
    (tmp_path / ".rayignore").write_text("*.bin\n")
    asked = CliRunner().invoke(app, line)
    assert asked.exit_code == 2 and "no cluster answers there" in asked.output
