"""Video-LLaVA, LLaVA and Qwen2-VL of transformers, tiny and untrained: what they are given, lose and answer."""

from dataclasses import replace

import tiny_vlm
import torch
from PIL import Image as Picture
from tiny_vlm import answered, known

from xmtl_ray.config.finetune import Generation
from xmtl_ray.data import images
from xmtl_ray.data.frames import read_frames
from xmtl_ray.events.records import Media
from xmtl_ray.generative.answering import answers
from xmtl_ray.generative.objective import NextToken
from xmtl_ray.models.splice import IGNORED

CPU = torch.device("cpu")


def test_the_loss_is_the_models_own(vlm, mixed, name):
    """Of a batch of texts, images and videos: the mean over learnt tokens that ``model(labels=…)`` gives itself."""
    one = vlm(name)
    batch = one.collate([one.encode(item) for item in known(name, mixed)])
    with torch.no_grad():
        ours = NextToken(one, "torch")(batch)["lm"] / (batch.labels[:, 1:] != IGNORED).sum()
        own = one.module(**batch.inputs, labels=batch.labels).loss
    torch.testing.assert_close(ours[0], own, rtol=1e-5, atol=0)


def test_a_batch_has_the_loss_of_its_samples(vlm, mixed, name):
    """Each alone, in two batches, or in one: sums add up, so nothing sees padding or another's medium."""
    one = vlm(name)
    samples = [one.encode(item) for item in known(name, mixed)]

    def total(size: int) -> torch.Tensor:
        parts = [samples[place : place + size] for place in range(0, len(samples), size)]
        with torch.no_grad():
            return torch.stack([NextToken(one, "torch")(one.collate(part))["lm"] for part in parts]).sum()

    whole = total(len(samples))
    for size in (1, 3):
        torch.testing.assert_close(total(size), whole, rtol=1e-5, atol=0)


def test_what_a_medium_shows_counts(vlm, mixed):
    """Another video is another loss."""
    one = vlm("video_llava")
    video, other = (item for item in mixed if item.media and item.media.kind == "video")
    pair = [one.collate([one.encode(replace(video, media=medium))]) for medium in (video.media, other.media)]
    with torch.no_grad():
        losses = [float(NextToken(one, "torch")(batch)["lm"]) for batch in pair]
    assert abs(losses[0] - losses[1]) > 1e-2


def test_what_is_learnt(vlm, mixed, name):
    """Of each row its answers, each with an end token, at their places beside the medium's; nothing of prompts."""
    one = vlm(name)
    said = known(name, mixed)
    samples = [one.encode(item) for item in said]
    batch = one.collate(samples)
    end = one.tokenizer.eos_token
    newline = "\n" if name == "qwen2_vl" else ""  # its template's, after each
    before = "" if name == "qwen2_vl" else " "
    for number, (item, sample) in enumerate(zip(said, samples, strict=True)):
        learnt = batch.labels[number] != IGNORED
        assert torch.equal(batch.labels[number][learnt], batch.inputs["input_ids"][number][learnt])
        text = one.tokenizer.decode(batch.labels[number][learnt])
        assert text == "".join(f"{before}{turn.answer}{end}{newline}" for turn in item.turns)
        assert sample.learnt == learnt[1:].sum()


def test_lengths_are_those_of_the_batch(vlm, mixed, name, corpus):
    """Also of a model that takes places by a picture's size."""
    one = vlm(name)
    Picture.new("RGB", (300, 90)).save(corpus / "wide.png")
    said = [*known(name, mixed), replace(mixed[1], id="wide", media=Media("image", "wide.png"))]
    samples = [one.encode(item) for item in said]
    assert [sample.length for sample in samples] == one.collate(samples).inputs["attention_mask"].sum(1).tolist()
    wide, usual = samples[-1], samples[1]
    assert (wide.length != usual.length) == (name == "qwen2_vl")


def test_prompts_are_the_processors_own(vlm, mixed, name, corpus):
    """Ids and pixels that ``apply_chat_template`` makes of the same messages by itself, first token included."""
    one = vlm(name)
    for item in known(name, mixed)[:3]:
        content = [{"type": "text", "text": item.turns[0].prompt}]
        if item.media is not None and item.media.kind == "image":
            content.insert(0, {"type": "image", "image": images.read(corpus / item.media.path)})
        elif item.media is not None:
            content.insert(0, {"type": "video", "video": read_frames(corpus / item.media.path, 8)})
        theirs = one.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
            return_tensors="pt", processor_kwargs={"do_sample_frames": False} if item.media else {},
        )  # fmt: skip
        ours = one.collate([one.encode(item)], generation=True).inputs
        assert torch.equal(ours["input_ids"], theirs["input_ids"])
        pixels = [key for key in ours if "pixel" in key]
        assert len(pixels) == (item.media is not None)
        assert all(torch.equal(ours[key], theirs[key]) for key in pixels)
        if name != "qwen2_vl":
            assert ours["input_ids"][0, 0] == one.tokenizer.bos_token_id != ours["input_ids"][0, 1]


def test_video_llava_takes_eight_frames(vlm, mixed):
    """Of a video of any length, with five places each: four patches and the class token."""
    one = vlm("video_llava")
    batch = one.collate([one.encode(item) for item in mixed])
    assert batch.inputs["pixel_values_videos"].shape == (2, 8, 3, tiny_vlm.SIDE, tiny_vlm.SIDE)
    sign = one.tokenizer.convert_tokens_to_ids("<video>")
    assert (batch.inputs["input_ids"] == sign).sum(1).tolist() == [0, 0, 40, 0, 0, 40, 0]


def test_answers_alone_and_together(vlm, mixed, name):
    """Greedy answers of a padded batch of all kinds are those of each conversation by itself."""
    one, said = vlm(name), known(name, mixed)
    alone = answered(one, said, batch=1)
    assert answered(one, said, batch=len(said)) == alone and answered(one, said, batch=3) == alone
    assert len(set(alone.values())) > 1


def test_the_end_token_ends_an_answer(vlm, mixed):
    """A model that has nothing else to say stops at once."""
    one = vlm("video_llava")
    with torch.no_grad():
        one.module.model.language_model.embed_tokens.weight.fill_(1)
        for name, weight in one.module.model.language_model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                weight.zero_()
        one.head.weight.zero_()
        one.head.weight[one.tokenizer.eos_token_id] = 1
    settings = Generation(greedy=True, max_new_tokens=6)
    found = list(answers(one, [one.encode(item) for item in mixed], settings, CPU))
    assert {(answer.text, answer.tokens, answer.cut) for answer in found} == {("", 1, False)}
