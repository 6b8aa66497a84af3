"""S5: no version with a known hole: what may be installed, and what is."""

import configparser
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
FLOORS = {
    "ray": "2.56",  # CVE-2026-57516, CVE-2026-41486: readers that unpickle; 2.52: CVE-2025-62593
    "torch": "2.10",  # GHSA-63cw-57p8-fm3p: weights_only
    "transformers": "5.2.1",  # CVE-2026-5241: an explicit trust_remote_code=False passed over
    "mlflow": "3.17",  # CVE-2026-2614 and others of its server
    "jinja2": "3.1.6",  # CVE-2025-27516: out of the sandbox
}


def required() -> dict[str, Requirement]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].strip().splitlines()
    return {canonicalize_name(one.name): one for one in map(Requirement, lines)}


def locked() -> dict[str, Version]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    return {canonicalize_name(name): Version(number) for name, _, number in (line.partition("==") for line in lines)}


@pytest.mark.parametrize("name", FLOORS)
def test_the_floor_holds(name):
    """In setup.cfg, in the lock file, and here; no version just below it is allowed."""
    floor, wanted = Version(FLOORS[name]), required()[name].specifier
    lower = min(Version(one.version) for one in wanted if one.operator in {">=", "=="})
    assert lower >= floor and "0" not in wanted and FLOORS[name] + ".dev0" not in wanted
    assert locked()[name] >= floor and Version(version(name)) >= floor


def test_every_requirement_is_locked_and_fits():
    """To one version, that setup.cfg allows."""
    pinned = locked()
    assert len(pinned) > 100
    for name, one in required().items():
        assert pinned[name] in one.specifier, one
