"""The files that start clusters outside Kubernetes, and what all share: held to the linters of what reads them."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = ROOT / "cluster"
KUBERAY = FILES / "kuberay"
LAUNCHERS = sorted((FILES / "launcher").glob("*.yaml"))
SCRIPTS = sorted(FILES.rglob("*.sh"))
BIN = Path(sys.executable).parent


def locked(package):
    """The version of a package in constraints.txt."""
    return re.search(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.M)[1]


def test_yaml_has_no_key_twice(documents, tmp_path):
    """Every YAML file of cluster/ is read by a loader that refuses a key given twice; it does refuse one."""
    files = sorted(FILES.rglob("*.yaml"))
    assert len(files) > 12
    for path in files:
        assert documents(path)
    (tmp_path / "twice.yaml").write_text("spec: {image: a, image: b}\n")
    with pytest.raises(yaml.YAMLError, match="image"):
        documents(tmp_path / "twice.yaml")


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
def test_launcher_files_pass_rays_own_validation(path, documents, misspelt):
    """Ray's validation takes the file with its defaults, and none of its keys misspelt."""
    from ray.autoscaler._private.util import fillout_defaults, validate_config

    (config,) = documents(path)
    validate_config(fillout_defaults(copy.deepcopy(config)))
    for key in config:
        if key != "provider":  # without which there are no defaults to fill in
            with pytest.raises((jsonschema.ValidationError, ValueError)):
                validate_config(fillout_defaults(misspelt(config, (key,))))
    for where in (("docker", "run_options"), ("auth", "ssh_user"), ("available_node_types", "gpu", "min_workers")):
        with pytest.raises(jsonschema.ValidationError):
            validate_config(fillout_defaults(misspelt(config, where)))
    with pytest.raises(ValueError, match="head_node_type"):
        validate_config(fillout_defaults(config | {"head_node_type": "heads"}))


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
def test_launched_clusters_are_closed(path, documents):
    """Each container's environment has token and TLS, the dashboard is on loopback, Ray's own installs are gone."""
    (config,) = documents(path)
    environment = dict(
        option.removeprefix("--env ").split("=", 1)
        for option in config["docker"]["run_options"]
        if option.startswith("--env ")
    )
    assert environment["RAY_AUTH_MODE"] == "token" and environment["RAY_USE_TLS"] == "1"
    assert "RAY_AUTH_TOKEN" not in environment
    into = "/home/ray/.ray/tls"
    certificates = {"SERVER_CERT": "tls.crt", "SERVER_KEY": "tls.key", "CA_CERT": "ca.crt"}
    assert all(environment[f"RAY_TLS_{name}"] == f"{into}/{file}" for name, file in certificates.items())
    assert set(config["file_mounts"]) == {"/home/ray/.ray/auth_token", "/home/ray/.ray/authority"}
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"][0]
    assert "xmtl-tls node ~/.ray/authority ~/.ray/tls" in config["setup_commands"][1]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][1]
    assert config["available_node_types"][config["head_node_type"]]["resources"] == {"CPU": 0}
    assert not any("pip " in command for key in config if key.endswith("commands") for command in config[key])


def test_versions_are_those_of_the_lock_file():
    """Ray is of one version everywhere, that of constraints.txt; so is the CUDA that the image asks the driver for."""
    ray = locked("ray")
    manifests = [path for path in KUBERAY.rglob("ray*.yaml")]
    assert len(manifests) == 3
    for path in manifests:
        assert re.findall(r"rayVersion: (\S+)", path.read_text()) == [ray]
    for path in [*manifests, *LAUNCHERS, FILES / "Dockerfile", FILES / "README.md"]:
        images = re.findall(r"xmtl-ray:([\w.]+)-(?:cpu|cuda)\b", path.read_text())
        assert set(images) == {ray}, path
    dockerfile = (FILES / "Dockerfile").read_text()
    asked = re.search(r'NVIDIA_REQUIRE_CUDA="cuda>=(\d+)\.', dockerfile)[1]
    assert asked == locked("nvidia-cuda-runtime").split(".")[0]
    assert re.search(r"FROM python:3\.1[12]-", dockerfile) and "--constraint constraints.txt" in dockerfile


def test_the_image_is_made_of_files_that_are_there():
    """What the Dockerfile copies exists and is let through to it, and nothing else is; it does not end as root."""
    dockerfile = (FILES / "Dockerfile").read_text()
    copied = [
        source
        for line in re.findall(r"^COPY (.*)$", dockerfile, flags=re.M)
        for source in [word for word in line.split() if not word.startswith("--")][:-1]
    ]
    ignored, *let = [
        line for line in (FILES / "Dockerfile.dockerignore").read_text().splitlines() if line and line[0] != "#"
    ]
    assert ignored == "*" and {line[1:] for line in let if line[0] == "!"} == set(copied)
    assert all((ROOT / source).exists() for source in copied)
    assert re.findall(r"^USER (\S+)$", dockerfile, flags=re.M)[-1] == "1000"


def test_shell_is_clean(tmp_path):
    """shellcheck has nothing to say of the scripts, and something of one that forgets its quotes."""

    def said(*paths):
        command = [BIN / "shellcheck", "--external-sources", "--format=gcc", *paths]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT).stdout

    assert len(SCRIPTS) >= 6
    assert said(*SCRIPTS) == ""
    (tmp_path / "slip.sh").write_text('#!/bin/sh\nrm -r "$HOME"/$1\n')
    assert "SC2086" in said(tmp_path / "slip.sh")
    for path in SCRIPTS:
        run = path.read_text().startswith("#!")
        sourced = path.name == "secure.sh" or path.is_relative_to(FILES / "mlflow")
        assert sourced or (run and path.stat().st_mode & 0o111), path


def test_dockerfiles_are_clean(tmp_path):
    """hadolint has nothing to say of the Dockerfiles, and something of one that takes whatever is newest as root."""

    def said(path):
        done = subprocess.run([BIN / "hadolint", "--no-color", path], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    for path in FILES.rglob("Dockerfile"):
        assert said(path) == ""
    (tmp_path / "Dockerfile").write_text("FROM debian\nUSER root\nRUN apt-get install curl\n")
    assert {"DL3006", "DL3002", "DL3008"} <= set(re.findall(r"DL\d+", said(tmp_path / "Dockerfile")))


def test_readme_names_files_that_are_there():
    """Every path of cluster/ in the README exists, and every file of cluster/ that somebody starts with is in it."""
    readme = (FILES / "README.md").read_text()
    for name in set(re.findall(r"\bcluster/[\w./-]*\w", readme)):
        assert (ROOT / name).exists(), name
    for path in [*KUBERAY.glob("*.yaml"), *LAUNCHERS, FILES / "tls.sh"]:
        assert str(path.relative_to(ROOT)) in readme
