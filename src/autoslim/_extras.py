"""What the package asks for beside torch, by its own metadata, and the command that installs it.

The packages themselves are named: so the command works wherever autoslim itself came from.
"""

from collections.abc import Iterable, Iterator
from importlib import metadata

from packaging.requirements import Requirement

PACKAGE = "autoslim"


def requirements_of(extra: str = "", package: str = PACKAGE) -> Iterator[Requirement]:
    """What an extra asks for on this machine ("": what the package itself does); an extra may be made of others.

    Raises:
        PackageNotFoundError: The package is not installed, so it has no metadata.

    >>> [requirement.name for requirement in requirements_of("png")]
    ['matplotlib']
    """
    for requirement in map(Requirement, metadata.requires(package) or []):
        if not _applies(requirement, extra):
            continue
        if requirement.name == package:
            for inner in requirement.extras:
                yield from requirements_of(inner, package)
        else:
            yield requirement


def say_install(requirements: Iterable[Requirement]) -> str:
    """The command that installs them.

    >>> say_install([Requirement("onnx>=1.17"), Requirement('tool[fast]>=2; extra == "dev"')])
    'pip install "onnx>=1.17" "tool[fast]>=2"'
    """
    return " ".join(["pip install", *dict.fromkeys(f'"{_name(each)}{each.specifier}"' for each in requirements)])


def install_extra(extra: str) -> str:
    """The command that installs what an extra asks for; in a clone that was never installed, the one that installs it.

    >>> install_extra("png")
    'pip install "matplotlib>=3.9"'
    """
    try:
        return say_install(requirements_of(extra))
    except metadata.PackageNotFoundError:
        return f"pip install -e '.[{extra}]' in the clone"


def _name(requirement: Requirement) -> str:
    return requirement.name + (f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else "")


def _applies(requirement: Requirement, extra: str) -> bool:
    if requirement.marker is None:
        return not extra
    return requirement.marker.evaluate({"extra": extra}) and not (extra and requirement.marker.evaluate({"extra": ""}))
