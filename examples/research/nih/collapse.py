"""Compare the parts of the objective before training, as printed and normalised, on the same training films.

    python -m nih.collapse --data nih-10k.zip --backbone-weights lite0.safetensors --output nih/results/collapse.json

Norms are of the causal and the confounding features. Gradients are of each part of the loss, as it is weighted, in
the encoder, through which the parts compete. They are means over seeds. The bank has the confounders of the same films.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from causalcxr.data import normalise
from confounding.runs import write_json

from .films import parts, read_pixels, read_tables, resize
from .variants import VARIANTS, branches, build_model, build_objective

FILMS, SIZE, SEEDS = 24, 192, 2
SHOWN = ("norm_causal", "norm_confounder", "gradient_sl_encoder", "gradient_conf_encoder", "gradient_bd_encoder")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="films that pack.py wrote, or a folder of the release")
    parser.add_argument("--backbone-weights", default="", help="file of the backbone's weights")
    parser.add_argument("--output", type=Path, required=True, help="JSON file")
    args = parser.parse_args(argv)
    tables, pixels = read_tables(args.data), read_pixels(args.data)
    train = parts(tables)["train"]
    rows = train[np.linspace(0, len(train) - 1, FILMS).astype(int)]
    films = resize(torch.from_numpy(pixels[rows]), SIZE)
    targets = torch.from_numpy(tables.targets[rows])
    options = {"backbone": "causal_efficientnet_lite0", "weights": args.backbone_weights}
    results = {}
    for name in ("causal", "as_printed"):
        measured = []
        for seed in range(SEEDS):
            torch.manual_seed(seed)
            model = build_model(VARIANTS[name], **options, drop_rate=0.0, drop_path_rate=0.0)
            objective = build_objective(VARIANTS[name], model)
            images = normalise(films, model.pretrained_cfg)
            if objective.bank is not None:  # which is empty before training
                with torch.no_grad():
                    objective.bank.update(model.forward_causal(images).confounder)
            measured.append(branches(model, images, targets, objective))
        results[name] = {key: float(f"{np.mean([one[key] for one in measured]):.4g}") for key in SHOWN}
        print(name, results[name], flush=True)
    write_json(args.output, {"films": FILMS, "image_size": SIZE, "seeds": SEEDS, "variants": results})


if __name__ == "__main__":
    main()
