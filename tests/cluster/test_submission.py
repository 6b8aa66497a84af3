"""Verbs as jobs on a real cluster: a head with its dashboard and job server on loopback, a token, an S3 server.

The head's Python has Ray and the requirements; the code is what a clone has, and comes with each job.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import buckets
import processes
import psutil
import pytest
from ray_start import begun

from xmtl_ray.cluster import submission
from xmtl_ray.cluster.submission import SubmissionError

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
SECRET, PLAIN = buckets.KEYS["AWS_SECRET_ACCESS_KEY"], "a-value-that-may-be-seen"
PYTHON = Path(sys.executable)


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def clean(**more):
    """This process's environment without anything of Ray's, AWS's or MLflow's; Python's programs come first."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "AWS_", "MLFLOW_"))}
    return own | {"PATH": f"{PYTHON.parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"} | more


class Head:
    """A Ray head of one's own: other clusters on the machine are left alone."""

    def __init__(self, home, **environment):
        self.home, self.port, self.gcs = home, free_port(), free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.environment = clean(
            HOME=str(home), RAY_USAGE_STATS_ENABLED="0", RAY_raylet_start_wait_time_s="300",
            RAY_agent_register_timeout_ms="300000", RAY_DASHBOARD_STARTUP_TIMEOUT_S="300", **environment,
        )  # fmt: skip
        self.log = home / "head.log"
        self.started = []

    def begin(self, token):
        """Until it takes jobs; the dashboard answers before the node is there, and without one."""
        self._begun(token, 1, "--head", f"--port={self.gcs}", "--dashboard-host=127.0.0.1",
                    f"--dashboard-port={self.port}", "--num-cpus=3", f"--temp-dir={self.home}/r")  # fmt: skip

    def join(self, token, inside):
        """A second node, whose command begins with ``inside``."""
        self._begun(token, 2, f"--address=127.0.0.1:{self.gcs}", "--num-cpus=1", inside=inside)

    def _begun(self, token, alive, *arguments, inside=()):
        begun(
            lambda: self._node(*inside, str(PYTHON.parent / "ray"), "start", *arguments),
            lambda _: self.ask("/api/v0/nodes", token)[1].count('"ALIVE"') == alive,
        )

    def _node(self, *line):
        """Starts in the foreground, so that its end is the end of all its processes."""
        line += ("--block", "--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=100000000")
        # On a busy machine a raylet waits in vain for ports that its agents choose by themselves.
        agents = ("metrics-export", "dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent")
        line += tuple(f"--{name}-port={free_port()}" for name in agents)
        with self.log.open("ab") as log:
            process = subprocess.Popen(line, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        self.started.append(process)
        return SimpleNamespace(process=process, log=self.log)

    def ask(self, path, token=None, body=None, **headers):
        """Status and text that the dashboard answers."""
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def stop(self):
        """End all its processes, and those of nodes that joined it."""
        mains = [main for main in reversed(self.started) if main.poll() is None]
        below = [one for main in mains
                 for one in (psutil.Process(main.pid), *psutil.Process(main.pid).children(recursive=True))]  # fmt: skip
        for main in mains:
            main.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(below, timeout=30)
        processes.kill(left)
        for main in mains:
            main.wait(30)


@pytest.fixture(scope="module")
def short():
    """A folder whose path is short, for Ray's sockets lie under it; a job's driver knows it by its path."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def s3(world):
    """Environment that leads to an S3 server on loopback, which has the bucket ``ours`` with a world, ``news``."""
    with buckets.server() as environment:
        buckets.make(environment, "ours")
        buckets.upload(environment, world, "ours/news")
        yield environment


@pytest.fixture(scope="module")
def token(short):
    """The cluster's, in the file of its home."""
    file = short / ".ray" / "auth_token"
    file.parent.mkdir(mode=0o700)
    file.touch(0o600)
    file.write_text("ab" * 32)
    return "ab" * 32


@pytest.fixture(scope="module")
def head(short, s3, token):
    """A cluster that asks for the token; it was started with what reaches the S3 server, and with a secret."""
    one = Head(short, RAY_AUTH_MODE="token", XMTL_TEST_SECRET=SECRET, **s3)
    try:
        one.begin(token)
        yield one
    finally:
        one.stop()


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """What ``git clone`` gives: the files that are checked in, as they are now."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    if not tracked:
        pytest.skip("not a git clone")
    folder = tmp_path_factory.mktemp("clone")
    for name in tracked.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def xmtl(head, clone):
    """Starts ``xmtl submit`` in the clone, as its user would."""

    def start(*arguments, **more):
        line = [sys.executable, "-m", "xmtl_ray", "submit", *map(str, arguments)]
        environment = clean(HOME=str(head.home), RAY_API_SERVER_ADDRESS=head.address, **more)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(line, cwd=clone, env=environment, **pipes)

    return start


def job(head, token, identity):
    """What the API knows of a job."""
    return json.loads(head.ask(f"/api/jobs/{identity}", token)[1])


def until(true, seconds=600):
    """Wait for something to hold."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.3)


def test_who_has_no_token_is_kept_out_and_runs_nothing(head, token):
    """S1: 401 without, 403 with a wrong one, 401 in the query, 200 with it; no job was made by any of them."""
    before = head.ask("/api/jobs/", token)[1]
    order = {"entrypoint": f"touch {head.home}/was-here"}
    for path, body in (("/api/version", None), ("/api/jobs/", None), ("/api/v0/logs", None), ("/api/jobs/", order)):
        assert head.ask(path, None, body)[0] == 401, path
        assert head.ask(path, "cd" * 32, body)[0] == 403, path
        assert head.ask(f"{path}?token={token}", None, body)[0] == 401, path
    assert head.ask("/api/jobs/", None, order, **{"User-Agent": "Mozilla/5.0", "Origin": head.address})[0] in {401, 405}
    assert head.ask("/api/version", token)[0] == 200
    assert head.ask("/api/jobs/", token)[1] == before
    assert not (head.home / "was-here").exists()


def test_secrets_are_named_and_never_sent(xmtl, head, token, world, tmp_path, record_property):
    """F20, S7: a training that needs a secret of the cluster's ends well, and no API and no log has the secret.

    The control: a plain variable's value is found in both.
    """
    done = xmtl(
        "--id", "first", "--secret", "XMTL_TEST_SECRET", "--secret", "AWS_SECRET_ACCESS_KEY", "--env", "XMTL_PLAIN",
        "--entrypoint-cpus", "0.5", "train", "xmtl_smoke", f"data.root={world}", f"storage_path={tmp_path}",
        "name=run", "train.epochs=1", "data.test=null", "tracking.enabled=false", XMTL_PLAIN=PLAIN,
    )  # fmt: skip
    out, err = done.communicate(timeout=900)
    assert done.returncode == 0, out + err
    assert "epoch 1 done" in out and "first: succeeded" in err
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
    found = job(head, token, "first")
    assert found["runtime_env"]["env_vars"]["XMTL_SECRETS"] == "XMTL_TEST_SECRET,AWS_SECRET_ACCESS_KEY"
    paths = ["/api/jobs/", "/api/jobs/first", "/api/jobs/first/logs"]
    paths += [f"/api/v0/{what}?detail=1" for what in ("tasks", "actors", "runtime_envs")]
    pages = [head.ask(path, token)[1] for path in paths]
    files = [path for path in (head.home / "r").glob("session_2*/logs/**/*") if path.is_file()]
    logs = [path.read_text(errors="replace") for path in files]
    logs.append((tmp_path / "run" / "config.yaml").read_text())
    hits = sum(SECRET in text for text in pages + logs + [out, err])
    record_property("secrets_found", hits)
    record_property("control.secrets_found", sum(PLAIN in text for text in pages + logs))
    assert hits == 0
    assert any(PLAIN in page for page in pages) and any(PLAIN in log for log in logs), "the control finds nothing"


def test_a_secret_that_the_cluster_lacks_stops_the_job_before_it_begins(xmtl, world, tmp_path):
    """Its name is told; the verb's exit status, 2, is that of the submission."""
    done = xmtl("--secret", "XMTL_NOWHERE", "train", "xmtl_smoke", f"data.root={world}", f"storage_path={tmp_path}")
    out, err = done.communicate(timeout=900)
    assert done.returncode == 2, err
    assert "--secret XMTL_NOWHERE: not in the environment that Ray was started with" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_job_goes_on_after_ctrl_c_and_resumes_from_s3_after_a_kill(xmtl, head, token):
    """All lies in a bucket: Ctrl-C leaves the job, SIGKILL of its driver frees what it held, another goes on."""
    line = [
        "train", "xmtl_smoke", "data.root=s3://ours/news", "storage_path=s3://ours/runs", "name=far", "train.epochs=20",
        "data.test=null", "tracking.enabled=false",
    ]  # fmt: skip
    one = xmtl("--id", "far-1", *line)
    killer = threading.Timer(1500, one.kill)
    killer.start()
    assert any("epoch 2 done" in text for text in one.stdout), one.stderr.read()
    killer.cancel()
    one.send_signal(signal.SIGINT)
    _, err = one.communicate(timeout=300)
    assert one.returncode == 130 and "far-1 goes on" in err and "ray job stop far-1" in err
    assert job(head, token, "far-1")["status"] == "RUNNING"
    drivers = [p for p in psutil.process_iter(["cmdline", "environ"]) if "name=far" in (p.info["cmdline"] or [])]
    assert [p.kill() for p in drivers if (p.info["environ"] or {}).get("HOME") == str(head.home)]
    until(lambda: job(head, token, "far-1")["status"] == "FAILED")
    groups = "/api/v0/placement_groups"
    until(
        lambda: all(g["state"] == "REMOVED" for g in json.loads(head.ask(groups, token)[1])["data"]["result"]["result"])
    )

    again = xmtl("--id", "far-2", *line)
    out, err = again.communicate(timeout=1800)
    assert again.returncode == 0, out + err
    assert (
        re.search(r"resumed after epoch (?:[2-9]|1\d|20)\b", out)
        and "epoch 20 done" in out
        and "epoch 1 done" not in out
    )
    assert "s3://ours/runs/far/report.html" in out


def test_a_job_is_stopped_by_the_command_that_was_told(xmtl, head, token, monkeypatch):
    """The whole line works in another shell; the submission that follows ends with 143."""
    one = xmtl("--id", "long", "world", head.home / "w", "--size", "large")
    until(lambda: head.ask("/api/jobs/long", token)[0] == 200 and job(head, token, "long")["status"] == "RUNNING")
    monkeypatch.setenv("HOME", str(head.home))
    told = submission.how_to(head.address, "long").splitlines()[1].partition("stop it:")[2]
    words, own = shlex.split(told), clean(HOME=str(head.home))
    own |= dict(word.split("=", 1) for word in words if "=" in word)
    subprocess.run([word for word in words if "=" not in word], env=own, check=True, capture_output=True, timeout=600)
    _, err = one.communicate(timeout=600)
    assert one.returncode == submission.STOPPED and "long: stopped" in err


def test_plain_ray_job_submit_is_told_of_results_that_would_be_lost(head, clone, world):
    """Ray's own command on a clone: the verb sees that it is in a copy that Ray deletes, before it trains."""
    line = [PYTHON.parent / "ray", "job", "submit", "--working-dir", ".", "--"]
    line += ["python", "-m", "xmtl_ray", "train", "xmtl_smoke", f"data.root={world}"]
    environment = clean(HOME=str(head.home), RAY_API_SERVER_ADDRESS=head.address, RAY_AUTH_MODE="token")
    done = subprocess.run(line, cwd=clone, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 1
    assert "storage_path runs: relative, so in the job's copy" in done.stdout


def test_a_folder_that_a_node_does_not_share_is_refused_at_the_start(head, token, world, tmp_path):
    """A second node with a folder of its own under the same name; what both share, and a bucket, are taken.

    Both folders exist, and both can be written to: only the driver's mark tells them apart. Data behind a URI are
    fetched by each node into such a folder of its own.
    """
    own = ["unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"']
    private, shared = tmp_path / "private", tmp_path / "shared"
    private.mkdir(), shared.mkdir()
    if subprocess.run([*own, str(private), "true"], capture_output=True, check=False).returncode:
        pytest.skip("a mount of one's own needs rights that this user has not")
    head.join(token, [*own, str(private)])
    code = """
import sys, ray
from xmtl_ray.cluster.connection import cluster
from xmtl_ray.cluster.reach import StorageError, check_shared
import time
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from xmtl_ray.data.remote import bring
with cluster(0, address=sys.argv[1], quiet=True):
    while sum(node["Alive"] for node in ray.nodes()) < 2:
        time.sleep(0.5)
    for place in sys.argv[2:]:
        try:
            check_shared("storage_path", place)
            print("taken", place)
        except StorageError as error:
            print("refused", place, str(error).replace(chr(10), " "))
    copy = bring("s3://ours/news")
    def fetched():
        before = copy.place.exists()
        copy.ensure()
        return before, len([path for path in copy.place.rglob("*") if path.is_file()])
    for node in ray.nodes():
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        print("fetched", *ray.get(ray.remote(fetched).options(num_cpus=0, scheduling_strategy=there).remote()))
"""
    line = [sys.executable, "-c", code, f"127.0.0.1:{head.gcs}", private, shared, "s3://ours/runs", "s3://other/runs"]
    own_cache = head.environment | {"XDG_CACHE_HOME": str(private)}
    done = subprocess.run(line, env=own_cache, capture_output=True, text=True, check=False, timeout=900)
    found = [text.split(maxsplit=2) for text in done.stdout.splitlines() if text.startswith(("taken", "refused"))]
    assert [(verdict, Path(place).name) for verdict, place, *_ in found] == [
        ("refused", "private"), ("taken", "shared"), ("taken", "runs"), ("refused", "runs"),
    ], done.stdout + done.stderr  # fmt: skip
    assert "is not reachable from all nodes" in found[0][2] and "another folder lies under this name" in found[0][2]
    assert found[0][2].count("node ") == 1, "the other node has it"
    assert [path.name for path in private.iterdir()] == ["xmtl"] and not list(shared.iterdir()), "marks are removed"
    count = sum(path.is_file() for path in world.rglob("*"))
    some = sorted(text for text in done.stdout.splitlines() if text.startswith("fetched"))
    assert some == [f"fetched False {count}", f"fetched True {count}"]


def test_a_cluster_that_asks_nobody_gets_a_job_only_if_told_so(clone):
    """S1: refused, and no job is there; by --insecure it runs, with a warning, and the verb's output comes back."""
    home = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    one = Head(home, RAY_AUTH_MODE="disabled")
    try:
        one.begin(None)
        environment = clean(HOME=str(home), RAY_API_SERVER_ADDRESS=one.address)
        line = [sys.executable, "-m", "xmtl_ray", "submit"]
        told = {"cwd": clone, "env": environment, "capture_output": True, "text": True, "timeout": 900}
        refused = subprocess.run([*line, "recipes"], check=False, **told)
        assert refused.returncode == 2 and "asks for no token: whoever reaches it runs code there" in refused.stderr
        assert json.loads(one.ask("/api/jobs/")[1]) == []
        done = subprocess.run([*line, "--insecure", "recipes"], check=False, **told)
        assert done.returncode == 0, done.stderr
        assert "asks for no token" in done.stderr and "xmtl_smoke" in done.stdout
    finally:
        one.stop()
        shutil.rmtree(home, ignore_errors=True)


def test_a_token_of_another_cluster_is_told_so(head, token, tmp_path, monkeypatch):
    """None, and a wrong one; a place where nothing listens; a page that is not Ray's."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SubmissionError, match="asks for a token, and there is none here"):
        submission.connect(head.address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "cd" * 32)
    with pytest.raises(SubmissionError, match="does not take the token of RAY_AUTH_TOKEN") as error:
        submission.connect(head.address)
    assert "cd" * 8 not in str(error.value)
    with pytest.raises(SubmissionError, match="no cluster answers there"):
        submission.connect(f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    assert submission.connect(head.address).list_jobs()
