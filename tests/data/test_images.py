"""Image files that nobody checked: what is accepted, as what; what is refused, in which words; at what memory."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from xmtl_ray.data import images
from xmtl_ray.data.images import ImageFacts
from xmtl_ray.events.records import DataError

# Pillow says what it puts up with.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")


def noise(width=40, height=30, mode="RGB") -> Picture.Image:
    array = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Picture.fromarray(array).convert(mode)


def saved(picture: Picture.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> Picture.Exif:
    made = Picture.Exif()
    made[0x0112] = orientation
    return made


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *more: bytes, bits=1, color=0) -> bytes:
    """A PNG whose header says that size; the pixels are zeros, all of them for small ones."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    rows = zlib.compress(bytes((1 + (width * bits + 7) // 8) * height))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def gif_bomb(frames: int, side: int) -> bytes:
    """A GIF of ``frames`` frames that are one pixel each on a screen of ``side`` pixels: 20 bytes a frame."""
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(6) + frame * frames + b"\x3b"


def tiff_bomb(frames: int) -> bytes:
    """A TIFF with that many pages of one pixel, each page a directory of nine tags."""
    size = 2 + 9 * 12 + 4
    tags = lambda at: b"".join(  # noqa: E731
        struct.pack("<HHII", *tag)
        for tag in ((256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
                    (273, 4, 1, 0), (277, 3, 1, 1), (278, 3, 1, 1), (279, 4, 1, 1))
    )  # fmt: skip
    pages = [
        struct.pack("<H", 9) + tags(0) + struct.pack("<I", 8 + (k + 1) * size if k + 1 < frames else 0)
        for k in range(frames)
    ]
    return b"II*\0" + struct.pack("<I", 8) + b"".join(pages)


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


FRAMES = {"save_all": True, "append_images": [noise().rotate(90 * k) for k in (1, 2)]}
TURNED = {f"{kind} turned by EXIF {n}": (saved(noise(), kind, exif=exif(n)), ImageFacts(30, 40, kind, 1))
          for kind, n in (("JPEG", 6), ("JPEG", 8), ("PNG", 6), ("WEBP", 5), ("TIFF", 6))}  # fmt: skip

CASES = {
    **{kind: (saved(noise(), kind), ImageFacts(40, 30, kind, 1)) for kind in images.FORMATS},
    **TURNED,
    "upside down": (saved(noise(), "JPEG", exif=exif(3)), ImageFacts(40, 30, "JPEG", 1)),
    "CMYK": (saved(noise(mode="CMYK"), "JPEG"), ImageFacts(40, 30, "JPEG", 1)),
    "16 bits": (saved(Picture.new("I;16", (40, 30), 65535), "PNG"), ImageFacts(40, 30, "PNG", 1)),
    "palette and transparency": (
        saved(noise().quantize(9), "PNG", transparency=0),
        ImageFacts(40, 30, "PNG", 1),
    ),
    "progressive": (saved(noise(), "JPEG", progressive=True), ImageFacts(40, 30, "JPEG", 1)),
    "animated GIF": (saved(noise(), "GIF", **FRAMES), ImageFacts(40, 30, "GIF", 3)),
    "animated PNG": (saved(noise(), "PNG", **FRAMES), ImageFacts(40, 30, "PNG", 3)),
    "animated WebP": (saved(noise(), "WEBP", **FRAMES), ImageFacts(40, 30, "WEBP", 3)),
    "pages of a TIFF": (saved(noise(), "TIFF", **FRAMES), ImageFacts(40, 30, "TIFF", 3)),
    "1 x 100": (saved(noise(1, 100), "PNG"), ImageFacts(1, 100, "PNG", 1)),
    "1 x 101": (saved(noise(1, 101), "PNG"), "size: found '1 x 101', expected sides of at most 100 : 1"),
    "65535 x 1": (png(65535, 1), "expected sides of at most 100 : 1"),
    "6000 x 6000": (png(6000, 6000), ImageFacts(6000, 6000, "PNG", 1)),
    "12 000 squared": (png(12000, 12000), "size: found '12000 x 12000', expected at most 36000000 pixels"),
    "13 000 squared": (png(13000, 13000), "expected at most 36000000 pixels"),
    "20 000 squared": (png(20000, 20000), "found 'Image size .400000000 pixels. exceeds limit"),
    "a JPEG that says 65000 x 65000": (
        saved(noise(), "JPEG").replace(struct.pack(">HH", 30, 40), struct.pack(">HH", 65000, 65000), 1),
        "exceeds limit",
    ),
    "a WebP of 5000 squared": (saved(Picture.new("RGB", (5000, 5000)), "WEBP"), "expected at most 18000000 pixels"),
    "a GIF of 100 000 frames": (gif_bomb(100_000, 10), "frames: found '1001 or more of 10 x 10', expected"),
    "a GIF of 500 frames of 5000 squared": (gif_bomb(500, 5000), "frames: found '9 or more of 5000 x 5000'"),
    "a TIFF of 50 000 pages": (tiff_bomb(50_000), "frames: found '1001 or more of 1 x 1'"),
    "an animated PNG that says 4 billion frames": (
        png(40, 30, chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
        "frames: found .2147483648 or more",
    ),
    "a text chunk of 100 MB": (
        png(40, 30, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 << 20)))),
        "expected a readable image",
    ),
    "a colour profile of 100 MB": (
        png(40, 30, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(100 << 20)))),
        "expected a readable image",
    ),
    "32-bit floats": (saved(Picture.new("F", (40, 30)), "TIFF"), ImageFacts(40, 30, "TIFF", 1)),
    "GIF named jpg": (saved(noise(), "GIF"), ImageFacts(40, 30, "GIF", 1)),
    "empty": (b"", "expected a readable image"),
    "text": (b"<html>not found</html>", "expected a readable image"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n", "expected a readable image"),
    "only a header": (saved(noise(), "PNG")[:33], "expected a readable image"),
    **{f"half a {kind}": (half(saved(noise(), kind)), "expected a readable image") for kind in images.FORMATS},
    "half an animated GIF": (half(saved(noise(), "GIF", **FRAMES)), "expected a readable image"),
    "a broken checksum": (saved(noise(), "PNG").replace(b"IDAT", b"IDAU", 1), "expected a readable image"),
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("images")
    paths = {name: folder / f"{number}.jpg" for number, name in enumerate(CASES)}
    for name, path in paths.items():
        path.write_bytes(CASES[name][0])
    return paths


@pytest.mark.parametrize("name", CASES)
def test_every_file_is_told_or_refused(files, name):
    """The facts, or a DataError that names the file; the ending is .jpg always."""
    _, expected = CASES[name]
    if isinstance(expected, ImageFacts):
        assert images.probe(files[name], verify=True) == images.probe(files[name]) == expected
    else:
        with pytest.raises(DataError, match=expected) as caught:
            images.probe(files[name], verify=True)
        assert str(files[name]) in str(caught.value)


def test_there_are_enough_cases():
    """What is published as handled of tried."""
    assert len(CASES) >= 45


def test_all_of_it_within_512_mb(files):
    """One process probes, reads, hashes and squeezes every case: its peak is at most 512 MB over a process that idles.

    The control: decoded without a limit, the 12 000 pixels square alone take more.
    """
    program = """
import sys, numpy, imagehash
from pathlib import Path
from PIL import Image
from xmtl_ray.data import images
def peak(): return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
Image.init()
images.Canvases(64, 0)
before = peak()
for name in sys.argv[2:]:
    for look in (lambda p: images.probe(p, verify=True), images.read, images.hashes, images.Canvases(512, 0)):
        try:
            look(Path(name)) if sys.argv[1] == "ours" else Image.open(name).convert("RGB")
        except ValueError:
            pass
print(peak() - before)
"""

    def grown(how, *paths):
        line = [sys.executable, "-W", "ignore", "-c", program, how, *map(str, paths)]
        return float(subprocess.run(line, check=True, capture_output=True, text=True).stdout)

    assert grown("ours", *files.values()) <= 512
    assert grown("pillow", files["12 000 squared"]) > 512


def test_broken_bytes_are_refused_or_read(tmp_path):
    """1200 seeded mutations of whole files, in every format: no exception but DataError."""
    rng = np.random.default_rng(1)
    path, refused = tmp_path / "some.jpg", 0
    wholes = [saved(noise(), kind) for kind in images.FORMATS] + [saved(noise(), "GIF", **FRAMES)]
    for number in range(1200):
        body = bytearray(wholes[number % len(wholes)])
        for at in rng.integers(0, min(len(body), 400), 1 + number % 4):
            body[at] = rng.integers(0, 256)
        path.write_bytes(body)
        for look in (lambda p: images.probe(p, verify=True), images.hashes):
            try:
                look(path)
            except DataError:
                refused += 1
    assert refused > 200


def test_rotation_16_bits_and_cmyk_pixel_by_pixel(tmp_path):
    """Turned as it is seen; 16 bits by their upper 8; CMYK as the inks look; what has no agreed white is refused."""
    left = np.zeros((30, 40, 3), np.uint8)
    left[:, :20] = 255
    Picture.fromarray(left).save(tmp_path / "a.png", exif=exif(6))
    seen = np.asarray(images.read(tmp_path / "a.png"))
    assert seen.shape == (40, 30, 3) and (seen[:20] == 255).all() and (seen[20:] == 0).all()
    canvas = images.Canvases(16, 0)(tmp_path / "a.png")
    assert (canvas.width, canvas.height) == (30, 40) and (canvas.array[:7] == 255).all()
    Picture.fromarray(np.array([[0, 255, 256, 65535]], np.uint16)).save(tmp_path / "b.png")
    assert np.asarray(images.read(tmp_path / "b.png"))[0].tolist() == [[0] * 3, [0] * 3, [1] * 3, [255] * 3]
    Picture.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "c.jpg", quality=100)
    assert np.allclose(images.read(tmp_path / "c.jpg").getpixel((4, 4)), (0, 255, 255), atol=2)
    Picture.new("F", (8, 8)).save(tmp_path / "f.tif")
    with pytest.raises(DataError, match="32 bits"):
        images.read(tmp_path / "f.tif")


@pytest.mark.parametrize("target", ["outside", "device", "pipe", "folder", "missing", "url"])
def test_only_a_regular_file_in_its_folder_is_opened(tmp_path, target):
    """Links that lead out, devices, pipes (which would wait for ever), folders, nothing, a URL."""
    root = tmp_path / "images"
    root.mkdir()
    path = root / "a.jpg"
    if target == "outside":
        (tmp_path / "b.jpg").write_bytes(CASES["JPEG"][0])
        path.symlink_to(tmp_path / "b.jpg")
    elif target == "device":
        path.symlink_to("/dev/zero")
    elif target == "pipe":
        os.mkfifo(path)
    elif target == "folder":
        path.mkdir()
    elif target == "url":
        path = Path("http://127.0.0.1:9/a.jpg")
    for look in (images.probe, images.read, images.hashes, images.content_hash, images.Canvases(16, 0)):
        with pytest.raises(DataError, match=r"a link to|a regular file|no such file"):
            look(path)


def test_a_link_inside_the_root_is_followed(tmp_path):
    """The caller's root may be wider than the file's folder."""
    (tmp_path / "images").mkdir()
    (tmp_path / "b.jpg").write_bytes(CASES["JPEG"][0])
    (tmp_path / "images" / "a.jpg").symlink_to(tmp_path / "b.jpg")
    assert images.probe(tmp_path / "images" / "a.jpg", root=tmp_path).width == 40


def test_hashes_find_the_same_and_the_similar(tmp_path):
    """sha256 is that of the bytes; a smaller and harder compressed copy has a perceptual hash few bits away."""
    from hashlib import sha256

    picture = Picture.fromarray(np.random.default_rng(2).integers(0, 256, (6, 8, 3), np.uint8)).resize((400, 300))
    picture.save(tmp_path / "a.png")
    picture.resize((200, 150)).save(tmp_path / "b.jpg", quality=60)
    picture.rotate(180).save(tmp_path / "c.png")
    (whole, seen), (other, similar), (_, different) = (
        images.hashes(tmp_path / name) for name in ("a.png", "b.jpg", "c.png")
    )
    assert whole == sha256((tmp_path / "a.png").read_bytes()).hexdigest() != other
    assert len(seen) == 16
    assert (int(seen, 16) ^ int(similar, 16)).bit_count() <= 6
    assert (int(seen, 16) ^ int(different, 16)).bit_count() > 16
