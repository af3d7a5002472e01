"""The shelf of runtimes: one file per way to run a network and to tell how long it takes."""

from autoslim.runtimes import command as command
from autoslim.runtimes import compile as compile
from autoslim.runtimes import onnxruntime as onnxruntime
from autoslim.runtimes import openvino as openvino
from autoslim.runtimes import torch as torch
from autoslim.runtimes._base import RUNTIMES as RUNTIMES
from autoslim.runtimes._base import Latency as Latency
from autoslim.runtimes._base import Runtime as Runtime
from autoslim.runtimes._base import check_setting as check_setting
from autoslim.runtimes._base import describe_machine as describe_machine
from autoslim.runtimes._base import find_runtime as find_runtime
from autoslim.runtimes._base import load_package as load_package
from autoslim.runtimes._base import measure_networks as measure_networks
from autoslim.runtimes._base import read_processor as read_processor
from autoslim.runtimes._base import sum_up as sum_up
from autoslim.runtimes._base import time_networks as time_networks
from autoslim.runtimes._onnx import OPSET as OPSET
from autoslim.runtimes._onnx import export_onnx as export_onnx
from autoslim.runtimes._onnx import name_outputs as name_outputs
from autoslim.runtimes._onnx import open_onnx as open_onnx
from autoslim.runtimes._onnx import opset_of as opset_of
from autoslim.runtimes.onnxruntime import time_files as time_files
