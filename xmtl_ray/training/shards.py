"""DeepSpeed's files, read as what they are: tensors, plain values and the classes that it keeps with them.

DeepSpeed itself reads them as pickles that may call anything (``weights_only=False``), so a shard from elsewhere would
run code before its first number is looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xmtl_ray.models import plain_pickles


def read(path: str | Path, map_location: Any = None) -> Any:
    """What DeepSpeed saved in ``path``; stands in for the ``load`` of its checkpoint engine. Raises PickleError."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    own = (DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address)
    return plain_pickles.read(path, map_location, own, what="tensors and DeepSpeed's own")
