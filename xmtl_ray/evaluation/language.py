"""Whether an answer is in the language of its sample.

In four steps: what the source text contains is never wrong; an answer without letters is not judged; then the script
decides (Han for Chinese, Cyrillic for Russian, Latin for English and Spanish); and between English and Spanish
``lingua``, where it is installed. Other languages are not judged.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from itertools import islice
from typing import Literal

Verdict = Literal["same", "other", "not judged"]

_SCRIPTS = {"zh": "CJK", "ru": "CYRILLIC", "en": "LATIN", "es": "LATIN"}
_HAN_WEIGHT = 3
"""Letters of other scripts that a Chinese character stands for: 一种OpenGrid传感器 is Chinese."""

_STRINGS, _LETTERS = 200, 2000
"""Strings, and letters of each, that are enough to tell: an answer may be a loop of a megabyte."""


def judge(language: str, source: str, strings: Iterable[str]) -> Verdict:
    """Whether the ``strings`` of an answer are in ``language``, as far as they are not from ``source``."""
    if language not in _SCRIPTS:
        return "not judged"
    told = _plain(source)
    own = [text for text in islice(strings, _STRINGS) if _plain(text[:_LETTERS]) not in told]
    scripts = Counter(script for text in own for letter in text[:_LETTERS] if (script := _script(letter)))
    if not scripts:
        return "not judged"
    scripts["CJK"] *= _HAN_WEIGHT
    if scripts[_SCRIPTS[language]] < max(scripts.values()):
        return "other"
    return _latin(language, " ".join(own)[:_LETTERS]) if _SCRIPTS[language] == "LATIN" else "same"


def _latin(language: str, text: str) -> Verdict:
    probability = _english()
    if probability is None:
        return "not judged"
    english, sure = probability(text), 0.8 if len(text.split()) >= 3 else 0.9
    expected = english if language == "en" else 1 - english
    if 1 - expected >= sure:
        return "other"
    return "same" if expected >= sure else "not judged"


def _plain(text: str) -> str:
    """For looking a string up in its source: neither case nor white space tells them apart."""
    return re.sub(r"\s+", "", unicodedata.normalize("NFKC", text).casefold())


@cache
def _script(letter: str) -> str | None:
    """First word of the letter's Unicode name, which for most scripts is the script's; None if it is no letter."""
    if not letter.isalpha():
        return None
    return unicodedata.name(letter, "UNKNOWN").split(" ")[0].split("-")[0]


@cache
def _english() -> Callable[[str], float] | None:
    """The probability that a text is English rather than Spanish; None without lingua."""
    try:
        from lingua import Language, LanguageDetectorBuilder
    except ImportError:
        return None
    detector = LanguageDetectorBuilder.from_languages(Language.ENGLISH, Language.SPANISH).build()
    return lambda text: float(detector.compute_language_confidence(text, Language.ENGLISH))
