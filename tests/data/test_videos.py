"""Video files that nobody checked: facts that were counted, or a refusal; no request, no other file, no hang."""

import http.server
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import av
import numpy as np
import pytest

from xmtl_ray.data import video_child, videos
from xmtl_ray.data.videos import VideoFacts
from xmtl_ray.events.records import DataError

CODECS = {"mp4": "h264", "mov": "mpeg4", "mkv": "h264", "webm": "vp9", "avi": "mpeg4"}
ENCODERS = {"h264": "libx264", "vp9": "libvpx-vp9", "mpeg4": "mpeg4"}


def write(path: Path, codec: str | None, frames=30, audio=False, **options) -> Path:
    """A video of 64 x 48 pixels at 10 frames a second, of noise so that its packets have a size."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", **options) as container:
        video = container.add_stream(ENCODERS[codec], rate=10) if codec else None
        if video:
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac", rate=16000) if audio else None
        if sound:
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            samples.sample_rate = 16000
            for start in range(0, 16000 * 5, 1024):
                samples.pts = start
                container.mux(sound.encode(samples))
            container.mux(sound.encode())
        if video:
            for _ in range(frames):
                picture = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(video.encode())
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """A good file of each container."""
    folder = tmp_path_factory.mktemp("whole")
    return {kind: write(folder / f"a.{kind}", codec).read_bytes() for kind, codec in CODECS.items()}


@pytest.mark.parametrize("kind", CODECS)
def test_facts_are_counted(whole, tmp_path, kind):
    """Five containers; the ending says nothing."""
    path = tmp_path / "a.bin"
    path.write_bytes(whole[kind])
    facts = videos.probe(path)
    assert facts == VideoFacts(pytest.approx(3), pytest.approx(10), 30, 64, 48, CODECS[kind])


def test_sound_and_subtitles_do_no_harm(tmp_path):
    """The first video stream counts; sound of five seconds beside pictures of three is no lie."""
    write(tmp_path / "a.mp4", "h264", audio=True)
    with av.open(str(tmp_path / "a.mp4")) as source, av.open(str(tmp_path / "b.mkv"), "w") as target:
        streams = {s.index: target.add_stream_from_template(s) for s in source.streams}
        target.add_stream("ass")
        for packet in source.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    for name in ("a.mp4", "b.mkv"):
        facts = videos.probe(tmp_path / name)
        assert (facts.frames, facts.seconds) == (30, pytest.approx(3, abs=0.05))


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data and len(old) == len(new)
    return data.replace(old, new)


def more_samples(data: bytes) -> bytes:
    """An mp4 whose tables promise 3000 frames where 30 are."""
    at = data.index(b"stts") + 4
    data = data[: at + 8] + struct.pack(">I", 3000) + data[at + 12 :]
    at = data.index(b"stsz") + 4
    return data[: at + 4] + struct.pack(">II", 200, 3000) + data[at + 12 :]


def longer_matroska(data: bytes) -> bytes:
    """A header that promises a thousand times the seconds."""
    at = data.index(b"\x44\x89\x88") + 3
    return data[:at] + struct.pack(">d", 1000 * struct.unpack(">d", data[at : at + 8])[0]) + data[at + 8 :]


def avi_of_frames(data: bytes) -> bytes:
    """A stream header that promises a million frames."""
    at = data.index(b"strh") + 8 + 32
    return data[:at] + struct.pack("<I", 10**6) + data[at + 4 :]


def mp4_of_another_size(data: bytes) -> bytes:
    """The sample entry promises 16384 pixels a side; the codec's own header knows better."""
    at = data.index(b"avc1", data.index(b"stsd")) + 28
    return data[:at] + struct.pack(">HH", 16384, 16384) + data[at + 4 :]


URL = b"http://127.0.0.1:PORT/"
TEXTS = {
    "an HLS playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n" + URL + b"a.ts\n#EXT-X-ENDLIST\n",
    "a concat list": b"ffconcat version 1.0\nfile '" + URL + b"a.mp4'\nfile '/etc/passwd'\n",
    "an SDP": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
    "a DASH manifest": b"<?xml version='1.0'?><MPD><Period><BaseURL>" + URL + b"</BaseURL></Period></MPD>",
    "a SMIL file": b"<smil><body><video src='" + URL + b"a.mp4'/></body></smil>",
    "an URL": URL,
    "a page": b"<html>Not found</html>",
    "an image": b"\xff\xd8\xff\xe0" + bytes(100),
    "nothing": b"",
    "random": np.random.default_rng(1).bytes(5000),
    "an AVI's first bytes and a playlist": b"RIFF\x00\x01\x00\x00AVI #EXTM3U\n" + URL,
    "an mp4's first bytes and a playlist": b"\0\0\0\x18ftypisom\0\0\0\0isommp42#EXTM3U\n#EXTINF:9,\n" + URL,
    "a Matroska's first bytes and noise": b"\x1aE\xdf\xa3" + np.random.default_rng(2).bytes(5000),
}
BROKEN = {
    **{f"half of {kind}": (kind, lambda data: data[: len(data) // 2]) for kind in CODECS},
    "nine tenths of avi": ("avi", lambda data: data[: len(data) * 9 // 10]),
    "the head of mkv": ("mkv", lambda data: data[:400]),
    "an mp4 without its index": ("mp4", lambda data: replaced(data, b"moov", b"xxxx")),
    "an mp4 of 3000 frames that has 30": ("mp4", more_samples),
    "a Matroska of 3000 seconds that has 3": ("mkv", longer_matroska),
    "an AVI of a million frames that has 30": ("avi", avi_of_frames),
    "an mp4 whose data is zeros": ("mp4", lambda data: data[:48] + bytes(len(data) // 2) + data[48 + len(data) // 2 :]),
}  # fmt: skip
STRANGE = ["audio only", "no frames", "a pipe", "a device", "a link out", "a folder", "a URL", "a sparse terabyte",
           "too many frames", "too many seconds", "too many pixels"]  # fmt: skip


@pytest.fixture(scope="module")
def server():
    """Counts requests; a playlist names it."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running.server_port, seen
        running.shutdown()


def refused(path, match=None, **limits) -> str:
    with pytest.raises(DataError, match=match) as caught:
        videos.probe(path, videos.Limits(**limits))
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_no_video_is_refused_and_asks_nobody(name, server, tmp_path):
    """Whatever the name ends in."""
    port, seen = server
    path = tmp_path / "a.mp4"
    path.write_bytes(TEXTS[name].replace(b"PORT", str(port).encode()))
    before = len(seen)
    refused(path)
    assert len(seen) == before


def test_the_control_asks(server, tmp_path):
    """The same playlist, opened as FFmpeg would by its name, does send a request: the server counts."""
    port, seen = server
    path = tmp_path / "a.m3u8"
    path.write_bytes(TEXTS["an HLS playlist"].replace(b"PORT", str(port).encode()))
    before = len(seen)
    with pytest.raises(av.FFmpegError):
        av.open(str(path), options={"protocol_whitelist": "file,http,tcp", "extension_picky": "0"})
    assert len(seen) > before


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_or_lying_file_is_refused(name, whole, tmp_path):
    """Cut off, or another number of frames or seconds than the header says."""
    kind, change = BROKEN[name]
    path = tmp_path / f"a.{kind}"
    path.write_bytes(change(whole[kind]))
    refused(path)


def test_a_lie_about_the_size_is_seen_through(whole, tmp_path):
    """Width and height are those of the decoded frame, or the file is refused."""
    path = tmp_path / "a.mp4"
    path.write_bytes(mp4_of_another_size(whole["mp4"]))
    try:
        facts = videos.probe(path)
    except DataError:
        return
    assert (facts.width, facts.height) == (64, 48)


@pytest.mark.parametrize("name", STRANGE)
def test_strange_files_are_refused(name, whole, tmp_path):
    """No pictures in it; not a file; outside its folder; larger than the limits."""
    root = tmp_path / "videos"
    root.mkdir()
    path, limits = root / "a.mp4", {}
    if name == "audio only":
        write(path, None, audio=True)
    elif name == "no frames":
        write(path, "h264", frames=0)
    elif name == "a pipe":
        os.mkfifo(path)
    elif name == "a device":
        path.symlink_to("/dev/zero")
    elif name == "a link out":
        (tmp_path / "b.mp4").write_bytes(whole["mp4"])
        path.symlink_to(tmp_path / "b.mp4")
    elif name == "a folder":
        path.mkdir()
    elif name == "a URL":
        path = Path("http://127.0.0.1:9/a.mp4")
    elif name == "a sparse terabyte":
        path.write_bytes(whole["mp4"])
        os.truncate(path, 1 << 40)
    else:
        path.write_bytes(whole["mp4"])
        limits = {
            "too many frames": {"frames": 29},
            "too many seconds": {"seconds": 2},
            "too many pixels": {"pixels": 64},
        }
        limits = limits[name]
    refused(path, **limits)


def test_there_are_enough_cases():
    """What is published as handled of tried."""
    assert len(CODECS) + len(TEXTS) + len(BROKEN) + len(STRANGE) >= 40


def test_a_stream_without_end_ends_at_the_limit(tmp_path):
    """A live Matroska, whose header promises neither length nor size: frames are counted up to the limit."""
    path = write(tmp_path / "a.mkv", "mpeg4", frames=300, options={"live": "1"})
    assert videos.probe(path).frames == 300
    refused(path, "frames: found 'more than 200'", frames=200)


def test_broken_bytes_are_refused_or_read(whole, tmp_path):
    """40 seeded mutations: facts or a DataError, never anything else."""
    rng = np.random.default_rng(3)
    path, outcomes = tmp_path / "a.bin", {True: 0, False: 0}
    for number in range(40):
        body = bytearray(whole[sorted(whole)[number % len(whole)]])
        for at in rng.integers(8, 900, 3):
            body[at] = rng.integers(0, 256)
        path.write_bytes(body)
        try:
            outcomes[isinstance(videos.probe(path), VideoFacts)] += 1
        except DataError:
            outcomes[False] += 1
    assert all(outcomes.values())


@pytest.mark.parametrize(
    ("harm", "status"),
    [
        ("while True: pass", "its reader died"),
        ("[bytearray(1 << 20) for _ in range(2000)]", "memory: found 'too much of it', expected 'at most 300 MiB'"),
        ("import time; time.sleep(99)", "found 'no end', expected to be read within 3 s"),
        ("open('/etc/hostname')", "Too many open files"),
        ("import socket; socket.socket()", "Too many open files"),
        ("import os; os.kill(os.getpid(), 11)", "its reader died"),
    ],
    ids=["cpu", "memory", "wall", "file", "socket", "crash"],
)
def test_a_child_gone_wild_is_stopped(whole, tmp_path, monkeypatch, harm, status):
    """Instead of looking at the video the child does ``harm``; its limits hold, and the parent tells what happened."""
    path = tmp_path / "a.mp4"
    path.write_bytes(whole["mp4"])
    wild = tmp_path / "wild.py"
    wild.write_text(
        f"import sys, time, socket\nsys.path.insert(0, {str(Path(video_child.__file__).parent)!r})\n"
        "import video_child\n"
        f"def facts(*_):\n try:\n  {harm}\n except OSError as error:\n"
        "  raise video_child.Refused('harm', error.strerror, 'none') from None\n"
        "video_child.facts = facts\nvideo_child.main()\n"
    )
    monkeypatch.setattr(videos.video_child, "__file__", str(wild))
    found = refused(path, cpu_s=1, memory_mib=300, wall_s=3)
    assert status.replace("'", "") in found.replace("'", "")


def test_the_child_imports_nothing_of_the_package():
    """It would take seconds, and what it loads later than its limits cannot be opened."""
    code = f"import runpy, sys; runpy.run_path({video_child.__file__!r}); "
    code += "print([name for name in sys.modules if name.startswith('xmtl')])"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
