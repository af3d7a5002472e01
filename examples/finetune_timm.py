"""Trains a slim network further with the pieces of timm's train script: its optimizers, schedules and losses.

    python examples/finetune_timm.py runs/digits/models/macs-50 --epochs 5

The slim network is an `nn.Module` like any other; only `autoslim.load` knows where it came from.
"""

import torch
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
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
    print("weights:", args.out)


if __name__ == "__main__":
    main()
