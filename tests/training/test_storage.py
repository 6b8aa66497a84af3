"""The folder of a run behind a URI: what is fetched, what is brought, and by whom."""

from xmtl_ray.training.storage import run_folder


def test_rank_0_alone_brings_its_files(tmp_path):
    """Another rank that began with the old journal and ends last leaves rank 0's new one as it is."""
    there = tmp_path / "run"
    there.mkdir()
    (there / "tracking.jsonl").write_text("old\n")
    with run_folder(tmp_path.as_uri(), "run", rank=1) as (_, publish):
        with run_folder(tmp_path.as_uri(), "run", rank=0) as (folder, _):
            assert (folder / "tracking.jsonl").read_text() == "old\n"
            (folder / "tracking.jsonl").write_text("old\nnew\n")
        publish()
        assert (there / "tracking.jsonl").read_text() == "old\nnew\n"
    assert (there / "tracking.jsonl").read_text() == "old\nnew\n"
