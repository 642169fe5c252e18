"""Networks and tasks of the user's own, by the name of the function that makes them."""

import os
import sys
from importlib import import_module
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from ppap_lib.errors import InputError


def own(name: str) -> Any:
    """Call the function that `module:function` names, and return its result.

    The module is looked for in the current folder, then on Python's path.

    Raises
    ------
    InputError
        If there is no such module or function, or the function takes arguments. What the module
        or the function itself raises passes through.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise InputError(f"write what is your own as module:function, not {name!r}")
    sys.path.insert(0, here := os.getcwd())
    try:
        function = getattr(import_module(module_name), function_name, None)
        if not callable(function):
            raise InputError(f"{module_name} has no function {function_name!r}")
        try:
            signature(function).bind()
        except TypeError:
            raise InputError(
                f"{name} takes arguments, {signature(function)}: give a function without"
            ) from None
        return function()
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise  # of what the module itself imports
        raise InputError(f"no module {module_name!r} in {here}, nor on Python's path") from None
    finally:
        sys.path.remove(here)


def own_network(name: str) -> nn.Module:
    """Return the network that `module:function` makes; see `own`.

    Raises `InputError` if it makes something else than a module.
    """
    network = own(name)
    if not isinstance(network, nn.Module):
        raise InputError(f"{name} returned a {type(network).__name__}, not a torch.nn.Module")
    return network


def own_guide(name: str, shape: tuple[int, ...], logits: bool = True) -> nn.Module:
    """Return the guide that `module:function` makes, frozen and in evaluation mode; see `own`.

    Parameters
    ----------
    name : str
        "module:function".
    shape : tuple of int
        Of one image, which the guide reads in [-1, 1].
    logits : bool
        Whether it must return logits [B, K].

    Raises
    ------
    InputError
        If it is no network, cannot read such an image, or returns something else than logits.
    """
    network = own_network(name).eval().requires_grad_(False)
    image = torch.zeros(1, *shape, device=next(network.parameters(), torch.empty(0)).device)
    try:
        with torch.no_grad():
            output = network(image)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{name} cannot read images {list(image.shape)}: {error}") from error
    if logits and not (isinstance(output, Tensor) and output.ndim == 2 and len(output) == 1):
        shaped = list(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise InputError(
            f"{name} returns {shaped} for one image, not logits [1, K]: give the task that says "
            f"what the output means"
        )
    return network


def own_task(name: str) -> Any:
    """Return the task that `module:function` makes; see `own`.

    Raises `InputError` if the result has not the methods of a task.
    """
    task = own(name)
    if missing := [m for m in ("log_prob", "divergence") if not callable(getattr(task, m, None))]:
        raise InputError(
            f"{name} returned a {type(task).__name__} without {' and '.join(missing)}: a task has "
            f"log_prob(output, target) and divergence(student, teacher)"
        )
    return task
