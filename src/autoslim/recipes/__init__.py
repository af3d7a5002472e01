"""Whole runs by name: each recipe is a function that returns a RunConfig. The first is the default."""

from collections.abc import Callable

from autoslim._registry import Registry
from autoslim.pipeline import RunConfig
from autoslim.recipes import cifar10 as cifar10
from autoslim.recipes import digits as digits

RECIPES: Registry[Callable[[], RunConfig]] = Registry("recipe")
RECIPES.register("digits", digits.digits)
RECIPES.register("cifar10", cifar10.cifar10)
