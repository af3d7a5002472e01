"""Any program that is given an ONNX file and prints milliseconds: a phone over adb, a board over ssh, trtexec."""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from autoslim.errors import RuntimeFailedError
from autoslim.runtimes._base import RUNTIMES, Pass, Runtime
from autoslim.runtimes._onnx import OPSET, export_onnx

_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_CUT = re.compile(r"(?<![\w.])[-+\d.,'\u2019]*\d[,'\u2019]$")  # before a number: it is the rest of 3,27 or of 1,234.5
_PATIENCE = 600.0  # seconds that one call may take
_SHOWN = 2000  # characters of output told in an error


class Command(Runtime):
    """Runs `argument` with {onnx} replaced by the file's path; the last number that it prints is the answer.

    No shell is in between. It is called once for each network; the threads and batch that it uses are its own affair
    ({threads} in the command is replaced as well).
    """

    name: ClassVar[str] = "command"
    once: ClassVar[bool] = True
    samples: ClassVar[int] = 24
    hint: ClassVar[str] = "./measure.sh {onnx}"

    def prepare(self, model: nn.Module, x: torch.Tensor, *, threads: int, precision: str) -> Pass:
        file = export_onnx(model, x)

        def ask() -> float:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "network.onnx"
                path.write_bytes(file)
                return self._ask({"{onnx}": str(path), "{threads}": str(threads)})

        return ask

    def version(self) -> str:
        """A hash of all files that the command names, scripts too: another program's answers are not its own."""
        first, *others = self._words()
        digest = hashlib.sha256()
        for place in (shutil.which(first), *others):
            if place and os.path.isfile(place) and os.access(place, os.R_OK):
                digest.update(hashlib.sha256(Path(place).read_bytes()).digest())
        return f"command {digest.hexdigest()[:16]}, opset {OPSET}"

    def _words(self) -> list[str]:
        if "{onnx}" not in self.argument:
            raise self._failed("it does not name {onnx}, the file to measure", "")
        try:
            return shlex.split(self.argument)
        except ValueError as error:
            raise self._failed(f"it can't be split into words ({error})", "") from None

    def _ask(self, values: dict[str, str]) -> float:
        words = self._words()
        for name, value in values.items():
            words = [word.replace(name, value) for word in words]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=_PATIENCE, errors="replace")
        except OSError as error:
            raise self._failed(f"it can't be started ({error})", "") from error
        except subprocess.TimeoutExpired as error:
            raise self._failed(f"it gave no answer in {_PATIENCE:g} seconds", _text(error.stdout)) from error
        told = f"{done.stdout}\n{done.stderr}"
        if done.returncode:
            raise self._failed(f"it ended with status {done.returncode}", told)
        numbers = list(_NUMBER.finditer(done.stdout))
        if not numbers:
            raise self._failed("it printed no number", told)
        last = numbers[-1]
        cut = _CUT.search(done.stdout[: last.start()])
        if cut:
            what = f"its last number is written {cut[0]}{last[0]}, which may be several numbers or one of other digits"
            raise self._failed(f"{what}; write it like 1234.5, with nothing joined to it by a comma", told)
        return float(last[0])

    def _failed(self, what: str, output: str) -> RuntimeFailedError:
        said = output.strip()[-_SHOWN:]
        return RuntimeFailedError(
            f"Runtime {self.spec!r}: {what}. Its output: {said or 'none'}\n"
            "Expected a program that exits with 0 and prints milliseconds as the last number on its standard output. "
            f"Repair it, and try it by hand: {self.argument}"
        )


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


RUNTIMES.register("command", Command)
