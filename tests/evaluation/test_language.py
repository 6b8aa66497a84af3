"""Whether an answer is in its sample's language."""

import builtins
import json
import random

import pytest

from xmtl_ray.evaluation import language
from xmtl_ray.evaluation.language import judge

ENGLISH, SPANISH = "the researchers developed a new battery", "las ingenieras desarrollaron un robot submarino"


@pytest.mark.parametrize(
    ("expected", "source", "strings", "verdict"),
    [
        ("zh", "", ["新一代存储芯片"], "same"),
        ("zh", "", ["a new memory chip"], "other"),
        ("zh", "", ["новый процессор"], "other"),
        ("zh", "", ["一种OpenGrid传感器"], "same"),
        ("ru", "", ["новый процессор"], "same"),
        ("ru", "", ["новый процессор Kestrel"], "same"),
        ("ru", "", ["芯片"], "other"),
        ("en", "", [ENGLISH], "same"),
        ("en", "", [SPANISH], "other"),
        ("es", "", [SPANISH], "same"),
        ("es", "", [ENGLISH], "other"),
        ("es", "", ["日本語"], "other"),
        ("zh", "星河科技的OpenGrid传感器", ["OpenGrid"], "not judged"),
        ("es", f"Dijo: “{ENGLISH}”", [ENGLISH.upper()], "not judged"),
        ("en", "", ["2024", "50 %", ""], "not judged"),
        ("en", "", [], "not judged"),
        ("en", "", ["Oslo"], "not judged"),
        ("de", "", [ENGLISH], "not judged"),
    ],
)
def test_verdicts(expected, source, strings, verdict):
    """Script first, then English or Spanish; what the source says, numbers, short names and other languages are not."""
    assert judge(expected, source, strings) == verdict


def test_without_lingua_scripts_are_still_judged(monkeypatch):
    """Only English and Spanish are not told apart."""
    real = builtins.__import__

    def refuse(name, *arguments):
        if name == "lingua":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    language._english.cache_clear()
    try:
        assert judge("en", "", [SPANISH]) == "not judged"
        assert judge("en", "", ["новый процессор"]) == "other"
        assert judge("ru", "", [ENGLISH]) == "other"
    finally:
        language._english.cache_clear()


def test_parallel_sentences(shared):
    """Four tokens of 250 sentences: of another language's at least 80 % are caught, of the right one at most 2 %."""
    folder = shared / "data/ud_pud"
    if not folder.is_dir():
        pytest.skip("the parallel sentences of UD PUD are not at hand")
    rows = {
        name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")[:250]]
        for name in ("en", "zh", "es", "ru")
    }
    chance = random.Random(0)

    def four(row, name):
        start = chance.randrange(max(1, len(row["tokens"]) - 3))
        return ("" if name == "zh" else " ").join(row["tokens"][start : start + 4])

    for expected, own in rows.items():
        wrong = [judge(expected, "", [four(row, expected)]) == "other" for row in own]
        assert sum(wrong) / len(wrong) <= 0.02, expected
        for other in rows.keys() - {expected}:
            caught = [
                judge(expected, mine["text"], [four(row, other)]) == "other"
                for mine, row in zip(own, rows[other], strict=True)
            ]
            assert sum(caught) / len(caught) >= 0.8, (expected, other)
