"""Radiographs and their labels."""

from causalcxr.data.image import read_image
from causalcxr.data.labels import NIH_LABELS, check_label_names
from causalcxr.data.nih import NIHChestXray14
from causalcxr.data.preprocessing import normalise_for, preprocess
from causalcxr.data.synthetic import SyntheticCXR

__all__ = [
    "NIH_LABELS",
    "NIHChestXray14",
    "SyntheticCXR",
    "check_label_names",
    "normalise_for",
    "preprocess",
    "read_image",
]
