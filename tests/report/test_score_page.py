"""The page and the Markdown of a prediction file's scores."""

import re
from pathlib import Path

from PIL import Image as Picture

from xmtl_ray.evaluation.summary import summarise
from xmtl_ray.events.predictions import Predictions
from xmtl_ray.events.records import (
    Box,
    DataError,
    Document,
    Image,
    MultimediaEvent,
    Sentence,
    Span,
    TextEvent,
    VisualArgument,
    VisualEvent,
)
from xmtl_ray.report.score_page import markdown, write_page

DIE = "Life:Die"


def documents(folder):
    path = folder / "D_0.jpg"
    Picture.new("RGB", (60, 40), (90, 120, 150)).save(path)
    event = VisualEvent(DIE, (VisualArgument("Victim", Box(5, 5, 25, 30)),))
    return tuple(
        Document(
            name,
            (Sentence(f"{name}_0", ("He", "<b>died</b>", "."), events=(TextEvent(DIE, Span(1, 2)),), multimedia=True),),
            (Image(f"{name}_0", path, (event,), multimedia=True),),
            (MultimediaEvent(f"{name}_0", f"{name}_0", DIE),),
        )
        for name in ("D", "E")
    )


FOUND = Predictions(
    {"D_0": (TextEvent(DIE, Span(1, 2)),), "E_0": (TextEvent("Contact:Meet", Span(0, 1)),)},
    {"D_0": (VisualEvent(DIE, (VisualArgument("Victim", Box(30, 5, 50, 30)),)),)},
    (MultimediaEvent("D_0", "D_0", DIE),),
)


def test_the_page_shows_scores_errors_and_problems(tmp_path):
    """Scores of each protocol, the marked sentence (escaped), gold and predicted boxes, what was malformed."""
    gold = documents(tmp_path)
    summary = summarise(gold, FOUND, ["table", "wase"], intervals=True, against=Predictions({}, {}, ()))
    problem = DataError(Path("p.json"), "text.D_9", "0.type", "<script>", "a type")
    write_page(tmp_path / "page.html", "my system", gold, FOUND, summary, [problem], "other")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<b>died</b>" not in page and "&lt;b&gt;died" in page
    assert "<script>" not in page and "1 problem in the file" in page
    assert "against other" in page and "after WASE" in page
    assert page.count("data:image/jpeg;base64") == 2
    assert re.search(r'class="line missed"', page) and re.search(r'class="line wrong dashed"', page)
    assert "49.1" in page  # recomputed from WASE-T's printed P and R
    assert "http" not in page.replace("http-equiv", "")


def test_markdown(tmp_path):
    """Every metric's row has as many cells as the head; the file's own rows stand among the published ones."""
    gold = documents(tmp_path)
    text = markdown("my|system", summarise(gold, FOUND, ["table", "strict"]))
    assert "| text event | 50.0 | 50.0 | 50.0 |  | 1 | 2 | 2 | +0.0 |" in text
    assert "**my\\|system**" in text and "| WASE-T | 42.3 | 58.4 | 48.2 | 49.1 |" in text
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")]
    assert set(cells) == {10, 4, 7}
