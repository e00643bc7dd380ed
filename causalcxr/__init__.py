"""Chest X-ray classification from a causal perspective: layers, losses and timm models.

Importing the package registers its models with timm, so `timm.create_model("causal_resnet101")` works too.
"""

from causalcxr import bench, data, explain, layers, losses, metrics, models, objectives
from causalcxr.calibration import Calibration
from causalcxr.hub import push_to_hub, save_pretrained
from causalcxr.inference import Prediction, predict
from causalcxr.models import (
    CausalCXR,
    CausalHead,
    create_model,
    is_model,
    list_backbones,
    list_models,
    list_pretrained,
)
from causalcxr.objectives import AgreementObjective, BorrowRegions, CausalObjective, ClassificationObjective
from causalcxr.outputs import CausalOutput

__version__ = "0.2.0"

__all__ = [
    "AgreementObjective",
    "BorrowRegions",
    "Calibration",
    "CausalCXR",
    "CausalHead",
    "CausalObjective",
    "CausalOutput",
    "ClassificationObjective",
    "Prediction",
    "bench",
    "create_model",
    "data",
    "explain",
    "is_model",
    "layers",
    "list_backbones",
    "list_models",
    "list_pretrained",
    "losses",
    "metrics",
    "models",
    "objectives",
    "predict",
    "push_to_hub",
    "save_pretrained",
]
