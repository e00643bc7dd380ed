"""Generated chest radiographs with planted findings: the data set, and the parts that it is painted with.

A film is a map of attenuation (`anatomy`), to which findings (`findings`) add, on the grid of an image size (`canvas`).
Letters lie on the film (`markers`). `SyntheticCXR` (`dataset`) samples what is on a film and draws it.
"""

from causalcxr.data.synthetic.canvas import cover
from causalcxr.data.synthetic.dataset import SyntheticCXR, SyntheticSample, stream
from causalcxr.data.synthetic.markers import MARKERS, text_cover

__all__ = ["MARKERS", "SyntheticCXR", "SyntheticSample", "cover", "stream", "text_cover"]
