"""Trains a slim network further with Lightning Fabric, which AutoSlim installs: devices, precision, several processes.

    python examples/finetune_lightning.py runs/digits/models/macs-50 --epochs 5

With the whole of Lightning (`pip install lightning`) the same module goes into a `LightningModule` of your own.
"""

import torch
from lightning_fabric import Fabric
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import autoslim
from finetune_plain import measure, parse, prepare  # beside this file


def main() -> None:
    args = parse(__doc__)
    torch.manual_seed(0)
    model = autoslim.load(args.folder)
    train, test = prepare(args.folder, "train"), prepare(args.folder, "test")
    loader = DataLoader(train, batch_size=64, shuffle=True, drop_last=True)
    print(f"before: {measure(model, test):.2%} of {len(test)} test images")

    fabric = Fabric(accelerator="auto", devices=1, precision="32-true")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
    wrapped, optimizer = fabric.setup(model, optimizer)
    batches = fabric.setup_dataloaders(loader)
    for epoch in range(args.epochs):
        wrapped.train()
        for images, labels in batches:
            loss = cross_entropy(wrapped(images), labels)
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
        fabric.print(f"epoch {epoch}: loss {loss.item():.4f}")
    model.cpu()

    print(f"after:  {measure(model, test):.2%}")
    torch.save(model.state_dict(), args.out)
    print("weights:", args.out)


if __name__ == "__main__":
    main()
