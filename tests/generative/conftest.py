"""A small corpus, some of its conversations of each kind, and tiny models of both families."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_vlm
import torch

from xmtl_ray.config.finetune import BuiltLanguage
from xmtl_ray.data import videollama2
from xmtl_ray.data.corpus import write_corpus
from xmtl_ray.data.pixels import Preprocess
from xmtl_ray.events.records import Conversation
from xmtl_ray.generative import built, hf_vlm
from xmtl_ray.generative.videollama2 import VideoLLaMA2Chat

TINY = BuiltLanguage(
    vocabulary=400, width=32, layers=2, heads=2, key_value_heads=1, hidden=48, vision_width=16, vision_layers=2,
    vision_heads=2, image_px=24, patch_px=8, frames=2,
)  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Sums in one order, and no fight for cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations with their media, made once."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, seed=0, size="small")
    return folder


@pytest.fixture(scope="session")
def conversations(corpus: Path) -> dict[str, list[Conversation]]:
    """The corpus's training part by kind of medium: text, image, video."""
    found: dict[str, list[Conversation]] = {"text": [], "image": [], "video": []}
    for one in videollama2.read(corpus / "train.json"):
        found["text" if one.media is None else one.media.kind].append(one)
    return found


@pytest.fixture(scope="session")
def mixed(conversations) -> list[Conversation]:
    """Seven of all kinds in one row, two of them about one image."""
    text, image, video = (conversations[kind] for kind in ("text", "image", "video"))
    twin = replace(image[1], id="twin", media=image[0].media)
    return [text[0], image[0], video[0], text[1], twin, video[1], text[2]]


@pytest.fixture(scope="session")
def tokenizers(conversations):
    """One of each family, learnt from the corpus."""
    everything = [one for some in conversations.values() for one in some]
    return {
        family: built.learn_tokenizer(everything, TINY.vocabulary, family) for family in ("videollama2", "videollama21")
    }


@pytest.fixture(params=["videollama2", "videollama21"])
def family(request) -> str:
    """Both."""
    return request.param


@pytest.fixture
def chat(corpus, tokenizers):
    """Makes a chat model with random weights: the same seed, the same weights."""

    def make(family="videollama2", seed=0, pad=True, system=False, **given) -> VideoLLaMA2Chat:
        model = built.make_model(TINY, family, tokenizers[family], seed)
        tiny_vlm.randomise(model, seed, 0.3)
        preprocess = Preprocess.built_in(model.tower.family, TINY.image_px, pad)
        return VideoLLaMA2Chat(model.eval(), tokenizers[family], preprocess, corpus, system=system, **given)

    return make


@pytest.fixture(scope="session")
def vlms(conversations, tmp_path_factory) -> dict[str, Path]:
    """Their folders."""
    texts = [
        text
        for some in conversations.values()
        for one in some
        for turn in one.turns
        for text in (turn.prompt, turn.answer)
    ]
    root = tmp_path_factory.mktemp("vlms")
    return {name: getattr(tiny_vlm, f"write_{name}")(root / name, texts) for name in tiny_vlm.NAMES}


@pytest.fixture(params=tiny_vlm.NAMES)
def name(request) -> str:
    """Each of them."""
    return request.param


@pytest.fixture
def vlm(vlms, corpus):
    """Makes a chat model of one of them."""

    def make(name: str) -> hf_vlm.HfVlm:
        found = hf_vlm.load(vlms[name], corpus, None, torch.float32, None)
        found.module.eval()
        return found

    return make
