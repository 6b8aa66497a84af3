"""Our imSitu map, the ACE map, and two maps side by side."""

import csv
import json

import pytest
from typer.testing import CliRunner

from xmtl_ray.cli.main import app
from xmtl_ray.events import ontology
from xmtl_ray.events.records import DataError
from xmtl_ray.events.verb_maps import (
    Coverage,
    RoleDifference,
    VerbDifference,
    as_tsv,
    coverage,
    differences,
    outside_schema,
    read_counts,
    roles_of,
)

OURS = ontology.verb_map()


def rows(shared, name):
    path = shared / "data/schema" / name
    if not path.is_file():
        pytest.skip(f"{path} is not at hand")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_the_map_keeps_to_the_schema():
    """Every (type, role) is one of the ontology's, every type has a verb, and the map has a version."""
    assert outside_schema(OURS) == {}
    assert all(own.verbs for own in coverage(OURS).values())
    assert OURS.version == "xmtl-map-2"
    assert all(roles_of(OURS, verb) for verb in OURS.type_of)


def test_every_verb_and_role_is_imsitus(shared):
    """All are among the 504 verbs, with roles that imSitu's template of the verb has."""
    verbs = shared / "data/swig_sample/verb_indices.txt"
    if not verbs.is_file():
        pytest.skip("imSitu's verbs are not at hand")
    assert OURS.type_of.keys() <= set(verbs.read_text().split())
    known = {}
    for row in rows(shared, "imsitu_verbs.tsv"):
        mapped = [pair.split(">")[0] for pair in row["role_mapping"].split(",")]
        known[row["imsitu_verb"]] = {*mapped, *row["roles_from_sentence_template_not_mapped"].split(",")}
    assert not [key for key in OURS.role_of if key[1] not in known[key[0]]]


def test_ace_types_are_kept_as_the_benchmark_keeps_them(shared):
    """8 of 33 types, under their own names."""
    types = rows(shared, "ace_types_to_m2e2.tsv")
    assert len(types) == 33
    kept = {row["ace_type"]: row["m2e2_event_or_empty"] for row in types if row["m2e2_event_or_empty"]}
    assert kept == {name: name for name in ontology.m2e2().types}


def test_ace_roles_are_kept_as_the_benchmark_keeps_them(shared):
    """Each under its own name; but Transfer-Money's Place, which no gold has, is not in the benchmark's table."""
    differing = {
        (row["ace_and_m2e2_event"], row["ace_role"])
        for row in rows(shared, "ace_roles_to_m2e2.tsv")
        if (row["ace_role"] if ontology.m2e2().allows(row["ace_and_m2e2_event"], row["ace_role"]) else "")
        != row["m2e2_role_or_empty"]
    }
    assert differing == {("Transaction:Transfer-Money", "Place")}


def test_the_published_maps_layout_is_read(shared):
    """Its further columns are ignored: 227 rows over 67 verbs; what its table says of each verb's images, too."""
    theirs = len(rows(shared, "imsitu_to_m2e2.tsv"))
    published = ontology.verb_map(shared / "data/schema/imsitu_to_m2e2.tsv")
    assert (len(published.role_of), len(published.type_of)) == (theirs, 67) == (227, 67)
    images = read_counts(shared / "data/schema/imsitu_verbs.tsv")
    assert len(images) == 504 and set(images.values()) == {50}
    found = differences(OURS, published, images)
    assert {d.verb for d in found if d.theirs is None} == OURS.type_of.keys() - published.type_of.keys()
    assert all(d.images == 50 for d in found)
    assert ("Movement:Transport", "Place") in outside_schema(published)


@pytest.fixture
def maps(tmp_path):
    """Two small maps that differ in a type, a role and a verb, and an annotation file of four images."""
    header = "imsitu_verb\timsitu_role\tm2e2_event\tm2e2_role"
    ours = ["meeting agent Contact:Meet Entity", "marching agent Conflict:Demonstrate Entity",
            "towing item Movement:Transport Artifact", "towing tool Movement:Transport Vehicle"]  # fmt: skip
    theirs = ["meeting agent Contact:Meet Entity", "marching agent Movement:Transport Agent",
              "towing item Movement:Transport Place", "dying agent Life:Die Victim"]  # fmt: skip
    for name, lines in (("ours", ours), ("theirs", theirs)):
        body = [line.replace(" ", "\t") for line in lines]
        (tmp_path / f"{name}.tsv").write_text("\n".join([f"# map, version {name}-1: a test", header, *body]))
    verbs = ["marching", "marching", "towing", "meeting"]
    (tmp_path / "train.json").write_text(
        json.dumps({f"{n}.jpg": {"verb": v, "frames": []} for n, v in enumerate(verbs)})
    )
    return tmp_path


def test_differences(maps):
    """By type, by role and by verb, with the images of each; what agrees is left out."""
    ours, theirs = (ontology.verb_map(maps / f"{name}.tsv") for name in ("ours", "theirs"))
    images = read_counts(maps / "train.json")
    assert differences(ours, theirs, images) == [
        VerbDifference("dying", None, "Life:Die", (RoleDifference("agent", None, "Victim"),), 0),
        VerbDifference(
            "marching", "Conflict:Demonstrate", "Movement:Transport", (RoleDifference("agent", "Entity", "Agent"),), 2
        ),
        VerbDifference(
            "towing",
            "Movement:Transport",
            "Movement:Transport",
            (RoleDifference("item", "Artifact", "Place"), RoleDifference("tool", "Vehicle", None)),
            1,
        ),
    ]
    assert coverage(ours, images)["Conflict:Demonstrate"] == Coverage(1, 2)
    assert coverage(theirs)["Movement:Transport"] == Coverage(2, None)
    assert outside_schema(theirs) == {("Movement:Transport", "Place"): ["towing"]}
    assert differences(ours, ours) == []


def test_a_map_is_written_as_it_is_read(tmp_path):
    """Verbs, roles and version."""
    (tmp_path / "map.tsv").write_text(as_tsv(OURS), encoding="utf-8")
    assert ontology.verb_map(tmp_path / "map.tsv") == OURS


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.tsv", "imsitu_verb\tn\na\t1", "line 2: images_in_swig"),
        ("t.tsv", "imsitu_verb\timages_in_swig_all_ims_list\na\t-1", "found '-1', expected a number of images"),
        ("t.json", '{"a.jpg": {"frames": []}}', "record 'a.jpg': verb"),
    ],
)
def test_counts_that_cannot_be_read(tmp_path, name, text, message):
    """File, line and column."""
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as error:
        read_counts(tmp_path / name)
    assert message in str(error.value).replace("'line 2'", "line 2")


def test_the_command(maps):
    """The map as a table, as a file, as JSON; the differences with their images."""
    ours, theirs, counts = (str(maps / name) for name in ("ours.tsv", "theirs.tsv", "train.json"))

    def run(*arguments):
        done = CliRunner().invoke(app, ["data", "map", *arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert "agent → Attacker" in run()
    assert "version ours-1:" in run("--map", ours, "--tsv")
    found = json.loads(run("--map", ours, "--against", theirs, "--counts", counts, "--json"))
    assert [difference["verb"] for difference in found["differences"]] == ["dying", "marching", "towing"]
    assert found["types"]["Conflict:Demonstrate"] == {"verbs": 1, "images": 2}
    shown = run("--map", ours, "--against", theirs, "--counts", counts)
    assert "images: 0 only in ours, 0 only in theirs, 2 of another type" in shown
    assert "theirs has Place of Movement:Transport, which the schema has not: towing" in " ".join(shown.split())
    assert CliRunner().invoke(app, ["data", "map", "--tsv", "--json"]).exit_code == 2
