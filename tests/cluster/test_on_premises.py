"""The scripts for machines of one's own: what they refuse, and a head and a worker, with token and TLS, on loopback."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import processes
import psutil
import pytest
from ray_start import begun, started

FILES = Path(__file__).parents[2] / "cluster"
HEAD, WORKER, TLS = FILES / "on-premises" / "head.sh", FILES / "on-premises" / "worker.sh", FILES / "tls.sh"
PORTS = [
    "port", "node-manager-port", "object-manager-port", "runtime-env-agent-port", "dashboard-agent-grpc-port",
    "dashboard-agent-listen-port", "metrics-export-port", "dashboard-port", "ray-client-server-port",
]  # fmt: skip


def environment(home, **more):
    """What a user with a home of his own has, and nothing of Ray."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "XMTL_"))}
    return own | {"HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | more


def refusal(home, script, *arguments, **more):
    """What a script says when it does not start."""
    done = subprocess.run(
        [script, *arguments], env=environment(home, **more), capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode
    return done.stderr


def addresses():
    """Those of this machine."""
    return [
        one.address
        for some in psutil.net_if_addrs().values()
        for one in some
        if one.family == socket.AF_INET and not one.address.startswith("127.")
    ] or ["127.0.0.1"]


def free_ports(count):
    """Ports that nobody listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("", 0))
    found = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return found


@pytest.fixture(scope="module")
def home():
    """A home with certificates for this machine; its path is short, for Ray's sockets lie under it."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    for arguments in (["authority", folder / "authority"],
                      ["node", folder / "authority", folder / ".ray" / "tls", *addresses()]):  # fmt: skip
        subprocess.run([TLS, *arguments], check=True, capture_output=True)
    yield folder
    shutil.rmtree(folder)


def test_certificates_are_for_the_addresses_named(tmp_path):
    """A node's certificate holds for its addresses and names, for no other; keys are their owner's alone."""
    subprocess.run([TLS, "authority", tmp_path / "a"], check=True)
    subprocess.run([TLS, "node", tmp_path / "a", tmp_path / "n", "10.0.0.7", "fd00::7", "node7"], check=True)

    def holds(*what):
        check = ["openssl", "verify", "-CAfile", tmp_path / "a" / "ca.crt", *what, tmp_path / "n" / "tls.crt"]
        return subprocess.run(check, capture_output=True, check=False).returncode == 0

    for good in ("10.0.0.7", "fd00::7", "127.0.0.1"):
        assert holds("-verify_ip", good)
    assert holds("-verify_hostname", "node7") and holds("-verify_hostname", "localhost")
    assert not holds("-verify_ip", "10.0.0.8") and not holds("-verify_hostname", "node8")
    for key in (tmp_path / "a" / "ca.key", tmp_path / "n" / "tls.key"):
        assert key.stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "n" / "ca.key").exists()
    assert "expected none" in refusal(tmp_path, TLS, "authority", tmp_path / "a")
    assert "ADDRESS" in refusal(tmp_path, TLS, "node", tmp_path / "a", tmp_path / "m")


def test_what_is_refused(tmp_path):
    """No worker without the head's token, none with one that others can read or see, nothing without certificates."""
    token = tmp_path / ".ray" / "auth_token"
    assert f"{token}: found no token" in refusal(tmp_path, WORKER, "127.0.0.1:6379")
    token.parent.mkdir()
    token.write_text("0" * 64)
    token.chmod(0o644)
    for script in (HEAD, WORKER):
        assert "found mode 644, expected 600" in refusal(tmp_path, script, "127.0.0.1:6379")
    token.chmod(0o600)
    assert "RAY_AUTH_TOKEN: found it set" in refusal(tmp_path, HEAD, RAY_AUTH_TOKEN="0" * 64)
    for script in (HEAD, WORKER):
        assert "tls.crt: not found" in refusal(tmp_path, script, "127.0.0.1:6379")
    assert "usage" in refusal(tmp_path, WORKER)


class Node:
    """A node that one of the scripts has started, and all processes below it."""

    def __init__(self, script, home, *arguments):
        ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        if script == WORKER:
            for name in ("port", "dashboard-port", "ray-client-server-port"):
                del ports[name]
        self.ports = ports
        options = [f"--{name}={value}" for name, value in ports.items()]
        self.log = home / f"{script.stem}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [script, *arguments, *options, f"--temp-dir={home}/r", "--num-cpus=1",
                 "--min-worker-port=0", "--max-worker-port=0"],
                env=environment(home), stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def processes(self):
        """All that still run."""
        main = psutil.Process(self.process.pid)
        return [main, *main.children(recursive=True)]

    def stop(self):
        """SIGTERM, as systemd does it; returns what is left of its processes afterwards."""
        below = self.processes()
        self.process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(below, timeout=120)
        processes.kill(left)
        return left


def answer(node, path, token=None, posted=None):
    """Status and body of a request to the job server."""
    body = posted and json.dumps(posted).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{node.ports['dashboard-port']}{path}", data=body)
    request.add_header("Content-Type", "application/json")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def until(true, node):
    """Waits for something, while a node runs."""
    while not true():
        assert node.process.poll() is None, node.log.read_text()
        time.sleep(0.2)


def listens(host, port):
    """Whether anything does there."""
    with socket.socket() as one:
        one.settimeout(5)
        return one.connect_ex((host, port)) == 0


@pytest.mark.ray
@pytest.mark.slow
def test_head_and_worker_with_token_and_tls(home):
    """They start as they are, answer only to who has the token, speak TLS to each other, and end when told to."""
    head = begun(lambda: Node(HEAD, home), started)
    try:
        until(lambda: listens("127.0.0.1", head.ports["port"]), head)
        file = home / ".ray" / "auth_token"
        assert file.stat().st_mode & 0o777 == 0o600
        token = file.read_text().strip()
        worker = begun(lambda: Node(WORKER, home, f"127.0.0.1:{head.ports['port']}"), started)
        try:
            until(lambda: listens("127.0.0.1", head.ports["dashboard-port"]), head)
            for path in ("/api/version", "/api/jobs/", "/api/v0/nodes"):
                assert answer(head, path)[0] == 401
                assert answer(head, path, "0" * 64)[0] == 403
            assert answer(head, f"/api/version?token={token}")[0] == 401
            assert answer(head, "/api/version", token)[0] == 200
            job = {"entrypoint": f"touch {home}/ran"}
            assert answer(head, "/api/jobs/", posted=job)[0] == 401
            assert json.loads(answer(head, "/api/jobs/", token)[1]) == []
            assert answer(head, "/api/gcs_healthz")[0] == 200  # what probes ask

            def alive():
                nodes = json.loads(answer(head, "/api/v0/nodes", token)[1])["data"]["result"]["result"]
                return sum(node["state"] == "ALIVE" for node in nodes)

            until(lambda: alive() == 2, worker)

            # What probes of workers ask, on Kubernetes as well: no token, and from outside.
            outside = addresses()[0]
            agent = f"http://{outside}:{worker.ports['dashboard-agent-listen-port']}/api/local_raylet_healthz"
            with urllib.request.urlopen(agent, timeout=30) as reply:
                assert reply.status == 200

            # The dashboard is on loopback alone; Ray's own ports are not, and speak TLS by our authority.
            assert outside == "127.0.0.1" or not listens(outside, head.ports["dashboard-port"])
            assert listens(outside, head.ports["port"])
            for folder, trusted in ((home / "authority", True), (other_authority(home), False)):
                context = ssl.create_default_context(cafile=folder / "ca.crt")
                with socket.create_connection((outside, head.ports["port"]), timeout=30) as plain:
                    if trusted:
                        with context.wrap_socket(plain, server_hostname=outside) as secure:
                            assert secure.version() in ("TLSv1.2", "TLSv1.3")
                    else:
                        with pytest.raises(ssl.SSLCertVerificationError):
                            context.wrap_socket(plain, server_hostname=outside)
        finally:
            left = worker.stop()
        assert left == []
        assert head.process.poll() is None
    finally:
        left = head.stop()
    assert left == []
    assert not listens("127.0.0.1", head.ports["port"])


def other_authority(home):
    """An authority that signed nothing here."""
    subprocess.run([TLS, "authority", home / "other"], check=True, capture_output=True)
    return home / "other"
