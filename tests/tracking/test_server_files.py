"""The files that start a team's tracking server: they parse, hold no secret, and open nothing by themselves."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

FILES = Path(__file__).parents[2] / "cluster" / "mlflow"
MANIFESTS = sorted((FILES / "kubernetes").glob("*.yaml"))
SECRETS = {"POSTGRES_PASSWORD", "PGPASSWORD", "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"}


def objects():
    """All Kubernetes objects by (kind, name)."""
    found = {}
    for path in MANIFESTS:
        for item in yaml.safe_load_all(path.read_text()):
            assert {"apiVersion", "kind"} <= set(item), path
            if item["kind"] != "Kustomization":
                found[item["kind"], item["metadata"]["name"]] = item
    return found


def test_compose_answers_on_loopback_and_takes_secrets_from_the_environment():
    """The one published port is bound to 127.0.0.1 unless told otherwise; a secret that is missing stops it."""
    compose = yaml.safe_load((FILES / "compose.yaml").read_text())
    published = {name: service.get("ports", []) for name, service in compose["services"].items()}
    assert published == {"postgres": [], "mlflow": ["${MLFLOW_BIND:-127.0.0.1}:${MLFLOW_PORT:-5000}:5000"]}
    secret = {
        name: value
        for service in compose["services"].values()
        for name, value in service["environment"].items()
        if name in SECRETS
    }
    assert set(secret) == SECRETS
    for value in secret.values():
        assert re.fullmatch(r"\$\{(\w+):\?set \1 in the environment\}", value)
    assert compose["networks"]["inside"] == {"internal": True}
    assert compose["services"]["postgres"]["networks"] == ["inside"]
    for service in compose["services"].values():
        for mount in service["volumes"]:
            source = mount.split(":")[0]
            assert source in compose["volumes"] or (FILES / source).is_file(), mount


def test_manifests_name_secrets_and_hold_none():
    """Every secret is a reference to a key; there is no Secret object; the secret's keys are those of the README."""
    found, keys = objects(), set()
    assert not any(kind == "Secret" for kind, _ in found)
    for item in (found["StatefulSet", "mlflow-postgres"], found["Deployment", "mlflow"]):
        for container in item["spec"]["template"]["spec"]["containers"]:
            for variable in container["env"]:
                if variable["name"] in SECRETS:
                    assert "value" not in variable
                    reference = variable["valueFrom"]["secretKeyRef"]
                    assert reference["name"] == "mlflow-secrets"
                    keys.add(reference["key"])
    assert keys == {"database-password", "admin-password", "secret-key"}
    readme = (FILES / "README.md").read_text()
    assert all(f"--from-literal={key}=" in readme for key in keys)


def test_manifests_fit_each_other():
    """Selectors find pods, claims and config maps exist, nothing runs as root, nothing is exposed outside."""
    found = objects()
    kustomization = yaml.safe_load((FILES / "kubernetes" / "kustomization.yaml").read_text())
    assert {*kustomization["resources"], "kustomization.yaml"} == {path.name for path in MANIFESTS}
    pods = {}
    for kind, name in (("StatefulSet", "mlflow-postgres"), ("Deployment", "mlflow")):
        template = found[kind, name]["spec"]["template"]
        pods[name] = template["metadata"]["labels"]
        assert found[kind, name]["spec"]["selector"]["matchLabels"].items() <= pods[name].items()
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] and spec["automountServiceAccountToken"] is False
        mounted = {mount["name"] for container in spec["containers"] for mount in container["volumeMounts"]}
        claims = {claim["metadata"]["name"] for claim in found[kind, name]["spec"].get("volumeClaimTemplates", [])}
        assert mounted == claims | {volume["name"] for volume in spec["volumes"]}
        for volume in spec["volumes"]:
            named = volume.get("configMap", {}).get("name"), volume.get("persistentVolumeClaim", {}).get("claimName")
            assert ("ConfigMap", named[0]) in found or ("PersistentVolumeClaim", named[1]) in found
    for name, labels in pods.items():
        service = found["Service", name]["spec"]
        assert service["selector"].items() <= labels.items()
        assert service.get("type", "ClusterIP") == "ClusterIP"
        policy = found["NetworkPolicy", name]["spec"]
        assert policy["podSelector"]["matchLabels"].items() <= labels.items() and "Ingress" in policy["policyTypes"]
    database = found["NetworkPolicy", "mlflow-postgres"]["spec"]["ingress"]
    assert [rule["podSelector"]["matchLabels"].items() <= pods["mlflow"].items() for rule in database[0]["from"]] == [
        True
    ]


def test_the_image_and_the_lock_file_are_of_one_version():
    """The server's MLflow is the one that runs are tested with."""
    locked = re.search(r"^mlflow==(\S+)$", (FILES.parents[1] / "constraints.txt").read_text(), flags=re.M)[1]
    assert f'"mlflow[auth]=={locked}"' in (FILES / "Dockerfile").read_text()
    assert f"xmtl-mlflow:{locked}" in (FILES / "kubernetes" / "mlflow.yaml").read_text()


@pytest.fixture
def started(tmp_path):
    """Runs start.sh before a program that only tells how it was called: (its arguments or None, what was said)."""
    (tmp_path / "mlflow").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "mlflow").chmod(0o755)

    def run(**environment):
        paths = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
        done = subprocess.run(
            ["sh", str(FILES / "start.sh")], env=paths | environment, capture_output=True, text=True, check=False
        )
        return (done.stdout if done.returncode == 0 else None), done.stderr

    return run


def test_the_server_starts_with_secrets_on_no_command_line(started, tmp_path):
    """Without a secret it does not start and says which; with them none is among its arguments or in its files."""
    secrets = {
        "PGPASSWORD": "s-one",
        "MLFLOW_AUTH_ADMIN_PASSWORD": "s-two",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "s-three",
    }
    for name in secrets:
        arguments, said = started(**{key: value for key, value in secrets.items() if key != name})
        assert arguments is None and name in said
    arguments, _ = started(**secrets)
    assert "--backend-store-uri postgresql+psycopg2://mlflow@postgres:5432/mlflow" in arguments
    assert "--app-name basic-auth" in arguments and "--allowed-hosts localhost:*,127.0.0.1:*" in arguments
    written = arguments + "".join(path.read_text() for path in tmp_path.iterdir())
    assert not any(value in written for value in secrets.values())
    assert (tmp_path / "auth.ini").stat().st_mode & 0o077 == 0
