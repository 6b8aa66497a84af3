"""imSitu joined with SWiG, and the refinement to M2E2's events."""

import json
import tracemalloc

import pytest

from xmtl_ray.data import imsitu
from xmtl_ray.events import json_window
from xmtl_ray.events.ontology import VerbMap
from xmtl_ray.events.records import Box, DataError, DetectedObject, Image, Situation, VisualArgument, VisualEvent

VERBS = VerbMap(
    {"holding": "Justice:Arrest-Jail"},
    {("holding", "agent"): "Agent", ("holding", "held"): "Person", ("holding", "tool"): "None"},
)
ABSENT = [-1, -1, -1, -1]


@pytest.fixture
def folder(tmp_path):
    """Two images, with one verb that shows an event and one that does not."""
    frames = [
        {"agent": "n1", "held": "n2", "tool": ""},
        {"agent": "n3", "held": "n4", "tool": ""},
        {"agent": "n3", "held": "n2", "tool": ""},
    ]
    nap = [{"agent": "n1", "place": "n5"}]
    held_boxes = {"agent": [10, 20, 30, 40], "held": [5.5, 6, 7, 8], "tool": ABSENT}
    files = {
        "train": {
            "holding_1.jpg": {"verb": "holding", "frames": frames},
            "napping_2.jpg": {"verb": "napping", "frames": nap},
        },
        "boxes": {
            "holding_1.jpg": {"verb": "holding", "width": 50, "height": 50, "bb": held_boxes, "frames": frames},
            "napping_2.jpg": {"verb": "napping", "width": 50, "height": 50, "bb": {"agent": ABSENT, "place": ABSENT}},
        },
        "space": {
            "nouns": {},
            "verbs": {"holding": {"order": ["agent", "held", "tool"]}, "napping": {"order": ["agent", "place"]}},
        },
    }
    for name, body in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(body), encoding="utf-8")
    return tmp_path


def change(folder, name, edit):
    path = folder / f"{name}.json"
    body = json.loads(path.read_text(encoding="utf-8"))
    edit(body)
    path.write_text(json.dumps(body), encoding="utf-8")


def read(folder):
    names = (folder / f"{name}.json" for name in ("train", "boxes"))
    return imsitu.read(*names, folder / "images", folder / "space.json")


def test_read(folder):
    """Boxes join by image name, four -1 are no box, and a role's noun is the majority's."""
    first, second = read(folder)
    assert first.image == Image("holding_1", folder / "images" / "holding_1.jpg")
    assert first.verb == "holding"
    assert first.grounding == (("agent", Box(10, 20, 30, 40)), ("held", Box(5.5, 6, 7, 8)), ("tool", None))
    assert first.nouns == (("agent", "n3"), ("held", "n2"))
    assert second.grounding == (("agent", None), ("place", None))


def test_memory_does_not_grow_with_the_file(folder, monkeypatch):
    """Four times the records, the same peak but for hashes of their names; kept, they would take 3 KB each."""
    monkeypatch.setattr(json_window, "_CHUNK", 1 << 12)
    bodies = {name: json.loads((folder / f"{name}.json").read_text())["holding_1.jpg"] for name in ("train", "boxes")}

    def peak(count):
        for name, body in bodies.items():
            many = json.dumps({f"holding_{number}.jpg": body for number in range(count)})
            (folder / f"{name}.json").write_text(many)
        tracemalloc.start()
        names = (folder / f"{name}.json" for name in ("train", "boxes"))
        assert sum(1 for _ in imsitu.stream(*names, folder / "images", folder / "space.json")) == count
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    # Two hashes are 48 bytes at most; Python's own table of interned names, which pathlib fills, takes a megabyte once.
    assert peak(4000) - peak(1000) < (1 << 20) + 3000 * 64


def test_an_order_of_its_own(folder):
    """The boxes in another order than the annotations give the same situations."""
    change(folder, "boxes", lambda body: body.update(dict(reversed([(k, body.pop(k)) for k in list(body)]))))
    assert {found.image.id for found in read(folder)} == {"holding_1", "napping_2"}


def test_bad_records_are_left_out(folder):
    """A bad record is reported once, whichever file has it, and so is one without its boxes."""
    change(folder, "train", lambda body: body.update(x=body["holding_1.jpg"], y={"verb": 1}))
    change(folder, "boxes", lambda body: body.update(y=body["holding_1.jpg"], z={"verb": "holding"}))
    errors = []
    names = (folder / f"{name}.json" for name in ("train", "boxes"))
    assert len(imsitu.read(*names, folder / "images", on_error=errors.append)) == 2
    assert sorted(str(error).split("record ")[1][:3] for error in errors) == ["'x'", "'y'", "'z'"]


def test_missing_images(folder):
    """Reading needs no pixels; which files are missing is a question of its own."""
    images = [situation.image for situation in read(folder)]
    (folder / "images").mkdir()
    (folder / "images" / "napping_2.jpg").touch()
    assert imsitu.missing_images(images) == (folder / "images" / "holding_1.jpg",)
    assert imsitu.missing_images([Image("no path", None)]) == ()


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("boxes", lambda b: b.pop("napping_2.jpg"), r"boxes.json: record 'napping_2.jpg': .* found 'nothing'"),
        ("train", lambda b: b.pop("napping_2.jpg"), r"boxes.json: record 'napping_2.jpg': .* only images of .*train"),
        ("boxes", lambda b: b["holding_1.jpg"].update(verb="x"), r"'holding_1.jpg': verb: found 'x', expected 'hold"),
        (
            "boxes",
            lambda b: b["holding_1.jpg"]["bb"].pop("tool"),
            r"train.json: record 'holding_1.jpg': frames.0: found \['agent', 'held', 'tool'\], expected the roles",
        ),
        (
            "boxes",
            lambda b: b["holding_1.jpg"]["bb"].update(held=[7, 6, 7, 8]),
            r"boxes.json: record 'holding_1.jpg': bb.held: found \[7, 6, 7, 8\], expected x0, y0, x1, y1 with x1 > x0",
        ),
        ("boxes", lambda b: b["holding_1.jpg"]["bb"].update(held=[1, 2, 3]), r"record 'holding_1.jpg': bb.held.3"),
        ("space", lambda b: b["verbs"].pop("napping"), r"'napping_2.jpg': verb: found 'napping', expected one of the"),
        (
            "space",
            lambda b: b["verbs"]["napping"].update(order=["agent"]),
            r"'napping_2.jpg': frames: found 'place', expected a role of 'napping'",
        ),
    ],
)
def test_errors_say_where(folder, name, edit, message):
    """Either file may be at fault: the message names it with record, field, found and expected."""
    change(folder, name, edit)
    with pytest.raises(DataError, match=message):
        read(folder)


@pytest.mark.parametrize("name", ["../escape.jpg", "/etc/escape.jpg", "a/../../escape.jpg", "..", "."])
def test_image_names_stay_inside_the_folder(folder, name):
    """A name that leads out of the images' folder is an error, however it is written."""
    for file in ("train", "boxes"):
        change(folder, file, lambda body: body.update({name: body.pop("holding_1.jpg")}))
    with pytest.raises(DataError, match=r"image name: found .* expected a relative path"):
        read(folder)


def test_a_name_in_a_subfolder_is_inside(folder):
    """Folders below the images' folder are the user's business."""
    for file in ("train", "boxes"):
        change(folder, file, lambda body: body.update({"a/holding_1.jpg": body.pop("holding_1.jpg")}))
    assert read(folder)[1].image.path == folder / "images" / "a" / "holding_1.jpg"


def test_refine(folder):
    """Only mapped verbs stay; only mapped roles with a box are arguments; the paper keeps no other image."""
    (image,) = imsitu.refine(read(folder), VERBS)
    arguments = (VisualArgument("Agent", Box(10, 20, 30, 40)), VisualArgument("Person", Box(5.5, 6, 7, 8)))
    assert image.events == (VisualEvent("Justice:Arrest-Jail", arguments),)
    assert [item.label for item in image.objects] == ["agent", "held"]


def situation(name, verb, **boxes):
    return Situation(Image(name, None), verb, tuple(boxes.items()))


def test_boxes_of_unmapped_roles_are_objects_only():
    """Both ways to be unmapped, absent from the map and mapped to None, give a None example of role classification."""
    boxes = {"tool": Box(0, 0, 1, 1), "place": Box(0, 0, 2, 2), "agent": Box(0, 0, 3, 3)}
    (image,) = imsitu.refine([situation("a", "holding", **boxes)], VERBS)
    assert image.events[0].arguments == (VisualArgument("Agent", Box(0, 0, 3, 3)),)
    assert {item.label for item in image.objects} == {"tool", "place", "agent"}
    assert {item.confidence for item in image.objects} == {1.0}


def test_a_box_of_two_roles_is_one_object():
    """SWiG grounds two roles in one box at times: it must not be a Person and a None example at once."""
    box = Box(0, 0, 3, 3)
    (image,) = imsitu.refine([situation("a", "holding", tool=box, held=box)], VERBS)
    assert image.objects == (DetectedObject(box, "held", 1.0),)


def test_negatives_are_a_seeded_share():
    """A quarter of eight unmapped images is two; the same seed takes the same ones, another seed others."""
    many = [situation(f"n{number}", "napping", agent=Box(0, 0, 1, 1)) for number in range(8)]
    many.insert(3, situation("h", "holding"))
    assert imsitu.refine(many, VERBS, keep_unmapped=1.0) != imsitu.refine(many, VERBS)
    assert [image.id for image in imsitu.refine(many, VERBS, keep_unmapped=1.0)] == [s.image.id for s in many]
    picks = {tuple(image.id for image in imsitu.refine(many, VERBS, 0.25, seed)) for seed in (1, 1, 2, 3, 4, 5)}
    assert all(len(ids) == 3 and "h" in ids for ids in picks)
    assert len(picks) > 1
    assert imsitu.refine(many, VERBS, 0.25, 1) == imsitu.refine(many, VERBS, 0.25, 1)
    negatives = [image for image in imsitu.refine(many, VERBS, 0.25) if image.id != "h"]
    assert all(image.events == () and len(image.objects) == 1 for image in negatives)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_from_0_to_1(share):
    """The message names the setting and what was found."""
    with pytest.raises(ValueError, match=r"keep_unmapped: found .* expected a share from 0 to 1"):
        imsitu.refine([], VERBS, share)
