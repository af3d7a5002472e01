"""Stage 4, and the shelf of search methods: budgets in, the best widths for each of them out.

A method knows widths, budgets, a `Cost` per metric and a `Scorer`, and nothing of networks, images or devices.
"""

from autoslim.search._base import METHODS as METHODS
from autoslim.search._base import Cost as Cost
from autoslim.search._base import Found as Found
from autoslim.search._base import Method as Method
from autoslim.search._base import Referee as Referee
from autoslim.search._base import Sample as Sample
from autoslim.search._base import Score as Score
from autoslim.search._base import Scorer as Scorer
from autoslim.search._base import Space as Space
from autoslim.search._base import Step as Step
from autoslim.search._base import check_budgets as check_budgets
from autoslim.search._base import make_method as make_method
from autoslim.search.blocks import Bottleneck as Bottleneck
from autoslim.search.blocks import Equal as Equal
from autoslim.search.blocks import WideInside as WideInside
from autoslim.search.evolution import Evolution as Evolution
from autoslim.search.exhaustive import Exhaustive as Exhaustive
from autoslim.search.greedy import Greedy as Greedy
from autoslim.search.knapsack import Knapsack as Knapsack
from autoslim.search.random import Random as Random
from autoslim.search.shapes import Flat as Flat
from autoslim.search.shapes import Hourglass as Hourglass
from autoslim.search.shapes import RampDown as RampDown
from autoslim.search.shapes import RampUp as RampUp
from autoslim.search.uniform import Uniform as Uniform
from autoslim.search.uniform import hold_uniform as hold_uniform
from autoslim.search.uniform import match_uniform as match_uniform
