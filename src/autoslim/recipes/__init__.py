"""Whole runs by name: each recipe is a function that returns a RunConfig. The first is the default."""

from collections.abc import Callable

from autoslim._registry import Registry
from autoslim.pipeline import RunConfig
from autoslim.recipes import cifar10 as cifar10
from autoslim.recipes import cifar10_paper as cifar10_paper
from autoslim.recipes import digits as digits
from autoslim.recipes import imagenet as imagenet

RECIPES: Registry[Callable[[], RunConfig]] = Registry("recipe")
RECIPES.register("digits", digits.digits)
RECIPES.register("cifar10", cifar10.cifar10)
RECIPES.register("cifar10-paper", cifar10_paper.cifar10_paper)
RECIPES.register("imagenet-mobilenet-v1", imagenet.imagenet_mobilenet_v1)
RECIPES.register("imagenet-mobilenet-v2", imagenet.imagenet_mobilenet_v2)
RECIPES.register("imagenet-mnasnet", imagenet.imagenet_mnasnet)
RECIPES.register("imagenet-resnet50", imagenet.imagenet_resnet50)
