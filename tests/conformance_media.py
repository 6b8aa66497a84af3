"""Frames, pixels, training batches and whole inferences of VideoLLaMA2's vectors (README §5 to §7) against ours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import conformance_text as text
import numpy as np
import torch
from conformance_vectors import EXACT, Found, Unchecked, far, read, tokenizer_in, unequal
from PIL import Image as Picture
from safetensors.torch import load_file
from torch import Tensor

from xmtl_ray.data import frames
from xmtl_ray.data.pixels import Preprocess, load_media
from xmtl_ray.events.records import DataError
from xmtl_ray.models import chat, splice
from xmtl_ray.models.splice import IGNORED, Row
from xmtl_ray.models.videollama2 import VideoLLaMA2

VALUES, MEAN = 1e-5, 1e-4


def check_frames(folder: Path) -> Iterator[Found | Unchecked]:
    """README §5: which frames of so many."""
    told = read(folder / "preprocess/frame_sampling.json")
    for record in told["uniform"]:
        ours = frames.uniform(record["duration"], record["num_frames"])
        yield Found("frame_sampling uniform", unequal(ours, record["indices"]), EXACT)
    for record in told["one_per_second"]:
        ours = frames.one_per_second(record["duration"], record["fps"])
        yield Found("frame_sampling one_per_second", unequal(ours, record["indices"]), EXACT)


def check_pixels(folder: Path) -> Iterator[Found | Unchecked]:
    """README §5: media files and arrays → levels of 255, and those → what the tower takes."""
    for case in read(folder / "preprocess/cases.json")["cases"]:
        yield from check_indices(case)
        if not (folder / "media" / case["source"]).exists():
            yield Unchecked(f"preprocess/{case['name']}", f"found no media/{case['source']}")
            continue
        preprocess = Preprocess.built_in(case["processor"], case["image_size"], case["args"]["aspect_ratio"] == "pad")
        ours = pixels_of(folder / "media" / case["source"], case["args"], preprocess)
        mean, std = (torch.tensor(colour).view(3, 1, 1) for colour in (preprocess.mean, preprocess.std))
        levels = (255 * (ours * std + mean)).round()
        stored = load_file(folder / "preprocess" / f"{case['name']}.safetensors")
        # Pillow 13 resizes tall images in another order; the README accepts either.
        accepted = [stored[key] for key in ("pixel_uint8", "pixel_uint8_pillow13") if key in stored]
        nearest = min(accepted, key=lambda one: far(levels, one))
        yield Found("pixel_uint8", far(levels, nearest), EXACT)
        yield Found("pixel_values (recomputed)", far(ours, (nearest / 255 - mean) / std), VALUES)
        if "pixel_values" in stored and nearest is accepted[0]:
            yield Found("pixel_values (stored)", far(ours, stored["pixel_values"]), VALUES)


def check_indices(case: Mapping[str, Any]) -> Iterator[Found]:
    """Which frames of a file are taken, where the case says what the file has."""
    facts, args = case.get("extra") or {}, case["args"]
    if case.get("frame_indices") and "num_frames_in_file" in facts:
        fps = facts.get("average_fps") or facts["assumed_fps"]
        ours = frames.choose(facts["num_frames_in_file"], fps, args["num_frames"], window_of(args))
        yield Found("frame indices", unequal(ours, case["frame_indices"]), EXACT)


def window_of(args: Mapping[str, Any]) -> frames.Window | None:
    """The seconds that are asked for, if any."""
    return (args.get("s"), args.get("e")) if {"s", "e"} & args.keys() else None


def pixels_of(path: Path, args: Mapping[str, Any], preprocess: Preprocess) -> Tensor:
    """A case's pixels; arrays are given whole, a GIF's repeated frames are dropped, as in the original."""
    if path.suffix == ".npy":
        given = [Picture.fromarray(array) for array in np.load(path, allow_pickle=False)]
        return preprocess(frames.fill(given, args["num_frames"], original=True))
    if "num_frames" not in args:
        return load_media(path, "image", None, preprocess)
    return preprocess(frames.read_frames(path, args["num_frames"], window_of(args), original=True))


def check_batches(folder: Path) -> Iterator[Found | Unchecked]:
    """README §6: rows of a data set → a batch padded on the right and cut."""
    dataset = read(folder / "text/dataset.json")
    for told in read(folder / "text/batches.json"):
        stored = load_file(folder / "text" / told["file"])
        tokenizer = tokenizer_in(folder / "tokenizers" / told["tokenizer"])
        rows, pad = list[Row](), chat.pad_id(tokenizer)
        try:
            chosen = [(dataset[number], text.normalised(dataset[number])) for number in told["dataset_rows"]]
        except DataError as error:
            yield Unchecked(f"text/{told['file']}", f"our reader refuses a row: {error}")
            continue
        for number, (row, said) in enumerate(chosen):
            kind = next((kind for kind in ("image", "video") if kind in row), None)
            build = text.described if told["stage"].startswith("pretrain") else chat.supervised
            rows.append(build(tokenizer, said, chat.sign(kind)))
            if kind is not None and f"pixels.{number}" in stored:
                padded = told["aspect_ratio"] == "pad"
                preprocess = Preprocess.built_in(told["image_processor"], told["image_size"], padded)
                args = {} if kind == "image" else {"num_frames": told["num_frames"]}
                ours = pixels_of(folder / "media" / row[kind], args, preprocess)
                yield Found("batches pixels", far(ours, stored[f"pixels.{number}"]), VALUES)
        most = told["model_max_length"]
        ids = rectangle([row.ids for row in rows], pad)[:, :most]
        labels = rectangle([row.labels for row in rows], IGNORED)[:, :most]
        yield Found("batches ids", far(ids, stored["input_ids"]), EXACT)
        yield Found("batches labels", far(labels, stored["labels"]), EXACT)
        yield Found("batches attention_mask", far((ids != pad).long(), stored["attention_mask"]), EXACT)


def rectangle(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    """Rows padded on the right."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows])


def check_end_to_end(folder: Path) -> Iterator[Found | Unchecked]:
    """README §7: a media file and an instruction → text."""
    for record in read(folder / "end_to_end.json"):
        place = folder / "models" / record["model"]
        if not place.is_dir():
            yield Unchecked("end_to_end.json", f"found no models/{record['model']}")
            continue
        model, media = VideoLLaMA2.from_pretrained(place), list[Tensor]()
        if record["media"]:
            (config,) = place.glob("vision_tower/*/preprocessor_config.json")
            args = {} if record["modal"] == "image" else {"num_frames": record["num_frames"]}
            media = [pixels_of(folder / "media" / record["media"], args, Preprocess.from_file(config, pad=False))]
            yield Found("end_to_end pixel_shape", unequal(list(media[0].shape), record["pixel_shape"]), EXACT)
            gap = abs(media[0].double().mean().item() - record["pixel_mean"])
            yield Found("end_to_end pixel_mean", gap, MEAN)
        *_, ids = text.prompt_of(folder, record["tokenizer"], model.checkpoint.model_type, record)
        yield Found("end_to_end ids", unequal(ids, record["input_ids"]), EXACT)
        if ids.count(splice.TAGS.get(record["modal"], math.inf)) != len(media):
            continue  # the difference has just been told
        layout = splice.lay_out([Row(ids, ids)], model.tokens)
        tokenizer = tokenizer_in(folder / "tokenizers" / record["tokenizer"])
        with torch.no_grad():
            new = model.generate(
                layout, model.features(media) if media else [], max_new_tokens=record["max_new_tokens"],
                do_sample=False, pad_token_id=tokenizer.eos_token_id,
            )[0]  # fmt: skip
        yield Found("end_to_end generated_ids", unequal(new.tolist(), record["generated_ids"]), EXACT)
        said = tokenizer.decode(new, skip_special_tokens=True).strip()
        yield Found("end_to_end generated_text", unequal(said, record["generated_text"]), EXACT)
