"""The shelf of baselines: methods of the field that need weights or training, to compare AutoSlim with.

Each takes a `Lab` and budgets and gives widths, with the slim network and its kept weights where it chose channels.
What it spends is counted around it (`MacCounter`), not by itself.
"""

from autoslim.baselines._base import BASELINES as BASELINES
from autoslim.baselines._base import Baseline as Baseline
from autoslim.baselines._base import Chosen as Chosen
from autoslim.baselines._base import Lab as Lab
from autoslim.baselines._base import MacCounter as MacCounter
from autoslim.baselines.amc import Amc as Amc
from autoslim.baselines.bn_scale import BnScale as BnScale
from autoslim.baselines.l1 import L1 as L1
from autoslim.baselines.lasso import Lasso as Lasso
from autoslim.baselines.netadapt import NetAdapt as NetAdapt
from autoslim.baselines.rl import PolicySearch as PolicySearch
from autoslim.baselines.taylor import Taylor as Taylor
from autoslim.baselines.torch_pruning import TorchPruning as TorchPruning
