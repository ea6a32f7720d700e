"""Changes that make a layer or container behave differently from its class: hooks, its own forward, replaced methods."""

from torch import nn
from torch.nn.modules import module as torch_module

from separatrix.core.errors import UnsupportedModuleError

RUN = ("forward", "__call__", "_call_impl", "_wrapped_call_impl", "_slow_forward", "_conv_forward", "_output_padding")
READ = ("__getattr__", "__getattribute__", "__iter__", "__len__", "__getitem__")
"""Methods that make up a forward pass, or through which one finds its weights and layers."""
HOOKS = ("_forward_pre_hooks", "_forward_hooks")
FOR_ALL = ("_global_forward_pre_hooks", "_global_forward_hooks")


def refuse_if_changed(layer: nn.Module, kind: type[nn.Module]) -> None:
    """Raise an error for a layer or container that does not behave like its class.

    Args:
        layer: an instance of `kind`, or of a subclass.
        kind: the PyTorch class that it is read as.

    Raises:
        UnsupportedModuleError: it has hooks, there are global hooks, or a subclass or the instance replaces methods.
    """
    reason = _change(layer, kind)
    if reason:
        raise UnsupportedModuleError(
            f"this {type(layer).__name__} {reason}, so its weight alone does not determine what it computes.\n"
            "Use torch.nn.utils.parametrizations, or remove the hook or the method."
        )


def _change(layer: nn.Module, kind: type[nn.Module]) -> str | None:
    hooks = [hook for name in HOOKS for hook in getattr(layer, name).values()]
    if hooks:
        return f"runs {_named(hooks[0])} around its forward"
    for_all = [hook for name in FOR_ALL for hook in getattr(torch_module, name).values()]
    if for_all:
        return f"runs {_named(for_all[0])}, a global hook, around its forward"
    kept = [name for name in vars(layer) if callable(getattr(type(layer), name, None))]
    if kept:
        return f"has {kept[0]} replaced on the instance"
    own = [name for name in (*RUN, *READ) if getattr(type(layer), name, None) is not getattr(kind, name, None)]
    return f"has a {own[0]} of its own" if own else None


def _named(hook: object) -> str:
    name = getattr(hook, "__name__", None)
    return type(hook).__name__ if name is None else f"the hook {name}"
