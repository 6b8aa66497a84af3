"""Canvases and prompts pixel by pixel, what unreadable files are told, and the fingerprint of what was read."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from xmtl_ray.config.load import load
from xmtl_ray.data.fingerprint import fingerprints
from xmtl_ray.data.images import Canvases
from xmtl_ray.data.prompts import entity_prompt, object_prompt
from xmtl_ray.events.records import Box, DataError, Span

WORDS = ["Police", "in", "Rome", "held", "two", "men"]
RED = (255, 0, 0)


@pytest.mark.parametrize(
    ("entity", "text", "inside"),
    [
        (Span(4, 6), "Police in Rome held $ two men $", Span(5, 7)),
        (Span(0, 1), "$ Police $ in Rome held two men", Span(1, 2)),
        (Span(0, 6), "$ Police in Rome held two men $", Span(1, 7)),
    ],
)
def test_markers_stand_around_the_entity(entity, text, inside):
    """At the end, at the start, around everything; ``entity`` finds its words again between the markers."""
    prompt = entity_prompt(WORDS, entity, Span(3, 4), "Justice:Arrest-Jail", "$", True)
    assert prompt.text == text.split()
    assert prompt.event == ["held", "justice", "arrest", "jail"]
    assert prompt.entity == inside
    assert prompt.text[inside.start : inside.end] == WORDS[entity.start : entity.end]


def test_the_marker_and_the_type_are_settings():
    """Another marker, a trigger of two words, no type; the words that came in are not changed."""
    words = list(WORDS)
    prompt = entity_prompt(words, Span(3, 5), Span(3, 5), "Life:Die", "##", False)
    assert prompt.text == ["Police", "in", "Rome", "##", "held", "two", "##", "men"]
    assert prompt.event == ["held", "two"]
    assert words == WORDS


def drawn(box, line_px, side=8):
    """Rows of the canvas, ``#`` where the line is; every other pixel must be as it was."""
    canvas = np.full((side, side, 3), (10, 20, 30), np.uint8)
    marked = object_prompt(canvas, Box(*(value / side for value in box)), line_px, RED)
    assert (canvas == (10, 20, 30)).all(), "the cached canvas is not drawn on"
    line = (marked == RED).all(-1)
    assert (marked[~line] == (10, 20, 30)).all()
    return ["".join(".#"[int(value)] for value in row) for row in line]


@pytest.mark.parametrize(
    ("box", "line_px", "expected"),
    [
        ((2, 1, 6, 5), 1, ["........", "..####..", "..#..#..", "..#..#..", "..####.."] + ["........"] * 3),
        ((1, 1, 7, 7), 2, ["........", *[".######."] * 2, *[".##..##."] * 2, *[".######."] * 2, "........"]),
        # The whole image: its border pixels.
        ((0, 0, 8, 8), 1, ["########"] + ["#......#"] * 6 + ["########"]),
        # It goes beyond the image on two sides and is cut at the border.
        ((-4, -4, 4, 4), 1, ["####....", "#..#....", "#..#....", "####...."] + ["........"] * 4),
        ((5, 6, 12, 12), 1, ["........"] * 6 + [".....###", ".....###"]),
        # Narrower than two lines: filled, and nothing outside it.
        ((2, 2, 4, 4), 2, ["........"] * 2 + ["..##...."] * 2 + ["........"] * 4),
        ((1, 2, 7, 5), 2, ["........"] * 2 + [".######."] * 3 + ["........"] * 3),
        ((3, 3, 4, 4), 4, ["........"] * 3 + ["...#...."] + ["........"] * 4),
        # Less than a pixel, or wholly outside: one pixel of it is shown.
        ((4, 4, 4.1, 4.1), 2, ["........"] * 4 + ["....#..."] + ["........"] * 3),
        ((9, 9, 10, 10), 2, ["........"] * 7 + [".......#"]),
    ],
)  # fmt: skip
def test_the_line_lies_inside_the_box(box, line_px, expected):
    """Golden pixels of an 8 × 8 canvas; corners in pixels, x1 and y1 outside the box."""
    assert drawn(box, line_px) == expected


def test_an_appended_entity_stands_behind_the_sentence():
    """``concat``: no markers in the text; entity, marker, trigger and type are what is never cut."""
    prompt = entity_prompt(WORDS, Span(4, 6), Span(3, 4), "Justice:Arrest-Jail", "$", True, appended=True)
    assert prompt.text == list(WORDS)
    assert prompt.event == [*WORDS[4:6], "$", WORDS[3], "justice", "arrest", "jail"]
    assert prompt.text[prompt.entity.start : prompt.entity.end] == list(WORDS[4:6])


@pytest.mark.parametrize(
    ("box", "line_px", "expected"),
    [
        ((0, 0, 8, 8), 1, ["..####..", ".#....#.", *["#......#"] * 4, ".#....#.", "..####.."]),
        ((2, 1, 7, 4), 1, ["........", "...###..", "..#...#.", "...###.."] + ["........"] * 4),
        # Less than a pixel, or wholly outside: one pixel of it is shown, as of a box.
        ((4, 4, 4.1, 4.1), 2, ["........"] * 4 + ["....#..."] + ["........"] * 3),
        ((9, 9, 10, 10), 2, ["........"] * 7 + [".......#"]),
    ],
)  # fmt: skip
def test_the_circle_lies_inside_the_box(box, line_px, expected):
    """``circle``: it touches the box's sides, keeps off the corners of a large one, and changes nothing else."""
    canvas = np.full((8, 8, 3), 7, np.uint8)
    marked = object_prompt(canvas, Box(*(value / 8 for value in box)), line_px, RED, "circle")
    red = (marked == RED).all(-1)
    assert ["".join("#" if cell else "." for cell in row) for row in red] == expected
    assert (marked[~red] == 7).all() and (canvas == 7).all()


def test_a_crop_is_the_boxs_content_alone():
    """``crop``: stretched to the canvas; of a box outside the image, its nearest pixel."""
    canvas = np.zeros((8, 8, 3), np.uint8)
    canvas[2:4, 4:8] = 200
    assert (object_prompt(canvas, Box(0.5, 0.25, 1, 0.5), 2, RED, "crop") == 200).all()
    halved = object_prompt(canvas, Box(0, 0.25, 1, 0.5), 2, RED, "crop")
    assert halved.shape == (8, 8, 3) and (halved[:, 6:] == 200).all() and (halved[:, :2] == 0).all()
    assert (object_prompt(canvas, Box(2, 0.3, 3, 0.4), 2, RED, "crop") == 200).all()


def halves(path: Path, width: int, height: int) -> Path:
    """An image file whose left half is white and whose right half is black."""
    array = np.zeros((height, width, 3), np.uint8)
    array[:, : width // 2] = 255
    Picture.fromarray(array).save(path)
    return path


def test_a_wide_image_is_squeezed_and_boxes_with_it(tmp_path):
    """64 × 16 pixels on a canvas of 16: the halves stay halves, and the box around the black one stays around it."""
    canvas = Canvases(16, 1)(halves(tmp_path / "wide.png", 64, 16))
    assert canvas.array.shape == (16, 16, 3) and canvas.array.dtype == np.uint8
    assert (canvas.width, canvas.height) == (64, 16)
    assert (canvas.array[:, :6] == 255).all() and (canvas.array[:, 10:] == 0).all()
    assert canvas.fractions(Box(32, 4, 64, 16)) == Box(0.5, 0.25, 1, 1)
    marked = object_prompt(canvas.array, canvas.fractions(Box(32, 4, 64, 16)), 1, RED)
    rows, columns = np.nonzero((marked == RED).all(-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 15, 8, 15)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    """Grey, palette, transparent, 16 bit: three bytes a pixel."""
    Picture.new(mode, (5, 4)).save(tmp_path / "some.png")
    assert Canvases(4, 0)(tmp_path / "some.png").array.shape == (4, 4, 3)


def test_the_cache_gives_the_same_array_and_keeps_to_its_limit(tmp_path):
    """Canvases of 512 pixels have 3/4 MiB: of two, 1 MiB keeps the last one, 2 MiB both, 0 none."""
    a, b = (halves(tmp_path / name, 32, 32) for name in ("a.png", "b.png"))
    roomy = Canvases(512, 2)
    first, second = roomy(a), roomy(b)
    assert roomy(a) is first and roomy(b) is second
    narrow = Canvases(512, 1)
    first, second = narrow(a), narrow(b)
    assert narrow(b) is second
    assert narrow(a) is not first
    none = Canvases(512, 0)
    assert none(a) is not none(a)
    a.unlink()
    assert np.array_equal(roomy(a).array, first.array), "decoded once while the cache holds it"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("missing.jpg", None, "found 'no such file', expected an image file"),
        ("empty.jpg", b"", "expected a readable image"),
        ("text.jpg", b"this is no image at all", "expected a readable image"),
        ("cut.jpg", "cut", "expected a readable image"),
        ("cut.png", "cut", "expected a readable image"),
    ],
)
def test_an_image_that_cannot_be_read_is_named(tmp_path, name, content, expected):
    """Missing, empty, no image, or cut off in the middle: one kind of error, with the path."""
    path = tmp_path / name
    if content == "cut":
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Picture.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        Canvases(16, 1)(path)
    assert str(path) in str(caught.value) and expected in str(caught.value)


@pytest.fixture
def corpus(world, tmp_path):
    """A copy of the world that may be changed, and the data section that names its files."""
    folder = tmp_path / "copy"
    shutil.copytree(world, folder, ignore=shutil.ignore_patterns("voa"))
    return folder, load("xmtl_smoke", [f"data.root={folder}"]).data


def test_the_fingerprint_changes_with_any_byte_of_an_annotation(corpus):
    """One digit of a box, one letter of a word: that file's hash alone is another; put back, it is the old one."""
    _, data = corpus
    before = fingerprints(data)
    assert {"data.ace.dev", "data.imsitu.train", "data.imsitu.space", "data.test_objects"} <= set(before)
    assert all(len(value) == 64 for value in before.values())
    paths = {"data.ace.train": data.ace.train, "data.imsitu.train_boxes": data.imsitu.train_boxes}
    paths["data.test"] = sorted(data.test.glob("*.json"))[-1]
    for name, path in paths.items():
        whole = path.read_bytes()
        path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
        after = fingerprints(data)
        assert {key for key in before if before[key] != after[key]} - {"data.test_objects"} == {name}
        path.write_bytes(whole)
    assert fingerprints(data) == before


def test_the_fingerprint_leaves_images_out(corpus):
    """Another image's bytes, one image fewer, another root: what the annotations say is the same."""
    folder, data = corpus
    before = fingerprints(data)
    assert "data.imsitu.images" not in before and "data.root" not in before
    first, second, *_ = sorted(data.imsitu.images.iterdir())
    first.write_bytes(b"other")
    second.unlink()
    assert fingerprints(data) == before
    moved = folder.with_name("moved")
    folder.rename(moved)
    assert fingerprints(load("xmtl_smoke", [f"data.root={moved}"]).data) == before


def test_the_fingerprint_counts_the_names_in_a_folder(corpus):
    """The same bytes under another name are another folder; a file of no annotations is none."""
    _, data = corpus
    before = fingerprints(data)
    (data.test / "notes.md").write_text("not an annotation")
    assert fingerprints(data) == before
    (data.test / "more.json").write_text(json.dumps({}))
    after = fingerprints(data)
    (data.test / "more.json").rename(data.test / "most.json")
    assert len({before["data.test"], after["data.test"], fingerprints(data)["data.test"]}) == 3
