"""Ray nodes that take their time: what is begun again where it fails to start."""

import time

TRIES = 4


def begun(begin, up):
    """What ``begin`` starts, once it is up.

    Ray gives a node some 30 s to start, and ends it then. On a busy machine it is begun again, as systemd would.

    Args:
        begin: starts a node: ``process``, and ``log``, a file.
        up: of a node that runs, whether it is up.
    """
    for _ in range(TRIES):
        node = begin()
        while node.process.poll() is None:
            if up(node):
                return node
            time.sleep(0.2)
    raise AssertionError(node.log.read_text())


def started(node):
    """Whether Ray says so itself, in the node's log."""
    return "Ray runtime started" in node.log.read_text()
