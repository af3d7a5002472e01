"""The shelf of data: one file per source of images, one way to hold them out and to batch them."""

from autoslim.data import digits as digits
from autoslim.data import folder as folder
from autoslim.data import hf as hf
from autoslim.data import loader as loader
from autoslim.data._base import SOURCES as SOURCES
from autoslim.data._base import Data as Data
from autoslim.data._base import Split as Split
from autoslim.data._base import hold_out as hold_out
from autoslim.data._base import load_data as load_data
from autoslim.data._encoded import DecodingLoader as DecodingLoader
from autoslim.data._encoded import Encoded as Encoded
from autoslim.data.loader import Loader as Loader
from autoslim.data.loader import make_loader as make_loader
