"""Find backbone weights on disk or on the Hub, and read them without running code."""

import re
from collections.abc import Mapping
from pathlib import Path

from timm.models import PretrainedCfg, load_state_dict
from torch import Tensor

from causalcxr import hub

__all__ = ["find_weights", "read_weights"]

HUB = "hf-hub:"
CONTAINERS = ("state_dict", "model", "module")


def find_weights(source: str | Path) -> Path:
    """Return the path of a weights file, given a file, a folder or `"hf-hub:owner/repo[@revision][:file]"`."""
    if not str(source).startswith(HUB):
        path = Path(source)
        if path.is_dir():
            return hub.weights_file(PretrainedCfg(source="local-dir", file=str(path)))
        if not path.is_file():
            raise FileNotFoundError(f"no file of backbone weights at {path}")
        return hub.weights_file(PretrainedCfg(source="", file=str(path))) if path.suffix == ".safetensors" else path
    if not (parts := re.fullmatch(r"hf-hub:([^/@:]+/[^/@:]+)(?:@([^:]+))?(?::(.+))?", str(source))):
        raise ValueError(f"weights on the Hub must be 'hf-hub:owner/repo[@revision][:file]', but got {source!r}")
    repo_id, revision, filename = parts[1], parts[2] or "main", parts[3] or hub.WEIGHTS
    cfg = PretrainedCfg(source="hf-hub", hf_hub_id=f"{repo_id}@{revision}", hf_hub_filename=filename)
    return hub.weights_file(cfg)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, unwrapped from a training checkpoint if necessary."""
    try:
        content = load_state_dict(path, weights_only=True)
        while inner := next((content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping)), None):
            content = inner
        tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    except Exception as error:  # damaged files raise many types of error
        raise ValueError(
            f"{path} cannot be read as a file of tensors ({error!r:.150}); save the state_dict() of the model with "
            "torch.save or as safetensors"
        ) from error
    if not tensors:
        raise ValueError(f"{path} has no weights at the top level or under {', '.join(CONTAINERS)}")
    return tensors
