"""What the benchmark takes of the painter of generated films."""

from causalcxr.data._canvas import cover
from causalcxr.data._markers import text_cover
from causalcxr.data._studies import stream

__all__ = ["cover", "stream", "text_cover"]
