"""The layers of the method, each usable on its own."""

from causalcxr.layers.acmix import ACmix
from causalcxr.layers.backdoor import BackdoorIntervention
from causalcxr.layers.confounder_bank import ConfounderBank
from causalcxr.layers.cross_attention import DisentangledCrossAttention
from causalcxr.layers.decoder import CausalDecoder
from causalcxr.layers.feature_learning import FeatureLearning
from causalcxr.layers.group_linear import GroupLinear

__all__ = [
    "ACmix",
    "BackdoorIntervention",
    "CausalDecoder",
    "ConfounderBank",
    "DisentangledCrossAttention",
    "FeatureLearning",
    "GroupLinear",
]
