"""The shelf of tasks: what a network is trained and judged for. Nothing outside it knows of classes."""

from autoslim.tasks import classification as classification
from autoslim.tasks._base import TASKS as TASKS
from autoslim.tasks._base import Task as Task
