"""Train a head on a frozen backbone pretrained on radiographs: takes minutes on a CPU once features are cached.

    python examples/train_head.py --data path/to/nih --output runs/head --backbone rad_dino --image-size 224

The backbone processes each image once. The features are cached in --features, which several runs can share.
"""

import argparse
import hashlib
import json
import shlex
import sys
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from timm.models import get_model_args
from torch.utils.data import DataLoader
from tqdm import tqdm

import causalcxr
from causalcxr.calibration import weights_checksum
from causalcxr.data import CSVDataset, NIHChestXray14, SyntheticCXR, normalise
from causalcxr.losses import CausalLoss, classification_loss

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", required=True, help="FILE.csv, a folder laid out like the NIH release, or synthetic:NUMBER")
    add("--labels", nargs="+", help="label columns of FILE.csv; default: all but path and patient")
    add("--output", type=Path, required=True, help="output folder for the model")
    add("--features", type=Path, help="folder for the cached features; default: --output")
    add("--backbone", default="rad_dino", help="a backbone of causalcxr.list_backbones() or timm; default: rad_dino")
    add("--weights", default=True, help="file, folder or hf-hub:owner/repo[@revision][:file]; default: published")
    add("--head", default="causal", choices=["causal", "linear"], help="linear: last layer of the timm model")
    add("--image-size", type=int, help="image height and width in pixels; default: that of the weights")
    add("--epochs", type=int, default=15, help="number of epochs; default: 15")
    add("--batch-size", type=int, default=64, help="images per update (or slightly more); default: 64")
    add("--lr", type=float, default=1e-3, help="learning rate; default: 1e-3")
    add("--val-fraction", type=float, default=0.1, help="fraction of patients for validation; default: 0.1")
    add("--workers", type=int, default=2, help="data loading processes; default: 2")
    args = parser.parse_args(argv)
    if args.labels and not args.data.endswith(".csv"):
        parser.error("--labels selects columns of FILE.csv; other datasets have fixed labels")
    return args


def build_data(args, size):
    if args.data.startswith("synthetic:"):
        number = int(args.data.removeprefix("synthetic:"))
        return SyntheticCXR(number, image_size=size), SyntheticCXR(number // 4, image_size=size, seed=1)
    films = partial(CSVDataset, label_names=args.labels) if args.data.endswith(".csv") else NIHChestXray14
    return [films(args.data, split, image_size=size, val_fraction=args.val_fraction) for split in ("train", "val")]


def with_linear_layer(model, name):
    """Return the timm model of a causal model's backbone, with the same weights and a new classifier."""
    options = get_model_args(model.backbone) | {"num_classes": model.num_classes, "global_pool": None}
    options |= next((row.backbone_args for row in causalcxr.list_backbones() if row.name == name), {})
    plain = timm.create_model(model.backbone.pretrained_cfg["architecture"], **options | {"output_stride": None})
    if lost := plain.load_state_dict(model.backbone.state_dict(), strict=False).unexpected_keys:
        raise SystemExit(f"--head linear: timm's {name} has no {', '.join(lost)}; use --head causal")
    plain.reset_classifier(model.num_classes)  # timm's EfficientNet classifiers start 10 to 25 times larger
    return plain


@torch.inference_mode()
def keep_features(path, dataset, model, cfg, args):
    """Return float16 features (N, C, H, W), or (N, C) if linear, of a dataset; load them if the file exists."""
    if not path.exists():
        parts = DataLoader(dataset, args.batch_size, num_workers=args.workers)
        for k, (films, _) in enumerate(tqdm(parts, path.stem)):
            maps = model.forward_features(normalise(films.to(DEVICE), cfg))
            values = maps if args.head == "causal" else model.forward_head(maps, pre_logits=True)
            if k == 0:
                shape, unfinished = (len(dataset), *values.shape[1:]), path.with_suffix(".unfinished")
                file = np.lib.format.open_memmap(unfinished, "w+", np.float16, shape)
            file[k * args.batch_size :][: len(values)] = values.half().cpu().numpy()
        file.flush()
        unfinished.rename(path)
    return torch.from_numpy(np.load(path, mmap_mode="c"))  # read from disk lazily


def main(argv=None):
    args = parse_args(argv)
    if (args.output / "config.json").exists():
        raise SystemExit(f"{args.output} holds a model: use another --output, and --features to reuse its features")
    words = ("=".join(Path(w).name if Path(w).is_absolute() else w for w in word.split("=")) for word in sys.argv)
    command = f"python {shlex.join(words)}"  # without local paths
    torch.manual_seed(0)
    options = {"drop_rate": 0.2, "pretrained_backbone": args.weights}
    try:
        model = causalcxr.create_model("causal_timm", backbone=args.backbone, **options).to(DEVICE).eval()
        cfg, head = model.pretrained_cfg, model.head
        size = args.image_size or cfg["input_size"][-1]
        sets = build_data(args, size)
    except (OSError, ValueError) as error:
        raise SystemExit(f"cannot train with these options: {error}") from error
    if len(np.unique(sets[1].patient)) < 2:
        raise SystemExit("validation needs 2 patients: increase --val-fraction")
    labels = sets[0].label_names
    model.reset_classifier(len(labels))
    criterion = CausalLoss(uniform="categorical" if len(labels) > 1 else "bernoulli")
    images = {"input_size": (cfg["input_size"][0], size, size), "mean": cfg["mean"], "std": cfg["std"]}
    saved = {"label_names": labels, "data_config": images}
    # The cache key includes file sizes, times and a checksum, as images and weights may change under the same names.
    films = [(p, Path(p).stat().st_size, Path(p).stat().st_mtime) for part in sets for p in getattr(part, "paths", ())]
    made_of = [films, *map(len, sets), args.backbone, weights_checksum(model.backbone), args.head, size]
    if args.head == "linear":
        model = with_linear_layer(model, args.backbone).to(DEVICE).eval()
        head, criterion = model.get_classifier(), lambda *pair: {"loss": classification_loss(*pair)}
    key = hashlib.sha256(repr(made_of).encode()).hexdigest()[:8]
    folder = args.features or args.output
    files = [folder / f"{part}-features-{key}.npy" for part in ("train", "val")]
    for made in (args.output, folder):
        made.mkdir(parents=True, exist_ok=True)
    if hasattr(sets[0], "paths"):  # real films: evaluate.py warns of these patients
        patients = {*map(str, sets[0].patient)} - {*sets[0].names}  # a name stands for an unknown patient
        (args.output / "train_patients.txt").write_text("\n".join(sorted(patients)))
    train, val = (keep_features(path, dataset, model, cfg, args) for path, dataset in zip(files, sets, strict=True))
    torch.manual_seed(0)  # same seed with and without cached features
    targets, val_targets = (dataset.targets for dataset in sets)
    updates, best = max(1, len(train) // args.batch_size), -1.0
    optimizer = torch.optim.AdamW(head.parameters(), args.lr, weight_decay=0.05)
    for epoch in range(1, args.epochs + 1):
        head.train()
        for rows in tqdm(torch.randperm(len(train)).chunk(updates), f"epoch {epoch}/{args.epochs}", leave=False):
            loss = criterion(head(train[rows].to(DEVICE).float()), targets[rows].to(DEVICE))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        head.eval()
        with torch.inference_mode():
            outputs = [head(part.to(DEVICE).float()) for part in val.split(args.batch_size)]
        logits = torch.cat([getattr(output, "logits", output) for output in outputs]).cpu()
        result = causalcxr.metrics.bootstrap_auroc(logits, val_targets, sets[1].patient)
        mean = result.mean.value
        print(json.dumps({"epoch": epoch, "loss": round(loss.item(), 4), "val_auroc": round(mean, 4)}))
        if not mean < best:  # the last of equal epochs, or of NaN (no label with both classes)
            best, calibration = mean, causalcxr.Calibration.fit(logits, val_targets)
            metrics = {"data": Path(args.data).name, "split": "validation (used for selection)", "images": len(val)}
            metrics |= {"auroc": result.by_label(labels), "command": command}
            causalcxr.save_pretrained(model, args.output, metrics=metrics, calibration=calibration, **saved)


if __name__ == "__main__":
    main()
