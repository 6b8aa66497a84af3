"""Run by MLflow when it loads a registered generative model; copied into the model's folder, so it must not change."""

from mlflow.models import set_model

from xmtl_ray.registry.served import model

set_model(model("conversations"))
