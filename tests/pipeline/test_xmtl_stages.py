"""Which settings rerun which of X-MTL's stages: keys of plans, nothing is run."""

import pytest

from xmtl_ray.config.load import ConfigError, load
from xmtl_ray.pipeline.stages import Stages, in_order
from xmtl_ray.pipeline.xmtl import chain, for_training, separate

TEACHERS = {"teacher_td", "teacher_ae", "teacher_vc", "teacher_rc"}
REST = {"extract", "score"}


@pytest.fixture(scope="module")
def keys(world, tmp_path_factory):
    """Overrides → kind → key of each stage of the smoke pipeline."""
    stages = Stages(tmp_path_factory.mktemp("stages"))

    def of(*overrides, make=chain):
        config = load("xmtl_full_smoke", [f"data.root={world}", *overrides])
        return {stage.kind: stages.definition(stage).key for stage in in_order(make(config).last)}

    return of


@pytest.mark.parametrize(
    ("override", "rerun"),
    [
        ("train.epochs=3", {*TEACHERS, "pseudo_labels", "train"}),
        ("train.seed=1", {*TEACHERS, "pseudo_labels", "train"}),
        ("model.argument=span", {"teacher_ae", "pseudo_labels", "train"}),
        ("data.visual_prompt.kind=crop", {"teacher_rc", "pseudo_labels", "train"}),
        ("data.visual_prompt.canvas_px=64", {"teacher_vc", "teacher_rc", "pseudo_labels", "train"}),
        ("model.built_text.width=64", {"teacher_td", "teacher_ae", "pseudo_labels", "train"}),
        ("inference.trigger_bias=1", {"teacher_td", "pseudo_labels", "train"}),
        ("inference.verb_threshold=0.4", {"teacher_vc", "pseudo_labels", "train"}),
        ("distill.floor=0.2", {"pseudo_labels", "train"}),
        ("inference.object_confidence=0.4", {"pseudo_labels", "train"}),
        ("multitask.pseudo.threshold.td=0.4", {"train"}),
        ("multitask.pseudo.beta=1", {"train"}),
        ("multitask.weighting.alpha=1", {"train"}),
        ("multitask.weighting.name=uncertainty", {"train"}),
        ("multitask.weighting.learning_rate=1", set()),
        ("multitask.ark.momentum=0.5", set()),
        ("multitask.cycle=steps:3", set()),
        ("inference.schema_filter=false", REST),
        ("inference.coreference.threshold=0.3", REST),
        ("data.test_objects=null", REST),
        ("cluster.workers=2", set()),
        ("tracking.enabled=false", set()),
        ("distill.actors=2", set()),
        ("data.loader_workers=1", set()),
        ("name=other", set()),
    ],
)
def test_a_setting_reruns_what_depends_on_it_and_nothing_else(keys, override, rerun):
    before, after = keys(), keys(override)
    changed = {kind for kind in before if before[kind] != after[kind]}
    assert changed == (rerun | REST if rerun else set())


def test_a_threshold_that_chooses_no_checkpoint_trains_nothing(keys):
    """The best triggers are sought: how sure a type must be is then a matter of extraction, X-MTL's vc aside."""
    best = "train.select=dev/trigger_f1"
    before, after = keys(best), keys(best, "inference.verb_threshold=0.4")
    assert before["train"] != after["train"]  # through its labels, whose teacher of vc is chosen by its own F1
    assert before["teacher_td"] == after["teacher_td"] and before["teacher_vc"] != after["teacher_vc"]
    joint = ["multitask.strategy=joint", best]
    assert keys(*joint)["train"] == keys(*joint, "inference.verb_threshold=0.4")["train"]


def test_rows_of_a_table_share_teachers_and_labels(keys):
    """Separate extracts with X-MTL's own teachers; without dynamic weights the labels are the same."""
    xmtl, alone = keys(), keys(make=separate)
    assert {kind: xmtl[kind] for kind in TEACHERS} == {kind: alone[kind] for kind in TEACHERS}
    fixed = keys("multitask.weighting.name=fixed")
    assert fixed["pseudo_labels"] == xmtl["pseudo_labels"] and fixed["train"] != xmtl["train"]
    assert keys("multitask.strategy=joint").keys() == {"train", *REST}


def test_a_stage_is_run_with_no_setting_that_its_key_does_not_name(world):
    """What is put back to its default cannot matter, and what was begun is not refused for it."""
    first, second = (
        for_training(
            load(
                "xmtl_full_smoke",
                [
                    f"data.root={world}",
                    "multitask.strategy=single",
                    "multitask.tasks=[vc]",
                    "multitask.weighting.name=fixed",
                    *overrides,
                ],
            )
        )
        for overrides in (
            [],
            ["model.argument=concat", "data.ace.extent=full", "multitask.pseudo.beta=2", "name=other"],
        )
    )
    assert first.model_copy(update={"name": "other"}) == second
    assert first.data.ace is None and first.data.test is None and first.data.imsitu is not None


def test_what_a_pipeline_makes_itself_or_cannot_do_without_is_told(world, tmp_path):
    with pytest.raises(ConfigError, match=r"multitask\.pseudo\.store: a pipeline makes it"):
        chain(load("xmtl_full_smoke", [f"data.root={world}", f"multitask.pseudo.store={tmp_path}"]))
    with pytest.raises(ConfigError, match=r"data\.pairs: strategy xmtl needs"):
        chain(load("xmtl_full_smoke", [f"data.root={world}", "data.pairs=null"]))
