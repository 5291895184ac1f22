"""Whether a forward is the first of its kind or one that torch.utils.checkpoint repeats."""

import torch

_task_of_this_thread = torch._C._current_graph_task_id
_top_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)  # not in torch 2.4


def recomputing():
    """A forward inside a backward pass is a repetition, and so is one under checkpoint's hooks outside of any.

    The second happens where a tensor that checkpoint dropped is asked for, as `y.grad_fn._saved_self` does. To be asked
    when the forward runs, never while it is traced.
    """
    if _task_of_this_thread() != -1:
        return True
    hooks = _top_hooks(False) if _top_hooks is not None else None
    return bool(hooks) and "_recomputation_hook" in getattr(hooks[0], "__qualname__", "")
