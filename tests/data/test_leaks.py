"""Likeness of texts and images: what counts as the same, as nearly the same, and as neither."""

import numpy as np
import pytest
from PIL import Image as Picture

from xmtl_ray.data.images import hashes
from xmtl_ray.data.leaks import Images, Match, Texts, text_key

TEXT = "Police detained two brothers in Velmora on Friday after the harbour attack that killed nine people ."
SENTENCE = TEXT.split()


def texts(*words):
    found = Texts()
    for index, each in enumerate(words):
        found.remember(f"D_{index}", each)
    return found


def test_form_is_not_content():
    """Case, punctuation, white space and Unicode forms do not make another text; words do."""
    assert text_key(["Café", "!"]) == text_key(["CAFE\u0301"]) != text_key(["Cafe"])


def test_texts():
    """Equal in words: the same. One word of seventeen changed: near. Half of them: neither."""
    known = texts(["Something", "else"], SENTENCE)
    assert known.like([word.upper() for word in SENTENCE]) == Match("D_1", "same")
    changed = [*SENTENCE[:-2], "persons", "."]
    assert known.like(changed) == Match("D_1", "near")
    assert known.like([*SENTENCE[:8], *["a", "judge", "said", "in", "a", "statement", "to", "the", "press"]]) is None


def test_short_texts_are_only_ever_the_same():
    """Five words have three shingles: "He was held on Monday" is not a leak of "He was held on Friday"."""
    known = texts(["He", "was", "held", "on", "Friday"])
    assert known.like(["He", "was", "held", "on", "Monday"]) is None
    assert known.like(["he", "was", "held", "on", "Friday", "."]) == Match("D_0", "same")


def test_near_texts_against_the_exact_similarity():
    """Of random edits of one sentence, those with a true Jaccard similarity far from 0.8 are judged right."""
    rng = np.random.default_rng(0)
    base = [f"w{number}" for number in range(60)]
    known = texts(base)

    def shingles(words):
        return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}

    judged = 0
    for edits in range(12):
        words = list(base)
        for place in rng.choice(60, edits, replace=False):
            words[place] = f"x{place}"
        both = shingles(words) & shingles(base)
        similarity = len(both) / len(shingles(words) | shingles(base))
        if not 0.65 < similarity < 0.93:
            judged += 1
            assert (known.like(words) is not None) == (similarity > 0.8)
    assert judged > 5


@pytest.fixture
def pictures(tmp_path):
    """A picture, the same recompressed and smaller, and another one."""
    rng = np.random.default_rng(1)
    shapes = np.kron(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), np.ones((40, 40, 1), dtype=np.uint8))
    Picture.fromarray(shapes).save(tmp_path / "a.jpg", quality=95)
    Picture.fromarray(shapes).resize((200, 150)).save(tmp_path / "small.jpg", quality=60)
    Picture.fromarray(shapes[:, ::-1]).save(tmp_path / "mirrored.jpg", quality=95)
    (tmp_path / "copy.jpg").write_bytes((tmp_path / "a.jpg").read_bytes())
    return tmp_path


def test_images(pictures):
    """A copy is the same, a smaller and recompressed one near, a mirrored one neither; bytes find the copy only."""
    known = Images()
    known.remember("a", *hashes(pictures / "a.jpg"))
    assert known.like(*hashes(pictures / "copy.jpg")) == Match("a", "same")
    assert known.like(*hashes(pictures / "small.jpg")) == Match("a", "near")
    assert known.like(*hashes(pictures / "mirrored.jpg")) is None
    assert known.like(hashes(pictures / "small.jpg")[0], None) is None


def test_near_images_are_all_that_differ_in_four_bits():
    """Every number of flipped bits from 0 to 8, against the definition."""
    rng = np.random.default_rng(2)
    for bits in range(9):
        for _ in range(20):
            one = int(rng.integers(0, 2**63))
            other = one
            for place in rng.choice(64, bits, replace=False):
                other ^= 1 << int(place)
            known = Images()
            known.remember("one", "digest", f"{one:016x}")
            assert (known.like("other digest", f"{other:016x}") is not None) == (bits <= 4)
