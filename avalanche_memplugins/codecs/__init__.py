"""How a remembered row is stored."""

from avalanche_memplugins.codecs.bits import Bits
from avalanche_memplugins.codecs.codec import Codec
from avalanche_memplugins.codecs.downsampled import Downsampled
from avalanche_memplugins.codecs.entropy_coded import EntropyCoded
from avalanche_memplugins.codecs.image_file import ImageFile
from avalanche_memplugins.codecs.int8 import Int8
from avalanche_memplugins.codecs.integers import Integers
from avalanche_memplugins.codecs.latent import LatentCodec
from avalanche_memplugins.codecs.plain import Float16, Raw
from avalanche_memplugins.codecs.product_quantised import ProductQuantised
from avalanche_memplugins.codecs.quantised import Quantised
from avalanche_memplugins.codecs.stream import StreamCodec
from avalanche_memplugins.codecs.uint8 import Uint8
from avalanche_memplugins.codecs.variable_codec import VariableCodec

__all__ = [
    "Bits",
    "Codec",
    "Downsampled",
    "EntropyCoded",
    "Float16",
    "ImageFile",
    "Int8",
    "Integers",
    "LatentCodec",
    "ProductQuantised",
    "Quantised",
    "Raw",
    "StreamCodec",
    "Uint8",
    "VariableCodec",
]
