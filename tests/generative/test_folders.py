"""Bases, adapters and whole checkpoints as folders: what is saved answers alike when it is loaded, or is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_videollama2_chat import CPU, loss, settings
from torch import nn

from xmtl_ray.config.finetune import FinetuneConfig
from xmtl_ray.config.load import build
from xmtl_ray.generative import folders
from xmtl_ray.generative.answering import answers
from xmtl_ray.models.qlora import AdapterError

SCHEMA = {"Life:Die": ("Victim",)}


@pytest.fixture
def mixed(mixed):
    """One of each kind."""
    return mixed[:3]


@pytest.fixture
def base(chat, family, tmp_path):
    """A checkpoint in the public layout; its layers are wide enough to be packed."""
    one = chat(family)
    one.save_whole(tmp_path / "base", one.module.state_dict())
    return tmp_path / "base"


@pytest.fixture
def config(base, family, corpus):
    """Makes a run's config on the base."""

    def make(method="lora", bits=16, train_embeddings=False, **model) -> FinetuneConfig:
        model = {"family": family, "path": str(base), "gradient_checkpointing": False, **model}
        adapter = {"method": method, "bits": bits, "r": 4, "alpha": 8, "dropout": 0.0}
        adapter["train_embeddings"] = train_embeddings
        tree = {"name": "run", "data": {"media": str(corpus)}, "model": model, "adapter": adapter}
        return build(tree | {"prompt": {"system": False}}, FinetuneConfig)

    return make


def trained(loaded) -> dict[str, torch.Tensor]:
    """What learns of it, after it has learnt something."""
    generator = torch.Generator().manual_seed(1)
    found = {}
    for name, value in loaded.chat.module.named_parameters():
        if value.requires_grad:
            value.data += 0.05 * torch.randn(value.shape, generator=generator)
            found[name] = value.detach()
    loaded.chat.module.eval()
    return found


def answered(chat, conversations) -> dict[str, str]:
    """Greedy answers by id."""
    samples = [chat.encode(one) for one in conversations]
    return {found.id: found.text for found in answers(chat, samples, settings(4), CPU)}


def logits(chat, conversations) -> torch.Tensor:
    batch = chat.collate([chat.encode(one) for one in conversations])
    with torch.no_grad():
        return chat.head(chat.hidden(batch))[batch.layout.mask]


@pytest.fixture
def adapter(config, corpus, tmp_path):
    """Makes an adapter: what was trained, and its folder."""

    def make(**given):
        loaded = folders.create(config(**given), (), torch.float32, SCHEMA)
        folders.save(tmp_path / "adapter", loaded, trained(loaded))
        return loaded, tmp_path / "adapter"

    return make


# --- Adapters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "bits"), [("lora", 16), ("qlora", 8), ("qlora", 4)])
def test_an_adapter_answers_on_its_base(adapter, chat, family, mixed, corpus, method, bits):
    """Alike before and after, with as many bits as it was trained on; otherwise than its base. The schema stays."""
    loaded, folder = adapter(method=method, bits=bits)
    assert not (folder / "model.safetensors").exists()
    again = folders.load(folder, media=corpus)
    assert again.config.adapter.bits == bits and again.base == loaded.base
    assert {name: tuple(roles) for name, roles in again.schema.items()} == SCHEMA
    assert not again.chat.module.training
    assert answered(again.chat, mixed) == answered(loaded.chat, mixed)
    assert torch.equal(loss(again.chat, mixed), loss(loaded.chat, mixed))
    assert answered(again.chat, mixed) != answered(chat(family), mixed)


def test_the_connector_travels_with_the_adapter(adapter, mixed, corpus):
    """It learns unless told not to, and only what learnt is in the folder."""
    for learns in (True, False):
        loaded, folder = adapter(train_connector=learns)
        assert (folder / "non_lora_trainables.safetensors").exists() == learns
        learnt = {name.split(".")[0] for name, value in loaded.chat.module.named_parameters() if value.requires_grad}
        assert learnt == ({"language_model", "connector"} if learns else {"language_model"})
        again = folders.load(folder, media=corpus)
        assert torch.equal(loss(again.chat, mixed), loss(loaded.chat, mixed))
        shutil.rmtree(folder)


@pytest.mark.parametrize(("method", "bits"), [("lora", 16), ("qlora", 4)])
def test_embeddings_and_head_travel_with_the_adapter(adapter, mixed, corpus, tmp_path, method, bits):
    """If they learn, in 32 bits: in the folder, in the loaded model, and in what the adapter is merged into."""
    loaded, folder = adapter(method=method, bits=bits, train_embeddings=True, train_connector=False)
    words = {"language_model.model.embed_tokens.weight", "language_model.lm_head.weight"}
    learnt = {name: value for name, value in loaded.chat.module.named_parameters() if value.requires_grad}
    assert {name for name in learnt if "lora_" not in name} == words
    assert load_file(folder / "non_lora_trainables.safetensors").keys() == words
    again = folders.load(folder, media=corpus)
    assert torch.equal(loss(again.chat, mixed), loss(loaded.chat, mixed))
    folders.merge(folder, tmp_path / "merged", dtype=torch.float32)
    merged = folders.load(tmp_path / "merged", media=corpus).chat.module.state_dict()
    assert all(torch.equal(merged[name], learnt[name]) for name in words)


def test_the_state_that_was_saved_is_read(adapter, mixed):
    """By the module's names: what a run is resumed from."""
    loaded, folder = adapter(train_embeddings=True)
    state = folders.read_state(folder, loaded)
    learnt = {name: value for name, value in loaded.chat.module.named_parameters() if value.requires_grad}
    assert state.keys() == learnt.keys()
    assert all(torch.equal(value, learnt[name]) for name, value in state.items())


def test_a_base_that_has_moved(adapter, base, mixed, corpus, tmp_path):
    """Is not found by itself, is found where it is named; the folder's own config does not matter for that."""
    loaded, folder = adapter()
    expected = answered(loaded.chat, mixed)
    moved = base.rename(tmp_path / "elsewhere")
    with pytest.raises(folders.FolderError, match=r"its base .*base is not here; name the folder .* \(--base\)"):
        folders.load(folder, media=corpus)
    assert answered(folders.load(folder, moved, media=corpus).chat, mixed) == expected


def test_another_base_is_refused(adapter, base, tmp_path):
    """One value of its weights differs, or its config.json does."""
    _, folder = adapter()
    other = shutil.copytree(base, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-3
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(AdapterError, match="was trained on weights"):
        folders.load(folder, other)
    other = shutil.copytree(base, tmp_path / "another")
    raw = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(raw | {"rms_norm_eps": 1e-3}))
    with pytest.raises(AdapterError, match="was trained on weights"):
        folders.load(folder, other)


def test_a_base_of_fewer_or_more_bits(adapter, mixed, corpus):
    """An adapter of 4 bits may be put on the unpacked base: near, not the same."""
    loaded, folder = adapter(method="qlora", bits=4)
    whole = folders.load(folder, bits=16, media=corpus)
    assert whole.config.adapter.bits == 16 and whole.config.adapter.method == "lora"
    assert not torch.equal(loss(whole.chat, mixed), loss(loaded.chat, mixed))
    torch.testing.assert_close(loss(whole.chat, mixed), loss(loaded.chat, mixed), rtol=0.2, atol=0)


# --- Merging ----------------------------------------------------------------------------------------------------------


def test_merging(adapter, mixed, corpus, tmp_path):
    """The checkpoint has the adapter's logits, needs no base any more, and has no adapter inside."""
    loaded, folder = adapter()
    folders.merge(folder, tmp_path / "merged", dtype=torch.float32)
    merged = folders.load(tmp_path / "merged", media=corpus)
    wanted = logits(loaded.chat, mixed)
    torch.testing.assert_close(logits(merged.chat, mixed), wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())
    assert merged.base is None and not any("lora_" in name for name, _ in merged.chat.module.named_parameters())
    assert dict(merged.schema).keys() == SCHEMA.keys()
    with pytest.raises(folders.FolderError, match="is no adapter and takes no base"):
        folders.load(tmp_path / "merged", tmp_path)


def test_merged_weights_have_16_bits(adapter, base, mixed, corpus, tmp_path):
    """By default; of an adapter of 4 bits as well, whose base is read unpacked."""
    _, folder = adapter(method="qlora", bits=4)
    folders.merge(folder, tmp_path / "merged")
    written = load_file(tmp_path / "merged" / "model.safetensors")
    assert {value.dtype for value in written.values()} == {torch.bfloat16}
    assert written.keys() == load_file(base / "model.safetensors").keys()
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    merged = folders.load(tmp_path / "merged", media=corpus)
    unpacked = folders.load(folder, bits=16, media=corpus)
    torch.testing.assert_close(loss(merged.chat, mixed), loss(unpacked.chat, mixed), rtol=0.05, atol=0)


# --- Whole checkpoints ------------------------------------------------------------------------------------------------


def test_a_whole_checkpoint_comes_back(config, mixed, corpus, tmp_path):
    """All weights, tower and connector too, bit for bit, by the module's names and as a model that answers."""
    loaded = folders.create(config(method="full"), (), torch.float32, SCHEMA)
    trained(loaded)
    state = loaded.chat.module.state_dict()
    folders.save(tmp_path / "whole", loaded, state)
    read = folders.read_state(tmp_path / "whole", loaded)
    assert read.keys() == state.keys() and all(torch.equal(value, read[name]) for name, value in state.items())
    again = folders.load(tmp_path / "whole", media=corpus)
    assert again.base is None and torch.equal(loss(again.chat, mixed), loss(loaded.chat, mixed))
    assert answered(again.chat, mixed) == answered(loaded.chat, mixed)


def test_a_built_model_is_a_base_for_adapters(corpus, conversations, family, tmp_path):
    """Made from its config and the conversations, saved, and then adapted like any other."""
    built = {"vocabulary": 300, "width": 16, "layers": 1, "heads": 2, "key_value_heads": 1, "hidden": 16}
    built |= {"vision_width": 8, "vision_layers": 2, "vision_heads": 1, "image_px": 16, "patch_px": 8, "frames": 2}
    data = {"name": "run", "data": {"media": str(corpus)}}
    model = {"family": family, "path": "built", "built": built, "train_tower": True, "gradient_checkpointing": False}
    config = build(data | {"model": model, "adapter": {"method": "full", "bits": 16}}, FinetuneConfig)
    some = [one for kind in conversations.values() for one in kind[:2]]
    loaded = folders.create(config, some, torch.float32, SCHEMA)
    assert all(value.requires_grad for value in loaded.chat.language_model.parameters())
    assert any(value.requires_grad for value in loaded.chat.module.tower.parameters())
    folders.save(tmp_path / "built", loaded, loaded.chat.module.state_dict())
    again = folders.load(tmp_path / "built", media=corpus)
    assert loaded.chat.tokenizer.get_vocab() == again.chat.tokenizer.get_vocab()
    assert [again.chat.encode(one) for one in some] == [loaded.chat.encode(one) for one in some]
    loaded.chat.module.eval()
    assert torch.equal(loss(again.chat, some), loss(loaded.chat, some))
    on_top = {"family": family, "path": str(tmp_path / "built")}
    adapted = folders.create(build(data | {"model": on_top}, FinetuneConfig), (), torch.float32, SCHEMA)
    assert adapted.base is not None and adapted.base.bits == 4


@pytest.mark.parametrize("learns", [True, False])
def test_what_learns_with_all_weights(config, learns):
    """Language model and head, the connector as asked; never the tower of a checkpoint."""
    module = folders.create(config(method="full", train_connector=learns), (), torch.float32, SCHEMA).chat.module
    parts = {name.split(".")[0]: value.requires_grad for name, value in module.named_parameters()}
    assert parts == {"tower": False, "connector": learns, "language_model": True}
    assert module.head.weight.requires_grad


def test_weights_that_learn_have_32_bits(config):
    """Steps of the optimizer are lost in 16; the others stay as they were read."""
    module: nn.Module = folders.create(config(), (), torch.bfloat16, SCHEMA).chat.module
    types = {value.requires_grad: set() for value in module.parameters()}
    for value in module.parameters():
        types[value.requires_grad].add(value.dtype)
    assert types == {True: {torch.float32}, False: {torch.bfloat16}}


# --- Folders that are not right ---------------------------------------------------------------------------------------


def test_no_folder(config, tmp_path):
    """Nothing is fetched, but it is told how."""
    with pytest.raises(folders.FolderError, match="nothing is fetched: get it by `hf download a/model"):
        folders.create(config(path="a/model"), (), torch.float32, SCHEMA)
    with pytest.raises(folders.FolderError, match=r"found no config\.yaml and no config\.json"):
        folders.load(tmp_path)


def test_the_other_family(config, family):
    """Is named."""
    other = {"videollama2": "videollama21", "videollama21": "videollama2"}[family]
    with pytest.raises(folders.FolderError, match=f"model.family: found {other}, expected {family}"):
        folders.create(config(family=other), (), torch.float32, SCHEMA)


def test_a_checkpoint_from_elsewhere(base, family, chat, mixed, corpus):
    """Has no config of ours: the family follows from its config.json."""
    loaded = folders.load(base, media=corpus)
    assert (loaded.config.model.family, loaded.config.adapter.bits, loaded.base) == (family, 16, None)
    assert dict(loaded.schema) == {}
    plain = chat(family, system=True)
    assert answered(loaded.chat, mixed[:2]) == answered(plain, mixed[:2])


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja"])
def test_a_tokenizer_that_is_not_whole(base, config, name):
    """No tokenizer, or one without a chat template."""
    (base / name).unlink()
    with pytest.raises(ValueError, match=r"no tokenizer that can be read|without any piece|no chat template"):
        folders.create(config(), (), torch.float32, SCHEMA)
