"""What every format has in common: a file is written, loaded back where it will serve, and compared with the module."""

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import copyfile
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from autoslim._registry import Registry
from autoslim.errors import AutoSlimError, ConfigError, DataError, ModelError
from autoslim.export._fold import fold_batchnorm_
from autoslim.extract import copy_model
from autoslim.run_folder import write_whole

Served: TypeAlias = Callable[[torch.Tensor], Any]  # images [N, C, H, W] -> the network's output, or its tensors
Batch: TypeAlias = int | Literal["dynamic"]

TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Format:
    """One kind of file. A new one is one file of this shelf.

    Attributes:
        suffix: Of the file; whatever else belongs to it has the same stem.
        write: (network in eval mode, example images, path, options) writes the file, and what belongs to it; it returns
            the version of ONNX's operators, where it has gone by them.
        open: (path, network) -> what the file computes, in its own runtime. Of the network only the layers may be used.
        shaped: Whether it holds the number of images at a time.
    """

    suffix: str
    write: "Callable[[nn.Module, torch.Tensor, Path, Options], int | None]"
    open: Callable[[Path, nn.Module], Served]
    shaped: bool = True


FORMATS: Registry[Format] = Registry("export format")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a network is exported."""

    batch: Batch = 1
    """Images at a time in the file: a number, or "dynamic" for any."""
    opset: int | None = None
    """Version of ONNX's operators; unless given 18, or 20 for what 18 has not, as latencies are measured."""
    fold_bn: bool = False
    """Fold each BatchNorm into the convolution before it."""
    tolerance: float = TOLERANCE
    """How far an output may be off, as a share of the largest output (of 1, if that is less)."""

    def __post_init__(self) -> None:
        if self.batch != "dynamic" and self.batch < 1:
            raise ConfigError(f"Export: batch is {self.batch}; expected 1 or more, or dynamic. Write --batch 1.")
        if not 0 < self.tolerance < math.inf:
            raise ConfigError(
                f"Export: tolerance is {self.tolerance:g}; expected a number above 0. Write --tolerance {TOLERANCE:g}."
            )

    @property
    def dynamic(self) -> bool:
        return self.batch == "dynamic"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that was written, and what it was held against.

    Attributes:
        format: A name in `FORMATS`.
        files: The file, and what belongs to it.
        batch: Images at a time; "dynamic" is any number.
        opset: Of ONNX's operators, where the format has them.
        folded: BatchNorms that were folded.
        images: How many it was compared on.
        max_difference: The largest, over all outputs, between the file in its runtime and the module.
        largest_output: Of the module.
        tolerance: As given.
    """

    format: str
    files: tuple[Path, ...]
    batch: Batch
    opset: int | None
    folded: int
    images: int
    max_difference: float
    largest_output: float
    tolerance: float

    def to_json(self) -> dict[str, Any]:
        files = [{"path": str(path), "bytes": path.stat().st_size} for path in self.files]
        return {**asdict(self), "files": files}


def export_network(
    model: nn.Module, images: torch.Tensor, path: str | Path, *, to: str, options: Options | None = None
) -> Exported:
    """Writes a network for another runtime, loads it back there, and compares it with the module, image by image.

    Nothing is left where an output is further off than the tolerance.

    Args:
        model: Any module of one input; left as it is.
        images: Prepared images [N, C, H, W] of the kind it will see, as many as a batch at least.
        path: Of the file; what belongs to it (weights) gets the same stem. What is there is replaced.
        to: "onnx", "openvino", "torch-export", "state-dict" or "python".
        options: Batch size, opset, folding, tolerance.

    Raises:
        UnknownNameError: No such format.
        ModelError: The network can't be written so, or the file computes something else.
        RuntimeFailedError: A package that it needs is not installed.
        DataError: Too few images.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     told = export_network(nn.Linear(3, 2), torch.ones(4, 3), f"{folder}/linear.pt", to="state-dict")
    >>> told.images, told.max_difference
    (4, 0.0)
    """
    form, path, options = FORMATS[to], Path(path), options or Options()
    if path.suffix != form.suffix:
        raise ConfigError(
            f"Export: {path.name!r} can't be {to}; expected a name that ends in {form.suffix}. Write "
            f"{path.with_suffix(form.suffix)}."
        )
    sizes = _batch_sizes(len(images), options.batch if form.shaped else "dynamic")
    reference = copy_model(model, "cpu").eval()
    network, example = copy_model(model, "cpu").eval(), images[: max(sizes)]
    folded = fold_batchnorm_(network, images[:2]) if options.fold_bn else 0
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        written = Path(scratch) / path.name
        opset = form.write(network, example, written, options)
        what, parts = f"{type(model).__name__} as {to}", images[: sum(sizes)].split(sizes)
        difference, largest = _compare_file(what, reference, lambda: form.open(written, network), parts)
        if not difference <= options.tolerance * max(1.0, largest):
            raise ModelError(
                f"{what}: the file differs by up to {difference:.3g} from the module on "
                f"{sum(sizes)} images, whose outputs reach {largest:.3g}; expected at most {options.tolerance:g} of "
                f"that, so {path.name} is not kept. Try another --to{', leave out --fold-bn' * (folded > 0)}, or allow "
                "more with --tolerance."
            )
        files = _put(Path(scratch), path)
    return Exported(
        format=to,
        files=files,
        batch=options.batch if form.shaped else "dynamic",
        opset=opset,
        folded=folded,
        images=sum(sizes),
        max_difference=difference,
        largest_output=largest,
        tolerance=options.tolerance,
    )


def _compare_file(
    what: str, reference: nn.Module, serve: Callable[[], Served], parts: Sequence[torch.Tensor]
) -> tuple[float, float]:
    """`compare_outputs` of a file; what its runtime raises, of whatever kind, is told as the file's own failing."""
    try:
        return compare_outputs(reference, serve(), parts)
    except AutoSlimError:
        raise
    except Exception as error:
        raise ModelError(
            f"{what}: the file does not run on batches of {[len(part) for part in parts]}: {str(error).strip()} "
            "Expected one that does. Where the code takes the batch's size for a number (len(x), int(x.shape[0])), let "
            "it be a size: x.flatten(1), x.shape[0]; or give one with --batch."
        ) from error


def _put(scratch: Path, path: Path) -> tuple[Path, ...]:
    """Puts all files of a folder beside `path`, the one of that name last: where it is, the others are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    others = sorted(file.name for file in scratch.iterdir() if file.name != path.name)
    for name in (*others, path.name):
        write_whole(path.with_name(name), lambda aside, source=scratch / name: copyfile(source, aside))
    return (path, *(path.with_name(name) for name in others))


class ServedNetwork(nn.Module):
    """What a file computes, as a module: any number of images, given in batches as large as it takes."""

    def __init__(self, served: Served, batch: Batch) -> None:
        super().__init__()
        self._served, self._batch = served, batch

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        size: int = len(images) if self._batch == "dynamic" else self._batch  # pyright: ignore[reportAssignmentType]
        spare = (size - len(images)) % size
        padded = torch.cat([images, images[:1].expand(spare, *images.shape[1:])])
        parts = [tree_leaves(self._served(part.contiguous())) for part in padded.split(size)]
        return [torch.cat([torch.as_tensor(part) for part in each])[: len(images)] for each in zip(*parts, strict=True)]


def compare_outputs(model: nn.Module, served: Served, batches: Sequence[torch.Tensor]) -> tuple[float, float]:
    """The largest difference of any output on any image, infinite if not finite; and the module's largest output."""
    difference = largest = 0.0
    for images in batches:
        ours = [tensor for tensor in tree_leaves(model(images)) if isinstance(tensor, torch.Tensor)]
        theirs = [torch.as_tensor(tensor) for tensor in tree_leaves(served(images))]
        if [tensor.shape for tensor in ours] != [tensor.shape for tensor in theirs]:
            return math.inf, largest
        for one, other in zip(ours, theirs, strict=True):
            gap = (one.double() - other.double()).abs().max().item()
            difference = max(difference, gap if math.isfinite(gap) else math.inf)
            largest = max(largest, one.abs().max().item())
    return difference, largest


def _batch_sizes(count: int, batch: Batch) -> list[int]:
    """How many images are shown at a time: as many as the file takes, or 1, 2 and the rest where it takes any."""
    least = 4 if batch == "dynamic" else batch
    if count < least:
        raise DataError(
            f"Export: {count} images to compare on; expected {least} or more with batch {batch}. Give more images, or "
            "a smaller batch."
        )
    return [1, 2, count - 3] if batch == "dynamic" else [batch] * (count // batch)
