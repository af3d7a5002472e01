"""The processes of a run: one, or those that `torchrun` started, on one machine or many."""

import os
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from autoslim.errors import ConfigError
from autoslim.ranks import Ranks

_OWN: list[object] = []  # the group that was made here
_PATIENCE = timedelta(days=1)  # the others wait while the first measures latencies; a process that dies ends it at once


def join_ranks() -> Ranks:
    """This process among those of the run. The first call waits until all that `torchrun` started have come."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and Ranks.here().size == 1:
        make_fabric().launch()
        _OWN.append(distributed.group.WORLD)
    return Ranks.here()


def leave_ranks() -> None:
    """Ends the group of processes that `join_ranks` made, once all have come here; anybody else's is left alone.

    Threads of a group that is not ended can bring a process down while it leaves, its work done.
    """
    if _OWN and distributed.is_initialized() and distributed.group.WORLD is _OWN.pop():
        Ranks.here().wait()
        distributed.destroy_process_group()


def scaler_of(fabric: Any) -> torch.amp.GradScaler | None:
    """What `fabric.backward` scales losses by, as new: in 16-mixed precision, whose gradients vanish otherwise.

    A training must not begin with the scale that the one before has ended with: a resumed run has not seen that one.
    """
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    if scaler is not None:
        scaler.load_state_dict(torch.amp.GradScaler(fabric.device.type).state_dict())
    return scaler


def check_precision(precision: str) -> None:
    """Raises ConfigError for a precision that this machine has not: Fabric would take another one."""
    if precision == "16-mixed" and not torch.accelerator.is_available():
        raise ConfigError(
            'TrainConfig.precision is "16-mixed", but there is no GPU here; expected one: float16 is not for CPUs. '
            "Write --precision bf16-mixed or 32-true."
        )


def make_fabric(precision: str = "32-true") -> Any:
    """Lightning Fabric on the devices that this run has: gloo on CPUs, NCCL on NVIDIA GPUs.

    Its strategy only starts the processes: no module is wrapped, gradients are averaged once a step
    (`Ranks.average_`), since its hooks would never see the leaf copies of a sandwich step.
    """
    check_precision(precision)
    from lightning_fabric import Fabric  # takes a second to import: only a run that trains pays for it
    from lightning_fabric.strategies.ddp import DDPStrategy

    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Fabric(accelerator="auto", devices=1, precision=precision)  # pyright: ignore[reportArgumentType]
    here = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    strategy = DDPStrategy(timeout=_PATIENCE)
    return Fabric(accelerator="auto", devices=here, num_nodes=size // here, strategy=strategy, precision=precision)  # pyright: ignore[reportArgumentType]
