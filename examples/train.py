"""Train a causal classifier or any timm model on your own radiographs, NIH ChestX-ray14 or synthetic images.

    python examples/train.py --data films.csv --output runs/causal --backbone-weights timm
    accelerate launch examples/train.py --data path/to/nih --output runs/paper --preset paper

`create_model` loads the output folder. `log.jsonl` in it has one line per epoch, and `--resume` needs its `resume/`."""

import argparse
import functools
import json
import shlex
import shutil
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import timm
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3, ParseKwargs, distribute_bn
from torchvision.transforms import v2
from tqdm import tqdm

import causalcxr
from causalcxr.data import CSVDataset, NIHChestXray14, SyntheticCXR, normalise
from causalcxr.losses import CausalLoss, backdoor_weights

PAPER = {"model": "causal_resnet101", "image_size": 512, "lr": 1e-3, "weight_decay": 1e-2}  # arXiv 2305.12072
PAPER |= {"model_kwargs": {"complement": "paper", "drop_rate": 0.0}, "ema_decay": 0.0, "optimizer": "adam"}


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", required=True, help="FILE.csv, a folder laid out like the NIH release, or synthetic:NUMBER")
    add("--labels", nargs="+", help="label columns of FILE.csv; default: all but path and patient")
    add("--output", type=Path, required=True, help="output folder for the model and its log")
    either = parser.add_mutually_exclusive_group().add_argument
    either("--model", default="causal_efficientnet_lite0", help="name, folder, hf-hub:owner/repo; default: %(default)s")
    either("--backbone", help="instead of --model: a backbone of timm or causalcxr.list_backbones() for a causal model")
    add("--model-kwargs", nargs="*", default={}, action=ParseKwargs, help="model arguments; drop_rate defaults to 0.2")
    add("--preset", choices=["paper"], help="settings of the paper; other options override them")
    add("--backbone-weights", help="'timm' to download, or a file; default: none, or the published ones of --backbone")
    add("--freeze-backbone", action="store_true", help="train only the head (train_head.py caches the features)")
    add("--objective", default="causal", choices=["causal", "plain", "agreement"], help="plain: no causal losses")
    add("--adjust", help="reweight labels by a recorded confounder: a column of FILE.csv, or view, sex or age of NIH")
    add("--epochs", type=int, default=12, help="number of epochs; default: %(default)s")
    add("--image-size", type=int, help="image height and width in pixels; default: that of the weights, or 224")
    add("--batch-size", type=int, default=64, help="images per update, over all processes; default: %(default)s")
    add("--accumulate", type=int, default=1, help="split each batch into this many gradient accumulation steps")
    add("--lr", type=float, default=5e-4, help="peak learning rate, with warmup and cosine decay; default: %(default)s")
    add("--layer-decay", type=float, help="layer-wise decay of the learning rate, e.g. 0.75; default: none")
    add("--weight-decay", type=float, default=0.05, help="weight decay; default: %(default)s")
    add("--ema-decay", type=float, default=0.998, help="decay of the weight average, 0: off; default: %(default)s")
    add("--no-augment", action="store_true", help="train without data augmentation")
    add("--mixed-precision", default="no", choices=["no", "bf16", "fp16"], help="precision of the forward pass")
    add("--checkpointing", action="store_true", help="save memory by recomputing activations (and batch statistics)")
    add("--val-fraction", type=float, default=0.1, help="fraction of patients for validation; default: %(default)s")
    add("--workers", type=int, default=2, help="data loading processes; default: %(default)s")
    add("--seed", type=int, default=0, help="random seed; the validation split does not depend on it")
    add("--resume", action="store_true", help="continue after the last completed epoch in --output")
    parser.set_defaults(**{"optimizer": "adamw"} | (PAPER if parser.parse_known_args(argv)[0].preset else {}))
    args = parser.parse_args(argv)
    args.model_kwargs = (PAPER["model_kwargs"] if args.preset else {}) | args.model_kwargs
    if not 1 <= args.accumulate <= args.batch_size or args.epochs < 1:
        parser.error("--epochs and --accumulate must be at least 1, and --batch-size at least --accumulate")
    if args.labels and not args.data.endswith(".csv"):
        parser.error("--labels selects columns of FILE.csv; other datasets have fixed labels")
    args.model = f"local-dir:{args.model}" if Path(args.model).is_dir() else args.model
    if args.backbone:
        args.model, args.model_kwargs = "causal_timm", {"backbone": args.backbone} | args.model_kwargs
        args.backbone_weights = args.backbone_weights or "timm"
    tagged = timm.is_model(args.model) and "." in args.model
    args.pretrained = tagged or args.model.startswith(("local-dir:", "hf-hub:"))
    if args.backbone_weights and args.pretrained:
        parser.error(f"--backbone-weights does not work with {args.model}, which has its own weights")
    if args.freeze_backbone and not (args.backbone_weights or args.pretrained):
        parser.error("--freeze-backbone needs weights: pass --backbone, --backbone-weights or a --model with weights")
    return args


def image_size(args):
    """Return the image size that the weights were trained at, or 224."""
    if not args.pretrained:
        return {row.name: row.pixels for row in causalcxr.list_backbones()}.get(args.backbone, 224)
    if timm.is_model(args.model):
        return timm.get_pretrained_cfg(args.model).input_size[-1]
    return causalcxr.hub.read(args.model)[0]["input_size"][-1]


def build_data(args):
    px = args.image_size
    shift = v2.RandomAffine(10, (0.05, 0.05), scale=(0.85, 1.15), interpolation=v2.InterpolationMode.BILINEAR)
    blur = v2.RandomApply([v2.RandomShortestSize(range(px // 2, px)), v2.Resize((px, px))])  # lower resolution
    views = None if args.no_augment else v2.Compose([shift, blur, v2.ColorJitter(0.2, 0.2)])
    if args.data.startswith("synthetic:"):
        number = int(args.data.removeprefix("synthetic:"))
        return SyntheticCXR(number, image_size=px, transform=views), SyntheticCXR(number // 4, image_size=px, seed=1)
    films = functools.partial(CSVDataset, label_names=args.labels) if args.data.endswith(".csv") else NIHChestXray14
    options = {"image_size": px, "val_fraction": args.val_fraction}
    return films(args.data, "train", transform=views, **options), films(args.data, "val", **options)


def label_weights(dataset, adjust):
    """Return the weight (N, K) of each label: P(y) P(c) / P(y, c) for the recorded confounder c, or 1."""
    if not adjust:
        return torch.ones_like(dataset.targets)
    own = isinstance(dataset, CSVDataset)
    columns = dataset.metadata if own else {"view": dataset.view, "sex": dataset.sex, "age": dataset.age // 20}
    if adjust not in columns:
        raise ValueError(f"--adjust {adjust} is none of: {', '.join(columns) or '(all are labels, see --labels)'}")
    strata = torch.from_numpy(np.unique(columns[adjust], return_inverse=True)[1])
    return backdoor_weights(dataset.targets, strata, smoothing=1)


def build_objective(args, labels):
    weights = True if args.backbone_weights == "timm" else args.backbone_weights
    options = {"num_classes": len(labels), "drop_rate": 0.2, **args.model_kwargs}
    if causalcxr.is_model(args.model) or not timm.is_model(args.model):
        options |= {"pretrained": args.pretrained, "pretrained_backbone": weights, "label_names": labels}
        model = causalcxr.create_model(args.model, **options)
    else:
        weights = weights or args.pretrained
        overlay = {"file": str(Path(weights).resolve(strict=True))} if isinstance(weights, str) else {}
        overlay |= {} if weights is True else {"license": None}  # not timm's weights
        model = timm.create_model(args.model, pretrained=bool(weights), pretrained_cfg_overlay=overlay, **options)
        model.reset_classifier(len(labels))  # timm's EfficientNet classifiers start 10 to 25 times larger
    channels = timm.models.get_model_input_config(model)["input_size"][0]
    model.pretrained_cfg["input_size"] = (channels, args.image_size, args.image_size)
    if args.objective == "agreement":
        return causalcxr.AgreementObjective(model)
    if args.objective == "plain" or not isinstance(model, causalcxr.CausalCXR):
        return causalcxr.ClassificationObjective(model)
    uniform = "categorical" if len(labels) > 1 else "bernoulli"  # one label has no distribution over labels
    criterion = CausalLoss(uniform=uniform, partners="random" if args.preset == "paper" else "all")
    bank = causalcxr.layers.ConfounderBank(1024, len(labels), model.head_hidden_size)
    return causalcxr.CausalObjective(model, criterion, bank=None if args.preset == "paper" else bank)


@torch.inference_mode()
def predict(accelerator, model, loader):
    """Return the logits and targets (N, K) of all images, gathered in every process."""
    model.eval()
    parts = []
    for images, targets in tqdm(loader, "validation", leave=False, disable=not accelerator.is_main_process):
        with accelerator.autocast():
            logits = model(normalise(images, model.pretrained_cfg).contiguous(memory_format=torch.channels_last))
        parts.append(accelerator.gather_for_metrics((logits.float(), targets)))
    return (torch.cat(values).cpu() for values in zip(*parts, strict=True))


def save_model(args, model, dataset, logits, targets):
    auroc = causalcxr.metrics.bootstrap_auroc(logits, targets, dataset.patient).by_label(dataset.label_names)
    words = ("=".join(Path(w).name if Path(w).is_absolute() else w for w in word.split("=")) for word in sys.argv)
    metrics = {"data": Path(args.data).name, "split": "validation (used for selection)", "seed": args.seed}
    metrics |= {"images": len(logits), "patients": len(set(dataset.patient)), "auroc": auroc}
    metrics |= {"command": f"python {shlex.join(words)}"}  # without local paths
    extras = {"calibration": causalcxr.Calibration.fit(logits, targets), "metrics": metrics}
    causalcxr.save_pretrained(model, args.output, label_names=dataset.label_names, **extras)


def save_state(accelerator, output, options, log):
    """Save the state after an epoch, then delete the previous one."""
    new, folder = output / "resume" / "new", output / "resume" / f"epoch-{len(log):04}"
    accelerator.save_state(str(new))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (new / "run.json").write_text(json.dumps({"options": options, "log": log}))
        new.rename(folder)
        for before in set(output.glob("resume/epoch-*")) - {folder}:
            shutil.rmtree(before)
        (output / "log.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in log))


def load_state(accelerator, args, options):
    """Load the state of the last completed epoch if there is one, and return the log up to then."""
    folders = sorted(args.output.glob("resume/epoch-*"))
    if ((args.output / "config.json").exists() or folders) and not (folders and args.resume):
        state = "--resume" if folders else "it has no state to resume"
        raise SystemExit(f"{args.output} holds a model: use another --output ({state})")
    if not folders:
        return []
    then, log = json.loads((folders[-1] / "run.json").read_text()).values()
    if other := [f"{name} {then.get(name)}" for name, now in options.items() if then.get(name) != now]:
        raise SystemExit(f"{args.output} was trained with {', '.join(other)}: use the same, or another --output")
    accelerator.load_state(str(folders[-1]))
    accelerator.print(f"resuming after epoch {len(log)} of {args.epochs} from {folders[-1]}")
    return log


def main(argv=None):
    args, say = parse_args(argv), functools.cache(tqdm.write)
    warnings.showwarning = lambda warning, *_: say(f"warning: {warning}", file=sys.stderr)  # once, not every epoch
    plan = {"mixed_precision": args.mixed_precision, "gradient_accumulation_steps": args.accumulate}
    sampling = DataLoaderConfiguration(split_batches=True, data_seed=1000 * args.seed, use_seedable_sampler=True)
    cpu = torch.distributed.is_torchelastic_launched() and not torch.cuda.is_available()  # else processes run alone
    accelerator = Accelerator(cpu=cpu, **plan, dataloader_config=sampling)
    torch.manual_seed(args.seed)
    try:
        args.image_size = args.image_size or image_size(args)
        train_set, val_set = build_data(args)
        weighted = torch.utils.data.StackDataset(train_set, weights := label_weights(train_set, args.adjust))
        objective = build_objective(args, train_set.label_names).to(memory_format=torch.channels_last)
        if args.freeze_backbone:
            objective.model.backbone.requires_grad_(False)
        args.output.mkdir(parents=True, exist_ok=True)
    except (AttributeError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise SystemExit(f"cannot train with these options: {error}") from error
    model, processes = objective.model, accelerator.num_processes
    share = args.batch_size // args.accumulate
    if share > len(train_set):  # a single batch
        share = len(train_set) // processes * processes
    model.set_grad_checkpointing(args.checkpointing)
    ema = ModelEmaV3(model, decay=args.ema_decay, use_warmup=True, device=accelerator.device)
    if torch.distributed.is_initialized() and accelerator.device.type == "cuda":
        objective = timm.layers.convert_sync_batchnorm(objective)
    torch.manual_seed(1000 * args.seed + accelerator.process_index)  # own augmentation and dropout per process
    optimizer = create_optimizer_v2(model, args.optimizer, args.lr, args.weight_decay, layer_decay=args.layer_decay)
    loader = torch.utils.data.DataLoader(weighted, share, shuffle=True, num_workers=args.workers, drop_last=True)
    val_loader = torch.utils.data.DataLoader(val_set, share, num_workers=args.workers)
    objective, optimizer, loader, val_loader = accelerator.prepare(objective, optimizer, loader, val_loader)
    updates = int(np.ceil(len(loader) / args.accumulate))  # per epoch
    both_classes = (val_set.targets == 0).any(dim=0) & (val_set.targets == 1).any(dim=0)
    if len(np.unique(val_set.patient)) < 2 or not both_classes.any():
        raise SystemExit("validation needs 2 patients and both classes of a label: increase --val-fraction")
    rates = {"warmup_t": args.epochs * updates // 10, "warmup_lr_init": args.lr / 25, "t_in_epochs": False}
    scheduler = CosineLRScheduler(optimizer, args.epochs * updates, **rates)
    accelerator.register_for_checkpointing(ema)
    free = ("output", "resume", "workers", "data", "checkpointing")  # the data may have moved
    options = {name: str(value) for name, value in vars(args).items() if name not in free}
    contents = [(part.label_names, part.patient.tolist(), part.targets.tolist()) for part in (train_set, val_set)]
    options["data of checksum"] = str(zlib.crc32(repr([contents, weights.tolist()]).encode()))
    log = load_state(accelerator, args, options)
    if hasattr(train_set, "paths"):  # real films: evaluate.py warns of these patients
        patients = {*map(str, train_set.patient)} - {*train_set.names}  # a name stands for an unknown patient
        (args.output / "train_patients.txt").write_text("\n".join(sorted(patients)))
    counts = (f"{len(part)} images of {len(set(part.patient.tolist()))} patients" for part in (train_set, val_set))
    accelerator.print(f"training: {next(counts)}, validation: {next(counts)}, processes: {processes}")
    accelerator.print(f"labels: {', '.join(train_set.label_names)}")
    if args.adjust:
        accelerator.print(f"weights of labels: {weights[weights > 0].min():.3g} to {weights.max():.3g}")
    for epoch in range(len(log) + 1, args.epochs + 1):
        totals = {}
        loader.set_epoch(epoch)
        objective.train()
        getattr(model, "backbone", model).train(not args.freeze_backbone)  # freezes batch statistics too
        bar = tqdm(loader, f"epoch {epoch}/{args.epochs}", leave=False, disable=not accelerator.is_main_process)
        for step, ((images, targets), weight) in enumerate(bar, start=1):
            scheduler.step_update(update := (epoch - 1) * updates + (step - 1) // args.accumulate)
            images = normalise(images, model.pretrained_cfg).contiguous(memory_format=torch.channels_last)
            with accelerator.accumulate(objective):
                losses = objective(images, targets, weight=weight)
                accelerator.backward(losses["loss"])
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(objective.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
                    ema.update(model, step=update + 1)
            totals = {name: totals.get(name, 0) + value.detach() for name, value in losses.items()}
            if step % 50 == 0 or step == len(loader):  # reading a loss synchronises the device
                means = {name: accelerator.reduce(value / step, "mean").item() for name, value in totals.items()}
                bar.set_postfix(loss=f"{means['loss']:.4f}")
                if not np.isfinite(means["loss"]):
                    raise SystemExit(f"epoch {epoch}: loss {means['loss']}; start over with lower --lr or float32")
        if torch.distributed.is_initialized():
            distribute_bn(ema.module, processes, reduce=True)
        logits, targets = predict(accelerator, ema.module, val_loader)
        mean = float(np.nanmean(causalcxr.metrics.auroc(logits, targets)))
        log.append({"epoch": epoch, "losses": means, "val_auroc": mean})
        accelerator.print(json.dumps(log[-1]))
        if accelerator.is_main_process and not any(mean < old["val_auroc"] for old in log):  # the last of equal epochs
            save_model(args, ema.module, val_set, logits, targets)
        save_state(accelerator, args.output, options, log)
    best = max(reversed(log), key=lambda record: record["val_auroc"])
    accelerator.print(f"done: {args.output} holds epoch {best['epoch']} with the best AUROC, {best['val_auroc']:.4f}")
    accelerator.end_training()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("stopped; use --resume to continue after the last completed epoch") from None
