"""The shelf of tasks: what a network is trained and judged for. Nothing outside it knows of classes."""

from autoslim.tasks import classification as classification
from autoslim.tasks import detection as detection
from autoslim.tasks import segmentation as segmentation
from autoslim.tasks._base import TASKS as TASKS
from autoslim.tasks._base import Fit as Fit
from autoslim.tasks._base import Metric as Metric
from autoslim.tasks._base import Targets as Targets
from autoslim.tasks._base import Task as Task
from autoslim.tasks._base import find_task as find_task
from autoslim.tasks._numbers import Numbers as Numbers
