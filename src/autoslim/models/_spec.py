"""A model's name as users write it, `timm:resnet18?width=0.5` -> where it comes from, its name there, its arguments."""

import ast
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from autoslim._registry import unknown_name
from autoslim.errors import ModelError, UnknownNameError
from autoslim.models._base import BUILDERS

_FORMS = "`torchvision:NAME`, `timm:NAME`, `zoo:NAME` or `path/to/file.py:FACTORY`"
_LITERAL = "literal"  # {"literal": "(1, 2)"} in a description: what JSON would not give back as it was


@dataclass(frozen=True)
class Spec:
    """A parsed name; `texts` holds the arguments as they were written."""

    builder: str
    name: str
    texts: Mapping[str, str]


def parse_spec(spec: str) -> Spec:
    """Takes a name apart: `builder:name?argument=value&argument=value`, or `path/to/file.py:factory?...`.

    Raises:
        UnknownNameError: Neither a known prefix nor a file.
        ModelError: The arguments are not of the form above.
    """
    head, _, query = spec.partition("?")
    prefix, colon, name = head.partition(":")
    if not (colon and prefix in BUILDERS):
        if not re.fullmatch(r".+\.py:\w+", head):
            raise _unknown_form(head)
        prefix, name = "file", head
    return Spec(prefix, name, _split_query(spec, query))


def parse_value(text: str) -> Any:
    """A Python literal if `text` is one, else the text itself; `%26` and the like stand for the character.

    >>> parse_value("1e-3"), parse_value("[1, 2]"), parse_value("relu")
    (0.001, [1, 2], 'relu')
    """
    text = unquote(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "1if" is no literal, and Python would remark on its spelling
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def pack_value(text: str) -> Any:
    """The value for a description: itself where JSON gives it back as it was, else {"literal": text}."""
    value = parse_value(text)
    try:
        same = not isinstance(value, dict) and json.loads(json.dumps(value, allow_nan=False)) == value
    except (ValueError, TypeError):
        same = False
    return value if same else {_LITERAL: text}


def unpack_value(value: Any) -> Any:
    """The inverse of `pack_value`."""
    return parse_value(value[_LITERAL]) if isinstance(value, dict) else value


def _split_query(spec: str, query: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    for item in query.split("&") if query else ():
        name, equals, text = item.partition("=")
        if not (equals and name.isidentifier()):
            raise ModelError(
                f"Model `{spec}`: {item!r} after `?` is no argument; expected `name=value`, joined by `&`. "
                "Write for instance `?width_mult=0.5&dropout=0.2`, and `%26` for a `&` within a value."
            )
        if name in texts:
            raise ModelError(f"Model `{spec}`: `{name}` is given twice; expected once. Drop one of them.")
        texts[name] = text
    return texts


def _unknown_form(head: str) -> UnknownNameError:
    if head.endswith((".py", ".py:")):
        return UnknownNameError(
            f"Model {head!r}: a file, but nothing in it; expected `path/to/file.py:FACTORY`. Append `:` and the name "
            "of the function or class that makes the network."
        )
    known = [(prefix, name) for prefix, builder in BUILDERS.items() for name in builder.names()]
    exact = [f"{prefix}:{name}" for prefix, name in known if name == head]  # only the prefix is missing
    return unknown_name("model", head, exact or [":".join(pair) for pair in known], hint=f"Write {_FORMS}.")
