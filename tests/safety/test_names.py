"""S6: ten thousand names in data files: each leads below its folder, to a regular file, or nowhere."""

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xmtl_ray.data.local_files import open_regular
from xmtl_ray.data.media_paths import inside, relative
from xmtl_ray.events.records import DataError

PARTS = (
    "..", ".", "", "~", "a.jpg", "folder", "out", "out_file", "near", "loop", "pipe", "...", ".. ", " ..", "..\\",
    "\\..", "C:", "c:\\", "file:", "file://", "http://127.0.0.1:9", "s3:", "\\\\host", "$HOME", "`id`", "%2e%2e", "%2f",
    "..%00", "\0", "\n", "\r", "\u202e", "．．", "․․", "‥", "／", "∕", "⁄", "＼", "\ufeff", "\u200b", "\ud800", "é",
    "e\u0301", "/etc/passwd", "/proc/self/environ", "/dev/zero", "x" * 300,
)  # fmt: skip
NAMES = st.one_of(
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=6).map("/".join),
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map("".join),
    st.text(max_size=30),
)


def is_inside(path: Path, root: Path) -> bool:
    return os.path.realpath(path).startswith(f"{os.path.realpath(root)}{os.sep}")


def test_ten_thousand_names_lead_nowhere(root):
    """By the resolver of data files, and a file that it lets through is opened inside or not at all.

    The control: joined to the folder as they are, hundreds would have led out.
    """
    seen = {"tried": 0, "refused": 0, "opened": 0, "out": 0, "would": 0}

    @settings(max_examples=500, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.lists(NAMES, min_size=20, max_size=20))
    def look(names):
        for name in names:
            try_one(name)

    def try_one(name):
        seen["tried"] += 1
        with contextlib.suppress(ValueError, OSError):
            seen["would"] += not is_inside(root / name, root) and os.path.realpath(root / name) != str(root)
        try:
            path = inside(root, name, "list.json", 0, "image")
        except DataError:
            seen["refused"] += 1
        else:
            seen["out"] += not is_inside(path, root)
        with contextlib.suppress(DataError, ValueError), open_regular(root / name, "image", 1 << 20, root) as file:
            seen["opened"] += 1
            seen["out"] += not is_inside(Path(f"/proc/self/fd/{file.fileno()}"), root)

    look()
    assert seen["tried"] >= 10_000 and seen["out"] == 0, seen
    assert min(seen["refused"], seen["would"]) > 1000 and seen["opened"] > 20, seen


@pytest.mark.parametrize(
    "name", ["．．/．．/a.jpg", "․․/a.jpg", "‥/a.jpg", "folder／..／a.jpg", "%2e%2e/a.jpg", "$HOME/a.jpg"]
)
def test_what_looks_like_a_way_out_is_a_name(name, root):
    """Letters that look like dots and slashes are letters: nothing is translated on the way."""
    assert inside(root, name, "list.json", 0, "image") == root / name and relative(name, "f", 0, "x") == name
