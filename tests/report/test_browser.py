"""Pages in a real browser: nothing is fetched, nothing complained of, and nothing reaches over a phone's edge."""

import json

import pytest
from chromium import PROGRAM, Chromium
from test_judged import DOCUMENTS
from test_judged import run as finished_run
from test_sweep_page import SWEEP

from xmtl_ray.evaluation import generative
from xmtl_ray.events.records import GenerativeEvent, GenerativeSample
from xmtl_ray.report import generative_page, sweep_page
from xmtl_ray.report.page import write_report

run = finished_run
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One Chromium for all pages."""
    found = Chromium(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture
def pages(run, tmp_path_factory):
    """A run's page, a sweep's, and one of a language model's answers."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "sweep.json").write_text(json.dumps(SWEEP))
    event = GenerativeEvent("Life:Die", "killed", (("Agent", "a name of many words " * 9),))
    samples = [GenerativeSample("s0", "en", "Police killed men. " * 40, (event,), modality="text")]
    answers = {"s0": json.dumps({"events": []})}
    found = generative.report(samples, answers)
    generative_page.write_page(folder / "answers.html", "answers", generative.score(samples, answers), found)
    return [write_report(run, DOCUMENTS), sweep_page.write_sweep_page(folder), folder / "answers.html"]


@pytest.mark.slow
def test_pages_stand_alone_on_a_phone_by_day_and_night_and_on_paper(browser, pages):
    """At 360 pixels and at 1200: no request, no error in the console, nothing wider than the window."""
    for path in pages:
        colours = {}
        for width, scheme, media in ((360, "light", "screen"), (360, "dark", "screen"), (1200, "dark", "print")):
            seen = browser.look(path, width, scheme, media)
            assert seen["requests"] == [] and seen["complaints"] == [], path
            assert seen["width"] <= width and seen["wider"] == [], (path, width, seen["wider"])
            colours[scheme, media] = seen["colours"]
        assert colours["light", "screen"] != colours["dark", "screen"]
        assert colours["dark", "print"][1] == colours["light", "screen"][1]  # ink on paper


@pytest.mark.slow
def test_what_the_browser_would_tell(browser, tmp_path):
    """Negative control: a page that asks for an image elsewhere, throws, and is too wide."""
    path = tmp_path / "bad.html"
    path.write_text(
        '<meta name="viewport" content="width=device-width"><script>throw 1</script>'
        '<main><div style="width: 900px">wide</div><img src="http://127.0.0.1:9/x.png"></main>'
    )
    seen = browser.look(path, 360)
    assert seen["requests"] == ["http://127.0.0.1:9/x.png"]
    assert seen["complaints"] and seen["width"] > 360 and "DIV." in seen["wider"]
