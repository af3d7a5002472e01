"""Trains a slim network further with the pieces of timm's train script: its optimizers, schedules and losses.

    python examples/finetune_timm.py runs/digits/models/macs-50 --epochs 5

The slim network is an `nn.Module` like any other; only `autoslim.load` knows where it came from.
"""

import argparse
import json
from pathlib import Path

import torch
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch.utils.data import DataLoader, TensorDataset

import autoslim
from autoslim.data import load_data


def prepare(folder: Path, split: str) -> TensorDataset:
    """The digits as the network was trained on them. Put your own images here, prepared as config.json says."""
    config = json.loads((folder / "config.json").read_text())["normalisation"]
    mean, std = (torch.tensor(config[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
    images = getattr(load_data("digits"), split)
    return TensorDataset((images.images / 255 - mean) / std, images.labels)


@torch.no_grad()
def measure(model: torch.nn.Module, dataset: TensorDataset) -> float:
    images, labels = dataset.tensors
    return (model.eval()(images).argmax(1) == labels).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("finetuned.pt"))
    args = parser.parse_args()
    torch.manual_seed(0)
    model = autoslim.load(args.folder)
    train, test = prepare(args.folder, "train"), prepare(args.folder, "test")
    loader = DataLoader(train, batch_size=64, shuffle=True, drop_last=True)
    print(f"before: {measure(model, test):.2%} of {len(test)} test images")

    optimizer = create_optimizer_v2(model, opt="nadamw", lr=1e-3, weight_decay=0.05, filter_bias_and_bn=True)
    schedule, epochs = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=args.epochs, updates_per_epoch=len(loader), step_on_epochs=False
    )
    criterion, step = LabelSmoothingCrossEntropy(smoothing=0.1), 0
    for epoch in range(epochs):
        model.train()
        for images, labels in loader:
            loss = criterion(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            schedule.step_update(num_updates=step)
        print(f"epoch {epoch}: loss {loss.item():.4f}")

    print(f"after:  {measure(model, test):.2%}")
    torch.save(model.state_dict(), args.out)


if __name__ == "__main__":
    main()
