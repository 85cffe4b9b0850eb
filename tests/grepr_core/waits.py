"""What a processor would wait for a GPU for, noticed on a device without data."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


class MadeFromValues(TorchFunctionMode):
    """Names the functions that make tensors on the device of values of Python, which are copied and waited for."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor) and made.is_meta:
            self._seen.append(func.__name__)
        return made


class Waits(TorchDispatchMode):
    """Names the operations for which a processor would wait for a GPU, in whose place the device ``meta`` is.

    What reads otherwise, such as ``tolist`` or a mask as an index, is an error on this device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self._made = MadeFromValues(self.seen)

    def __enter__(self) -> "Waits":
        self._made.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._made.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        on_device = any(isinstance(value, Tensor) and value.is_meta for value in args)
        if func is aten.nonzero.default and on_device:
            self.seen.append("nonzero")
            return torch.zeros(1, args[0].ndim, dtype=torch.long, device="meta")
        if func is aten._local_scalar_dense.default and on_device:
            self.seen.append("item")
            return 1
        if func is aten._to_copy.default and not kwargs.get("non_blocking"):
            target = torch.device(kwargs.get("device") or args[0].device)
            if target != args[0].device:
                self.seen.append(f"copy from {args[0].device} to {target}")
        # In inference mode, operations come here that are made of others, which are to come here too.
        super().__enter__()
        try:
            made = func.decompose(*args, **kwargs)
        finally:
            super().__exit__(None, None, None)
        return func(*args, **kwargs) if made is NotImplemented else made
