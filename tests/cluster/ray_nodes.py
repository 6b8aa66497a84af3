"""Ray nodes on this machine, as far apart as it allows: each in a network namespace, with an address of its own.

They are started by the scripts of cluster/on-premises, with token and TLS. Namespaces need root and iproute2; without
them nodes are processes with ports of their own, and ``Nodes.apart`` is false.
"""

import contextlib
import ctypes
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import buckets
import processes
import psutil
from ray_start import begun, started
from test_on_premises import (
    HEAD,
    PORTS,
    TLS,
    WORKER,
    Node,
    addresses,
    answer,
    environment,
    free_ports,
    listens,
    until,
)

ADDRESS = "10.213.0.{}"
"""Of a node, within the namespaces: the machine itself has no such address."""
MOST = 6
"""Nodes at once."""
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Network:
    """Namespaces whose ``eth0`` hang on one bridge, which is in a namespace, too: the machine's own network has none.

    Args:
        count: of namespaces with addresses.
        apart: whether there are to be any.
    """

    def __init__(self, count, apart):
        self.name = f"xmtl{os.getpid()}"
        self.apart = apart and os.geteuid() == 0 and shutil.which("ip") is not None
        if not self.apart:
            return
        try:
            switch = f"{self.name}-switch"
            self._ip("netns", "add", switch)
            self._ip("-n", switch, "link", "add", "bridge", "type", "bridge")
            self._ip("-n", switch, "link", "set", "bridge", "up")
            for number in range(count):
                self._add(switch, number)
        except subprocess.CalledProcessError as error:
            print(f"no network namespaces: {error.stderr.strip()}", file=sys.stderr)
            self.close()
            self.apart = False

    def _add(self, switch, number):
        space, port = f"{self.name}-{number}", f"port{number}"
        self._ip("netns", "add", space)
        self._ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
        self._ip("-n", switch, "link", "set", port, "master", "bridge", "up")
        self._ip("-n", space, "address", "add", f"{self.address(number)}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            self._ip("-n", space, "link", "set", link, "up")
        # Nothing is there. Ray asks which address it would leave by, and that is its node's.
        self._ip("-n", space, "route", "add", "default", "via", ADDRESS.format(254))

    def address(self, number):
        """Of a namespace; without them, of this machine."""
        return ADDRESS.format(number + 1) if self.apart else addresses()[0]

    @contextlib.contextmanager
    def inside(self, number):
        """What this thread opens and starts within it is in that namespace."""
        if not self.apart:
            yield
            return
        with Path(f"/run/netns/{self.name}-{number}").open() as there, Path("/proc/thread-self/ns/net").open() as back:
            _enter(there)
            try:
                yield
            finally:
                _enter(back)

    def close(self):
        """Remove all of it."""
        if not self.apart:
            return
        for space in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.split():
            if space.startswith(f"{self.name}-"):
                self._ip("netns", "delete", space)

    @staticmethod
    def _ip(*arguments):
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def _enter(namespace):
    if _libc.setns(namespace.fileno(), _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class Placed(Node):
    """A node in its namespace; ``number`` is its place in the network."""

    def __init__(self, nodes, number, cpus):
        script = HEAD if number == 0 else WORKER
        network, home = nodes.network, nodes.home
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.id, self.log = None, home / f"node{number}.log"
        arguments = [] if number == 0 else [nodes.address]
        left_out = set() if number == 0 else {"port", "dashboard-port", "ray-client-server-port"}
        options = [f"--{name}={value}" for name, value in self.ports.items() if name not in left_out]
        options += [
            f"--num-cpus={cpus}", f"--temp-dir={home}/r", "--min-worker-port=0", "--max-worker-port=0",
            f"--object-store-memory={200 * 2**20}",
        ]  # fmt: skip
        with self.log.open("wb") as log, network.inside(number):
            self.process = subprocess.Popen(
                [script, *arguments, *options], env=nodes.environment(), stdout=log, stderr=log, start_new_session=True
            )

    def kill_raylet(self):
        """SIGKILL, as when a machine is lost: what ran there has no time to say anything."""
        next(one for one in self.processes() if one.name() == "raylet").kill()


class Nodes:
    """A cluster: a head without CPUs, where drivers are, and the nodes that are added.

    Args:
        cpus: of each node beside the head that is there from the start.
        apart: false: plain processes, whatever the machine allows.
    """

    def __init__(self, *cpus, apart=True):
        self.home = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short, for Ray's sockets lie under it
        self.network = Network(MOST, apart)
        self.apart = self.network.apart
        self.nodes = []
        try:
            own = [self.network.address(number) for number in range(MOST)]
            authority, tls = self.home / "authority", self.home / ".ray" / "tls"
            for arguments in (["authority", authority], ["node", authority, tls, *dict.fromkeys(own)]):
                subprocess.run([TLS, *arguments], check=True, capture_output=True)
            self.head = begun(lambda: Placed(self, 0, 0), started)
            self.nodes.append(self.head)
            for some in cpus:
                self.add(some)
        except BaseException:
            self.close()
            raise

    @property
    def address(self):
        """Of the cluster."""
        return f"{self.network.address(0)}:{self.head.ports['port']}"

    def add(self, cpus):
        """One more node, which has joined."""
        before, number = set(self.alive()), len(self.nodes)

        def joined(node):
            return started(node) and len(set(self.alive()) - before) == 1

        node = begun(lambda: Placed(self, number, cpus), joined)
        (node.id,) = set(self.alive()) - before
        self.nodes.append(node)
        return node

    def environment(self):
        """Of nodes, and of drivers on the head."""
        tls = self.home / ".ray" / "tls"
        files = {"SERVER_CERT": "tls.crt", "SERVER_KEY": "tls.key", "CA_CERT": "ca.crt"}
        own = {f"RAY_TLS_{name}": str(tls / file) for name, file in files.items()}
        own |= {"RAY_AUTH_MODE": "token", "RAY_USE_TLS": "1", "OMP_NUM_THREADS": "1"} | buckets.KEYS
        own["RAY_gcs_server_request_timeout_seconds"] = "600"  # a node that waits longer for the head gives up
        if self.nodes:
            own["RAY_ADDRESS"] = self.address
            own["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{self.head.ports['dashboard-port']}"
        return environment(self.home, **own)

    def start(self, *command, **more):
        """A driver on the head."""
        with self.network.inside(0):
            return subprocess.Popen(
                [str(part) for part in command], env=self.environment() | more, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip

    def xmtl(self, *arguments, **more):
        """What a verb prints, run on the head."""
        driver = self.start(sys.executable, "-m", "xmtl_ray", *arguments, **more)
        printed, _ = driver.communicate()
        assert driver.returncode == 0, printed
        return printed

    @contextlib.contextmanager
    def bucket(self, folder):
        """URI of a copy of ``folder``, behind a server of S3's protocol on the head, whose keys the nodes have."""
        (port,) = free_ports(1)
        host = self.network.address(0)
        server = self.start(sys.executable, "-m", "moto.server", "--host", host, "--port", str(port))
        there = {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}
        try:
            wait_for(lambda: self._listens(host, port), server)
            with self.network.inside(0):
                buckets.make(there, "ours")
                buckets.upload(there, folder, "ours/copy")
            yield f"s3://ours/copy?endpoint_override={host}:{port}&scheme=http"
        finally:
            server.kill()
            server.communicate()

    def _listens(self, host, port):
        with self.network.inside(0):
            return listens(host, port)

    def state(self, what):
        """Rows of Ray's State API: ``nodes``, ``actors``, ``placement_groups``."""
        found = []

        def answered():
            try:
                with self.network.inside(0):
                    status, body = answer(self.head, f"/api/v0/{what}?limit=10000&detail=1", self._token())
            except (OSError, http.client.HTTPException):  # on a busy machine it listens, but cannot answer yet
                return False
            if status == 200:
                found.extend(json.loads(body)["data"]["result"]["result"])
            return status == 200

        until(answered, self.head)
        return found

    def _token(self):
        return (self.home / ".ray" / "auth_token").read_text().strip()

    def alive(self):
        """Ids of the nodes that are there, but for the head's."""
        return [
            node["node_id"] for node in self.state("nodes") if node["state"] == "ALIVE" and not node["is_head_node"]
        ]

    def actors(self, name):
        """Node → how many actors it has had whose class is called so; those that were never started are nowhere."""
        some = [actor["node_id"] for actor in self.state("actors") if name in actor["class_name"]]
        return Counter(node for node in some if node)

    def processes(self):
        """All that were started here, and all that those started."""
        return [
            one for one in psutil.process_iter(["environ"]) if (one.info["environ"] or {}).get("HOME") == str(self.home)
        ]

    def close(self):
        """End all nodes, the head last. Returns what then still ran, and is killed."""
        for node in reversed(self.nodes):
            if node.process.poll() is None:
                node.stop()
        left = self.processes()
        processes.kill(left)
        self.network.close()
        shutil.rmtree(self.home, ignore_errors=True)
        return left


@contextlib.contextmanager
def cluster(*cpus, apart=True):
    """Nodes for a while; nothing of them stays behind."""
    nodes = Nodes(*cpus, apart=apart)
    try:
        yield nodes
    finally:
        left = nodes.close()
    assert not left, left


def wait_for(true, driver, seconds=1200):
    """Until something holds, while a driver runs."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            driver.kill()
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.2)
