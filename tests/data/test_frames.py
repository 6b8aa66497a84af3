"""Frames of videos: the numbers of the original, the frames behind the numbers, and no more decoding than needed."""

import gc
import json
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from PIL import Image as Picture

from xmtl_ray.data import frames, video_child, videos
from xmtl_ray.events.records import DataError

X264 = {"g": "12", "bf": "3", "preset": "veryfast", "sc_threshold": "0"}
OPEN_GOP = {"x264-params": "open-gop=1:keyint=12:bframes=3:b-adapt=0", "preset": "veryfast"}
FILES = {
    "b-frames.mp4": ("libx264", X264),
    "b-frames.mkv": ("libx264", X264),
    "b-frames.mov": ("libx264", X264),
    "one-keyframe.mp4": ("libx264", {"g": "250", "preset": "veryfast"}),
    "keyframes-only.mp4": ("libx264", {"g": "1", "preset": "veryfast"}),
    "short-stretches.mp4": ("libx264", {"g": "3", "bf": "2", "preset": "veryfast"}),
    "open-gop.mp4": ("libx264", OPEN_GOP),
    "open-gop.mkv": ("libx264", OPEN_GOP),
    "refreshed.mp4": ("libx264", {"x264-params": "keyint=20:intra-refresh=1", "preset": "veryfast"}),
    "h265.mp4": ("libx265", {"x265-params": "keyint=12:open-gop=1:bframes=3:log-level=none", "preset": "ultrafast"}),
    "vp9.webm": ("libvpx-vp9", {"g": "12", "cpu-used": "8", "deadline": "realtime"}),
    "vp8.webm": ("libvpx", {"g": "12", "cpu-used": "8", "deadline": "realtime"}),
    "mpeg4.avi": ("mpeg4", {"g": "12"}),
    "mpeg4-b-frames.avi": ("mpeg4", {"g": "12", "bf": "2"}),
    "h264.avi": ("libx264", X264 | {"bf": "0"}),
    "h264-b-frames.avi": ("libx264", X264),
    "live.mkv": ("libx264", X264, {"live": "1"}),
    "fragments.mp4": ("libx264", X264, {"movflags": "frag_keyframe+empty_moov"}),
    "odd-size.mp4": ("libx264", X264),
    "other-times.mkv": ("libx264", X264),
    "other-times.mp4": ("libx264", X264),
}
COUNT = 60


def picture(number: int, width=128, height=72) -> np.ndarray:
    """The number as eight black or white cells along the top edge, most significant left; noise that moves below."""
    array = np.random.default_rng(0).integers(64, 192, (height, width, 3), dtype=np.uint8)
    array = np.roll(array, number, axis=1)
    for bit in range(8):
        array[: height // 4, bit * width // 8 : (bit + 1) * width // 8] = 255 * (number >> (7 - bit) & 1)
    return array


def number_in(image: Picture.Image) -> int:
    """What ``picture`` wrote into the frame."""
    top = np.asarray(image.convert("L"))[image.height // 10]
    cells = [top[(2 * bit + 1) * image.width // 16] > 128 for bit in range(8)]
    return int("".join(str(int(cell)) for cell in cells), 2)


def write(path: Path, codec: str, options: dict, muxer: dict | None = None, count=COUNT) -> Path:
    """``count`` frames, 10 a second; for names with ``other-times`` 40 to 129 ms apart; with ``odd`` of odd sides."""
    odd, varying = "odd" in path.name, "other-times" in path.name
    with av.open(str(path), "w", options=muxer or {}) as container:
        video = container.add_stream(codec, rate=10, options=options)
        video.width, video.height, video.pix_fmt = (125, 71, "yuv444p") if odd else (128, 72, "yuv420p")
        if varying:
            video.codec_context.time_base = Fraction(1, 1000)
        at = 0
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number, video.width, video.height), format="rgb24")
            if varying:
                frame.pts, frame.time_base = at, Fraction(1, 1000)
                at += 40 + number * 37 % 90
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return path


def remux(source: Path, target: Path, change, options: dict | None = None) -> Path:
    """A copy of the first stream's packets; ``change`` may return other ones, or None."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=options or {}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for place, packet in enumerate(p for p in old.demux(video=0) if p.size):
            changed = change(place, packet)
            if changed is not None:
                changed.stream = stream
                new.mux(changed)
    return target


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One file of each kind."""
    place = tmp_path_factory.mktemp("films")
    for name, (codec, options, *muxer) in FILES.items():
        write(place / name, codec, options, *muxer)
    return place


def taken(path: Path, numbers: list[int], **limits) -> tuple[list[Picture.Image], int]:
    """The frames of these numbers, and how many were decoded for them."""
    found = list(videos.decode(path, lambda _: numbers, videos.Limits(**limits)))
    assert [frame.number for frame in found] == numbers
    return [frame.image for frame in found], found[-1].decoded


# --- numbers


def test_numbers_equal_the_originals(shared):
    """Every pair of duration and number, or duration and rate, of the vectors."""
    stored = json.loads((shared / "vectors/videollama2/preprocess/frame_sampling.json").read_text())
    assert stored["uniform"] and stored["one_per_second"]
    for case in stored["uniform"]:
        assert frames.uniform(case["duration"], case["num_frames"]) == case["indices"]
        assert frames.choose(case["duration"], 25, case["num_frames"]) == case["indices"]
    for case in stored["one_per_second"]:
        assert frames.one_per_second(case["duration"], case["fps"]) == case["indices"]


def test_numbers_and_frames_of_the_cases_are_the_originals(shared):
    """By the rate and length of each file, and by the cells that its frames carry."""
    root = shared / "vectors/videollama2"
    cases = json.loads((root / "preprocess/cases.json").read_text())["cases"]
    seen = 0
    for case in cases:
        if case["frame_indices"] is None or case["name"].startswith("up_"):
            continue
        args, facts = case["args"], case["extra"]
        window = (args["s"], args["e"]) if "s" in args else None
        fps = facts.get("average_fps") or facts["assumed_fps"]
        assert frames.choose(facts["num_frames_in_file"], fps, args["num_frames"], window) == case["frame_indices"]
        images = frames.read_frames(root / "media" / case["source"], args["num_frames"], window)
        if case["source"] != "frames_10":  # images without cells; test_pixels knows them
            assert [number_in(image) for image in images] == case["frame_indices"]
        seen += 1
    assert seen == 14


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ((None, None), range(100)),
        ((2.0, 4.0), range(19, 40)),
        ((4.0, 2.0), range(19, 40)),
        ((-3.0, -1.0), range(10)),
        ((0.0, 0.0), range(10)),
        ((3.0, 3.0), range(29, 40)),
        ((2.0, None), range(19, 100)),
        ((None, 2.0), range(20)),
        ((8.0, 99.0), range(79, 100)),
        ((50.0, 60.0), range(499, 100)),
    ],
)
def test_windows(window, expected):
    """100 frames at 10 a second, by hand; one end alone is not adjusted."""
    assert list(frames.in_window(100, 10.0, window)) == list(expected)


def test_most_frames():
    """One a second stops at 32; a number must be 1 to 32; a rate below one takes each frame; a window may be empty."""
    assert frames.choose(1000, 10, None) == list(range(5, 325, 10))
    assert frames.choose(3, 0.5, None) == [0, 1, 2]
    assert frames.choose(10, 10, 4, (5, 6)) == []
    for wanted in (0, 33):
        with pytest.raises(ValueError, match=f"not {wanted}"):
            frames.choose(10, 10, wanted)
    with pytest.raises(ValueError, match="finite"):
        frames.choose(10, 10, 4, (0, float("inf")))


# --- frames


@pytest.mark.parametrize("name", FILES)
def test_frames_are_those_of_the_numbers(folder, name):
    """Cells in the frames say which they are, wherever keyframes, B-frames and times lie; all equal plain decoding."""
    with av.open(str(folder / name)) as container:
        plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(plain) == COUNT
    for numbers in ([0], [59], [13], [0, 1, 2], [11, 12], [3, 7, 16, 29, 41, 59], list(range(60))):
        images, decoded = taken(folder / name, numbers)
        assert [number_in(image) for image in images] == numbers
        for number, image in zip(numbers, images, strict=True):
            assert np.array_equal(np.asarray(image), plain[number])
        assert decoded >= len(numbers)


@pytest.mark.parametrize("name", ["b-frames.mp4", "open-gop.mkv", "vp9.webm", "mpeg4.avi", "other-times.mkv"])
def test_a_short_stretch_is_decoded_for_a_frame(folder, name):
    """The keyframe before it, what lies between, and up to five that the codec needs or that were decoded at first."""
    _, decoded = taken(folder / name, [50])
    assert decoded <= 12 + 5


def test_far_fewer_frames_are_decoded_than_there_are(tmp_path):
    """600 frames with a keyframe every 25: 8 frames cost at most 8 stretches, on average half of each."""
    path = write(tmp_path / "long.mp4", "libx264", X264 | {"g": "25"}, count=600)
    images, decoded = taken(path, frames.uniform(600, 8))
    assert [number_in(image) for image in images] == [number % 256 for number in frames.uniform(600, 8)]
    assert decoded <= 8 * 25 * 0.75
    assert taken(path, [575])[1] <= 5  # a keyframe


def test_repeated_frames_are_decoded_once(folder):
    """16 of 4 frames at the start of a video: the same image where the number is the same."""
    images = frames.read_frames(folder / "b-frames.mp4", 16, (0.0, 0.4))
    assert [number_in(image) for image in images] == [0] * 3 + [1] * 5 + [2] * 5 + [3] * 3
    assert len({id(image) for image in images}) == 4


def test_a_keyframe_that_is_none_is_seen_through(folder, tmp_path):
    """Every sixth packet claims to be a keyframe: from there nothing whole comes out, so all is decoded."""

    def claim(place, packet):
        packet.is_keyframe = packet.is_keyframe or place % 6 == 0
        return packet

    path = remux(folder / "one-keyframe.mp4", tmp_path / "a.mkv", claim)
    images, decoded = taken(path, [5, 33, 47])
    assert [number_in(image) for image in images] == [5, 33, 47]
    assert decoded > 47


def test_hidden_frames_do_not_count(folder, tmp_path):
    """VP8's frames that are never shown: with three of them hidden the others move up, and nothing is missing."""
    hidden = {20, 30, 41}

    def hide(place, packet):
        if place not in hidden:
            return packet
        body = bytearray(bytes(packet))
        body[0] &= ~0x10
        changed = av.Packet(bytes(body))
        changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
        changed.is_keyframe = packet.is_keyframe
        return changed

    path = remux(folder / "vp8.webm", tmp_path / "a.webm", hide)
    shown = [number for number in range(COUNT) if number not in hidden]
    assert videos.probe(path).frames == len(shown)
    images, _ = taken(path, list(range(len(shown))))
    assert [number_in(image) for image in images] == shown


def test_frames_before_the_cut_do_not_count(folder, tmp_path):
    """An edit list that cuts the first frames off; and a file that begins in the middle of a stretch."""

    def earlier(place, packet):
        shift = round(Fraction(5, 10) / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        return packet

    cut = remux(folder / "b-frames.mp4", tmp_path / "a.mp4", earlier, {"avoid_negative_ts": "disabled"})
    images, _ = taken(cut, [0, 1, 20, 54])
    assert [number_in(image) for image in images] == [5, 6, 25, 59]
    middle = remux(folder / "b-frames.mkv", tmp_path / "b.mkv", lambda place, packet: packet if place >= 7 else None)
    images, _ = taken(middle, [0, 1, 47])
    assert [number_in(image) for image in images] == [12, 13, 59]


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [((0, 1, -1, 0), Picture.Transpose.ROTATE_270), ((-1, 0, 0, -1), Picture.Transpose.ROTATE_180),
     ((0, -1, 1, 0), Picture.Transpose.ROTATE_90)],
)  # fmt: skip
def test_a_telephones_video_stands_upright(folder, tmp_path, matrix, turn):
    """The track header's matrix (ISO 14496-12, 8.3.2) turns by a quarter clockwise, by a half, by three quarters."""
    body = bytearray((folder / "b-frames.mp4").read_bytes())
    at = body.index(b"tkhd") + 4 + 40
    for place, value in zip((0, 4, 12, 16), matrix, strict=True):
        body[at + place : at + place + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path = tmp_path / "a.mp4"
    path.write_bytes(body)
    ((image,), _), ((plain,), _) = taken(path, [9]), taken(folder / "b-frames.mp4", [9])
    assert np.array_equal(np.asarray(image), np.asarray(plain.transpose(turn)))


# --- GIFs and folders


def gif(path: Path, count: int) -> Path:
    first, *rest = (Picture.fromarray(picture(number)) for number in range(count))
    first.save(path, "GIF", save_all=True, append_images=rest)
    return path


def test_a_gif_repeats_its_frames_unless_told_otherwise(tmp_path):
    """3 frames for 5: ours as of any video; the original's distinct frames, and black ones that lie on their sides."""
    path = gif(tmp_path / "a.mp4", 3)  # the name says nothing
    assert frames.choose(3, 25, 5) == [0, 1, 1, 1, 2]
    assert [number_in(image) for image in frames.read_frames(path, 5)] == [0, 1, 1, 1, 2]
    original = frames.read_frames(path, 5, original=True)
    assert [number_in(image) for image in original[:3]] == [0, 1, 2]
    assert [image.size for image in original[3:]] == [(72, 128), (128, 72)]
    assert all(image.getextrema() == ((0, 0),) * 3 for image in original[3:])


def test_frames_that_are_not_sampled_are_filled_and_cut():
    """Black ones of the last one's size; never more than 32."""
    image = Picture.new("RGB", (4, 2), "white")
    assert [(each.size, each.getpixel((0, 0))[0]) for each in frames.fill([image], 3)] == [
        ((4, 2), 255), ((4, 2), 0), ((4, 2), 0),
    ]  # fmt: skip
    assert len(frames.fill([image] * 40, 8)) == len(frames.fill([image] * 2, 99)) == 32


def test_a_folder_of_images_is_a_video(tmp_path):
    """By name, three a second; what is no image does not count."""
    place = tmp_path / "film"
    place.mkdir()
    for number in range(9):
        Picture.fromarray(picture(number)).save(place / f"{number:03}.png")
    (place / "notes.txt").write_text("no frame")
    assert [number_in(image) for image in frames.read_frames(place, 3, root=tmp_path)] == frames.uniform(9, 3)
    assert [number_in(image) for image in frames.read_frames(place, None)] == [1, 4, 7]
    assert [number_in(image) for image in frames.read_frames(place, 2, (1.0, 2.0))] == [3, 4]


def test_hashes_follow_the_content(tmp_path):
    """Of a file its bytes; of a folder its images' names and bytes."""
    first, second = gif(tmp_path / "a.gif", 2), gif(tmp_path / "b.gif", 3)
    place = tmp_path / "film"
    place.mkdir()
    Picture.new("RGB", (4, 4)).save(place / "a.png")
    before = frames.content_hash(place)
    (place / "notes.txt").write_text("no frame")
    assert frames.content_hash(place) == before
    (place / "a.png").rename(place / "b.png")
    assert len({before, frames.content_hash(place), frames.content_hash(first), frames.content_hash(second)}) == 4
    second.write_bytes(first.read_bytes())
    assert frames.content_hash(first) == frames.content_hash(second)


# --- what is wrong


def refused(path: Path, match: str | None = None, root: Path | None = None, window=None, **limits) -> None:
    with pytest.raises(DataError, match=match) as caught:
        frames.read_frames(path, 8, window, videos.Limits(**limits), root)
    assert str(path) in str(caught.value)


FILLED = {
    "nothing": b"",
    "a playlist": b"#EXTM3U\nhttp://127.0.0.1/\n",
    "an image": b"\x89PNG\r\n\x1a\n" + bytes(50),
    "random": np.random.default_rng(1).bytes(5000),
    "the start of a GIF": b"GIF89a" + b"\xff" * 20,
}


@pytest.mark.parametrize("name", FILLED)
def test_what_is_no_video_is_refused(name, tmp_path):
    """Whatever the name ends in."""
    path = tmp_path / "a.mp4"
    path.write_bytes(FILLED[name])
    refused(path)


@pytest.mark.parametrize("limit", ["file_mib", "seconds", "frames", "pixels"])
def test_limits_hold(folder, limit):
    """60 frames of 128 x 72, 6 seconds."""
    refused(folder / "b-frames.mp4", **{limit: {"file_mib": 0, "seconds": 5, "frames": 59, "pixels": 9000}[limit]})


def test_a_window_without_frames_is_refused(folder, tmp_path):
    """Of a video and of a GIF; the error says what there is."""
    refused(folder / "b-frames.mp4", "60 frames, 10 a second", window=(7, 8))
    refused(gif(tmp_path / "a.gif", 3), "3 frames, 25 a second", window=(7, 8))


def test_cut_files_are_refused(folder, tmp_path):
    """Half of each kind of container; a sound without pictures."""
    for name in ("b-frames.mp4", "b-frames.mkv", "vp9.webm", "mpeg4.avi"):
        body = (folder / name).read_bytes()
        (tmp_path / name).write_bytes(body[: len(body) // 2])
        refused(tmp_path / name)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=16000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 16000
        container.mux(sound.encode(samples))
        container.mux(sound.encode())
    refused(tmp_path / "sound.mp4", "a video stream")


def test_a_gif_has_at_most_a_thousand_frames(tmp_path):
    """It is refused while its frames are counted."""
    first, *rest = (Picture.new("L", (2, 2), number % 2 * 255) for number in range(1100))
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest)
    refused(tmp_path / "a.gif", "at most 1000 frames")


def test_only_regular_files_inside_the_root_are_read(folder, tmp_path):
    """No link that leads out, of a file or a folder; no device, no pipe; nothing that is not there; no empty folder."""
    root, out = tmp_path / "in", tmp_path / "out"
    root.mkdir()
    out.mkdir()
    Picture.new("RGB", (4, 4)).save(out / "a.png")
    for name, target in {"link": folder / "b-frames.mp4", "device": "/dev/zero", "folder": out}.items():
        (root / name).symlink_to(target)
        if name == "folder":
            with pytest.raises(DataError, match="a file inside"):
                frames.read_frames(root / name, 8, root=root)
        else:
            refused(root / name, "a file inside", root)
    os.mkfifo(root / "pipe")
    refused(root / "pipe", "regular file", root)
    refused(root / "missing", "no such file", root)
    (root / "empty").mkdir()
    refused(root / "empty", "no image", root)


def test_mutated_videos_give_frames_or_a_refusal(folder, tmp_path):
    """30 seeded mutations in the data, not the header: whole frames or a DataError, never anything else."""
    rng = np.random.default_rng(5)
    names, outcomes = sorted(FILES), []
    for place in range(30):
        body = bytearray((folder / names[place % len(names)]).read_bytes())
        for at in rng.integers(len(body) // 4, len(body), 1 + place % 3):
            body[at] = rng.integers(0, 256)
        path = tmp_path / "a.bin"
        path.write_bytes(body)
        try:
            outcomes.append(len(frames.read_frames(path, 8)))
        except DataError:
            outcomes.append(0)
    assert set(outcomes) == {0, 8}


def test_a_broken_picture_is_no_picture(folder, tmp_path):
    """Its data is noise: that frame is refused, those before it are not."""

    def spoil(place, packet):
        if place != 40:
            return packet
        body = bytes(packet)
        changed = av.Packet(body[:8] + np.random.default_rng(0).bytes(len(body) - 8))
        changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
        return changed

    path = remux(folder / "b-frames.mkv", tmp_path / "a.mkv", spoil)
    assert len(taken(path, list(range(30)))[0]) == 30
    with pytest.raises(DataError):
        taken(path, list(range(60)))


LINE = "{'frame': 3, 'width': SIDE, 'height': SIDE, 'turn': 0, 'decoded': 1}"
HARMS = {
    "cpu": ("while True: pass", "its reader died"),
    "memory": ("[bytearray(1 << 20) for _ in range(2000)]", "memory: found 'too much of it'"),
    "wall": ("import time; time.sleep(99)", "found 'no end'"),
    "wall after a frame": ("yield from film.first(wanted); import time; time.sleep(99)", "found 'no end'"),
    "file": ("open('/etc/hostname')", "Too many open files"),
    "socket": ("import socket; socket.socket()", "Too many open files"),
    "crash": ("import os; os.kill(os.getpid(), 11)", "its reader died .status -11"),
    "another frame": ("yield from film.first([wanted[1]])", "its reader died"),
    "half a frame": (f"video_child.say({LINE.replace('SIDE', '9')})", "its reader died"),
    "a huge frame": (f"video_child.say({LINE.replace('SIDE', '10**6')})", "its reader died"),
    "a negative frame": (f"video_child.say({LINE.replace('SIDE', '-9')})", "its reader died"),
    "no JSON": ("sys.stdout.buffer.write(b'\\xff' * 99)", "its reader died"),
    "no line": ("sys.stdout.buffer.write(b' ' * (1 << 20))", "its reader died"),
    "deep JSON": ("sys.stdout.buffer.write(b'[' * 60000 + b'\\n')", "its reader died"),
}


@pytest.mark.parametrize("name", HARMS)
def test_a_child_gone_wild_is_stopped_and_not_believed(folder, tmp_path, monkeypatch, name):
    """Instead of decoding the child does harm; its limits hold, and the parent tells what happened."""
    harm, status = HARMS[name]
    wild = tmp_path / "wild.py"
    wild.write_text(
        f"import sys, time, socket\nsys.path.insert(0, {str(Path(video_child.__file__).parent)!r})\n"
        "import video_child\nold = video_child.pictures\n"
        "def pictures(file, format, film, times, wanted):\n"
        " film.first = lambda numbers: old(file, format, film, times, numbers[:1])\n"
        f" try:\n  {harm}\n except OSError as error:\n"
        "  raise video_child.Refused('harm', error.strerror, 'none') from None\n"
        " yield from ()\n"
        "video_child.pictures = pictures\nvideo_child.main()\n"
    )
    monkeypatch.setattr(videos.video_child, "__file__", str(wild))
    with pytest.raises(DataError, match=status):
        taken(folder / "b-frames.mp4", [3, 50], cpu_s=1, memory_mib=400, wall_s=1 if "wall" in name else 60)


def test_nobody_is_left_behind(folder):
    """A caller who stops after a frame leaves no process and no open file."""
    me = psutil.Process()
    gc.collect()
    before = me.num_fds()
    stream = frames.stream_frames(folder / "b-frames.mp4", 16)
    next(stream)
    assert me.children()
    stream.close()
    gc.collect()
    assert not me.children() and me.num_fds() == before
