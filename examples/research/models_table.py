"""Write the table of models in docs/models.md: what the registry has, counted, and what its weights reach.

    python examples/research/models_table.py

Parameters and operations are counted on the meta device, where nothing is computed. AUROC is that of the manifest
beside the weights.
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
    """Return the cells of one model."""
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
    """Return the multiply-accumulates of the logits of one image, in convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, *input_size, device="meta"))
    return counter.get_total_flops() // 2


def measured(name):
    """Return the tag of the weights that come with the package, and what they reach; empty where there are none."""
    file = timm.get_pretrained_cfg(name).file
    if not file:
        return ""
    folder = Path(file).parent
    figures = json.loads((folder / "manifest.json").read_text())["test"]["mean"]
    return f"`{folder.name.partition('.')[2]}`: {{value:.3f}} ({{low:.3f}}, {{high:.3f}})".format(**figures)


def updated(page):
    """Return the page with the table as it is now."""
    names = [name for name in causalcxr.list_models() if name != "causal_timm"]  # which has no backbone of its own
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in (HEADER, ["---"] * len(HEADER), *map(row, names)))
    before, rest = page.split(START)
    return f"{before}{START}\n\n{table}\n\n{END}{rest.partition(END)[2]}"


def main(argv=None):
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    PAGE.write_text(updated(PAGE.read_text()))


if __name__ == "__main__":
    main()
