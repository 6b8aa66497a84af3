"""KubeRay's files, and MLflow's beside them: valid by the schemas of their APIs, closed, and fitting each other."""

import copy
import importlib.resources
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import referencing
import yaml

FILES = Path(__file__).parents[2] / "cluster"
KUBERAY = FILES / "kuberay"
KUBERNETES = "1.34"
OBJECTS = sorted([*KUBERAY.rglob("*.yaml"), *(FILES / "mlflow" / "kubernetes").glob("*.yaml")])
CLUSTERS = [KUBERAY / "standing" / "raycluster.yaml", KUBERAY / "rayjob-train.yaml", KUBERAY / "rayjob-sweep.yaml"]
# Maps whose keys are the user's: names of labels (with a slash elsewhere, too), resources, files.
FREE = {"labels", "matchLabels", "requests", "limits", "data", "rayStartParams"}
UNPRIVILEGED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@pytest.fixture(scope="module")
def fault():
    """Tells what is wrong with an object by the schemas of KubeRay or Kubernetes; None: nothing."""
    name = f"kubernetes-json-schema/v{KUBERNETES}.0-local-strict/_definitions.json"
    definitions = json.loads((importlib.resources.files("kubernetes_validate") / name).read_text())
    schema = yaml.safe_load((Path(__file__).parent / "kuberay_v1_7.yaml").read_text())
    registry = referencing.Registry().with_resources(
        (item["$id"], referencing.Resource.from_contents(item)) for item in (definitions, schema)
    )
    kuberay = {
        kind: jsonschema.Draft202012Validator({"$ref": f"{schema['$id']}#/$defs/{kind}"}, registry=registry)
        for kind in ("RayCluster", "RayJob")
    }

    def find(item):
        if item["kind"] in kuberay:
            error = next(kuberay[item["kind"]].iter_errors(item), None)
            return error and error.message
        try:
            kubernetes_validate.validate(item, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            return error.message
        return None

    return find


@pytest.fixture(scope="module")
def clusters(documents):
    """The specifications of the three Ray clusters."""
    found = [item["spec"] for path in CLUSTERS for item in documents(path)]
    return [spec.get("rayClusterSpec", spec) for spec in found]


def keys(item, path=()):
    """Where in an object a key stands that its schema names: the paths to them."""
    if isinstance(item, list):
        for index, one in enumerate(item):
            yield from keys(one, (*path, index))
    elif isinstance(item, dict):
        for key, one in item.items():
            if "/" not in key and not (path and path[-1] in FREE):
                yield (*path, key)
            yield from keys(one, (*path, key))


def pods(spec):
    """The pod templates of a Ray cluster: (group, template), the head first."""
    yield "head", spec["headGroupSpec"]["template"]
    for group in spec["workerGroupSpecs"]:
        yield group["groupName"], group["template"]


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_kubernetes_objects_are_of_their_schemas(path, documents, fault, misspelt):
    """Every object is valid by KubeRay's or Kubernetes' schema, and with a key misspelt it is not."""
    for item in documents(path):
        if item.get("kind") in {None, "Kustomization"}:  # the chart's values, and what is checked below
            continue
        assert fault(item) is None
        named = [where for where in keys(item) if where[0] not in {"apiVersion", "kind"}]
        for where in named if item["kind"].startswith("Ray") else named[::4]:  # the validator of others is slow
            assert fault(misspelt(item, where)), where


def test_a_wrong_choice_or_type_is_caught(documents, fault):
    """What is spelt right and says the wrong thing is caught as well."""
    (item,) = documents(CLUSTERS[0])
    wrong = {
        ("authOptions", "mode"): "tokens",
        ("tlsOptions", "enabled"): "yes",
        ("autoscalerOptions", "version"): "v3",
        ("workerGroupSpecs", 0, "replicas"): "two",
        ("headGroupSpec", "rayStartParams", "num-cpus"): 0,
        ("headGroupSpec", "template", "spec", "containers", 0, "ports", 0, "containerPort"): "http",
    }
    for (*above, key), value in wrong.items():
        changed = copy.deepcopy(item)
        place = changed["spec"]
        for step in above:
            place = place[step]
        assert key in place
        place[key] = value
        assert fault(changed), (above, key)


def test_clusters_ask_for_token_and_tls_and_run_as_nobody(clusters, documents):
    """Authentication and encryption are on; no container is root or gains rights, all have probes."""
    for spec in clusters:
        assert spec["authOptions"] == {"mode": "token"} and spec["tlsOptions"] == {"enabled": True}
        assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
        assert spec["autoscalerOptions"]["version"] == "v2" and spec["enableInTreeAutoscaling"]
        assert spec["autoscalerOptions"]["securityContext"] == UNPRIVILEGED
        for group, template in pods(spec):
            pod = template["spec"]
            assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
            assert group == "head" or pod["automountServiceAccountToken"] is False
            # The operator's own rule for autoscaler v2, and for tlsOptions, whose variables it sets itself.
            assert "restartPolicy" not in pod
            (container,) = pod["containers"]
            assert not any(variable["name"].startswith(("RAY_TLS", "RAY_USE_TLS")) for variable in container["env"])
            assert container["securityContext"] == UNPRIVILEGED
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                port = container[probe]["httpGet"]["port"]
                assert port in {one["name"] for one in container["ports"]}
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
            assert mounted["/dev/shm"]["emptyDir"]["medium"] == "Memory"
            claim = mounted["/shared"]["persistentVolumeClaim"]["claimName"]
            (storage,) = documents(KUBERAY / "storage.yaml")
            assert storage["metadata"]["name"] == claim and storage["spec"]["accessModes"] == ["ReadWriteMany"]


def test_secrets_are_named_and_told_of():
    """No file holds a secret; each that is named stands in the README with the command that makes it."""
    readme = (FILES / "README.md").read_text()
    named = set()
    for path in KUBERAY.rglob("*.yaml"):
        text = path.read_text()
        assert "kind: Secret" not in text
        named |= set(re.findall(r"secretKeyRef: \{name: ([\w-]+), key: ([\w-]+)", text))
    assert {"xmtl-tracking", "xmtl-redis"} == {name for name, _ in named}
    for name, key in named:
        assert re.search(rf"create secret generic {name}\b[^`]*--from-literal={key}=", readme), (name, key)


def test_manifests_are_one_cluster(clusters):
    """The three files describe the same pods, so that what runs on one runs on all; only numbers of pods differ."""
    described = []
    for spec in copy.deepcopy(clusters):
        for group in spec["workerGroupSpecs"]:
            assert group.pop("minReplicas") <= group.pop("replicas") <= group.pop("maxReplicas")
        described.append(spec)
    assert described[0] == described[1] == described[2]
    assert [name for name, _ in pods(described[0])] == ["head", "cpu", "gpu"]
    resources = dict(pods(described[0]))["gpu"]["spec"]["containers"][0]["resources"]
    assert resources["requests"] == resources["limits"] and resources["limits"]["nvidia.com/gpu"] == 1


def test_who_may_reach_ray(clusters, documents):
    """The network policy covers all Ray pods: every port for their like, the job server for who submits."""
    (policy,) = documents(KUBERAY / "network.yaml")
    chosen = policy["spec"]["podSelector"]["matchLabels"]
    for spec in clusters:
        for _, template in pods(spec):
            assert chosen.items() <= template["metadata"]["labels"].items()
    like, others, metrics = policy["spec"]["ingress"]
    assert like == {"from": [{"podSelector": {"matchLabels": chosen}}]}
    assert [port["port"] for port in others["ports"]] == [8265] and [port["port"] for port in metrics["ports"]] == [
        8080
    ]
    for path in CLUSTERS[1:]:
        (job,) = documents(path)
        submitter = job["spec"]["submitterPodTemplate"]["metadata"]["labels"]
        assert others["from"][0]["podSelector"]["matchLabels"] == submitter


def test_jobs_clean_up_and_say_what_xmtl_understands(documents):
    """A job ends with its cluster and has deadlines; its command is a verb of xmtl with settings that load."""
    from xmtl_ray.config.load import load
    from xmtl_ray.tuning import space

    for path in CLUSTERS[1:]:
        (item,) = documents(path)
        job = item["spec"]
        assert job["shutdownAfterJobFinishes"] and job["ttlSecondsAfterFinished"] > 0
        assert job["activeDeadlineSeconds"] > job["preRunningDeadlineSeconds"] > 0
        program, verb, what, *rest = shlex.split(job["entrypoint"])
        assert program == "xmtl"
        overrides = [word for word in rest if not word.startswith("--")]
        if verb == "sweep":
            assert rest[-1] == "--resume"  # or a second try finds the first one's folder and stops
            what = space.load(what).recipe
        config = load(what, overrides)
        assert config.storage_path.startswith("/shared/") and str(config.data.root).startswith("/shared/")
        gpu = next(group for group in job["rayClusterSpec"]["workerGroupSpecs"] if group["groupName"] == "gpu")
        assert config.cluster.gpu and config.cluster.workers <= gpu["minReplicas"]
        cpus = int(gpu["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
        assert config.cluster.cpus_per_worker <= cpus


def test_a_head_that_may_die(documents, fault):
    """The overlay adds an external Redis to the standing cluster; what comes out is valid, and names what is there."""
    folder = KUBERAY / "persistent-head"
    (overlay,) = documents(folder / "kustomization.yaml")
    (item,) = documents(CLUSTERS[0])
    (patch,) = overlay["patches"]
    assert patch["target"]["name"] == item["metadata"]["name"] and overlay["resources"] == ["../standing", "redis.yaml"]
    (change,) = yaml.safe_load(patch["patch"])
    assert change["op"] == "add" and change["path"] == "/spec/gcsFaultToleranceOptions"
    item["spec"]["gcsFaultToleranceOptions"] = change["value"]
    assert fault(item) is None
    item["spec"]["gcsFaultToleranceOptions"] = {"redisAdress": "xmtl-redis:6379"}
    assert "redisAdress" in fault(item)
    service = next(one for one in documents(folder / "redis.yaml") if one["kind"] == "Service")
    address = f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert change["value"]["redisAddress"] == address


def test_kustomize_makes_the_overlay(documents, fault):
    """The real tool writes the same: a valid RayCluster with Redis, all of it in one namespace."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(
        ["kubectl", "kustomize", KUBERAY / "persistent-head"], capture_output=True, text=True, check=True
    )
    made = {item["kind"]: item for item in yaml.safe_load_all(done.stdout)}
    assert set(made) == {"RayCluster", "Service", "StatefulSet", "NetworkPolicy"}
    for item in made.values():
        assert fault(item) is None and item["metadata"]["namespace"] == "xmtl"
    assert made["RayCluster"]["spec"]["gcsFaultToleranceOptions"]["backend"] == "redis"
