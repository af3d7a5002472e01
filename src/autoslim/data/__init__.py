"""The shelf of data: one file per source of images, one way to hold them out and to batch them."""

from autoslim.data import digits as digits
from autoslim.data import file as file
from autoslim.data import folder as folder
from autoslim.data import hf as hf
from autoslim.data import loader as loader
from autoslim.data import shapes as shapes
from autoslim.data import stream as stream
from autoslim.data import webdataset as webdataset
from autoslim.data._augment import WHOLE as WHOLE
from autoslim.data._base import GIVEN as GIVEN
from autoslim.data._base import SOURCES as SOURCES
from autoslim.data._base import TARGET_SOURCES as TARGET_SOURCES
from autoslim.data._base import Data as Data
from autoslim.data._base import Split as Split
from autoslim.data._base import decode_split as decode_split
from autoslim.data._base import hold_out as hold_out
from autoslim.data._base import load_data as load_data
from autoslim.data._base import load_datasets as load_datasets
from autoslim.data._draw import draw_images as draw_images
from autoslim.data._encoded import DecodingLoader as DecodingLoader
from autoslim.data._encoded import Encoded as Encoded
from autoslim.data._listing import describe_size as describe_size
from autoslim.data._mix import Mix as Mix
from autoslim.data._told import Told as Told
from autoslim.data.loader import Loader as Loader
from autoslim.data.loader import make_loader as make_loader
