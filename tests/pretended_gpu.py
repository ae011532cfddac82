"""A GPU that is not there: tensors that say they are on ``cuda:0``, are computed on the CPU, and mix with no others.

What PyTorch's own FakeTensorMode does, with values: code that looks at them runs too, and its results can be compared.
As on a GPU, an operation on tensors of both places is an error, but for copies and for single numbers; so is
``numpy()`` of a tensor that was not brought to the CPU.
"""

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
_MOVES = (Tensor.to, Tensor.cpu, Tensor.cuda, Tensor.type_as)
_WHOLE = (torch.nn.functional.one_hot, Tensor.new_tensor)  # that make tensors where C++ thinks that the others are
_COPY = torch.ops.aten.copy_.default
_SCATTER = torch.ops.aten.scatter.src  # into zeros that C++ made, in the gradient of a maximum up to torch 2.9


class GpuTensor(Tensor):
    """A tensor on the pretended GPU; ``values`` are on the CPU."""

    values: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: Tensor) -> "GpuTensor":
        shape = {"strides": values.stride(), "storage_offset": values.storage_offset(), "dtype": values.dtype}
        tensor = Tensor._make_wrapper_subclass(cls, values.shape, device=CPU, **shape)
        tensor.values = values
        return tensor

    @property
    def device(self) -> torch.device:
        return GPU

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_cpu(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"GpuTensor({self.values!r})"

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    def tolist(self):
        return self.values.tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if function is _SCATTER:
            tensors = tensors[1:]
        others = [tensor for tensor in tensors if not isinstance(tensor, GpuTensor) and tensor.dim()]
        if others and function is not _COPY:
            raise RuntimeError(f"Expected all tensors to be on the same device, but {function} got cuda:0 and cpu.")
        results = function(*tree_map(_values, args), **tree_map(_values, kwargs))
        if function is _COPY and not isinstance(args[0], GpuTensor):
            return args[0]
        return return_and_correct_aliasing(function, args, kwargs, tree_map(_on_gpu, results))


class _ToGpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return GpuTensor(x.detach().clone())

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _values(gradient).clone()


class _ToCpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.values.detach().clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _on_gpu(gradient.clone())


class _Machine(TorchFunctionMode):
    """Makes what is asked for on ``cuda`` a tensor of the pretended GPU, and moves tensors there and back."""

    def __torch_function__(self, function: Callable, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in _MOVES:
            return _move(function, *args, **kwargs)
        if function in _WHOLE and isinstance(args[0], GpuTensor):
            return _on_gpu(function(*tree_map(_values, args), **kwargs))
        asked = kwargs.get("device")
        if asked is None or not isinstance(asked, str | torch.device):
            return function(*args, **kwargs)
        gpu = torch.device(asked).type == "cuda"
        if gpu:
            kwargs["device"] = CPU
        result = function(*args, **kwargs)
        if gpu:
            return tree_map(_moved_to_gpu, result)
        return tree_map(_moved_to_cpu, result) if torch.device(asked).type == "cpu" else result


def _move(function: Callable, x: Tensor, *args, **kwargs) -> Tensor:
    """Do as ``Tensor.to`` and its relatives."""
    target = {Tensor.cpu: CPU, Tensor.cuda: GPU}.get(function)
    rest = []
    for arg in args:
        if isinstance(arg, str | torch.device):
            target = torch.device(arg)
        elif isinstance(arg, Tensor):
            target = arg.device
            rest.append(arg.dtype)
        elif isinstance(arg, torch.dtype):  # others are whether to wait and to copy
            rest.append(arg)
    target = torch.device(kwargs.pop("device", None) or target or x.device)
    if target.type == "meta":
        return function(_values(x), *args, **kwargs)
    x = _moved_to_gpu(x) if target.type == "cuda" else _moved_to_cpu(x)
    kwargs = {name: kwargs[name] for name in ("dtype", "memory_format") if kwargs.get(name) is not None}
    return x.to(*rest, **kwargs) if rest or kwargs else x


def _moved_to_gpu(x: object) -> object:
    if not isinstance(x, Tensor) or isinstance(x, GpuTensor):
        return x
    return _ToGpu.apply(x) if x.requires_grad and torch.is_grad_enabled() else GpuTensor(x.detach().clone())


def _moved_to_cpu(x: object) -> object:
    if not isinstance(x, GpuTensor):
        return x
    return _ToCpu.apply(x) if x.requires_grad and torch.is_grad_enabled() else x.values.detach().clone()


def _values(x: object) -> object:
    return x.values if isinstance(x, GpuTensor) else x


def _on_gpu(x: object) -> object:
    return GpuTensor(x) if isinstance(x, Tensor) and not isinstance(x, GpuTensor) else x


@contextlib.contextmanager
def pretended_gpu() -> Iterator[torch.device]:
    """Let ``cuda`` be the pretended GPU within."""
    run_backward = torch.autograd._engine_run_backward

    def backward(*args, **kwargs):  # in which recomputed layers ask for tensors, and no mode is on
        with _Machine():
            return run_backward(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, _Machine():
        patch.setattr("torch.autograd._engine_run_backward", backward)
        patch.setattr("torch.__future__._swap_module_params_on_conversion", True)  # so that a parameter stays one
        patch.setattr("d2st.layers.plain._TENSORS", (torch.nn.Parameter, Tensor, GpuTensor))
        yield GPU
