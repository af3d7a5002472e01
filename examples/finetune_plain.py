"""Trains a slim network further with a plain PyTorch loop.

    python examples/finetune_plain.py runs/digits/models/macs-50 --epochs 5

The slim network is an `nn.Module` like any other; only `autoslim.load` knows where it came from.
"""

import argparse
import json
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
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


def parse(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", type=Path, help="a state dict; FOLDER/finetuned.pt unless given")
    args = parser.parse_args()
    args.out = args.out or args.folder / "finetuned.pt"
    return args


def main() -> None:
    args = parse(__doc__)
    torch.manual_seed(0)
    model = autoslim.load(args.folder)
    train, test = prepare(args.folder, "train"), prepare(args.folder, "test")
    loader = DataLoader(train, batch_size=64, shuffle=True, drop_last=True)
    print(f"before: {measure(model, test):.2%} of {len(test)} test images")

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs * len(loader))
    for epoch in range(args.epochs):
        model.train()
        for images, labels in loader:
            loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch}: loss {loss.item():.4f}")

    print(f"after:  {measure(model, test):.2%}")
    torch.save(model.state_dict(), args.out)
    print("weights:", args.out)


if __name__ == "__main__":
    main()
