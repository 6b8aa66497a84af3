"""The names of the formats that are read and written; apart from ``formats``, so that a verb's help loads no reader."""

from enum import StrEnum


class Format(StrEnum):
    """What ``--format``, ``--from`` and ``--to`` may name."""

    JMEE = "jmee"
    ONEIE = "oneie"
    TEXTEE = "textee"
    DYGIEPP = "dygiepp"
    IMSITU = "imsitu"
    VOA = "voa"
    M2E2 = "m2e2"
    VIDEOLLAMA2 = "videollama2"
    LABEL_STUDIO = "label_studio"
    PREDICTIONS = "m2e2-pred-1"
    PARQUET = "parquet"
