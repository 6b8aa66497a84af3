"""What an installation holds: every file of the package, not only what a working tree shows."""

import configparser
import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = [p for p in sorted((ROOT / "xmtl_ray").rglob("*")) if p.is_file() and p.suffix not in {".py", ".pyc"}]


@pytest.mark.parametrize("path", DATA, ids=lambda path: path.name)
def test_every_data_file_is_installed(path):
    """setup.cfg names it under a package, that is a folder with an ``__init__.py``."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for package, patterns in setup["options.package_data"].items():
        folder = ROOT / package.replace(".", "/")
        if (folder / "__init__.py").exists() and path.is_relative_to(folder):
            relative = str(path.relative_to(folder))
            if any(fnmatch.fnmatch(relative, pattern.strip()) for pattern in patterns.split(",")):
                return
    pytest.fail(f"{path.relative_to(ROOT)} would not be installed")
