# SPDX-License-Identifier: Apache-2.0

"""The private names of PyTorch in use, and the names that only some of its versions have.

PyTorch may change a private name in any release. All of them are looked up here, when `syncbn.torch` is imported: a
PyTorch without one of them is an error that names it. tests/python/torch/test_private_names.py checks what each does.
"""

import sys

import torch
import torch.distributed as dist
from torch._subclasses import fake_tensor
from torch.nn.modules import batchnorm
from torch.utils import checkpoint


def _private(owner, name, purpose):
    try:
        return getattr(owner, name)
    except AttributeError:
        raise ImportError(f"syncbn.torch needs {owner.__name__}.{name} {purpose}, which torch {torch.__version__} does "
                          "not have; use another version of torch or a newer syncbn") from None


#: Base class of all batch norms: code that looks for batch norms asks for it.
BatchNormBase = _private(batchnorm, "_BatchNorm", "as the base of its layer")
#: Base class of the batch norms whose parameters the first forward creates.
LazyNormBase = _private(batchnorm, "_LazyNormBase", "to recognize lazy layers")
#: Dictionaries and sets of a Module that a copy of the layer must not share with it.
MODULE_MEMBERS = "_parameters", "_buffers", "_non_persistent_buffers_set", "_modules"

#: What a module's `__module__` says where torch.fx takes the module for a leaf: any text that begins with torch.nn. dynamo
#: of torch 2.4 takes modules whose text begins with "torch.nn.modules" for torch's own.
FX_LEAF_MODULE = "torch.nn, syncbn.torch"

#: Class of tensors without data, by which compilers find shapes.
FakeTensor = _private(fake_tensor, "FakeTensor", "to recognize tensors without data")
#: Number of active TorchDispatchModes.
dispatch_mode_count = _private(torch._C, "_len_torch_dispatch_stack", "to notice dispatch modes")
#: The innermost active transform of torch.func, else None.
functorch_interpreter = _private(torch._C._functorch, "peek_interpreter_stack", "to notice torch.func")
#: Its `_current_level` is the number of nested levels of forward-mode AD, less one.
forward_ad = torch.autograd.forward_ad
_private(forward_ad, "_current_level", "to notice forward-mode AD")
#: The state of torch.jit.trace while it traces, else None.
jit_tracing_state = _private(torch._C, "_get_tracing_state", "to notice torch.jit.trace")
#: True inside torch.export.
is_exporting = getattr(torch.compiler, "is_exporting", None)
if is_exporting is None:  # torch 2.4
    @torch.compiler.assume_constant_result
    def _is_dynamo_exporting():
        from torch._dynamo.symbolic_convert import InstructionTranslator
        return bool(InstructionTranslator.current_tx().export)

    def is_exporting():
        return torch.compiler.is_compiling() and (not torch.compiler.is_dynamo_compiling() or _is_dynamo_exporting())

#: Number of the backward pass that runs on this thread, else -1.
backward_pass_id = _private(torch._C, "_current_graph_task_id", "to notice recomputation")
#: The node of autograd whose backward runs on this thread, else None. For a Function's node: the Function's context.
current_node = _private(torch._C, "_current_autograd_node", "to notice recomputation")
#: False in the forward of an autograd Function and in inference mode.
is_forward_ad_enabled = _private(torch._C, "_is_fwd_grad_enabled", "to notice recomputation")
#: True if this torch has `innermost_saved_tensors_hooks`. Not torch 2.4.
shows_hooks = hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks")
#: The innermost pair of saved_tensors_hooks, else None.
innermost_saved_tensors_hooks = torch._C._autograd._top_saved_tensors_default_hooks if shows_hooks else lambda _: None
# The variable with the record of torch.utils.checkpoint in its pack hooks: of a first pass, and of a repetition.
_FIRST_PASS, _REPETITION = "frame", "target_frame_ref"


def checkpoint_of(pack_hook):
    """The record of the torch.utils.checkpoint that a pack hook belongs to, and whether the hook is of a repetition.

    (None, False) for any other hook.
    """
    function = getattr(pack_hook, "_torchdynamo_orig_callable", pack_hook)
    if getattr(function, "__module__", None) != checkpoint.__name__:
        return None, False
    variables = dict(zip(function.__code__.co_freevars, function.__closure__))
    if _REPETITION in variables:
        return variables[_REPETITION].cell_contents(), True
    return variables[_FIRST_PASS].cell_contents, False


def runs_checkpoint():
    """True if a function of torch.utils.checkpoint is running on this thread."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_globals is not vars(checkpoint):
        frame = frame.f_back
    return frame is not None


if dist.is_available():
    #: The store of the default process group.
    default_store = _private(dist.distributed_c10d, "_get_default_store", "to connect its ranks")
    #: The process group of a name.
    process_group_by_name = _private(dist.distributed_c10d, "_resolve_process_group", "to find a copy's process group")

    def is_fake(process_group):
        """True if torch's backend "fake" carries the process group's CPU tensors: it sends nothing."""
        return any(type(backend).__name__ == "FakeProcessGroup" for backend in _backends(process_group)[:1])

    def timeout_of(process_group):
        """The seconds that a process group waits for a peer; None if its backends do not tell."""
        for backend in _backends(process_group):
            timeout = getattr(getattr(backend, "options", None), "_timeout", None)
            if timeout is not None:
                return timeout.total_seconds()
        return None

    def _backends(process_group):
        """The backends of a process group, the one for CPU tensors first."""
        devices = sorted(process_group._device_types, key=lambda device: device.type != "cpu")
        backends = [process_group._get_backend(device) for device in devices]
        # TORCH_DISTRIBUTED_DEBUG=DETAIL wraps them.
        return [getattr(backend, "wrapped_pg", backend) for backend in backends]

#: Tells autograd that tensors have changed.
increment_versions = torch.autograd.graph.increment_version
if torch.__version__.startswith(("2.4.", "2.5.")):  # takes a single tensor, and no inference tensor
    def increment_versions(tensors):
        for tensor in tensors:
            if not tensor.is_inference():
                torch.autograd.graph.increment_version(tensor)
