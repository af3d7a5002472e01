"""Stage 6: the whole job in one call, and the page that it leaves. What `autoslim run` does, from Python."""

import json
from pathlib import Path
from tempfile import mkdtemp

import autoslim
from autoslim.pipeline import RunConfig, run
from autoslim.train import TrainConfig

place = Path("runs/examples")
place.mkdir(parents=True, exist_ok=True)

config = RunConfig(
    model="zoo:resnet_digits?width=8",
    data="digits",
    budget=("macs<=50%",),
    out=mkdtemp(prefix="run-", dir=place),  # must be new or empty: here another one each time
    train=TrainConfig(epochs_supernet=2, epochs_retrain=2, batch_size=128, augment="none"),  # far too few, but quick
)
folder = run(config)

summary = json.loads((folder / "summary.json").read_text())
own, (row,) = summary["base"], summary["budgets"]
print(f"your own network: {own['accuracy']['test']:.1%} at {own['macs']:,.0f} MACs")
print(f"slim: {row['accuracy']['test']:.1%} at {row['macs']:,.0f} MACs")
print(f"uniform: {row['uniform']['accuracy']['test']:.1%} at {row['uniform']['macs']:,.0f} MACs")

small = autoslim.load(folder / row["folder"])  # a plain module again
print(type(small).__name__, "; open", folder / "report.html")
