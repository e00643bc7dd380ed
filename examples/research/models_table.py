"""Write the table of models in docs/models.md, with size, cost and AUROC of the shipped weights.

    python examples/research/models_table.py

Parameters and operations are counted on the meta device, so nothing is computed. AUROC comes from the manifest of the
weights.
"""

import argparse
import json
from pathlib import Path

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import causalcxr

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
START, END = "<!-- written by examples/research/models_table.py -->", "<!-- end of the table -->"
HEADER = ["model", "weights: test AUROC", "image", "stride", "parameters", "operations"]


def row(name):
    """Return the table row of one model."""
    model = causalcxr.create_model(name, device="meta").eval().requires_grad_(False)
    size = model.pretrained_cfg["input_size"]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    cells = [
        f"{size[1]} px",
        str(model.reduction),
        f"{parameters / 1e6:.1f} M",
        f"{operations(model, size) / 1e9:.2f} G",
    ]
    return [f"`{name}`", measured(name), *cells]


def operations(model, input_size):
    """Return the multiply-accumulates of convolutions and matrix products in the forward pass of one image."""
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, *input_size, device="meta"))
    return counter.get_total_flops() // 2


def measured(name):
    """Return tag and test AUROC of the weights shipped with the package, or an empty string."""
    file = timm.get_pretrained_cfg(name).file
    if not file:
        return ""
    folder = Path(file).parent
    figures = json.loads((folder / "manifest.json").read_text())["test"]["mean"]
    return f"`{folder.name.partition('.')[2]}`: {{value:.3f}} ({{low:.3f}}, {{high:.3f}})".format(**figures)


def updated(page):
    """Return the page with an up-to-date table."""
    names = [name for name in causalcxr.list_models() if name != "causal_timm"]  # it has no backbone of its own
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in (HEADER, ["---"] * len(HEADER), *map(row, names)))
    before, rest = page.split(START)
    return f"{before}{START}\n\n{table}\n\n{END}{rest.partition(END)[2]}"


def main(argv=None):
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    PAGE.write_text(updated(PAGE.read_text()))


if __name__ == "__main__":
    main()
