"""Quantised by bitsandbytes on the CPU, adapters by PEFT, and adapters as folders."""

import json
import shutil

import peft
import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from safetensors.torch import load_file, save_file
from tiny_videollama2 import FAMILIES, IMAGE_TAG, build, pixels, row
from torch import nn

from xmtl_ray.models import checkpoint_files, qlora
from xmtl_ray.models.qlora import AdapterError, Base
from xmtl_ray.models.splice import lay_out
from xmtl_ray.models.token_loss import token_loss
from xmtl_ray.models.videollama2 import VideoLLaMA2

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ROWS = [row(5, 9, 11, 30, 7, 8, learnt=3), row(6, IMAGE_TAG, 21, 22, 40, learnt=2)]
PACKED = {4: Linear4bit, 8: Linear8bitLt}


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request, tmp_path_factory):
    """A folder with a model wide enough to be quantised."""
    folder = tmp_path_factory.mktemp(request.param)
    build(folder / "built", request.param, width=128).save_pretrained(folder / "saved")
    return folder / "saved"


def loaded(checkpoint, bits=16, double=True):
    dtype = torch.float32 if bits == 16 else torch.bfloat16
    model = VideoLLaMA2.from_pretrained(checkpoint, dtype, qlora.quantization(bits, dtype, double))
    for layer in (layer for layer in model.modules() if isinstance(layer, Linear4bit)):
        layer.support_avx512bf16_for_cpu = False  # the product that training uses, for equal rounding
    return model


def adapted(checkpoint, bits=16, targets=TARGETS, b_scale=0.0):
    """A model with adapters of rank 4; B is zero, as PEFT begins, or random."""
    model = loaded(checkpoint, bits)
    torch.manual_seed(0)
    assert qlora.add_adapters(model.language_model, 4, 8, 0.0, targets) == 2 * len(targets)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.copy_(b_scale * torch.randn(value.shape))
    return model


def logits(model):
    layout = lay_out(ROWS, model.tokens)
    dtype = next(model.connector.parameters()).dtype
    hidden = model.hidden(layout, model.features([pixels(1).to(dtype)]))
    return model.head(hidden), token_loss(hidden, model.head, layout.labels)


def trained(model):
    return {name: model.get_parameter(name).detach() for name in qlora.trainable_names(model)}


def pinned(checkpoint, bits=16):
    return Base(str(checkpoint), checkpoint_files.sha256(checkpoint), "videollama2", bits)


# --- Packed weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 8])
def test_only_the_language_model_is_packed(checkpoint, bits):
    """All of its linear layers but the head; nothing of the tower and of the connector. It gives finite logits."""
    model = loaded(checkpoint, bits)
    packed = {name for name, layer in model.named_modules() if isinstance(layer, PACKED[bits])}
    assert len(packed) == 2 * len(TARGETS) and {name.rpartition(".")[2] for name in packed} == set(TARGETS)
    assert all(name.startswith("language_model.model.layers.") for name in packed)
    assert type(model.head) is nn.Linear and model.head.weight.dtype == torch.bfloat16
    for part in (model.tower, model.connector):
        assert {value.dtype for value in part.parameters()} == {torch.bfloat16}
    assert logits(model)[0].isfinite().all()


@pytest.mark.parametrize(("double", "bits"), [(True, 4 + 8 / 64 + 32 / (64 * 256)), (False, 4 + 32 / 64)])
def test_bits_per_weight(checkpoint, double, bits):
    """NF4: a code of 4 bits and a scale per 64 weights; doubly quantised it has 8 bits, with one of 32 per 256 scales.

    That is 4.13 and 4.5; the layers here are small, so that the last scale is not shared by all 256.
    """
    model = loaded(checkpoint, 4, double)
    for layer in (layer for layer in model.modules() if isinstance(layer, Linear4bit)):
        state = layer.weight.quant_state
        assert state.quant_type == "nf4" and state.nested is double
        assert layer.weight.dtype == torch.bfloat16 == layer.compute_dtype
        held = layer.weight.nbytes + state.absmax.nbytes + (state.state2.absmax.nbytes if double else 0)
        assert 8 * held / (layer.in_features * layer.out_features) == pytest.approx(bits, abs=0.005)


def test_packed_weights_are_near_the_whole(checkpoint):
    """4 bits move a layer's product by some percent, 8 bits by less than a tenth of that."""
    whole = dict(loaded(checkpoint).language_model.named_modules())["model.layers.0.mlp.up_proj"]
    given = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    wanted, gaps = given @ whole.weight.T, {}
    for bits in PACKED:
        layer = dict(loaded(checkpoint, bits).language_model.named_modules())["model.layers.0.mlp.up_proj"]
        with torch.no_grad():
            gaps[bits] = ((layer(given.bfloat16()).float() - wanted).norm() / wanted.norm()).item()
    assert 0.02 < gaps[4] < 0.15
    assert gaps[8] < 0.02


# --- Adapters ---------------------------------------------------------------------------------------------------------


def raw(value):
    """Bytes: packed weights that are stored as bfloat16 are often not a number, and unequal to themselves."""
    return value.detach().contiguous().view(-1).view(torch.uint8)


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_a_step_lowers_the_loss_and_moves_adapters_and_connector_alone(checkpoint, bits):
    """Untrained adapters change nothing; trained they do, and what they are added to stays bit for bit."""
    bare, model = loaded(checkpoint, bits), adapted(checkpoint, bits)
    with torch.no_grad():
        torch.testing.assert_close(logits(model)[0], logits(bare)[0])
    names = qlora.trainable_names(model)
    assert {"lora_" in name or name.startswith("connector.") for name in names} == {True}
    assert sum("lora_" in name for name in names) == 2 * 2 * len(TARGETS)
    assert {model.get_parameter(name).dtype for name in names if "lora_" in name} == {torch.float32}
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW([model.get_parameter(name) for name in names], lr=1e-3)
    losses = []
    for _ in range(3):
        loss = logits(model)[1]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[2] < losses[1] < losses[0]
    moved = {name for name, value in model.named_parameters() if not torch.equal(raw(value), raw(before[name]))}
    assert moved <= set(names) and {name for name in names if "lora_" in name} <= moved
    assert any(name.startswith("connector.") for name in moved)


def test_gradients_after_an_evaluation(checkpoint):
    """bitsandbytes repacks 4-bit weights in evaluation on some CPUs, without a gradient then; adapters prevent it."""
    gradients = []
    for evaluated in (False, True):
        model = VideoLLaMA2.from_pretrained(checkpoint, torch.bfloat16, qlora.quantization(4, torch.bfloat16))
        torch.manual_seed(0)
        qlora.add_adapters(model.language_model, 4, 8, 0.0, TARGETS)
        if evaluated:
            with torch.no_grad():
                logits(model.eval())
        logits(model.train())[1].backward()
        gradients.append(model.language_model.model.layers[0].self_attn.q_proj.lora_B["default"].weight.grad)
    assert torch.equal(*gradients) and gradients[0].abs().sum() > 0


def test_unknown_targets(checkpoint):
    """Named, with those that there are; the head is one of them, a tower's projection is not."""
    language = loaded(checkpoint).language_model
    with pytest.raises(AdapterError) as refused:
        qlora.add_adapters(language, 4, 8, 0.0, ["q_proj", "out_proj", "query"])
    assert str(refused.value) == (
        "adapter.targets: found out_proj, query, expected some of down_proj, gate_proj, k_proj, lm_head, o_proj, "
        "q_proj, up_proj, v_proj"
    )


def test_the_scale_is_alpha_by_r(checkpoint):
    """W' = W + (alpha/r)·BA on one layer, by hand."""
    model = adapted(checkpoint, targets=["up_proj"], b_scale=0.5)
    layer = model.language_model.model.layers[0].mlp.up_proj
    given = torch.randn(3, 128)
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    wanted = given @ (layer.get_base_layer().weight + 8 / 4 * up @ down).T
    torch.testing.assert_close(layer(given), wanted, rtol=1e-4, atol=1e-4)


# --- Folders ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[16, 4])
def saved(request, checkpoint, tmp_path):
    """A model with random adapters and another connector, and the folder that it was saved to."""
    model = adapted(checkpoint, request.param, b_scale=0.1)
    with torch.no_grad():
        model.connector.readout[2].bias.add_(1)
    folder = tmp_path / "adapter"
    qlora.save_adapter(folder, model.language_model, trained(model), pinned(checkpoint, request.param))
    return model, folder, request.param


def test_round_trip(saved, checkpoint):
    """Bit for bit; only what was trained is in the folder, and what it was trained on."""
    model, folder, bits = saved
    files = {"adapter_model.safetensors", "adapter_config.json", "base.json", "non_lora_trainables.safetensors"}
    assert {path.name for path in folder.iterdir()} == files
    assert qlora.base_of(folder) == pinned(checkpoint, bits)
    again = loaded(checkpoint, bits)
    qlora.load_adapter(folder, again, again.language_model, checkpoint_files.sha256(checkpoint))
    first, second = trained(model), trained(again)
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    with torch.no_grad():
        assert torch.equal(logits(again)[0], logits(model)[0])
    names = load_file(folder / "adapter_model.safetensors").keys()
    assert len(names) == 2 * 2 * len(TARGETS)
    assert "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight" in names


def test_peft_reads_the_folder(saved, checkpoint):
    """PEFT by itself, on the bare language model, gives the logits of text that ours gives."""
    model, folder, bits = saved
    by_peft = peft.PeftModel.from_pretrained(loaded(checkpoint, bits).language_model, str(folder)).eval()
    layout = lay_out(ROWS[:1], model.tokens)
    with torch.no_grad():
        theirs = by_peft(input_ids=layout.ids).logits
        torch.testing.assert_close(theirs, model.head(model.hidden(layout, [])))
        bare = loaded(checkpoint, bits)
        assert not torch.allclose(theirs, bare.head(bare.hidden(layout, [])), atol=1e-2)
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["target_modules"]) == (4, 8, sorted(TARGETS))


def test_another_base_is_refused(saved, checkpoint, tmp_path):
    """Weights that differ in one value: both hashes are told, and no adapter has been attached."""
    _, folder, bits = saved
    other = shutil.copytree(checkpoint, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-3
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    model, found = loaded(other, bits), checkpoint_files.sha256(other)
    with pytest.raises(AdapterError, match=rf"trained on weights {pinned(checkpoint).sha256[:12]}.*found {found[:12]}"):
        qlora.load_adapter(folder, model, model.language_model, found)
    assert not any("lora_" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("name", ["base.json", "adapter_config.json", "adapter_model.safetensors"])
def test_a_folder_that_lacks_a_file(saved, name):
    """Is no adapter's."""
    (saved[1] / name).unlink()
    with pytest.raises(AdapterError, match=f"found no {name}"):
        qlora.base_of(saved[1])


def test_adapters_that_do_not_fit(saved, checkpoint):
    """A layer that the model lacks; a layer of the model that the folder lacks; a part that the model lacks."""
    _, folder, bits = saved
    sha256 = checkpoint_files.sha256(checkpoint)
    good = load_file(folder / qlora.ADAPTER)
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    fewer = {key: value for key, value in good.items() if key != name}
    for wrong, message in (
        (good | {name.replace("layers.1", "layers.7"): good[name].clone()}, "0 missing, 1 too many, e.g. .*layers.7"),
        (fewer, "1 missing, 0 too many, e.g. .*layers.1.mlp.up_proj.lora_B"),
    ):
        save_file(wrong, folder / qlora.ADAPTER, {"format": "pt"})
        model = loaded(checkpoint, bits)
        with pytest.raises(AdapterError, match=message):
            qlora.load_adapter(folder, model, model.language_model, sha256)
    save_file(good, folder / qlora.ADAPTER, {"format": "pt"})
    save_file({"connector.x": torch.zeros(1)}, folder / qlora.REST)
    model = loaded(checkpoint, bits)
    with pytest.raises(AdapterError, match=r"connector\.x is no part of the model"):
        qlora.load_adapter(folder, model, model.language_model, sha256)


def test_merged(checkpoint):
    """Logits of the adapters without a trace of them: the layers, names and checkpoint of a plain model."""
    model, bare = adapted(checkpoint, b_scale=0.1), loaded(checkpoint)
    with torch.no_grad():
        wanted = logits(model)[0]
        assert not torch.allclose(wanted, logits(bare)[0], atol=1e-2)
        qlora.merge(model.language_model)
        torch.testing.assert_close(logits(model)[0], wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())
    assert model.state_dict().keys() == bare.state_dict().keys()
    assert not hasattr(model.language_model, "peft_config")


@pytest.mark.parametrize("bits", [4, 8])
def test_packed_weights_are_not_merged(checkpoint, bits):
    """Sums would be rounded to 4 or 8 bits: refused, and told what to do."""
    model = adapted(checkpoint, bits)
    with pytest.raises(AdapterError, match=r"model\.layers\.0\..*: found packed weights, expected 16 or 32 bits"):
        qlora.merge(model.language_model)
