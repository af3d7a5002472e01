"""Images of your own, one folder per class: `autoslim run --model zoo:mobilenet_small --data folder:PATH`.

Here 400 of the digits stand in for yours. Folders `train/` and `test/` are taken as they are; where there are none, a
fifth of the images is set aside as test, and a note says so.
"""

from pathlib import Path
from tempfile import mkdtemp

from PIL import Image
from sklearn.datasets import load_digits

from autoslim.data import load_data
from autoslim.pipeline import RunConfig, run
from autoslim.train import TrainConfig

Path("runs").mkdir(exist_ok=True)
work = Path(mkdtemp(prefix="own_data-", dir="runs"))  # another one each time; here, images and run
place = work / "images"
digits = load_digits()
for number, (pixels, label) in enumerate(zip(digits.images[:400], digits.target[:400], strict=True)):
    folder = place / f"digit-{label}"
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels * 15.9).astype("uint8")).save(folder / f"{number}.png")

# What will be seen: look at it before anything is trained.
data = load_data(f"folder:{place}")
print(data.classes, data.input_shape, len(data.train), "train,", len(data.test), "test")
print(*data.notes, sep="\n")

run(
    RunConfig(
        model="zoo:resnet_digits?width=8",  # gets 10 classes and 1 channel, as the data has
        data=f"folder:{place}",
        budget=("macs<=60%",),
        out=str(work / "run"),  # must be new or empty
        baselines="none",
        train=TrainConfig(epochs_supernet=1, epochs_retrain=1, batch_size=64, augment="none"),  # far too few, but quick
    )
)
print("images:", place, "; open", work / "run" / "report.html")
