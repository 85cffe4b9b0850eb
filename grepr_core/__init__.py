"""The method: image decoding, encoders, losses, zero-shot scores, regressor and bundle. Never imports Ray.

```python
from grepr_core import Scorer, load_bundle

scorer = Scorer(load_bundle("grepr-lite"))
[score] = scorer.score([open("photo.jpg", "rb").read()])
print(score.score or score.error)
```
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grepr_core.bundles.bundle import Bundle, load_bundle, save_bundle
    from grepr_core.decoding.images import Failure, Limits, Photo, Status, decode
    from grepr_core.errors import UserError
    from grepr_core.scoring.image_score import ImageScore
    from grepr_core.scoring.scorer import Scorer

__all__ = [
    "Bundle",
    "Failure",
    "ImageScore",
    "Limits",
    "Photo",
    "Scorer",
    "Status",
    "UserError",
    "decode",
    "load_bundle",
    "save_bundle",
]

_HOMES = {
    "bundles.bundle": ("Bundle", "load_bundle", "save_bundle"),
    "errors": ("UserError",),
    "decoding.images": ("Failure", "Limits", "Photo", "Status", "decode"),
    "scoring.image_score": ("ImageScore",),
    "scoring.scorer": ("Scorer",),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the module holds
    # Imported when first used, so that the command line's help need not wait for PyTorch.
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"grepr_core.{module}"), name)
    raise AttributeError(f"module 'grepr_core' has no attribute {name!r}")
