"""Scores the perceptual quality of photographs.

```python
import grepr

row = grepr.score("photo.jpg")
print(row.score or row.error)
```

In come photographs: paths, URLs, the bytes of files, images of Pillow, arrays, tensors. Out goes a :class:`Row` for
each of them. ``grepr.ray.Score`` does it within a pipeline of Ray Data, ``grepr.Metric`` within PyTorch, and ``python
-m grepr`` is the command line.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grepr import ray
    from grepr.metric import Metric
    from grepr.rows import Row, to_pandas
    from grepr.scorer import Scorer, load, score
    from grepr_core.decoding.images import Limits, Status
    from grepr_core.errors import UserError

    __version__: str

__all__ = [
    "Limits",
    "Metric",
    "Row",
    "Scorer",
    "Status",
    "UserError",
    "__version__",
    "load",
    "ray",
    "score",
    "to_pandas",
]

_HOMES = {
    "grepr.metric": ("Metric",),
    "grepr.rows": ("Row", "to_pandas"),
    "grepr.scorer": ("Scorer", "load", "score"),
    "grepr_core.decoding.images": ("Limits", "Status"),
    "grepr_core.errors": ("UserError",),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the module holds
    # Imported when first used: to import grepr takes no time, and PyTorch is there when something is to be scored.
    found: Any
    if name == "ray":
        return import_module("grepr.ray")
    if name == "__version__":
        found = import_module("importlib.metadata").version("grepr")
    else:
        home = next((module for module, names in _HOMES.items() if name in names), None)
        if home is None:
            raise AttributeError(f"module 'grepr' has no attribute {name!r}")
        found = getattr(import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
