"""The benchmark of a GPU: everything it does with tiny shapes on a CPU, what it writes, and the work that it counts."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import gpu_flops
import gpu_models
import gpu_videollama2

from xmtl_ray.models.videollama2 import VideoLLaMA2

FAMILIES = ("videollama2", "videollama21")


def run(folder, *more, status=0):
    """What it wrote, and what it printed."""
    command = [sys.executable, gpu_videollama2.__file__, "--tiny", "--json", folder / "gpu.json", *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return json.loads((folder / "gpu.json").read_text()), done.stdout


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Of all sections that a CPU can run."""
    return run(tmp_path_factory.mktemp("gpu"), "--device", "cpu")


def by_name(results):
    """Rows."""
    return {(row["section"], row["name"]): row for row in results["rows"]}


# --- A tiny run -------------------------------------------------------------------------------------------------------


def test_every_section_runs_and_says_what_it_ran_on(found):
    """All are done but liger's, whose kernels need a GPU; versions, device and budget stand beside the figures."""
    results, _ = found
    statuses = {name: how["status"] for name, how in results["sections"].items()}
    assert statuses.pop("liger").startswith("not run: ")
    assert statuses == dict.fromkeys(("ceilings", "step", "plain", "generation", "tower"), "done")
    assert results["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert results["device"]["name"] == "CPU" and results["tiny"] and results["budget_s"] == 540


def test_ours_and_the_plain_one_do_the_same_work(found):
    """The same losses over five updates, which lower them: both see two batches in turn."""
    results, _ = found
    rows = by_name(results)
    ours = rows["step", "first losses"]["losses"]
    plain = rows["plain", "first losses of plain"]["losses"]
    assert len(ours) == 5 and ours == pytest.approx(plain, rel=1e-5)
    assert ours[0] > ours[2] > ours[4] and ours[1] > ours[3]
    assert results["losses_agree"]


def test_a_step_tells_its_shapes_tokens_and_work(found):
    """Sequences of 64 places, the 8 tokens of a video of 4 frames among them; mixed ones share a row."""
    rows = by_name(found[0])
    for name in ("ours", "plain"):
        for batch in (1, 2):
            row = rows["step" if name == "ours" else "plain", f"{name}, batch {batch}"]
            assert row["lengths"] == [64] * batch and row["frames"] == [4] * batch and row["rows"] == [batch, 64]
            assert row["real_tokens"] == 64 * batch and row["padded_tokens"] == 0
            assert row["learnt"] == round(0.2 * 56) * batch
            assert row["rate"] == pytest.approx(64 * batch / row["s"])
            assert row["samples_per_s"] == pytest.approx(batch / row["s"])
            assert row["model_flop"] < row["hardware_flop"] and 0 < row["utilisation"] < row["hardware_utilisation"]
            assert row["peak_gib"] is None and row["times"] == 2 and row["dtype"] == "float32"
    kept = rows["step", "ours, batch 1, nothing recomputed"]
    assert kept["model_flop"] == kept["hardware_flop"] == rows["step", "ours, batch 1"]["model_flop"]
    mixed = rows["step", "ours, mixed and packed"]
    assert sorted(mixed["frames"]) == [1, 1, 4] and len(mixed["lengths"]) == 8
    assert mixed["real_tokens"] == sum(mixed["lengths"]) == mixed["rows"][0] * mixed["rows"][1] - mixed["padded_tokens"]


def test_answers_are_of_their_full_length_with_and_without_the_grammar(found):
    """3 answers of 12 tokens, so the time between them is the mask's."""
    results, _ = found
    rows = by_name(results)
    for name in ("greedy", "greedy, event JSON"):
        row = rows["generation", name]
        assert row["new_tokens"] == 36 and row["prompt"] == 20
        assert row["rate"] == pytest.approx(36 / row["s"])
    assert "share_of_time" in results["comparisons"]["cost of the grammar's mask"]


def test_an_image_seen_once_gives_what_the_repeated_one_gives(found):
    """So that the two times are of the same result."""
    rows = by_name(found[0])
    assert rows["tower", "images, one frame each"]["frames"] * 4 == rows["tower", "images, repeated"]["frames"]
    assert rows["tower", "images differ"]["largest_relative_difference"] < 1e-5


def test_the_table_has_every_measurement(found):
    """Last of what is printed; tiny shapes are told as what they are."""
    results, printed = found
    assert "tiny shapes, no measurement of anything" in printed
    for row in results["rows"]:
        assert "s" not in row or f"{row['section']:10} {row['name']}" in printed
    assert "plain: plain, batch 2: times as fast" in printed and "liger: not run" in printed


def test_sections_without_time_or_gpu_are_told(tmp_path):
    """A budget that is too small for anything is no failure; a GPU that is not there is one."""
    results, printed = run(tmp_path, "--budget", "1", "--device", "cpu", "--sections", "step,plain")
    assert results["rows"] == [] and results["sections"]["plain"]["status"] == "not run: 1 s left"
    assert "step: not run: 1 s left" in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_machine_without_gpu_is_told(tmp_path):
    """Once, not for every section anew."""
    results, printed = run(tmp_path, "--sections", "ceilings,tower", status=1)
    assert "tower: failed: --device cuda: torch finds no GPU here" in printed
    assert results["rows"] == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_everything_runs_on_a_gpu(tmp_path):
    """With tiny shapes, in 16 bits: each section in a process of its own, memory told."""
    results, _ = run(tmp_path, "--device", "cuda")
    statuses = {name: how["status"] for name, how in results["sections"].items()}
    assert {status for status in statuses.values() if not status.startswith("not run")} == {"done"}
    assert by_name(results)["step", "ours, batch 1"]["peak_gib"] > 0


# --- What a run cannot show here --------------------------------------------------------------------------------------


def test_a_section_that_lacks_a_package_is_not_run():
    """The package is named, under the name that pip knows."""
    known = dict.fromkeys(gpu_videollama2.versions(), "1.0")
    assert gpu_videollama2.why_not("generation", known, "cuda") is None
    assert gpu_videollama2.why_not("liger", known, "cpu") == "not run: liger's kernels need a GPU"
    for name, section in (("xgrammar", "generation"), ("liger-kernel", "liger"), ("pydantic", "step")):
        why = gpu_videollama2.why_not(section, known | {name: None}, "cuda")
        assert why == f"not run: {name} not installed, see --help on wheels"


def test_unknown_sections_are_refused():
    """All of them are named."""
    with pytest.raises(argparse.ArgumentTypeError, match="found steps, towers, expected some of ceilings"):
        gpu_videollama2._sections("steps,ceilings,towers")


def test_comparisons_are_ratios_of_rows():
    """Twice the tokens a second at 0.6 of the memory; one that ran out of memory has no ratio, and is told as that."""
    rows = [
        {"section": "ceilings", "name": "product", "rate": 8e14, "unit": "FLOP/s", "s": 1.0},
        {"section": "step", "name": "ours, batch 1", "rate": 200.0, "peak_gib": 24.0, "s": 1.0, "model_flop": 4e14},
        {"section": "plain", "name": "plain, batch 1", "rate": 100.0, "peak_gib": 40.0, "s": 2.0, "model_flop": 4e14},
        {"section": "step", "name": "ours, batch 2", "rate": 210.0, "peak_gib": 30.0, "s": 2.0, "model_flop": 8e14},
        {"section": "plain", "name": "plain, batch 2", "out_of_memory": True, "model_flop": 8e14},
        {"section": "step", "name": "first losses", "losses": [2.0, 1.0]},
        {"section": "plain", "name": "first losses of plain", "losses": [2.0, 1.1]},
    ]
    results = {"rows": rows, "family": "videollama21", "tiny": False, "device": {}, "sections": {}}
    gpu_videollama2.finish(results)
    one = results["comparisons"]["step: ours, batch 1 / plain: plain, batch 1"]
    assert one == {"times_as_fast": 2.0, "share_of_peak": 0.6}
    two = results["comparisons"]["step: ours, batch 2 / plain: plain, batch 2"]
    assert two == {"times_as_fast": None, "share_of_peak": None}
    assert [row.get("utilisation") for row in rows[1:4]] == [0.5, 0.25, 0.5]
    assert not results["losses_agree"]
    assert max(results["relative_loss_differences"]["plain: first losses of plain"]) == pytest.approx(0.1 / 1.1)
    printed = "\n".join(gpu_videollama2.show(results))
    assert "plain, batch 2                       out of memory" in printed and "batch 2: not known" in printed


# --- Counted work -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "length", "kept", "recomputed"),
    [
        ("videollama2", 2048, 66.2, 97.3),
        ("videollama2", 9300, 362.6, 521.3),
        ("videollama21", 2048, 64.8, 93.7),
        ("videollama21", 9300, 341.8, 486.5),
    ],
)
def test_steps_of_text_are_counted_as_by_another(family, length, kept, recomputed):
    """TFLOP of a row with logits of all places, as somebody else counted them."""
    settings = gpu_models.checkpoint(family, tiny=False)
    work = gpu_flops.step(settings, [length], length, 128)
    assert (work.model / 1e12, work.hardware / 1e12) == pytest.approx((kept, recomputed), rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_forward_passes_are_counted_as_torch_counts_them(family):
    """Tower, connector and language model in the released shapes, to a hundredth; torch counts all of attention."""
    settings = gpu_models.checkpoint(family, tiny=False)
    with torch.device("meta"):
        model = VideoLLaMA2(settings).eval().requires_grad_(False)
        frames = [torch.empty(1, 3, settings.tower.image_size, settings.tower.image_size)] * 3
        states = torch.empty(1, 512, settings.language.hidden_size)
    model.tower.vision_tower.set_attn_implementation("eager")
    model.language_model.set_attn_implementation("eager")

    def counted(work):
        with FlopCounterMode(display=False) as counter:
            result = work()
        return counter.get_total_flops(), result

    tower, features = counted(lambda: model.features(frames))
    connector, _ = counted(lambda: model.visual_tokens(features))
    language, _ = counted(lambda: model.head(model.language_model.model(inputs_embeds=states).last_hidden_state))
    one = gpu_flops.language(settings.language)
    assert gpu_flops.tower(settings, 3) == pytest.approx(tower, rel=0.01)
    assert gpu_flops.connector(settings, [1, 1, 1]) == pytest.approx(connector, rel=0.01)
    words = 2 * 512 * (one.projections + one.head) + 2 * one.attention * 512**2
    assert words == pytest.approx(language, rel=1e-3)


def test_memory_is_planned_for_the_step_that_is_measured():
    """More sequences and kept activations need more; one with a video of 9,300 places fits an H200 with neither."""
    import gpu_sections

    plan = gpu_sections.Plan("videollama21")
    one, two, kept = plan.gib(1, True), plan.gib(2, True), plan.gib(1, False)
    assert 10 < one < two < 139 and one < kept
