"""The shelf of operators: one file per family says how channel labels pass through it and what it costs."""

from autoslim.ops import attention as attention
from autoslim.ops import conv as conv
from autoslim.ops import create as create
from autoslim.ops import index as index
from autoslim.ops import join as join
from autoslim.ops import linear as linear
from autoslim.ops import norm as norm
from autoslim.ops import pointwise as pointwise
from autoslim.ops import reduce as reduce
from autoslim.ops import spatial as spatial
from autoslim.ops import view as view
from autoslim.ops._base import RULES as RULES
from autoslim.ops._base import Alive as Alive
from autoslim.ops._base import Call as Call
from autoslim.ops._base import Labels as Labels
from autoslim.ops._base import Ledger as Ledger
from autoslim.ops._base import Rule as Rule
from autoslim.ops._base import count_elements as count_elements
from autoslim.ops._base import find_rule as find_rule
