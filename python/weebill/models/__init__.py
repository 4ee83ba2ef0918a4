"""Networks for small machines, with torchvision's names, and their trained weights."""

from weebill.models import boxes
from weebill.models._base import Classifier, FeatureExtractor, FeatureInfo
from weebill.models._build import load_weights
from weebill.models._download import DownloadError, cache_dir
from weebill.models._keras import load_keras_weights
from weebill.models._metadata import save_weights
from weebill.models._presets import ObjectDetection, SemanticSegmentation
from weebill.models._registry import (
    ModelEntry,
    create_model,
    get_model_weights,
    get_weights,
    list_models,
    model_entry,
    register_model,
)
from weebill.models._summary import Cost, SeparableComparison, Summary, summary
from weebill.models._weights import PackageFile, Weights, WeightsEnum
from weebill.models.efficientnet_lite import (
    EfficientNet_Lite0_Weights,
    EfficientNetLite,
    efficientnet_lite0,
)
from weebill.models.mobilenet_v1 import MobileNetV1, mobilenet_v1
from weebill.models.mobilenet_v2 import MobileNet_V2_Weights, MobileNetV2, mobilenet_v2
from weebill.models.mobilenet_v3 import (
    MobileNet_V3_Large_Weights,
    MobileNet_V3_Small_Weights,
    MobileNetV3,
    mobilenet_v3_large,
    mobilenet_v3_small,
)
from weebill.models.mobilenet_v3_simplified import (
    MobileNetV3Simplified,
    mobilenet_v3_small_simplified,
)
from weebill.models.segmentation import (
    LRASPP,
    DeepLabV3,
    DeepLabV3_MobileNet_V3_Large_Weights,
    LRASPP_MobileNet_V3_Large_Weights,
    deeplabv3_mobilenet_v3_large,
    lraspp_mobilenet_v3_large,
)
from weebill.models.shufflenet_v1 import ShuffleNetV1, shufflenet_v1_x1_0
from weebill.models.shufflenet_v2 import (
    ShuffleNet_V2_X0_5_Weights,
    ShuffleNet_V2_X1_0_Weights,
    ShuffleNet_V2_X1_5_Weights,
    ShuffleNet_V2_X2_0_Weights,
    ShuffleNetV2,
    shufflenet_v2_x0_5,
    shufflenet_v2_x1_0,
    shufflenet_v2_x1_5,
    shufflenet_v2_x2_0,
)
from weebill.models.ssd import SSD
from weebill.models.ssdlite import (
    SSDLite320_MobileNet_V3_Large_Weights,
    SSDLiteBackbone,
    ssdlite,
    ssdlite320_mobilenet_v3_large,
    ssdlite320_shufflenet_v2_x1_0,
)

__all__ = [
    "LRASPP",
    "SSD",
    "Classifier",
    "Cost",
    "DeepLabV3",
    "DeepLabV3_MobileNet_V3_Large_Weights",
    "DownloadError",
    "EfficientNetLite",
    "EfficientNet_Lite0_Weights",
    "FeatureExtractor",
    "FeatureInfo",
    "LRASPP_MobileNet_V3_Large_Weights",
    "MobileNetV1",
    "MobileNetV2",
    "MobileNetV3",
    "MobileNetV3Simplified",
    "MobileNet_V2_Weights",
    "MobileNet_V3_Large_Weights",
    "MobileNet_V3_Small_Weights",
    "ModelEntry",
    "ObjectDetection",
    "PackageFile",
    "SSDLite320_MobileNet_V3_Large_Weights",
    "SSDLiteBackbone",
    "SemanticSegmentation",
    "SeparableComparison",
    "ShuffleNetV1",
    "ShuffleNetV2",
    "ShuffleNet_V2_X0_5_Weights",
    "ShuffleNet_V2_X1_0_Weights",
    "ShuffleNet_V2_X1_5_Weights",
    "ShuffleNet_V2_X2_0_Weights",
    "Summary",
    "Weights",
    "WeightsEnum",
    "boxes",
    "cache_dir",
    "create_model",
    "deeplabv3_mobilenet_v3_large",
    "efficientnet_lite0",
    "get_model_weights",
    "get_weights",
    "list_models",
    "load_keras_weights",
    "load_weights",
    "lraspp_mobilenet_v3_large",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "mobilenet_v3_small_simplified",
    "model_entry",
    "register_model",
    "save_weights",
    "shufflenet_v1_x1_0",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "ssdlite",
    "ssdlite320_mobilenet_v3_large",
    "ssdlite320_shufflenet_v2_x1_0",
    "summary",
]
