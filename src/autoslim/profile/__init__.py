"""What a network costs: as numbers, layer by layer, and the paper's table recomputed."""

from autoslim.profile._network import LayerProfile as LayerProfile
from autoslim.profile._network import Profile as Profile
from autoslim.profile._network import profile_network as profile_network
from autoslim.profile._paper import Cell as Cell
from autoslim.profile._paper import PaperRow as PaperRow
from autoslim.profile._paper import PaperTable as PaperTable
from autoslim.profile._paper import profile_paper as profile_paper
