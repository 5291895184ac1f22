# SPDX-License-Identifier: Apache-2.0

"""Evaluation by torch's own operators, for programs that are saved or transformed.

Files of torch.jit.trace, torch.export and the ONNX exporters then load where syncbn is not installed, and torch.func and
forward-mode AD know the derivatives. Eager and compiled evaluation use the core, whose bits are the contract's.
"""

import torch

from ._private import forward_ad, functorch_interpreter, is_exporting, jit_tracing_state


def transformed():
    """True under a transform of torch.func (grad, vjp, jvp, vmap, ...) or inside a level of forward-mode AD."""
    return functorch_interpreter() is not None or forward_ad._current_level >= 0


# A compiler calls this function while it traces. If it traced `transformed` instead, the answer would be True for every call.
transformed_in_trace = torch.compiler.assume_constant_result(transformed)


def is_saved(compiling):
    """True if a tool that saves programs is recording this call: torch.export, torch.jit.trace, or an ONNX exporter."""
    return is_exporting() if compiling else jit_tracing_state() is not None


def evaluate(layer, x, residual):
    """The output of `layer` in evaluation."""
    values = layer.weight, layer.bias, layer.running_mean, layer.running_var
    parameter = values[0] if values[0] is not None else values[2]
    if parameter is None or parameter.dtype in (x.dtype, torch.promote_types(torch.float32, x.dtype)):
        y = _batch_norm(x, *values, layer.eps)
    else:
        wide = torch.promote_types(parameter.dtype, x.dtype)
        y = _batch_norm(x.to(wide), *(None if value is None else value.to(wide) for value in values), layer.eps).to(x.dtype)
    if residual is not None:
        y = y + residual
    return torch.relu(y) if layer.activation == "relu" else y


def _batch_norm(x, weight, bias, running_mean, running_var, eps):
    # Not torch.nn.functional.batch_norm, which refuses one value per channel.
    return torch.batch_norm(x, weight, bias, running_mean, running_var, running_mean is None, 0.0, eps,
                            torch.backends.cudnn.enabled)
