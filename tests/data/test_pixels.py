"""Pixels for a vision tower: equal to the vectors of the original code and to transformers' processors on Pillow."""

import json
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image as Picture
from safetensors.torch import load_file

from xmtl_ray.data import frames, images
from xmtl_ray.data.pixels import Preprocess, load_media
from xmtl_ray.events.records import DataError

CASES = 26
"""Of the vectors, those whose media are with them."""


def vectors(shared: Path) -> Path:
    return shared / "vectors" / "videollama2"


def preprocess_case(case: dict, media_root: Path) -> torch.Tensor:
    """The pixels of a case of preprocess/cases.json, by the reader and the preprocessing that training uses."""
    args = case["args"]
    preprocess = Preprocess.built_in(case["processor"], case["image_size"], args["aspect_ratio"] == "pad")
    path = media_root / case["source"]
    if path.suffix == ".npy":
        given = [Picture.fromarray(array) for array in np.load(path, allow_pickle=False)]
        return preprocess(frames.fill(given, args["num_frames"], original=True))
    if "num_frames" not in args:
        return load_media(path, "image", None, preprocess, media_root)
    window = (args["s"], args["e"]) if "s" in args else None
    return preprocess(frames.read_frames(path, args["num_frames"], window, root=media_root, original=True))


def levels(pixels: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """Back to uint8."""
    mean, std = (torch.tensor(colour).view(3, 1, 1) for colour in (preprocess.mean, preprocess.std))
    return (255 * (pixels * std + mean)).round().to(torch.uint8)


@pytest.mark.parametrize("place", range(CASES))
def test_pixels_equal_the_originals(shared, place):
    """Every level of every case; float values as stored, or as recomputed from the levels."""
    folder = vectors(shared)
    case = json.loads((folder / "preprocess" / "cases.json").read_text())["cases"][place]
    stored = load_file(folder / "preprocess" / f"{case['name']}.safetensors")
    pixels = preprocess_case(case, folder / "media")
    preprocess = Preprocess.built_in(case["processor"], case["image_size"], False)
    assert pixels.dtype == torch.float32 and list(pixels.shape) == case["output_shape"]
    tall = "pixel_uint8_pillow13" in stored and int(PIL.__version__.partition(".")[0]) >= 13
    expected = stored["pixel_uint8_pillow13" if tall else "pixel_uint8"]
    assert torch.equal(levels(pixels, preprocess), expected)
    if "pixel_values" in stored and not tall:
        assert (pixels - stored["pixel_values"]).abs().max() <= 1e-5


def test_no_case_is_left_out(shared):
    """Those that need media of the original repository come last."""
    cases = json.loads((vectors(shared) / "preprocess" / "cases.json").read_text())["cases"]
    assert all(case["name"].startswith("up_") == (place >= CASES) for place, case in enumerate(cases))


def test_end_to_end_pixels_equal_the_originals(shared):
    """Shape and mean of what the original's inference fed to its model, with each tower's own configuration."""
    folder = vectors(shared)
    records = [r for r in json.loads((folder / "end_to_end.json").read_text()) if r.get("media")]
    assert records
    for record in records:
        (config,) = (folder / "models" / record["model"] / "vision_tower").glob("*/preprocessor_config.json")
        preprocess = Preprocess.from_file(config, pad=False)
        path = folder / "media" / record["media"]
        pixels = load_media(path, record["modal"], record.get("num_frames"), preprocess, folder)
        assert list(pixels.shape) == record["pixel_shape"]
        assert float(pixels.mean()) == pytest.approx(record["pixel_mean"], abs=1e-4)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_pixels_equal_those_of_transformers(family):
    """Its processors on Pillow, on images of odd shapes, larger and smaller than the side."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    square = {"height": 37, "width": 37}
    processor = (
        CLIPImageProcessorPil(size={"shortest_edge": 37}, crop_size=square)
        if family == "clip"
        else SiglipImageProcessorPil(size=square)
    )
    preprocess = Preprocess.built_in(family, 37, pad=False)
    rng = np.random.default_rng(0)
    for height, width in ((37, 37), (101, 64), (64, 101), (13, 200), (200, 13), (36, 38), (5, 4), (333, 500)):
        image = Picture.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        theirs = processor([image], return_tensors="pt")["pixel_values"]
        assert (preprocess([image]) - theirs).abs().max() <= 1e-5


def test_a_square_has_its_mean_colour_around_the_image():
    """2 x 4 pixels of white on 4 x 4, by hand; an odd rest lies at the end."""
    preprocess = Preprocess.built_in("siglip", 4, pad=True)
    (pixels,) = levels(preprocess([Picture.new("RGB", (4, 2), "white")]), preprocess)
    assert pixels[0].tolist() == [[127] * 4, [255] * 4, [255] * 4, [127] * 4]
    clip = Preprocess.built_in("clip", 4, pad=True)
    (pixels,) = levels(clip([Picture.new("RGB", (1, 4), "white")]), clip)
    assert pixels[:, 0].tolist() == [[122, 255, 122, 122], [116, 255, 116, 116], [104, 255, 104, 104]]


def test_an_image_counts_once(tmp_path):
    """Whatever number of frames is asked for; and it is turned as EXIF says, unlike in the original."""
    exif = Picture.Exif()
    exif[0x0112] = 6
    image = Picture.new("RGB", (8, 4), "black")
    image.paste("white", (0, 0, 4, 4))
    image.save(tmp_path / "a.png", exif=exif)
    preprocess = Preprocess.built_in("siglip", 8, pad=False)
    pixels = load_media(tmp_path / "a.png", "image", 16, preprocess, tmp_path)
    assert pixels.shape == (1, 3, 8, 8)
    assert pixels[0, 0, 0].min() > 0.9 and pixels[0, 0, 7].max() < -0.9  # white above, not left


@pytest.mark.parametrize("size", [(101, 1), (1, 101), (12001, 1200)])
def test_shapes_that_would_need_gigabytes_are_refused(tmp_path, size, monkeypatch):
    """Before anything is allocated for them."""
    monkeypatch.setattr(images, "LIMITS", images.Limits(ratio=10**6))
    Picture.new("RGB", size).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="size"):
        load_media(tmp_path / "a.png", "image", None, Preprocess.built_in("clip", 8, pad=True), tmp_path)


def test_other_media_and_no_frames_are_errors(tmp_path):
    """A sound has no pixels."""
    with pytest.raises(ValueError, match="audio"):
        load_media(tmp_path / "a.wav", "audio", 8, Preprocess.built_in("clip", 8, pad=True), tmp_path)
    with pytest.raises(ValueError, match="need at least one"):
        Preprocess.built_in("clip", 8, pad=True)([])


OLD = {
    "crop_size": 336, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3, "size": 336,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip
NEW = {
    "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    "image_processor_type": "SiglipImageProcessor", "processor_class": "SiglipProcessor", "resample": 3,
    "rescale_factor": 0.00392156862745098, "size": {"height": 384, "width": 384},
}  # fmt: skip


def written(folder: Path, config: dict) -> Path:
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(config))
    return path


def test_configurations_are_read(shared, tmp_path):
    """Those of the two public towers, in the layouts that their repositories have, equal the built-in ones."""
    assert Preprocess.from_file(written(tmp_path, OLD), False) == Preprocess.built_in("clip", 336, False)
    assert Preprocess.from_file(written(tmp_path, NEW), True) == Preprocess.built_in("siglip", 384, True)
    for path in (vectors(shared) / "models").glob("*/vision_tower/*/preprocessor_config.json"):
        family = "siglip" if "siglip" in path.parts[-4] else "clip"
        side = json.loads((path.parent / "config.json").read_text())["image_size"]
        assert Preprocess.from_file(path, False) == Preprocess.built_in(family, side, False)


@pytest.mark.parametrize(
    ("config", "change", "field"),
    [
        (NEW, {"image_processor_type": "ViTImageProcessor"}, "image_processor_type"),
        (NEW, {"size": {"height": 384, "width": 336}}, "size"),
        (NEW, {"size": {"shortest_edge": 384}}, "size"),
        (OLD, {"crop_size": 224}, "size"),
        (OLD, {"crop_size": None}, "size"),
        (OLD, {"do_center_crop": False}, "do_center_crop"),
        (OLD, {"size": {}, "crop_size": {}}, "size"),
        (OLD, {"size": -1}, "size"),
        (OLD, {"resample": 2}, "resample"),
        (OLD, {"do_normalize": False}, "do_normalize"),
        (NEW, {"rescale_factor": 1}, "rescale_factor"),
        (NEW, {"image_mean": [0.5]}, "image_mean"),
    ],
)
def test_other_configurations_are_refused(tmp_path, config, change, field):
    """What would give other pixels than ours is no configuration that we may claim to follow."""
    path = written(tmp_path, config | change)
    with pytest.raises(DataError, match=field) as caught:
        Preprocess.from_file(path, False)
    assert str(path) in str(caught.value)


def test_what_changes_pixels_changes_the_identity():
    """Each field does."""
    base = Preprocess("clip", 32, False, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    others = [
        Preprocess("siglip", 32, False, base.mean, base.std),
        Preprocess("clip", 33, False, base.mean, base.std),
        Preprocess("clip", 32, True, base.mean, base.std),
        Preprocess("clip", 32, False, (0.5, 0.5, 0.25), base.std),
        Preprocess("clip", 32, False, base.mean, (0.5, 0.25, 0.5)),
    ]
    assert len({each.identity() for each in (base, *others)}) == 6
