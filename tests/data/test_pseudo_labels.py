"""The store of pseudo-labels: what is written is read, what is broken or foreign is told, hashes follow content."""

import json
from dataclasses import replace

import pytest

from xmtl_ray.data import pseudo_labels
from xmtl_ray.data.pseudo_labels import LabelledArgument, LabelledObject, LabelledPair
from xmtl_ray.events.ontology import m2e2
from xmtl_ray.events.records import Box, DataError, DetectedObject, Entity, Span

ATTACK = "Conflict:Attack"
GUN = DetectedObject(Box(1, 2, 30.5, 40), "gun", 0.93)
QUIET = (0.0,) * len(m2e2().types)
PAIR = LabelledPair(
    "D_0",
    "D_0.jpg",
    "a" * 64,
    ("Rebels", "fire", "on", "Rome"),
    (Entity(Span(0, 1), "PER"), Entity(Span(3, 4), "GPE")),
    (GUN,),
    None,
    ("O", f"B-{ATTACK}", "O", "O"),
    0.9123456789,
    tuple(0.97 if name == ATTACK else 0.01 for name in m2e2().types),
    True,
    (
        LabelledArgument(ATTACK, Span(1, 2), Span(0, 1), "Attacker", 0.9),
        LabelledArgument(ATTACK, Span(1, 2), Span(3, 4), "None", 0.4),
    ),
    (LabelledObject(GUN.box, "Instrument", 0.8),),
)
DULL = replace(PAIR, id="D_1", tags=("O",) * 4, types=QUIET, asked=False, text_arguments=(), image_arguments=())
BROKEN = LabelledPair("D_2", "D_2.jpg", "", PAIR.words, PAIR.entities, (), "D_2.jpg: image: found no such file")


def test_what_is_written_is_read(pseudo_store):
    """All but the quarantined pair, in their order, every digit the same; the quarantine has its reason."""
    store = pseudo_store([PAIR, BROKEN, DULL])
    assert list(pseudo_labels.stream(store)) == [PAIR, DULL]
    assert pseudo_labels.quarantine(store) == {"D_2": BROKEN.reason}
    manifest = pseudo_labels.read_manifest(store)
    assert (manifest.pairs, manifest.quarantined, manifest.asked) == (3, 1, 1)
    assert not pseudo_labels.quarantine(pseudo_store([PAIR], name="clean"))
    assert pseudo_labels.image_path(manifest, PAIR) == store.parent / "images" / "D_0.jpg"


def test_columns_are_typed(pseudo_store):
    """Other programs find each field under its name and type."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (shard,) = (pseudo_store([PAIR]) / "shards").iterdir()
    schema = pq.read_schema(shard)
    assert schema.names == list(LabelledPair.__dataclass_fields__)
    assert schema.field("types").type == pa.list_(pa.float64())
    assert schema.field("tags").type == pa.list_(pa.string())
    assert schema.field("path_probability").type == pa.float64() and schema.field("asked").type == pa.bool_()


def test_sealing_leaves_only_what_the_store_is_made_of(pseudo_store):
    """Shards of an earlier labelling are gone, and the store's hash is another one; the same again is the same."""
    store = pseudo_store([PAIR, DULL])
    first = pseudo_labels.lineage(store)
    pseudo_store([replace(PAIR, path_probability=0.8), DULL])
    second = pseudo_labels.lineage(store)
    assert len(list((store / "shards").iterdir())) == 1
    assert first["sha256.pseudo.store"] != second["sha256.pseudo.store"]
    assert second["sha256.pseudo.teacher.td"] == "0" * 64 and second["sha256.pseudo.source"] == "1" * 64
    pseudo_store([PAIR, DULL])
    assert pseudo_labels.lineage(store) == first


def test_a_key_follows_from_content_teachers_and_settings():
    """Another word, image, detection, teacher, floor or batch is another shard; the same is the same."""
    base = pseudo_labels.shard_key([PAIR], {"td": "a"}, 0.5, 8)
    others = [
        pseudo_labels.shard_key([replace(PAIR, words=("a", "fire", "on", "Rome"))], {"td": "a"}, 0.5, 8),
        pseudo_labels.shard_key([replace(PAIR, image_sha256="b" * 64)], {"td": "a"}, 0.5, 8),
        pseudo_labels.shard_key([replace(PAIR, objects=())], {"td": "a"}, 0.5, 8),
        pseudo_labels.shard_key([PAIR, DULL], {"td": "a"}, 0.5, 8),
        pseudo_labels.shard_key([PAIR], {"td": "b"}, 0.5, 8),
        pseudo_labels.shard_key([PAIR], {"td": "a"}, 0.6, 8),
        pseudo_labels.shard_key([PAIR], {"td": "a"}, 0.5, 16),
    ]
    assert len({base, *others}) == 8
    assert pseudo_labels.shard_key([PAIR], {"td": "a"}, 0.5, 8) == base


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"path_probability": float("nan")}, "probability: found nan"),
        ({"path_probability": 1.001}, "probability: found 1.001"),
        ({"types": (0.5,)}, "types: found 1, expected 8"),
        ({"types": (-0.1, *QUIET[1:])}, "probability: found -0.1"),
        ({"tags": ("O",)}, "tags: found 1, expected one for each of 4 words"),
        ({"tags": ("O", "B-Life:Marry", "O", "O")}, "expected tags of the ontology"),
        ({"image": "../secret.jpg"}, "image: found '../secret.jpg'"),
        ({"image": "/etc/passwd"}, "image: found '/etc/passwd'"),
        ({"entities": (Entity(Span(3, 5), "PER"),)}, "expected words within the 4"),
        ({"image_arguments": (LabelledObject(Box(9, 1, 2, 3), "None", 0.5),)}, "a box with an area"),
        ({"image_arguments": (LabelledObject(GUN.box, "Chef", 0.5),)}, "expected roles of the ontology"),
    ],
)
def test_an_answer_that_is_none_is_neither_written_nor_read(pseudo_store, change, told):
    """Teachers that answer NaN and files that somebody else wrote meet the same check."""
    from xmtl_ray.data import parquet

    with pytest.raises(DataError, match="record 'D_0'") as refused:
        pseudo_store([replace(PAIR, **change)])
    assert told in str(refused.value)
    store = pseudo_store([PAIR], name="other")
    (shard,) = (store / "shards").iterdir()
    parquet.write(shard, LabelledPair, [replace(PAIR, **change)])
    with pytest.raises(DataError, match="record 'D_0'"):
        pseudo_labels.read_shard(shard)


def test_a_broken_or_foreign_store_is_told(pseudo_store, tmp_path):
    """No folder, no manifest, another version or ontology, a shard that is gone, changed or not ours: each is named."""
    with pytest.raises(DataError, match="nowhere: folder: found 'nothing'"):
        pseudo_labels.read_manifest(tmp_path / "nowhere")
    store = pseudo_store([PAIR, DULL])
    (shard,) = (store / "shards").iterdir()
    good, manifest = shard.read_bytes(), (store / "store.json").read_text()
    shard.write_bytes(good[:-7])
    with pytest.raises(DataError, match="sha256: found"):
        list(pseudo_labels.stream(store))
    with pytest.raises(DataError, match="expected a Parquet file"):
        pseudo_labels.read_shard(shard)
    shard.unlink()
    with pytest.raises(DataError, match="a shard of the store; label again"):
        list(pseudo_labels.stream(store))
    for field, value in (("version", "pseudo-labels-9"), ("ontology", "other"), ("pairs", -1), ("more", 1)):
        (store / "store.json").write_text(json.dumps({**json.loads(manifest), field: value}))
        with pytest.raises(DataError, match=field):
            pseudo_labels.read_manifest(store)
    (store / "store.json").unlink()
    with pytest.raises(DataError, match=r"no store.json.*the same command again goes on"):
        pseudo_labels.read_manifest(store)


def test_an_image_that_is_a_link_out_of_its_folder_is_refused(pseudo_store, tmp_path):
    """Paths may not leave the folder of images, by a link neither."""
    images = tmp_path / "images"
    images.mkdir()
    (images / "D_0.jpg").symlink_to("/etc/hostname")
    manifest = pseudo_labels.read_manifest(pseudo_store([PAIR]))
    with pytest.raises(DataError, match="not a link out of it"):
        pseudo_labels.image_path(manifest, PAIR)
