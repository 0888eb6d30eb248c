"""nnU-Net v2 with a classification head and fast inference. Upstream's import paths are served by `nnunetv2.compatibility`."""

from nnunetv2.compatibility.finder import install as _install
from nnunetv2.compatibility.table import ADDED as _ADDED
from nnunetv2.compatibility.table import LEFT_OUT as _LEFT_OUT
from nnunetv2.compatibility.table import MODULES as _MODULES

_install(_MODULES, _ADDED, _LEFT_OUT)
