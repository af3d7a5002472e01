"""The shelf of costs: one file per metric, each a function of widths."""

from autoslim.costs import latency as latency
from autoslim.costs import macs as macs
from autoslim.costs import memory as memory
from autoslim.costs import params as params
from autoslim.costs import peak as peak
from autoslim.costs._base import COSTS as COSTS
from autoslim.costs._base import Cost as Cost
from autoslim.costs._base import check_metric as check_metric
from autoslim.costs._base import make_cost as make_cost
from autoslim.costs.latency import LatencyCost as LatencyCost
from autoslim.costs.latency import make_latency as make_latency
