"""Sets the channel numbers of a neural network automatically, under a real budget."""

from autoslim._version import __version__ as __version__
from autoslim.budget import Budget as Budget
from autoslim.costs import make_cost as make_cost
from autoslim.errors import AutoSlimError as AutoSlimError
from autoslim.export import export_network as export_network
from autoslim.extract import extract_network as extract_network
from autoslim.graph import ChannelGraph as ChannelGraph
from autoslim.graph import Group as Group
from autoslim.hub import push as push
from autoslim.models import build_model as build_model
from autoslim.pipeline import RunConfig as RunConfig
from autoslim.pipeline import resume as resume
from autoslim.pipeline import run as run
from autoslim.rewrite import rewrite_network as rewrite_network
from autoslim.saved import load as load
from autoslim.sort import sort_channels_ as sort_channels_
from autoslim.supernet import Supernet as Supernet
from autoslim.trace import trace_channels as trace_channels
from autoslim.widen import widen_network as widen_network
from autoslim.widths import Widths as Widths
