"""What all tests start from."""

import signal
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch on digits, with two budgets and nothing retrained; to be read, and written beside."""
    from autoslim.pipeline import RunConfig, run
    from autoslim.progress import Shown
    from autoslim.train import TrainConfig

    config = RunConfig(
        model="zoo:resnet_digits?width=8",
        data="digits",
        budget=("macs<=60%", "macs<=30%"),
        search_images=64,
        baselines="none",
        retrain="none",
        out=str(tmp_path_factory.mktemp("finished") / "digits"),
        train=TrainConfig(epochs_supernet=1, epochs_retrain=1),
    )
    return run(config, shown=Shown(quiet=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a GPU are left out, and counted as such, where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="there is no NVIDIA GPU here"))


@pytest.fixture(autouse=True)
def interrupts():
    """Ctrl-C is heard, also where the tests were started in the background, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
