"""Which parquet files of a folder are which split: as the Hugging Face library `datasets` finds it, card and all."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from autoslim.data._parquet import Place
from autoslim.errors import DataError, describe_error

_CARD, _SUFFIX = "README.md", ".parquet"


def find_splits(place: Place) -> tuple[Mapping[str, Sequence[str]], Mapping[str, Any] | None]:
    """The files of each split, below the folder, and the columns where the card tells them.

    Raises:
        DataError: The folder can't be listed, has no parquet files, or several data sets in one.
    """
    import datasets

    hidden = datasets.are_progress_bars_disabled()
    if not hidden:
        datasets.disable_progress_bars()
    try:
        patterns, features = _read_card(place)
        found = _resolve(place, patterns)
    except DataError:
        raise
    except FileNotFoundError:
        found, features = {}, None
    except Exception as error:  # each file system raises its own
        raise DataError(
            f"{place.where}: can't be listed: {describe_error(error)}. Expected a folder with parquet files. "
            "Check the name, the network and your rights."
        ) from error
    finally:
        if not hidden:
            datasets.enable_progress_bars()
    if not found:
        raise DataError(
            f"{place.where}: no parquet files; expected some, as only they can be read in parts. Of many data sets the "
            "hub keeps a copy in parquet: try NAME@refs/convert/parquet. Otherwise write them with to_parquet, or use "
            "hf:NAME, which downloads all."
        )
    return found, features


def _read_card(place: Place) -> tuple[Mapping[str, Sequence[str]], Mapping[str, Any] | None]:
    """Patterns of each split's files, and the columns, if told."""
    from datasets.data_files import get_data_patterns, sanitize_patterns
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard, DatasetCardData

    text = ""
    if place.has(_CARD):
        text = place.read(_CARD, 0, int(place.info(_CARD)["size"])).decode("utf-8", "replace")
    card: Any = DatasetCard(text).data if text.startswith("---") else DatasetCardData()
    configs: Any = MetadataConfigs.from_dataset_card_data(card)
    infos: Any = import_module("datasets.info").DatasetInfosDict.from_dataset_card_data(card)
    name = configs.get_default_config_name() if configs else next(iter(infos)) if len(infos) == 1 else None
    if configs and name is None:
        raise DataError(
            f"{place.where}: its card names several data sets, {', '.join(configs)}, and none of them as default; "
            "expected one. Name its folder: hf-stream:hf://datasets/USER/NAME/FOLDER."
        )
    config = configs[name] if configs else {}
    features = infos[name].features if name in infos else None
    if "data_files" in config:
        return sanitize_patterns(config["data_files"]), features
    base = f"{place.url.rstrip('/')}/{config['data_dir']}" if "data_dir" in config else place.url
    patterns = get_data_patterns(base)
    prefix = f"{config['data_dir']}/" if "data_dir" in config else ""
    return {split: [f"{prefix}{pattern}" for pattern in each] for split, each in patterns.items()}, features


def _resolve(place: Place, patterns: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The parquet files that match, in the order of their names, without splits that have none."""
    from datasets.data_files import resolve_pattern

    found: dict[str, list[str]] = {}
    for split, each in patterns.items():
        paths: dict[str, None] = {}
        for pattern in each:
            try:
                matched = [place.system._strip_protocol(path) for path in resolve_pattern(pattern, place.url)]
            except FileNotFoundError:  # of several ways to write a split's name not all are taken
                continue
            for path in (path for path in matched if path.endswith(_SUFFIX)):
                inner = path.removeprefix(f"{place.root}/")
                if inner == path:
                    raise DataError(
                        f"{place.where}: its card names {path}, which is not in it; expected files of its own. Give "
                        "the URL of the folder where they are."
                    )
                paths[inner] = None
        if paths:
            found[str(split)] = list(paths)
    return found
