"""Masked autoencoders, pre-trained or fine-tuned (He et al. 2022, github.com/facebookresearch/mae).

The encoder is timm's vision transformer (``models_mae.py``), whose parts torchvision's has under other
names and with the same arithmetic: the norms' epsilon is 1e-6 in both, queries, keys and values are one
matrix in that order. The decoder is left out.
"""

from collections.abc import Mapping
from typing import Any

import torch

from pipeline.backbones.formats.keys import rename

NESTED = ("model",)
BLOCK = r"blocks\.(\d+)\."
LAYER = r"encoder.layers.encoder_layer_\1."
VALUES = r"(weight|bias)"
PLACES = {
    r"cls_token": r"class_token",
    r"pos_embed": r"encoder.pos_embedding",
    rf"patch_embed\.proj\.{VALUES}": r"conv_proj.\1",
    rf"{BLOCK}norm1\.{VALUES}": rf"{LAYER}ln_1.\2",
    rf"{BLOCK}attn\.qkv\.{VALUES}": rf"{LAYER}self_attention.in_proj_\2",
    rf"{BLOCK}attn\.proj\.{VALUES}": rf"{LAYER}self_attention.out_proj.\2",
    rf"{BLOCK}norm2\.{VALUES}": rf"{LAYER}ln_2.\2",
    rf"{BLOCK}mlp\.fc1\.{VALUES}": rf"{LAYER}mlp.0.\2",
    rf"{BLOCK}mlp\.fc2\.{VALUES}": rf"{LAYER}mlp.3.\2",
    rf"norm\.{VALUES}": r"encoder.ln.\1",
    rf"fc_norm\.{VALUES}": r"fc_norm.\1",
    rf"head\.{VALUES}": r"heads.head.\1",
}
DECODER = (
    r"mask_token",
    r"decoder_pos_embed",
    rf"decoder_(embed|norm|pred)\.{VALUES}",
    rf"decoder_blocks\.\d+\.(norm[12]|attn\.(qkv|proj)|mlp\.fc[12])\.{VALUES}",
)


def convert(
    tensors: Mapping[str, torch.Tensor], architecture: Mapping[str, Any], source: str
) -> dict[str, torch.Tensor]:
    """The encoder's tensors by torchvision's names of a vision transformer.

    Where the mean of the patches is the feature, a new norm behind it takes the place of the one of
    pre-training, as MAE's fine-tuning has it (``models_vit.py``): weights of one, biases of zero.
    """
    renamed = rename(tensors, PLACES, DECODER, source, "mae")
    if architecture.get("pooling") == "mean" and "encoder.ln.weight" in renamed:
        renamed["fc_norm.weight"] = torch.ones_like(renamed.pop("encoder.ln.weight"))
        renamed["fc_norm.bias"] = torch.zeros_like(renamed.pop("encoder.ln.bias"))
    return renamed
