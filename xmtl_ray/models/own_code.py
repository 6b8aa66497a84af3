"""Whether a model's folder names code of its own, which transformers would import if it were trusted.

Nothing here trusts any: ``trust_remote_code`` is False in every call. But an explicit False has been passed over by a
configuration before (CVE-2026-5241), so such a folder is refused before transformers sees it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_KEYS = {"auto_map", "custom_generate", "custom_pipelines"}
_NOT_LOOKED_AT = {"tokenizer.json", "vocab.json"}
"""Words, of megabytes."""


def refuse(folder: Path | str, kind: type[ValueError]) -> None:
    """Raises ``kind`` where a configuration in ``folder`` names code; a name that is no folder is not looked at."""
    if (found := problem(Path(folder))) is not None:
        raise kind(found)


def problem(folder: Path) -> str | None:
    """The file and the field that name code, and what was expected; None if none does."""
    for path in sorted(folder.glob("*.json")):
        if path.name in _NOT_LOOKED_AT or path.name.endswith(".index.json"):
            continue
        try:
            key = _named(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, RecursionError):  # whoever needs the file says what is wrong with it
            continue
        if key is not None:
            return f"{path}: {key}: found code of its own, which is not run; remove the field"
    return None


def _named(value: Any) -> str | None:
    if isinstance(value, dict):
        return next((key for key in value if key in _KEYS and value[key]), None) or _first(value.values())
    return _first(value) if isinstance(value, list) else None


def _first(values: Any) -> str | None:
    return next((key for value in values if (key := _named(value)) is not None), None)
