"""Classifiers: architectures, heads, checkpoints, and loading of models from other projects.

Importing this package registers every backbone. Code here must not import attacks, training or evaluation.
"""

from advdpnp.models.architectures import (  # noqa: F401
    pixels,
    preact_resnet,
    resnet,
    small_cnn,
    timm_backbone,
    tiny_resnet,
    wide_resnet,
)
from advdpnp.models.base import MODELS, Backbone
from advdpnp.models.network import HEADS, ModelConfig, Network, Normalise, build_model

__all__ = ["HEADS", "MODELS", "Backbone", "ModelConfig", "Network", "Normalise", "build_model"]
