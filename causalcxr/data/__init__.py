"""Datasets, image reading and preprocessing."""

from causalcxr.data.films import CSVDataset
from causalcxr.data.image import read_image
from causalcxr.data.labels import NIH_LABELS, check_label_names
from causalcxr.data.nih import NIHChestXray14
from causalcxr.data.synthetic import SyntheticCXR
from causalcxr.data.transforms import normalise, preprocess

__all__ = [
    "NIH_LABELS",
    "CSVDataset",
    "NIHChestXray14",
    "SyntheticCXR",
    "check_label_names",
    "normalise",
    "preprocess",
    "read_image",
]
