"""The report on a model's answers, and the files that it is made from."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from xmtl_ray.cli.main import app
from xmtl_ray.evaluation.generative import report
from xmtl_ray.events.answers import read_answers, read_cut, read_samples
from xmtl_ray.events.json_format import dumps
from xmtl_ray.events.records import DataError, GenerativeSample
from xmtl_ray.events.records import GenerativeEvent as Event

BUY = Event("buy", "bought", (("agent", "Labs"),))
SELL = Event("sell", "sold", ())


def sample(name, language="en", events=(BUY,), modality=None):
    return GenerativeSample(name, language, "Labs bought it", events, modality)


@pytest.mark.parametrize("case", ["gold", "format_noise", "incomplete", "wrong_type"])
def test_the_expected_values(shared, case):
    """Every value of expected.json: accuracies, counts, kinds of error and states, in its order."""
    folder = shared / "data/vl2_scoring"
    if not folder.is_dir():
        pytest.skip("the invented answers and their expected values are not at hand")
    samples = read_samples(folder / "samples.jsonl")
    found = report(samples, read_answers(folder / f"{case}.jsonl", samples))
    expected = json.loads((folder / "expected.json").read_text())[case]
    assert {name: found[name] for name in expected} == expected
    assert list(found["trigger"]) == list(expected["trigger"])


def test_means_by_language_and_modality():
    """en: 1 of 2 and 1 of 1 triggers, mean 75; ru: 0; overall 37.5; pooled 2 of 4. Arguments: 2 of 3 in all."""
    samples = [
        sample("a", events=(BUY, SELL), modality="text"),
        sample("b", modality="video"),
        sample("c", "ru", modality="video"),
    ]
    found = report(samples, {"a": dumps([BUY]), "b": f"Sure: {dumps([BUY, SELL])}", "c": "[]"})
    assert found["trigger"]["overall_mean_of_languages"] == 37.5
    assert [found["trigger"][name]["accuracy_mean_of_samples"] for name in ("en", "ru", "all")] == [75, 0, 50]
    assert found["pooled"]["trigger"]["all"] == {
        "correct": 2, "predicted": 3, "gold": 4, "P": 66.6667, "R": 50, "F1": 57.1429,
    }  # fmt: skip
    assert found["argument"]["all"]["accuracy_pooled"] == 66.6667
    assert found["modalities"]["video"]["trigger"]["accuracy_mean_of_samples"] == 50
    assert found["states"] == {"ok": 2, "repaired": 1, "malformed": 0}
    assert found["errors"]["by_modality"] == {"text": {"incomplete": 1}, "video": {"incomplete": 1, "extra": 1}}


def test_a_sample_without_an_answer_is_malformed():
    """It lowers the accuracy as a wrong one does, and is counted apart."""
    found = report([sample("a"), sample("b")], {"a": dumps([BUY])})
    assert found["trigger"]["en"]["accuracy_mean_of_samples"] == 50
    assert (found["states"]["malformed"], found["missing"], found["categories"]) == (1, 1, {"malformed_json": 1})


def test_a_sample_counts_once_per_kind_and_examples_are_few():
    """Three missing events of one sample are one; of five samples two examples are kept, long ones cut."""
    samples = [sample(name, events=(BUY, BUY, SELL)) for name in "abcde"]
    found = report(samples, dict.fromkeys("abcde", "x" * 1000), examples=2)
    assert found["categories"] == {"malformed_json": 5}
    assert [len(example["found"]) for example in found["errors"]["examples"]["malformed_json"]] == [160, 160]
    assert report(samples, dict.fromkeys("abcde", "[]"))["categories"] == {"incomplete": 5}


GOOD = {"id": "a", "language": "en", "source": "s", "events": []}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "record 1: line 3 column 1: found "),
        ("[" * 9999, "record 1: nesting: found 'too deep'"),
        ("[]", "record 1: whole record: found []"),
        (json.dumps(GOOD | {"id": 1}), "record 1: id: found 1, expected a valid string"),
        (json.dumps(GOOD | {"language": "English"}), "record 1: language: found 'English'"),
        (json.dumps(GOOD | {"modality": "smell"}), "record 1: modality: found 'smell'"),
        (json.dumps(GOOD | {"events": [{"trigger": "x"}]}), "record 1: events.0.event_type: found "),
        (json.dumps(GOOD), "record 1: id: found 'a', expected an id that record 0 does not have"),
    ],
)
def test_a_bad_record_is_named(tmp_path, line, message):
    """File, record, field, found and expected."""
    path = tmp_path / "samples.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        read_samples(path)
    assert str(error.value).startswith(f"{path}: {message}")


def test_answers_to_unknown_samples_and_without_text_are_errors(tmp_path):
    """A misspelt id would hide an answer; null is no string. Blank lines and line separators in strings do no harm."""
    path = tmp_path / "answers.jsonl"
    path.write_text('\n{"id": "a", "output": "one\u2028line"}\n', encoding="utf-8")
    assert read_answers(path, [sample("a")]) == {"a": "one\u2028line"}
    with pytest.raises(DataError, match="record 0: id: found 'a', expected the id of one of the 1 samples"):
        read_answers(path, [sample("b")])
    path.write_text('{"id": "a", "output": null}')
    with pytest.raises(DataError, match="record 0: output: found None"):
        read_answers(path, [sample("a")])


@pytest.fixture
def files(tmp_path):
    """Two samples with one answer, which tries to steer the terminal."""
    rows = [
        {"id": name, "language": "en", "source": "Labs bought it", "modality": "text",
         "events": json.loads(dumps([BUY]))["events"]}
        for name in ("a", "b")
    ]  # fmt: skip
    (tmp_path / "gold.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "pred.jsonl").write_text(json.dumps({"id": "a", "output": "[red]\x1b[31mno"}))
    return ["evaluate", "generative", "--gold", str(tmp_path / "gold.jsonl"), "--pred", str(tmp_path / "pred.jsonl")]


def test_the_command_prints_one_object(files):
    """--json is what `report` returns."""
    done = CliRunner().invoke(app, [*files, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {"trigger", "argument", "categories", "states"} < set(found)
    assert found["samples"] == 2 and found["missing"] == 1


def test_the_command_prints_tables(files):
    """Accuracies, states and examples; what the model wrote is shown as text, never obeyed."""
    done = CliRunner().invoke(app, files)
    assert done.exit_code == 0, done.output
    assert "2 samples: 0 ok, 0 repaired, 2 malformed (of them without an answer: 1)" in done.stdout
    assert "malformed_json a: [red] [31mno" in done.stdout and "\x1b" not in done.stdout
    assert "malformed_json b: no answer" in done.stdout


def test_it_loads_nothing_heavy():
    """Neither torch nor lingua, scipy or numpy, until something asks for a language."""
    code = (
        "import sys, xmtl_ray.evaluation.generative; print([*{'torch', 'ray', 'lingua', 'numpy'} & set(sys.modules)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_rates_of_answers_by_group():
    """Of three: one ok, one repaired and cut, one malformed; by language and modality; unknown cuts are left out."""
    samples = [sample("a", modality="text"), sample("b", "ru", modality="video"), sample("c", "ru", modality="video")]
    answers = {"a": dumps([BUY]), "b": f"Sure: {dumps([BUY])}"}
    found = report(samples, answers, cut={"b"})
    assert found["rates"]["all"] == {
        "samples": 3,
        "ok": 33.3333,
        "repaired": 33.3333,
        "malformed": 33.3333,
        "cut": 33.3333,
    }
    assert found["rates"]["ru"] == found["rates"]["video"]
    assert found["rates"]["ru"] == {"samples": 2, "ok": 0, "repaired": 50, "malformed": 50, "cut": 50}
    assert "cut" not in report(samples, answers)["rates"]["all"]
    assert report([], {})["rates"]["all"]["ok"] == 0


def test_reasoning_that_was_asked_for_is_no_repair():
    """It counts apart; its accuracy is that of its last line, whatever brackets it has before."""
    samples = [sample("a"), sample("b"), sample("c")]
    answers = {"a": f"So [1].\n{dumps([BUY])}", "b": dumps([BUY]), "c": f"{dumps([BUY])} it is"}
    found = report(samples, answers, reason=True)
    assert found["states"] == {"ok": 1, "reasoned": 1, "repaired": 1, "malformed": 0}
    assert list(found["states"]) == ["ok", "reasoned", "repaired", "malformed"]
    assert found["rates"]["en"]["ok"] == 66.6667 and found["rates"]["en"]["reasoned"] == 33.3333
    assert found["trigger"]["en"]["accuracy_mean_of_samples"] == 100
    assert report(samples, answers)["states"] == {"ok": 1, "repaired": 1, "malformed": 1}


def test_files_may_say_which_answers_are_cut(tmp_path):
    """None where no answer says; one that says nothing beside others that do is not cut."""
    path = tmp_path / "answers.jsonl"
    path.write_text('{"id": "a", "output": ""}\n{"id": "b", "output": ""}')
    assert read_cut(path) is None
    path.write_text(
        '{"id": "a", "output": "", "cut": true}\n{"id": "b", "output": "", "cut": false}\n{"id": "c", "output": ""}'
    )
    assert read_cut(path) == {"a"}
    path.write_text('{"id": "a", "output": "", "cut": 1}')
    with pytest.raises(DataError, match="record 0: cut: found 1"):
        read_cut(path)


def test_the_command_sets_ours_beside_the_published(files, tmp_path):
    """A table with the note on the data, the same in JSON, and a page; an unknown model or claim is told."""
    done = CliRunner().invoke(app, [*files, "--beside", "videollama2", "--html", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.output
    assert "overall │ 0.00 │ 0.00 │     28.40 │     23.89 │      65.28 │      60.54" in done.stdout
    assert "The data are not the same" in done.stdout
    assert "VideoLLaMA2.1" not in (tmp_path / "page.html").read_text()
    done = CliRunner().invoke(app, [*files, "--beside", "videollama21", "--json"])
    compared = json.loads(done.stdout)["beside"]
    assert compared["note"].startswith("The data are not the same") and compared["model"] == "videollama21"
    assert compared["rows"][1]["published"]["fine-tuned"] == {"trigger": 78.54, "argument": 56.77}
    for asked, message in (("--beside=x", "published figures: found 'x'"), ("--same-data", "same data: found samples")):
        done = CliRunner().invoke(app, [*files, asked])
        assert done.exit_code == 2 and message in done.stderr


def test_the_command_reads_reasoned_and_cut_answers(files, tmp_path):
    """States and rates of answers that reason first or were cut."""
    lines = [{"id": "a", "output": f"So.\n{dumps([BUY])}", "cut": False}, {"id": "b", "output": "So", "cut": True}]
    (tmp_path / "pred.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = CliRunner().invoke(app, [*files, "--reasoned"])
    assert "2 samples: 0 ok, 1 reasoned, 0 repaired, 1 malformed; cut by a limit on tokens: 50.0 %" in " ".join(
        done.stdout.split()
    )
