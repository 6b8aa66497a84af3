"""Media that cannot be read are found before anything starts; a few are left out with the reason, many are an error."""

import os
import shutil

import pytest
import torch.distributed as dist
import torch.multiprocessing as processes
from PIL import Image as Picture

from xmtl_ray.events.records import Conversation, Media, Turn
from xmtl_ray.generative.media_check import Refused, readable


def about(name: str, kind: str, path: str | None) -> Conversation:
    return Conversation(name, (Turn("what?", "this"),), media=None if path is None else Media(kind, path))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, corpus, conversations):
    """Media that are whole, and what may be wrong with others."""
    root = tmp_path_factory.mktemp("media")
    outside = root.parent / "secret.png"
    Picture.new("RGB", (9, 9)).save(outside)
    picture = Picture.frombytes("RGB", (64, 64), os.urandom(3 * 64 * 64))
    picture.save(root / "good.png")
    picture.save(root / "good.jpg")
    (root / "cut.jpg").write_bytes((root / "good.jpg").read_bytes()[:1500])
    (root / "text.png").write_text("no picture")
    (root / "empty.png").touch()
    (root / "link.png").symlink_to(outside)
    shutil.copy(root / "good.png", root / "inside.png")
    (root / "near.png").symlink_to(root / "inside.png")
    video = (corpus / conversations["video"][0].media.path).read_bytes()
    (root / "good.mp4").write_bytes(video)
    (root / "cut.mp4").write_bytes(video[: len(video) // 3])
    (root / "link.mp4").symlink_to(outside)
    frames = [Picture.new("RGB", (16, 16), (40 * number, 0, 0)) for number in range(5)]
    frames[0].save(root / "good.gif", save_all=True, append_images=frames[1:])
    for name in ("frames", "broken", "nothing"):
        (root / name).mkdir()
    for number, frame in enumerate(frames):
        frame.save(root / "frames" / f"{number}.png")
        frame.save(root / "broken" / f"{number}.png")
    (root / "broken" / "3.png").write_text("no picture")
    (root / "linked").symlink_to(root.parent)
    return root


WHOLE = [
    about("text", "", None),
    about("image", "image", "good.png"),
    about("link inside", "image", "near.png"),
    about("video", "video", "good.mp4"),
    about("animation", "video", "good.gif"),
    about("frames", "video", "frames"),
]

BROKEN = {
    "cut image": ("image", "cut.jpg", "readable image", False),
    "text for an image": ("image", "text.png", "readable image", True),
    "empty image": ("image", "empty.png", "readable image", True),
    "no image": ("image", "none.png", "no such file", True),
    "a folder for an image": ("image", "frames", "a folder", True),
    "a link out": ("image", "link.png", "a file inside", True),
    "a path out": ("image", "../secret.png", "a file inside", True),
    "cut video": ("video", "cut.mp4", "cut.mp4", False),
    "no video": ("video", "none.mp4", "no such file", True),
    "an image for a video": ("video", "good.png", "container", False),
    "a video linked out": ("video", "link.mp4", "a file inside", True),
    "a video's path out": ("video", "../secret.png", "a file inside", True),
    "a broken frame": ("video", "broken", "3.png", False),
    "no frame": ("video", "nothing", "a folder of images", True),
    "frames out": ("video", "linked", "a file inside", True),
    "a sound": ("audio", "good.mp4", "do not hear", True),
}


@pytest.mark.parametrize("check", ["full", "quick"])
def test_whole_media_pass(folder, check):
    """Texts, images, containers, animations, folders of frames, and a link that stays inside."""
    assert readable(WHOLE, folder, check, 0.0) == []


@pytest.mark.parametrize("name", BROKEN)
def test_each_kind_of_unreadable_medium(folder, name):
    """Left out with its id, its medium and the reason; what shows in the pixels alone only the full check sees."""
    kind, path, reason, at_once = BROKEN[name]
    one = about(name, kind, path)
    (refused,) = readable([*WHOLE, one], folder, "full", 0.5)
    assert (refused.id, refused.medium) == (name, path) and reason in refused.reason
    assert len(readable([*WHOLE, one], folder, "quick", 0.5)) == at_once
    assert readable([*WHOLE, one], folder, "none", 0.0) == []


def test_all_of_them_in_one_order(folder):
    """By id, whatever the order of the conversations is."""
    everything = [*WHOLE, *(about(name, kind, path) for name, (kind, path, *_) in BROKEN.items())]
    found = readable(everything, folder, "full", 1.0)
    assert [one.id for one in found] == sorted(BROKEN) and all(isinstance(one, Refused) for one in found)
    assert readable(everything[::-1], folder, "full", 1.0) == found


def test_how_many_may_be_left_out(folder):
    """Of all conversations, texts too: one of six is more than 16 percent, not more than 17."""
    some = [*WHOLE[:5], about("bad", "image", "none.png")]
    assert len(readable(some, folder, "quick", 0.17)) == 1
    with pytest.raises(ValueError, match=r"data\.max_quarantined: 1 of 6 .* at most 16\.0% may; first: bad: .*none"):
        readable(some, folder, "quick", 0.16)


def _rank(rank: int, folder, store: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    everything = [*WHOLE, *(about(name, kind, path) for name, (kind, path, *_) in BROKEN.items())]
    assert readable(everything, folder, "quick", 1.0, rank, 2) == readable(everything, folder, "quick", 1.0)
    with pytest.raises(ValueError, match=r"data.max_quarantined"):
        readable(everything, folder, "quick", 0.1, rank, 2)
    dist.destroy_process_group()


def test_workers_agree(folder, tmp_path):
    """Each of two looks at its half, both know all: the list, and the error."""
    processes.start_processes(_rank, (folder, str(tmp_path / "store")), nprocs=2, start_method="fork")
