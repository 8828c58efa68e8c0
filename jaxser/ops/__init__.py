"""Pure jittable functions, each with its formula."""

from jaxser.ops import collectives as collectives
from jaxser.ops import concordance as concordance
from jaxser.ops import convolution as convolution
from jaxser.ops import dct as dct
from jaxser.ops import frames as frames
from jaxser.ops import functionals as functionals
from jaxser.ops import log_mel as log_mel
from jaxser.ops import losses as losses
from jaxser.ops import max_pooling as max_pooling
from jaxser.ops import spherical as spherical
from jaxser.ops import temporal as temporal
