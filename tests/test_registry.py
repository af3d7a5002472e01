"""The registry and the errors: duplicates are refused, a miss names the closest, every error is of the one root."""

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoslim import errors
from autoslim._registry import Registry, unknown_name
from autoslim.errors import AutoSlimError, UnknownNameError


def make_registry(**items: int) -> Registry[int]:
    registry: Registry[int] = Registry("colour")
    for name, item in items.items():
        registry.register(name, item)
    return registry


def test_registry_is_a_mapping_in_the_order_of_registration():
    registry = make_registry(red=1, green=2, blue=3)
    assert dict(registry) == {"red": 1, "green": 2, "blue": 3}
    assert list(registry) == ["red", "green", "blue"]
    assert len(registry) == 3
    assert "red" in registry
    assert "pink" not in registry
    assert registry.get("pink") is None


def test_register_gives_the_item_back_and_may_be_repeated():
    item = object()
    registry: Registry[object] = Registry("thing")
    assert registry.register("one", item) is item
    assert registry.register("one", item) is item
    assert len(registry) == 1


def test_duplicate_is_refused_and_changes_nothing():
    registry = make_registry(red=1)
    with pytest.raises(ValueError) as error:
        registry.register("red", 2)
    assert str(error.value) == "the colour 'red' is registered twice"
    assert not isinstance(error.value, AutoSlimError)
    assert dict(registry) == {"red": 1}


def test_miss_names_the_closest():
    with pytest.raises(UnknownNameError) as error:
        make_registry(red=1, green=2, blue=3)["gren"]
    assert str(error.value) == "Unknown colour 'gren'. Closest: green, red."
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


def test_miss_far_from_all_names_lists_them_sorted():
    with pytest.raises(UnknownNameError) as error:
        make_registry(red=1, green=2, blue=3)["xyz"]
    assert str(error.value) == "Unknown colour 'xyz'. Known: blue, green, red."


def test_miss_in_a_long_list_names_twelve():
    known = [f"name{number:02}" for number in range(20)]
    told = str(unknown_name("thing", "zzz", known))
    assert told == f"Unknown thing 'zzz'. Known: {', '.join(known[:12])}."


def test_hint_is_the_last_sentence():
    told = str(unknown_name("model", "resnet5", ["resnet50"], hint="See `autoslim models`."))
    assert told == "Unknown model 'resnet5'. Closest: resnet50. See `autoslim models`."


@given(st.dictionaries(st.text(max_size=5), st.integers()), st.text(max_size=5))
def test_registry_answers_as_a_dict_does(items: dict[str, int], name: str):
    registry: Registry[int] = Registry("thing")
    for key, item in items.items():
        registry.register(key, item)
    assert dict(registry) == items
    assert (name in registry) == (name in items)
    if name in items:
        assert registry[name] == items[name]
    else:
        with pytest.raises(KeyError):
            registry[name]


def test_errors_are_children_of_one_root_and_of_what_they_are():
    kinds = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind)}
    assert all(issubclass(kind, AutoSlimError) for kind in kinds.values())
    builtin = {name: kind.__mro__[2].__name__ for name, kind in kinds.items() if kind is not AutoSlimError}
    assert builtin == {
        "UnknownNameError": "KeyError",
        "ConfigError": "ValueError",
        "WidthsError": "ValueError",
        "BudgetError": "ValueError",
        "ModelError": "ValueError",
        "DataError": "ValueError",
        "TrainingError": "RuntimeError",
        "RanksError": "RuntimeError",
        "RuntimeFailedError": "RuntimeError",
        "RunFolderError": "ValueError",
    }


@pytest.mark.parametrize("kind", [kind for kind in vars(errors).values() if inspect.isclass(kind)])
def test_errors_print_their_message_with_its_line_breaks(kind: type[AutoSlimError]):
    assert str(kind("one\n'two'")) == "one\n'two'"
