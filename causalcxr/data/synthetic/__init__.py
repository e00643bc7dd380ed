"""Synthetic chest radiographs with planted findings: the dataset and its building blocks.

A film is an attenuation map (`anatomy`) on the pixel grid of an image size (`canvas`). Findings add to it (`findings`).
Letters are drawn on top (`markers`). `SyntheticCXR` (`dataset`) samples the contents of each film and draws it.
"""

from causalcxr.data.synthetic.canvas import cover
from causalcxr.data.synthetic.dataset import SyntheticCXR, SyntheticSample, stream
from causalcxr.data.synthetic.markers import MARKERS, text_cover

__all__ = ["MARKERS", "SyntheticCXR", "SyntheticSample", "cover", "stream", "text_cover"]
