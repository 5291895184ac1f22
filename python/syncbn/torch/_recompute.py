# SPDX-License-Identifier: Apache-2.0

"""Recomputation: the forwards that torch.utils.checkpoint repeats."""

from ._private import RECOMPUTATION_HOOK, backward_pass_id, innermost_saved_tensors_hooks


def recomputing():
    """True if the forward that runs now repeats an earlier one, so that the running statistics must not move again.

    A forward inside a backward pass is a repetition. So is a forward under the hooks of checkpoint outside of a backward
    pass: it runs when a program asks for a tensor that checkpoint has dropped, as `y.grad_fn._saved_self` does. Ask when
    the forward runs, not while a compiler traces it.
    """
    if backward_pass_id() != -1:
        return True
    hooks = innermost_saved_tensors_hooks(False)
    return bool(hooks) and RECOMPUTATION_HOOK in getattr(hooks[0], "__qualname__", "")
