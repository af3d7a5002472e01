"""The networks of the benchmarks: three lists, and how the held-out one was drawn.

    python benchmarks/networks.py           # draws the held-out list again and compares it with networks.json
    python benchmarks/networks.py --write   # writes networks.json

`development` is the list on which the rules were written. `torchvision` is every classification and segmentation CNN
of torchvision. `held-out` is 60 timm networks that nobody looked at while rules were written: drawn by `draw_held_out`
and committed before anything was measured on them.
"""

import argparse
import contextlib
import json
import random
import warnings
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from timm.models import list_models, list_modules
from torch import nn

from autoslim.models import build_model

FILE = Path(__file__).with_name("networks.json")
SIZES = (64, 96, 128, 160, 192, 224, 256, 299)
NUM_CLASSES = 10
SEED, HELD_OUT, MOST_PER_MODULE, MOST_PARAMETERS = 2026, 60, 3, 60_000_000

_TRANSFORMERS = """
    beit cait convit deepseek_vit deit eva gemma4_vit hiera hieradet_sam2 naflexvit nest qwen3_vit tnt twins
    vision_transformer vision_transformer_relpos volo xcit
"""
_TRANSFORMERS_IN_STAGES = """
    swin_transformer swin_transformer_v2 swin_transformer_v2_cr gcvit davit mvitv2 pit pvt_v2 crossvit coat
    vision_transformer_sam
"""
LEFT_OUT = {  # timm module files with no network for this list, each with the reason
    **dict.fromkeys(_TRANSFORMERS.split(), "attention over patches, convolutions in the stem or none"),
    **dict.fromkeys(_TRANSFORMERS_IN_STAGES.split(), "convolutions only embed, pool or shift positions"),
    "vision_transformer_hybrid": "a transformer behind a convolutional stem",
    "mlp_mixer": "linear layers over patches",
    "sequencer": "LSTM over patches",
}
TOO_LARGE = {"regnet_y_128gf"}  # 645M parameters: three copies in float64 don't fit in 24 GB

_DEVELOPMENT_TORCHVISION = """
    alexnet vgg16 vgg16_bn resnet50 wide_resnet50_2 resnext50_32x4d densenet121 googlenet inception_v3 squeezenet1_1
    mobilenet_v2 mobilenet_v3_large mnasnet0_5 shufflenet_v2_x1_0 regnet_x_400mf regnet_y_400mf efficientnet_b0
    efficientnet_v2_s convnext_tiny swin_t maxvit_t fcn_resnet50 deeplabv3_resnet50 deeplabv3_mobilenet_v3_large
    lraspp_mobilenet_v3_large
"""
_DEVELOPMENT_TIMM = """
    mobilenetv1_100 mobilenetv2_100 mobilenetv3_large_100 mobilenetv4_conv_small mobilenetv4_hybrid_medium
    efficientnet_b0 tf_efficientnetv2_b0 mnasnet_100 semnasnet_100 mixnet_s tf_mixnet_s resnet18 resnet50d
    resnext50_32x4d seresnet18 seresnext26d_32x4d ecaresnet50t eca_resnet33ts gcresnet33ts skresnet18 resnest14d
    regnetx_002 regnety_002 regnetz_b16 regnetv_040 densenet121 ghostnet_100 ghostnetv2_100 repghostnet_100 dla34
    dla46x_c hrnet_w18_small inception_v3 inception_v4 inception_resnet_v2 vgg11 repvgg_a0 mobileone_s0 convnext_atto
    convnextv2_atto convnext_nano_ols fbnetc_100 fbnetv3_b res2net50_26w_4s res2next50 nfnet_l0 nf_resnet50
    nf_regnet_b0 resnetv2_50 resnetv2_50x1_bit cspresnet50 cspdarknet53 darknet53 cs3darknet_m vovnet39a
    ese_vovnet19b_dw hardcorenas_a rexnet_100 tinynet_a lcnet_050 spnasnet_100 xception41 legacy_xception
    xcit_nano_12_p16_224 selecsls42 tresnet_m dpn48b edgenext_xx_small fastvit_t8 levit_conv_128s mobilevit_xxs
    mobilevitv2_050 coatnet_nano_rw_224 poolformer_s12 poolformerv2_s12 efficientformer_l1 efficientformerv2_s0
    starnet_s1 inception_next_atto rdnet_tiny mambaout_femto convmixer_768_32 focalnet_tiny_srf visformer_tiny
    efficientvit_b0 efficientvit_m0 repvit_m0_9 swiftformer_xs shvit_s1 lambda_resnet26t botnet26t_256 haloregnetz_b
    bat_resnext26ts legacy_senet154 pvt_v2_b0 hgnet_tiny hgnetv2_b0 nextvit_small tiny_vit_5m_224 crossvit_9_240
    resmlp_12_224 fasternet_t0 csatv2 vitamin_small_224
"""


def read_networks(which: str) -> list[str]:
    """The names of one of the sets, as `build_model` takes them."""
    return json.loads(FILE.read_text())[which]


def list_development() -> list[str]:
    torchvision_names = [f"torchvision:{name}" for name in _DEVELOPMENT_TORCHVISION.split()]
    return torchvision_names + [f"timm:{name}" for name in _DEVELOPMENT_TIMM.split()]


def list_torchvision() -> list[str]:
    """Every classification and segmentation network that is no pure transformer."""
    models = torchvision.models
    names = models.list_models(module=models) + models.list_models(module=models.segmentation)
    return [f"torchvision:{name}" for name in names if not name.startswith(("vit_", "swin_")) and name not in TOO_LARGE]


def draw_held_out(seed: int = SEED) -> list[str]:
    """Modules in a random order, the networks of each in a random order; one of each module in turn until 60.

    A network that is in the development list, has more than 60M parameters or is made for timm's own unit tests is
    passed over. No module gives more than three.
    """
    rng = random.Random(seed)
    known = set(list_development())
    queues: list[list[str]] = []
    for module in sorted(set(list_modules()) - set(LEFT_OUT)):
        names = [name for name in sorted(list_models(module=module)) if not name.startswith("test_")]
        rng.shuffle(names)
        queues.append([name for name in names if f"timm:{name}" not in known])
    rng.shuffle(queues)
    drawn: list[str] = []
    for _ in range(MOST_PER_MODULE):
        for queue in queues:
            while queue and len(drawn) < HELD_OUT:
                name = queue.pop(0)
                if count_parameters(name) <= MOST_PARAMETERS:
                    drawn.append(f"timm:{name}")
                    break
    return drawn


def count_parameters(name: str) -> int:
    """Of a timm network with 1000 classes, made without data where its code allows that."""
    try:
        with torch.device("meta"):
            model = timm.create_model(name, pretrained=False)
    except (RuntimeError, NotImplementedError):  # code that reads values while it builds
        model = timm.create_model(name, pretrained=False)
    return sum(p.numel() for p in model.parameters())


def build_network(name: str) -> nn.Module:
    """The network with 10 classes, freshly drawn weights and no dropout of any kind, in eval mode."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = build_model(name, num_classes=NUM_CLASSES)
    for module in model.modules():
        kind = type(module).__name__.lower()
        for attribute in ("p", "drop_prob", "drop_rate", "drop_path_rate", "dropout_rate"):
            drops = attribute != "p" or "drop" in kind or "depth" in kind
            if drops and isinstance(getattr(module, attribute, None), float):
                setattr(module, attribute, 0.0)
    return model.eval()


def find_size(model: nn.Module) -> int:
    """The smallest input that the network runs on in eval and in train mode, or the one its code is bound to."""
    config: dict[str, Any] = getattr(model, "default_cfg", None) or {}
    own = config.get("input_size", (3, 224, 224))[-1]
    sizes = (own,) if config.get("fixed_input_size") else (*SIZES, own)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for number, size in enumerate(sizes, start=1):
        last = number == len(sizes)
        with contextlib.nullcontext() if last else contextlib.suppress(Exception), torch.no_grad():
            for training in (False, True):
                model.train(training)(torch.randn(2, 3, size, size))
            model.eval().load_state_dict(state)
            return size
    raise AssertionError("the last size either runs or raises")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    sets = {"development": list_development(), "torchvision": list_torchvision(), "held-out": draw_held_out()}
    if args.write:
        FILE.write_text(json.dumps({"timm": timm.__version__, "seed": SEED, **sets}, indent=1) + "\n")
    for which, names in sets.items():
        print(f"{which:12} {len(names):4} {'as in the file' if names == read_networks(which) else 'DIFFERS'}")


if __name__ == "__main__":
    main()
