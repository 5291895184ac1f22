# SPDX-License-Identifier: Apache-2.0

"""The private names of PyTorch in use, and the names that only some of its versions have.

PyTorch may change a private name in any release. All of them are looked up here, when `syncbn.torch` is imported: a
PyTorch without one of them is an error that names it. tests/python/torch/test_private_names.py checks what each does.
"""

import torch
import torch.distributed as dist
from torch._subclasses import fake_tensor
from torch.nn.modules import batchnorm


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
#: The innermost pair of saved_tensors_hooks, else None. Not in torch 2.4.
innermost_saved_tensors_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: None)
#: Name of the hook under which torch.utils.checkpoint repeats a forward.
RECOMPUTATION_HOOK = "_recomputation_hook"

if dist.is_available():
    #: The store of the default process group.
    default_store = _private(dist.distributed_c10d, "_get_default_store", "to connect its ranks")
    #: The process group of a name.
    process_group_by_name = _private(dist.distributed_c10d, "_resolve_process_group", "to find a copy's process group")

#: Tells autograd that tensors have changed.
increment_versions = torch.autograd.graph.increment_version
if torch.__version__.startswith(("2.4.", "2.5.")):  # takes a single tensor, and no inference tensor
    def increment_versions(tensors):
        for tensor in tensors:
            if not tensor.is_inference():
                torch.autograd.graph.increment_version(tensor)
