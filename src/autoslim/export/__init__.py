"""The shelf of export formats: a network as a file for another runtime, held against the module before it counts."""

from autoslim.export import onnx as onnx
from autoslim.export import openvino as openvino
from autoslim.export import python as python
from autoslim.export import state_dict as state_dict
from autoslim.export import torch_export as torch_export
from autoslim.export._base import FORMATS as FORMATS
from autoslim.export._base import Batch as Batch
from autoslim.export._base import Exported as Exported
from autoslim.export._base import Format as Format
from autoslim.export._base import Options as Options
from autoslim.export._base import Served as Served
from autoslim.export._base import ServedNetwork as ServedNetwork
from autoslim.export._base import export_network as export_network
from autoslim.export._fold import fold_batchnorm_ as fold_batchnorm_
from autoslim.export._int8 import Int8Latency as Int8Latency
from autoslim.export._int8 import quantize_onnx as quantize_onnx
from autoslim.export._int8 import time_int8 as time_int8
