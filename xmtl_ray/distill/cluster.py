"""The old place of ``cluster.connection``."""

from xmtl_ray.cluster.connection import ENVIRONMENT, cluster

__all__ = ["ENVIRONMENT", "cluster"]
