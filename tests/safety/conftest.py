"""A folder with ways out of it."""

import os

import pytest


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with files, and links out of it, within it and in a circle; beside it what must not be reached."""
    top = tmp_path_factory.mktemp("paths")
    root, outside = top / "root", top / "outside"
    for folder in (root / "folder", outside / "folder"):
        folder.mkdir(parents=True)
    for path in (root / "a.jpg", root / "folder" / "a.jpg", outside / "a.jpg", outside / "folder" / "a.jpg"):
        path.write_text(str(path))
    (root / "out").symlink_to(outside)
    (root / "out_file").symlink_to(outside / "a.jpg")
    (root / "near").symlink_to(root / "folder")
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "pipe")
    return root
