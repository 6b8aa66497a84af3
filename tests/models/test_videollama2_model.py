"""VideoLLaMA2 and 2.1: against the original's vectors, as folders, and row by row against the same row alone."""

import json
import os
import pickle
import shutil

import conformance_videollama2
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_videollama2 import END, FAMILIES, FRAMES, IMAGE_TAG, VIDEO_TAG, build, pixels, randomise, row, write_config

from xmtl_ray.models import checkpoint_files
from xmtl_ray.models.checkpoint_files import WeightsError
from xmtl_ray.models.splice import IGNORED, Row, lay_out, pack
from xmtl_ray.models.token_loss import token_loss
from xmtl_ray.models.videollama2 import CheckpointError, VideoLLaMA2, connector_weights, read_checkpoint

TEXT = row(5, 9, 11, 30, 7, 8, learnt=3)
IMAGE = row(6, IMAGE_TAG, 21, 22, 40, learnt=2)
VIDEO = row(VIDEO_TAG, 17, 12, 13, 50, 51, 52, learnt=4)
ROWS = [TEXT, IMAGE, VIDEO]
MEDIA = {1: pixels(1), 2: pixels(2, FRAMES)}


@pytest.fixture(params=FAMILIES)
def model(request, tmp_path):
    return build(tmp_path / "built", request.param)


# --- The original -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vectors(shared):
    return shared / "vectors/videollama2"


def test_the_original(vectors, capsys):
    """Every stored quantity is within its tolerance."""
    assert conformance_videollama2.main(vectors) == 0, capsys.readouterr().out


def test_a_spoiled_vector_is_noticed(vectors, tmp_path, capsys):
    """One model with its cases alone passes; with one logit off by 0.002 it fails, naming the quantity alone."""
    name = sorted(path.name for path in (vectors / "models").iterdir())[0]
    for part in ("models", "cases"):
        shutil.copytree(vectors / part / name, tmp_path / part / name)
    assert conformance_videollama2.main(tmp_path) == 0
    assert "not checked: training: found no training" in capsys.readouterr().out
    file = next((tmp_path / "cases" / name).glob("video.safetensors"))
    stored = load_file(file)
    stored["logits"][0, -1, 0] += 0.002
    save_file(stored, file)
    assert conformance_videollama2.main(tmp_path) == 1
    failed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.endswith("FAILED")]
    assert failed == ["logits"]


def test_an_empty_folder_is_an_error(tmp_path):
    """Nothing compared is no success."""
    assert conformance_videollama2.main(tmp_path) == 2


# --- Folders ----------------------------------------------------------------------------------------------------------


def same_weights(first, second):
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_round_trip(model, tmp_path, shard):
    """Bit for bit, in one file or many; the names are the public ones; the tower's config lies below the checkpoint."""
    model.save_pretrained(tmp_path / "saved", shard=shard)
    files = checkpoint_files.files(tmp_path / "saved")
    assert len(files) == 1 if shard == "5GB" else len(files) > 3
    assert same_weights(VideoLLaMA2.from_pretrained(tmp_path / "saved"), model)
    names = {name for file in files for name in load_file(file)}
    assert {name.rsplit(".", 2)[0] for name in names if "vision_tower" in name and "patch" in name} == {
        "model.vision_tower.vision_tower.vision_model.embeddings"
    }
    assert {"lm_head.weight", "model.embed_tokens.weight", "model.mm_projector.sampler.0.weight"} <= names
    assert read_checkpoint(tmp_path / "saved").raw == read_checkpoint(tmp_path / "built").raw
    assert checkpoint_files.sha256(tmp_path / "saved") != checkpoint_files.sha256(
        build_other(model, tmp_path / "other", shard)
    )


def build_other(model, folder, shard):
    """The same settings, other weights."""
    randomise(model, seed=1)
    model.save_pretrained(folder, shard=shard)
    return folder


def test_a_tower_outside_the_checkpoint_is_written_into_it(tmp_path):
    """Whether named by an absolute path or by one that leads out."""
    write_config(tmp_path / "elsewhere", FAMILIES[0])
    for number, name in enumerate(
        [str(tmp_path / "elsewhere/vision_tower/clip-tiny"), "../elsewhere/vision_tower/clip-tiny"]
    ):
        made = build(tmp_path / f"built{number}", FAMILIES[0], mm_vision_tower=name)
        made.save_pretrained(tmp_path / f"saved{number}")
        assert read_checkpoint(tmp_path / f"saved{number}").tower_name == "vision_tower/clip-tiny"
        assert same_weights(VideoLLaMA2.from_pretrained(tmp_path / f"saved{number}"), made)


@pytest.fixture
def saved(model, tmp_path):
    """A checkpoint as a PyTorch pickle, and what it holds."""
    model.save_pretrained(tmp_path / "saved")
    state = load_file(tmp_path / "saved/model.safetensors")
    (tmp_path / "saved/model.safetensors").unlink()
    torch.save(state, tmp_path / "saved/pytorch_model.bin")
    return tmp_path / "saved", state


def test_pytorch_files(model, saved):
    """The format before safetensors is read, too; a connector alone by either of its names."""
    folder, state = saved
    assert same_weights(VideoLLaMA2.from_pretrained(folder), model)
    for head in ("", "base_model.model."):
        torch.save({head + name: value for name, value in state.items()}, folder / "mm_projector.bin")
        found = connector_weights(folder / "mm_projector.bin")
        assert found.keys() == model.connector.state_dict().keys()
        assert torch.equal(found["sampler.0.bias"], model.connector.sampler[0].bias)
    torch.save({"x": torch.zeros(1)}, folder / "mm_projector.bin")
    with pytest.raises(WeightsError, match="found no tensor named"):
        connector_weights(folder / "mm_projector.bin")


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_hostile_pickle_is_not_run(saved, tmp_path, write):
    """In the checkpoint and in a connector's file: refused, and what it would have done has not been done."""
    folder, _ = saved
    write({"lm_head.weight": Hostile(tmp_path / "done")}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"pytorch_model.bin: found .*, expected plain tensors"):
        VideoLLaMA2.from_pretrained(folder)
    with pytest.raises(WeightsError, match="expected plain tensors"):
        connector_weights(folder / "pytorch_model.bin")
    assert not (tmp_path / "done").exists()
    pickle.loads(pickle.dumps(Hostile(tmp_path / "done")))  # it is hostile
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map: found code of its own"),
        ({"mm_projector_type": "mlp2x_gelu"}, "mm_projector_type: found 'mlp2x_gelu', expected stc_connector or stc"),
        ({"mm_projector_type": None}, "mm_projector_type: found None"),
        ({"model_type": "llava"}, "model_type: found 'llava', expected videollama2 or videollama2_mistral or"),
        ({"mm_vision_select_feature": "cls_patch"}, "with the class token the patches are no square"),
        ({"mm_vision_tower": "openai/clip-other"}, "mm_vision_tower: found 'openai/clip-other', expected a folder"),
        ({"mm_vision_tower": "vision_tower/vit"}, "mm_vision_tower: found 'vision_tower/vit'"),
    ],
)
def test_configs_that_are_refused(tmp_path, changed, message):
    """Before any weight is read; the file and the field are named."""
    write_config(tmp_path, FAMILIES[0], **changed)
    with pytest.raises(CheckpointError, match=message):
        VideoLLaMA2.from_pretrained(tmp_path)


def test_no_checkpoint(tmp_path):
    """A folder without config.json; one without weights; an index that leads out of the folder; half a file."""
    with pytest.raises(CheckpointError, match=r"found no config\.json"):
        VideoLLaMA2.from_pretrained(tmp_path)
    write_config(tmp_path, FAMILIES[0])
    with pytest.raises(WeightsError, match=r"found no model\.safetensors"):
        VideoLLaMA2.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../x.safetensors"}}))
    with pytest.raises(WeightsError, match="expected a file beside it"):
        VideoLLaMA2.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(WeightsError, match=r"model.safetensors: found .*, expected safetensors"):
        VideoLLaMA2.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "lm_head.weight",
        "model.norm.weight",
        "model.mm_projector.readout.0.bias",
        "model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias",
    ],
)
def test_a_missing_weight_is_no_random_weight(model, tmp_path, name):
    """Of the language model, the connector or the tower: the checkpoint is refused."""
    model.save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved/model.safetensors"
    save_file({key: value for key, value in load_file(file).items() if key != name}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"weights do not fit its config\.json"):
        VideoLLaMA2.from_pretrained(tmp_path / "saved")


def test_too_many_weights(model, tmp_path):
    """A connector's layer that the config does not have."""
    model.save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved/model.safetensors"
    save_file(load_file(file) | {"model.mm_projector.readout.4.bias": torch.zeros(1)}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match="1 too many"):
        VideoLLaMA2.from_pretrained(tmp_path / "saved")


# --- Media ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_an_image_is_looked_at_once(model):
    """One frame through the tower gives what the original's T copies give."""
    layout, seen = lay_out([IMAGE], model.tokens), []
    held = model.hidden(layout, model.features([pixels(1).expand(FRAMES, -1, -1, -1)]))
    model.tower.register_forward_hook(lambda part, given, made: seen.append(len(made)))
    once = model.hidden(layout, model.features([pixels(1)]))
    torch.testing.assert_close(once, held)
    assert seen == [1]


def test_text_alone_costs_no_vision(model):
    """Neither tower nor connector runs, and neither gets a gradient."""
    calls = []
    for part in (model.tower, model.connector):
        part.register_forward_hook(lambda part, given, made: calls.append(part))
    layout = lay_out([TEXT, TEXT], model.tokens)
    token_loss(model.hidden(layout, []), model.head, layout.labels).backward()
    assert not calls and all(weight.grad is None for weight in model.connector.parameters())
    model.hidden(lay_out([IMAGE], model.tokens), model.features([pixels(1)]))
    assert calls == [model.tower, model.connector]


@torch.no_grad()
def test_the_medium_matters(model):
    """Another image, or the frames of a video backwards, give other states after it, and only there."""
    layout = lay_out([VIDEO, TEXT], model.tokens)
    first, backwards, other = (
        model.hidden(layout, model.features([media])) for media in (MEDIA[2], MEDIA[2].flip(0), pixels(9, FRAMES))
    )
    assert not torch.allclose(first[0], backwards[0]) and not torch.allclose(first[0], other[0])
    torch.testing.assert_close(first[1], other[1])


# --- Rows -------------------------------------------------------------------------------------------------------------


def states(model, layout, media):
    return model.hidden(layout, model.features(media) if media else [])


def alone(model):
    """Each row's states and the gradient of all their losses, one row at a time."""
    found, loss = [], 0.0
    for number, one in enumerate(ROWS):
        layout = lay_out([one], model.tokens)
        hidden = states(model, layout, [MEDIA[number]] if number in MEDIA else [])
        found.append(hidden[0])
        loss = loss + token_loss(hidden, model.head, layout.labels)
    return found, loss


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(
            value, theirs[name], rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_padded_rows_are_as_alone(model):
    """States of every sequence, the loss and all gradients: of three rows at once and of each by itself."""
    expected, loss = alone(model)
    layout = lay_out(ROWS, model.tokens)
    hidden = states(model, layout, [MEDIA[1], MEDIA[2]])
    for number, wanted in enumerate(expected):
        torch.testing.assert_close(hidden[number][layout.mask[number]], wanted)
    together = token_loss(hidden, model.head, layout.labels)
    torch.testing.assert_close(together, loss)
    close(gradients(model, together), gradients(model, loss))


@pytest.mark.parametrize("capacity", [1000, 15])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_rows_are_as_alone(model, capacity, attention):
    """No sequence sees or predicts another in its row: states, loss and gradients, in one row and in several."""
    model.language_model.set_attn_implementation(attention)
    expected, loss = alone(model)
    layout, order = pack(ROWS, model.tokens, capacity)
    assert len(layout.ids) == 1 if capacity == 1000 else len(layout.ids) > 1
    hidden = states(model, layout, [MEDIA[number] for number in order if number in MEDIA])
    found = hidden[layout.mask].split([len(expected[number]) for number in order])
    for states_of, number in zip(found, order, strict=True):
        torch.testing.assert_close(states_of, expected[number])
    together = token_loss(hidden, model.head, layout.labels)
    torch.testing.assert_close(together, loss)
    close(gradients(model, together), gradients(model, loss))


@torch.no_grad()
def test_packed_rows_would_mix_without_their_positions(model):
    """The check above can fail: positions that go on let the second sequence see the first."""
    layout, order = pack(ROWS, model.tokens, 1000)
    media = [MEDIA[number] for number in order if number in MEDIA]
    apart = states(model, layout, media)
    layout.positions[:] = torch.arange(layout.positions.shape[1])
    mixed = states(model, layout, media)
    assert not torch.allclose(apart, mixed, atol=1e-2)


@pytest.mark.parametrize("cached", [True, False])
def test_generation_of_unequal_rows(model, cached):
    """Padded on the left, each row says what it says alone, with the cache and without."""
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "use_cache": cached, "eos_token_id": None}
    with torch.no_grad():
        layout = lay_out(ROWS, model.tokens, left=True)
        together = model.generate(layout, model.features([MEDIA[1], MEDIA[2]]), **settings)
        assert len({tuple(one) for one in together.tolist()}) == len(ROWS)
        for number, one in enumerate(ROWS):
            media = model.features([MEDIA[number]]) if number in MEDIA else []
            by_itself = model.generate(lay_out([one], model.tokens), media, **settings)
            assert together[number].tolist() == by_itself[0].tolist()


@torch.no_grad()
def test_generation_stops_at_the_end_token(model):
    """Where the end token is the likeliest, nothing follows it but padding."""
    layout = lay_out([TEXT], model.tokens)
    model.head.weight.data.zero_()
    last = model.hidden(layout, [])[0, -1]
    model.head.weight.data[END] = last  # the end token has the largest logit here
    said = model.generate(layout, [], max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert said.tolist() == [[END]]


@torch.no_grad()
def test_padding_is_not_seen(model):
    """A row's states do not depend on how much padding follows it; labels there are not learnt."""
    short, long = lay_out([TEXT], model.tokens), lay_out([TEXT, Row([3] * 40, [IGNORED] * 40)], model.tokens)
    length = len(TEXT.ids)
    torch.testing.assert_close(states(model, long, [])[0, :length], states(model, short, [])[0])
    assert (long.labels[0, length:] == IGNORED).all() and not long.mask[0, length:].any()
