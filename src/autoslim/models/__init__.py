"""The shelf of models: a name -> the network, from torchvision, timm, the zoo here, or a file of the user's own."""

from autoslim.models import file as file
from autoslim.models import mnasnet as mnasnet
from autoslim.models import mobilenet as mobilenet
from autoslim.models import mobilenet_v1 as mobilenet_v1
from autoslim.models import official as official
from autoslim.models import resnet as resnet
from autoslim.models import resnet50 as resnet50
from autoslim.models import shufflenet_v1 as shufflenet_v1
from autoslim.models import timm as timm
from autoslim.models import torchvision as torchvision
from autoslim.models import vgg as vgg
from autoslim.models import zoo as zoo
from autoslim.models._base import BUILDERS as BUILDERS
from autoslim.models._base import ZOO as ZOO
from autoslim.models.build import build_model as build_model
from autoslim.models.build import build_without_data as build_without_data
from autoslim.models.build import describe_model as describe_model
from autoslim.models.build import rebuild_model as rebuild_model
from autoslim.models.official import OFFICIAL as OFFICIAL
from autoslim.models.official import official_widths as official_widths
from autoslim.models.official import trace_base as trace_base
