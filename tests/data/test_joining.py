"""Two streams joined by key, and names of media that stay in their folder."""

import os
import random
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmtl_ray.data import joined
from xmtl_ray.data.media_paths import inside, relative
from xmtl_ray.events.records import DataError

KEYS = st.lists(st.text("abcdef", max_size=3), unique=True)


@given(left=KEYS, right=KEYS)
def test_a_join_is_complete(left, right):
    """What two dictionaries would give: every key once, with the values that it has."""
    found = list(joined.join(iter([(k, f"l{k}") for k in left]), iter([(k, f"r{k}") for k in right])))
    assert len(found) == len({key for key, _, _ in found})
    expected = {k: (f"l{k}" if k in left else None, f"r{k}" if k in right else None) for k in {*left, *right}}
    assert {key: pair for key, *pair in found} == {key: list(pair) for key, pair in expected.items()}


def furthest(left, right):
    """How far, at most, one side was read ahead of the pair that came last."""
    read = {"left": 0, "right": 0}

    def stream(side, keys):
        for key in keys:
            read[side] += 1
            yield str(key), key

    ahead, place = 0, {key: number for number, key in enumerate(right, start=1)}
    for key, a, b in joined.join(stream("left", left), stream("right", right)):
        if a is not None and b is not None:
            ahead = max(ahead, read["right"] - place[int(key)])
    return ahead


def test_the_same_order_waits_for_nothing():
    """A fifth of either side has no partner: neither side is read more than a few records ahead."""
    draw = random.Random(0)
    left, right = ([n for n in range(5000) if draw.random() < 0.8] for _ in range(2))
    assert furthest(range(5000), range(5000)) <= 1
    assert furthest(left, right) <= 10
    assert furthest(left, range(5000)) <= 10 and furthest(range(5000), right) <= 10


@pytest.mark.parametrize(
    "name", ["../a.jpg", "/a.jpg", "a/../../b.jpg", "..", ".", "", "http://x/a.jpg", "file:a", "c:\\a", "a\\b", "a\0b"]
)
def test_names_that_could_lead_out(tmp_path, name):
    """None of them is resolved."""
    with pytest.raises(DataError, match=r"field: found .* expected a relative path"):
        inside(tmp_path, name, "file.json", 3, "field")


def test_links(tmp_path):
    """A link within the folder is followed, one that leads out is not, whether it is the file or a folder above."""
    root, out = tmp_path / "root", tmp_path / "out"
    root.mkdir()
    out.mkdir()
    (out / "a.jpg").touch()
    (root / "b.jpg").touch()
    (root / "in.jpg").symlink_to(root / "b.jpg")
    (root / "out.jpg").symlink_to(out / "a.jpg")
    (root / "folder").symlink_to(out)
    (root / "loop").symlink_to(root / "loop")
    assert inside(root, "in.jpg", "f", 0, "") == root / "in.jpg"
    assert inside(root, "./x//y.jpg", "f", 0, "") == root / "x" / "y.jpg"
    for name in ("out.jpg", "folder/a.jpg", "folder/none.jpg", "loop"):
        with pytest.raises(DataError, match="not a link out of it"):
            inside(root, name, "f", 0, "")


def test_no_name_leads_out():
    """10 000 names of dots, slashes, schemes and letters: each is refused or lies below the root."""
    draw, parts = random.Random(0), ["..", ".", "/", "\\", "~", "a", "b.jpg", ":", "http://", "%2e%2e", "\0", "é", " "]
    parts += list(string.printable)
    root, resolved = Path("/root/of/media"), 0
    for _ in range(10_000):
        name = "".join(draw.choices(parts, k=draw.randint(0, 8)))
        try:
            path = root / relative(name, "f", 0, "")
        except DataError:
            continue
        resolved += 1
        assert os.path.normpath(path).startswith("/root/of/media/") and "://" not in name.split("/")[0]
    assert resolved > 100


@given(st.text(st.characters(), max_size=300))
def test_any_text_is_refused_or_inside(name):
    """Whatever is in a file, only DataError is raised."""
    try:
        path = inside(Path("/nowhere/media"), name, "f", 0, "")
    except DataError:
        return
    assert Path(os.path.normpath(path)).is_relative_to("/nowhere/media")
