"""The command line: quick to answer, plain about mistakes, and the scorer's numbers."""

import json
import re
import subprocess
import sys
from functools import cache

import pytest
from typer.testing import CliRunner

from xmtl_ray.cli.main import app
from xmtl_ray.data import m2e2
from xmtl_ray.evaluation.protocols import SIDE_BY_SIDE
from xmtl_ray.events import predictions

GROUPS = {"evaluate", "data"}
VERBS = [
    *sorted(GROUPS),
    "recipes",
    "config",
    "world",
    "train",
    "run",
    "reproduce",
    "sweep",
    "register",
    "promote",
    "rollback",
    "models",
    "pseudo-label",
    "predict",
    "corpus",
    "finetune",
    "generate",
    "merge",
    "plan",
    "evaluate m2e2",
    "evaluate baseline",
    "evaluate generative",
    "data check",
    "data map",
    "data objects",
    "data train-detector",
    "data ceiling",
    "data convert",
    "data show",
    "demo",
    "sync",
    "report",
    "submit",
]
HEAVY = {"torch", "ray", "mlflow", "transformers", "deepspeed", "scipy"}
METRICS = ["text_event", "text_argument", "image_event", "image_argument", "mm_event", "mm_argument"]


def xmtl(*arguments):
    """The real command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "xmtl_ray", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def invoke(*arguments):
    """The same in this process, where its modules are loaded already."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@cache
def helps():
    """What each verb's --help prints and which heavy modules it loads, asked in one fresh process."""
    code = """
import contextlib, io, json, sys
from xmtl_ray.cli.main import main
found = {}
for verb in json.load(sys.stdin):
    sys.argv = ["xmtl", *verb.split(), "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        try:
            main()
        except SystemExit as end:
            found[verb] = [output.getvalue(), end.code or 0, sorted({name.split(".")[0] for name in sys.modules})]
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(["", *VERBS]), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def commands(group):
    """Names of all verbs, groups' included, as the application has them registered."""
    named = [command.name or command.callback.__name__ for command in group.registered_commands]
    for inner in group.registered_groups:
        names = commands(inner.typer_instance)
        own = inner.name if isinstance(inner.name, str) else None  # verbs of a group without a name stand by themselves
        named += names if own is None else [own, *(f"{own} {name}" for name in names)]
    return named


def test_every_verb_is_listed_here():
    """A new verb must be added to the list, and so to the tests of its help."""
    assert sorted(commands(app)) == sorted(VERBS)


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_loads_nothing_heavy(verb):
    """`--help` of any verb exits with 0 and imports no torch, ray, mlflow or transformers."""
    text, status, modules = helps()[verb]
    assert status == 0 and "Usage:" in text
    assert not HEAVY & set(modules)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in GROUPS])
def test_every_verbs_help_has_an_example_of_it(verb):
    """The example is one of that very verb."""
    text, _, _ = helps()[verb]
    assert f"Example: xmtl {verb}" in " ".join(text.split())


def test_the_overview_names_every_verb():
    """What `xmtl --help` lists is what there is, and where to start."""
    text = helps()[""][0]
    assert all(verb in text for verb in VERBS if " " not in verb)
    assert "xmtl demo" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["config", "xmtl", "train.epochz=3"], "error: train.epochz: no such field; did you mean 'epochs'?"),
        (["config", "xmtl", "name='[/x]'"], "error: name: found '[/x]', expected "),
        (["config", "xmlt"], "error: no recipe 'xmlt'; did you mean 'xmtl'?"),
    ],
)
def test_a_typo_is_one_line_and_status_2(arguments, message):
    """One line on the error stream whatever signs are in it, nothing on the other, no traceback."""
    done = xmtl(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(message)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "xmtl_smoke", "data.root=/nowhere"],
        ["finetune", "videollama2_smoke", "data.root=/nowhere"],
        ["predict", "/nowhere/model", "/nowhere/documents", "--out", "/nowhere/events.jsonl"],
        ["generate", "/nowhere/model", "/nowhere.json", "--out", "/nowhere/answers.jsonl"],
        ["generate", "runs:/1/model", "/nowhere", "--out", "/nowhere/x", "--tracking", "sqlite:////nowhere/mlflow.db"],
        ["merge", "/nowhere/adapter", "--out", "/nowhere/merged"],
        ["predict", "runs:/1/model", "/nowhere", "--out", "/nowhere/x", "--tracking", "sqlite:////nowhere/mlflow.db"],
        ["evaluate", "m2e2", "--gold", "/nowhere", "--pred", "/nowhere/p.json"],
        ["evaluate", "generative", "--gold", "/nowhere.jsonl", "--pred", "/nowhere/p.jsonl"],
        ["data", "show", "/nowhere"],
        ["data", "objects", "/nowhere", "--detector", "yolo:/nowhere.safetensors", "--out", "/nowhere/objects"],
        ["data", "ceiling", "/nowhere", "/nowhere/objects.json"],
        ["data", "map", "--against", "/nowhere.tsv"],
        ["data", "map", "--counts", "/nowhere.json"],
        ["pseudo-label", "xmtl_smoke", "data.pairs.source=/p", "distill.teachers.td=/nowhere", "--out", "/s"],
        ["sync", "/nowhere/run"],
        ["report", "/nowhere/run"],
    ],
)
def test_a_missing_file_is_named(arguments):
    """Each verb that reads something says which file or folder is not there, with status 2."""
    done = invoke(*arguments)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ") and "/nowhere" in done.stderr


def test_an_unknown_verb_or_option_is_status_2():
    """The parser's own errors have the same status."""
    assert invoke("trian").exit_code == invoke("recipes", "--fast").exit_code == 2


def test_recipes_are_listed_with_what_they_are():
    """Every recipe of the package, with the sentence that its file begins with."""
    from importlib.resources import files

    from xmtl_ray.config.load import recipes

    done = invoke("recipes")
    assert done.exit_code == 0
    text = " ".join(done.stdout.split())
    for name in recipes():
        first = (files("xmtl_ray") / "recipes" / f"{name}.yaml").read_text().splitlines()[0]
        assert f"{name} {first.removeprefix('# ')}" in text


def test_config_prints_what_it_resolved(tmp_path):
    """The printed YAML is itself a recipe with the same settings."""
    from xmtl_ray.config.load import load

    done = invoke("config", "xmtl_smoke", "train.epochs=7", "data.root=/data")
    assert done.exit_code == 0
    (tmp_path / "again.yaml").write_text(done.stdout)
    again = load(str(tmp_path / "again.yaml"))
    assert again == load("xmtl_smoke", ["train.epochs=7", "data.root=/data"])
    assert again.train.epochs == 7


def test_config_explains_every_field():
    """--explain prints each dotted path with its value, and below it what it means."""
    from xmtl_ray.config.load import flatten, load

    done = invoke("config", "xmtl", "--explain")
    printed = done.stdout.splitlines()
    paths = [line.split("=")[0] for line in printed if not line.startswith("    ")]
    assert paths == list(flatten(load("xmtl")))
    assert "train.epochs=10" in printed and "data.ace.dev=" in done.stdout
    assert printed[printed.index("train.epochs=10") + 1] == "    Passes over the data [A: Experimental setup]."


def test_world_refuses_a_folder_with_files(tmp_path):
    """Nothing is written over: the file that was there is all there is."""
    (tmp_path / "mine.txt").write_text("keep")
    done = invoke("world", tmp_path, "--size", "small")
    assert done.exit_code == 2
    assert done.stderr == f"error: {tmp_path}: found files in it, expected a new or empty folder\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.fixture
def gold_file(world, tmp_path):
    """The world's gold as a prediction file."""
    predictions.write(tmp_path / "gold.json", predictions.from_gold(m2e2.read(world / "m2e2")))
    return tmp_path / "gold.json"


def test_gold_scores_100(world, gold_file):
    """--json prints one object: seven protocols, six metrics; F1 100 where each gold item counts once."""
    done = xmtl("evaluate", "m2e2", "--gold", world / "m2e2", "--pred", gold_file, "--json")
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)
    assert list(scores) == list(SIDE_BY_SIDE)
    for protocol, values in scores.items():
        assert list(values) == METRICS
        for counts in values.values() if protocol in {"table", "strict", "event_sentences"} else ():
            assert counts["correct"] == counts["predicted"] == counts["gold"] > 0
            assert counts["F1"] == counts["P"] == counts["R"] == 100


def test_the_table_shows_the_same_numbers(world, gold_file):
    """Without --json a table for people: a row per metric; of one protocol where one is asked for."""
    done = invoke("evaluate", "m2e2", "--gold", world / "m2e2", "--pred", gold_file, "--protocol", "strict")
    assert done.exit_code == 0
    cells = [re.split(r"\s{2,}", line.strip()) for line in done.stdout.splitlines() if "100" in line]
    names = [name.replace("mm_", "multimedia_").replace("_", " ") for name in METRICS]
    assert [row[:4] for row in cells] == [[name, "100.0", "100.0", "100.0"] for name in names]
    assert "table" not in done.stdout


def test_malformed_predictions(world, gold_file, tmp_path):
    """Refused with the place and what to do; with --lenient scored, and each problem told."""
    body = json.loads(gold_file.read_text(encoding="utf-8"))
    body["text"]["NOWHERE_0"] = [{"type": "Life:Die", "trigger": [0, 1]}]
    name = next(iter(body["image"]))
    body["image"][name][0]["arguments"] = [{"role": "Place", "box": [0, 0, float("nan"), 5]}]
    gold_file.write_text(json.dumps(body), encoding="utf-8")
    arguments = ("evaluate", "m2e2", "--gold", world / "m2e2", "--pred", gold_file)
    done = invoke(*arguments)
    assert done.exit_code == 2 and f"'image': {name}.0.arguments.0.box.2: found nan" in done.stderr
    done = invoke(*arguments, "--lenient", "--html", tmp_path / "page.html", "--markdown", tmp_path / "page.md")
    assert done.exit_code == 0 and done.stderr.count("counted as wrong: ") == 2
    assert "2 problems in the file" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert (tmp_path / "page.md").read_text(encoding="utf-8").startswith("## gold: M2E2, protocol `table`")


def test_a_baseline_is_scored_like_any_system(world, tmp_path):
    """Its file is written, and the paired test against it is told; an unknown name is an error."""
    out = tmp_path / "same.json"
    assert invoke("evaluate", "baseline", "gold-same-type", "--gold", world / "m2e2", "--out", out).exit_code == 0
    arguments = ("evaluate", "m2e2", "--gold", world / "m2e2", "--pred", out, "--against", out, "--protocol", "table")
    done = invoke(*arguments, "--json", "--intervals")
    row = json.loads(done.stdout)["table"]["mm_event"]
    assert row["difference"] == {"F1": 0.0, "p": 1.0} and row["interval"][0] <= row["F1"] <= row["interval"][1]
    assert "same" in invoke(*arguments).stdout
    done = invoke("evaluate", "baseline", "gold", "--gold", world / "m2e2", "--out", out)
    assert done.exit_code == 2 and "found 'gold', expected one of empty, gold-same-type" in done.stderr


def test_an_unknown_protocol_is_an_error(world, gold_file):
    """The error says which there are."""
    done = invoke("evaluate", "m2e2", "--gold", world / "m2e2", "--pred", gold_file, "--protocol", "tabel")
    assert done.exit_code == 2 and "found 'tabel', expected one of ('table', 'strict'" in done.stderr


def test_the_scorer_gives_the_expected_scores(shared):
    """Real gold and shifted spans, worked out beside the data: counts, P, R and F1 of every metric and protocol."""
    folder = shared / "data"
    if not (folder / "m2e2").is_dir():
        pytest.skip("the public half of M2E2 is not at hand")
    expected = json.loads((folder / "scoring/expected.json").read_text())["shifted_spans"]["scores"]
    done = xmtl(
        "evaluate", "m2e2", "--gold", folder / "m2e2", "--pred", folder / "scoring/shifted_spans.json",
        "--protocol", "table", "--protocol", "strict", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {name: expected[name] for name in ("table", "strict")}
    assert expected["table"]["text_event"]["F1"] < 100
