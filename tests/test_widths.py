"""Widths: an immutable value with an exact JSON form."""

import copy
import json
import pickle
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoslim.errors import WidthsError
from autoslim.widths import Widths

items = st.dictionaries(st.text(max_size=8), st.integers(min_value=1, max_value=4096), max_size=8)


def test_widths_are_a_mapping_in_the_order_given():
    widths = Widths({"b": 2, "a": 1})
    assert dict(widths) == {"b": 2, "a": 1}
    assert list(widths) == ["b", "a"]
    assert len(widths) == 2
    assert widths["a"] == 1
    assert "c" not in widths
    assert repr(widths) == "Widths({'b': 2, 'a': 1})"


def test_widths_are_made_from_mappings_and_pairs():
    expected = Widths({"a": 1, "b": 2})
    assert Widths([("a", 1), ("b", 2)]) == expected
    assert Widths(zip("ab", (1, 2), strict=True)) == expected
    assert Widths(MappingProxyType({"a": 1, "b": 2})) == expected
    assert Widths(expected) == expected


def test_numpy_integers_become_plain_ones():
    widths = Widths({"a": np.int64(3)})  # type: ignore[dict-item]
    assert type(widths["a"]) is int
    assert json.dumps(widths.to_json()) == '{"_type": "Widths", "_version": 1, "widths": {"a": 3}}'


def test_widths_do_not_follow_what_they_were_made_from():
    source = {"a": 1}
    widths = Widths(source)
    source["a"] = 2
    widths.to_json()["widths"]["a"] = 3
    assert widths == Widths({"a": 1})


def test_widths_can_not_be_changed():
    widths = Widths({"a": 1})
    with pytest.raises(TypeError):
        widths["a"] = 2  # type: ignore[index]
    with pytest.raises(AttributeError):
        widths.other = 2  # type: ignore[attr-defined]


def test_equality_is_among_widths_and_ignores_the_order():
    assert Widths({"a": 1, "b": 2}) == Widths({"b": 2, "a": 1})
    assert hash(Widths({"a": 1, "b": 2})) == hash(Widths({"b": 2, "a": 1}))
    assert Widths({"a": 1}) != Widths({"a": 2})
    assert Widths({"a": 1}) != {"a": 1}


def test_the_digest_is_the_same_in_any_process_and_order():
    """Checkpoints are found by it."""
    assert Widths({"conv": 16, "layer1.0": 32}).digest == Widths({"layer1.0": 32, "conv": 16}).digest == "bce4261e"
    assert Widths({"conv": 8, "layer1.0": 32}).digest != "bce4261e"


def test_replace_gives_a_copy():
    widths = Widths({"conv": 16, "layer1.0": 32})
    assert widths.replace(conv=8) == Widths({"conv": 8, "layer1.0": 32})
    assert widths.replace({"layer1.0": 8}, conv=4) == Widths({"conv": 4, "layer1.0": 8})
    assert widths.replace() == widths == Widths({"conv": 16, "layer1.0": 32})


def test_replace_refuses_an_unknown_group():
    with pytest.raises(WidthsError) as error:
        Widths({"a": 1, "b": 2}).replace(c=3)
    assert str(error.value) == "Widths have no group 'c'. Groups: a, b."


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({}, "_type None, _version None"),
        ({"_type": "Budget", "_version": 1, "widths": {}}, "_type 'Budget', _version 1"),
        ({"_type": "Widths", "_version": 2, "widths": {}}, "_type 'Widths', _version 2"),
        ({"_type": "Widths", "_version": 1}, "_type 'Widths', _version 1"),
        ({"_type": "Widths", "_version": 1, "widths": [["a", 1]]}, "_type 'Widths', _version 1"),
    ],
)
def test_from_json_refuses_anything_else(data: dict[str, object], told: str):
    with pytest.raises(WidthsError) as error:
        Widths.from_json(data)
    assert str(error.value) == (
        f"Not a widths file: {told}; expected 'Widths', version 1. Give the `widths.json` of a model folder."
    )


@given(items)
def test_json_round_trip(data: dict[str, int]):
    widths = Widths(data)
    again = Widths.from_json(json.loads(json.dumps(widths.to_json())))
    assert again == widths
    assert list(again) == list(widths)


@given(items)
def test_copies_are_equal(data: dict[str, int]):
    widths = Widths(data)
    assert copy.copy(widths) == copy.deepcopy(widths) == pickle.loads(pickle.dumps(widths)) == widths
    assert hash(pickle.loads(pickle.dumps(widths))) == hash(widths)


@given(items, items)
def test_equality_and_hash_agree_with_the_dict(one: dict[str, int], other: dict[str, int]):
    assert (Widths(one) == Widths(other)) == (one == other)
    assert hash(Widths(one)) == hash(Widths(dict(reversed(one.items()))))


@given(items, st.integers(min_value=1, max_value=99))
def test_replace_all_with_the_same(data: dict[str, int], width: int):
    replaced = Widths(data).replace(dict.fromkeys(data, width))
    assert dict(replaced) == dict.fromkeys(data, width)
    assert list(replaced) == list(data)


def test_a_width_is_a_whole_number():
    with pytest.raises(
        WidthsError, match=r"Widths \{'a': 7\.9\}: .* Expected whole numbers of channels, one per group\."
    ):
        Widths({"a": 7.9})  # pyright: ignore[reportArgumentType]
    with pytest.raises(WidthsError, match="Expected whole numbers"):
        Widths.from_json({"_type": "Widths", "_version": 1, "widths": {"a": "8"}})
