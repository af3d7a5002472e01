"""The shelf of costs: one file per metric, each a function of widths."""

from autoslim.costs import macs as macs
from autoslim.costs import memory as memory
from autoslim.costs import params as params
from autoslim.costs import peak as peak
from autoslim.costs._base import COSTS as COSTS
from autoslim.costs._base import Cost as Cost
from autoslim.costs._base import make_cost as make_cost
