"""S9: pseudo-labels that somebody has poisoned: no odd number, no lone side, no flood of a type, and out on command."""

import json
import math

import pytest
from typer.testing import CliRunner

from xmtl_ray.cli.main import app
from xmtl_ray.config.schema import PseudoLabels
from xmtl_ray.data import parquet, pseudo_labels, pseudo_removal
from xmtl_ray.data.pseudo_labels import LabelledPair
from xmtl_ray.distill.pseudo_label import LabellingError, _check_quarantine
from xmtl_ray.events.ontology import m2e2
from xmtl_ray.events.records import DataError
from xmtl_ray.multitask.examples import TriggerExample, VerbExample
from xmtl_ray.multitask.pseudo import check_drift, pseudo_examples

WORDS = ("Rebels", "attacked", "Rome")
ATTACK, MEET = "Conflict:Attack", "Contact:Meet"


def pair(name="VOA_0", told=ATTACK, shown=ATTACK, path=0.9, sure=0.9) -> LabelledPair:
    """A pair whose sentence tells ``told`` and whose image shows ``shown``."""
    tags = ("O", "O" if told is None else f"B-{told}", "O")
    types = tuple(sure if name == shown else 0.0 for name in m2e2().types)
    return LabelledPair(name, f"{name}.jpg", "a" * 64, WORDS, (), (), None, tags, path, types, told == shown)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.0000001, -0.1, 1e308])
@pytest.mark.parametrize("field", ["path", "sure"])
def test_a_confidence_is_a_finite_number_from_0_to_1(field, value, pseudo_store, tmp_path):
    """When a store is written, and when it is read, whoever has written it."""
    bad = pair(**{field: value})
    with pytest.raises(DataError, match=r"VOA_0.*probability: found .*, expected a number from 0 to 1"):
        pseudo_store([bad])
    store = pseudo_store([pair()], name="other")
    manifest = json.loads((store / pseudo_labels.MANIFEST).read_text())
    path = pseudo_labels.shard_path(store, manifest["shards"][0]["key"])
    parquet.write(path, LabelledPair, [bad])
    manifest["shards"][0]["sha256"] = pseudo_labels._file_sha256(path)
    (store / pseudo_labels.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="expected a number from 0 to 1"):
        pseudo_examples(PseudoLabels(store=store), ("td", "vc"))


def test_both_sides_must_agree(pseudo_store, tmp_path):
    """By default: a sure text beside an image that shows nothing, or another thing, teaches nothing."""
    (tmp_path / "images").mkdir()
    rows = [pair("both"), pair("text", shown=None), pair("image", told=None), pair("other", shown=MEET)]
    for row in rows:
        (tmp_path / "images" / row.image).write_bytes(b"")
    found = pseudo_examples(PseudoLabels(store=pseudo_store(rows)), ("td", "vc"))
    assert {term: len(own) for term, own in found.items()} == {"td_pseudo": 1, "vc_pseudo": 1}
    assert PseudoLabels().agreement == "shared"


def told(event_type: str, count: int) -> list[TriggerExample]:
    tags = m2e2().tags
    return [TriggerExample(WORDS, (tags.index("O"), tags.index(f"B-{event_type}"), tags.index("O")))] * count


def shown(event_type: str, count: int) -> list[VerbExample]:
    return [VerbExample(None, (m2e2().types.index(event_type),))] * count


def test_a_flood_of_one_type_is_refused_by_name(caplog):
    """A share of gold's 50 % that has become 90 %: 40 % more; the limit is the share itself, not one below it."""
    gold = {"td": told(ATTACK, 5) + told(MEET, 5), "vc": shown(ATTACK, 1) + shown(MEET, 1)}
    flooded = gold | {"td_pseudo": told(MEET, 9) + told(ATTACK, 1)}
    with pytest.raises(ValueError) as refused:
        check_drift(flooded, 0.39)
    assert str(refused.value).startswith(
        "multitask.pseudo.max_drift: Contact:Meet has 90% of the td_pseudo labels and 50% of gold, expected at most 39%"
    )
    check_drift(flooded, 0.41)
    assert "Contact:Meet has 90% of the td_pseudo labels" in caplog.text
    with pytest.raises(ValueError, match="Conflict:Attack has 100% of the vc_pseudo labels and 50% of gold"):
        check_drift(gold | {"vc_pseudo": shown(ATTACK, 3)}, 0.4)
    check_drift(gold | {"td_pseudo": told(MEET, 6) + told(ATTACK, 4)}, 0.11)
    check_drift({"td_pseudo": told(MEET, 3)}, 0.0)  # no gold to compare with
    assert PseudoLabels().max_drift == 1


def test_a_source_is_taken_out_by_one_command(pseudo_store, tmp_path):
    """Its labels are gone, its pairs are told in the quarantine, what it was made of is still known by its hashes."""
    rows = [pair("VOA_1"), pair("evil_1"), pair("VOA_2"), pair("evil_2"), pair("VOA_3")]
    store = pseudo_store(rows)
    before = pseudo_labels.lineage(store)
    done = CliRunner().invoke(app, ["pseudo-label", "--remove", "evil_*", "--out", str(store)])
    assert done.exit_code == 0, done.output
    assert "2 pairs taken out, 3 left" in done.output and before["sha256.pseudo.store"][:12] in done.output
    assert [row.id for row in pseudo_labels.stream(store)] == ["VOA_1", "VOA_2", "VOA_3"]
    assert pseudo_labels.quarantine(store) == {f"evil_{n}": "removed with its source evil_*" for n in (1, 2)}
    after = pseudo_labels.lineage(store)
    assert {name for name in after if after[name] != before[name]} == {"sha256.pseudo.store"}
    with pytest.raises(DataError, match="source: found 'evil_"):
        pseudo_removal.remove(store, "evil_*")


def test_by_image_and_only_in_a_store_that_is_whole(pseudo_store):
    """A pattern of image names; a changed shard is told and not made good."""
    store = pseudo_store([pair("VOA_1"), pair("VOA_2")])
    assert pseudo_removal.remove(store, "VOA_1.jp?").left == 1
    next((store / "shards").iterdir()).write_bytes(b"x")
    with pytest.raises(DataError, match="sha256"):
        pseudo_removal.remove(store, "*")


def test_what_was_removed_does_not_count_as_broken(tiny, tmp_path):
    """The same labelling again goes on with the store: ``distill.max_quarantined`` is about images that are broken."""
    config = tiny("distill.max_quarantined=0")
    _check_quarantine(config, tmp_path, 10, {"a": f"{pseudo_removal.REMOVED} evil_*"})
    with pytest.raises(LabellingError, match="1 of 10 pairs cannot be labelled"):
        _check_quarantine(config, tmp_path, 10, {"a": f"{pseudo_removal.REMOVED} evil_*", "b": "no such file"})
