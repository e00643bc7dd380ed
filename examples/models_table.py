"""Write the table of models in docs/models.md: what the registry has, counted, and what its weights reach.

    python examples/models_table.py

Parameters and operations are counted on the meta device, where nothing is computed. AUROC is that of the manifest
beside the weights.
"""

import argparse
import json
from pathlib import Path

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import causalcxr
from atomic import write_text
from report import rows, with_interval

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"
START, END = "<!-- written by examples/models_table.py -->", "<!-- end of the table -->"
HEADER = ["model", "backbone", "stride", "image", "parameters", "operations", "weights", "test AUROC"]


def names() -> list[str]:
    """Return the models that have a backbone of their own."""
    return [name for name in causalcxr.list_models() if name != "causal_timm"]


def row(name: str) -> list[str]:
    """Return the cells of one model."""
    model = causalcxr.create_model(name, device="meta").eval().requires_grad_(False)
    cfg, size = model.backbone.pretrained_cfg, model.pretrained_cfg["input_size"]
    return [
        f"`{name}`",
        f"`{cfg['architecture']}`",
        str(model.reduction),
        f"{size[1]} px",
        f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f} M",
        f"{operations(model, size) / 1e9:.2f} G",
        *measured(name),
    ]


def operations(model: nn.Module, input_size: tuple[int, int, int]) -> int:
    """Return the multiply-accumulates of the logits of one image, in convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, *input_size, device="meta"))
    return counter.get_total_flops() // 2


def measured(name: str) -> tuple[str, str]:
    """Return the tag of the weights that come with the package, and what they reach; empty where there are none."""
    file = timm.get_pretrained_cfg(name).file
    if not file:
        return "", ""
    manifest = json.loads(Path(file).with_suffix(".json").read_text())
    return f"`{manifest['tag']}`", with_interval(manifest["test"], "mean_auroc")


def updated(page: str) -> str:
    """Return the page with the table as it is now."""
    before, _, rest = page.partition(START)
    after = rest.partition(END)[2]
    return f"{before}{START}\n\n{rows(HEADER, [row(name) for name in names()])}\n\n{END}{after}"


def main(argv: list[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    write_text(PAGE, updated(PAGE.read_text()))


if __name__ == "__main__":
    main()
