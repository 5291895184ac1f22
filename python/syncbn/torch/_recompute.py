# SPDX-License-Identifier: Apache-2.0

"""Recomputation: the forwards that torch.utils.checkpoint and similar autograd Functions run a second time.

A call must move the running statistics once, in its first pass or in a repetition. A program may keep the first pass from
moving them, by evaluation mode or track_running_stats. So the first pass leaves a note where its repetition finds it: on
the contexts of the autograd Functions that it runs in, and on the frame of torch.utils.checkpoint. A forward in a backward
pass that finds no note is usually a new call, which a hook makes.
"""

import sys
import weakref

import torch
from torch.autograd.function import FunctionCtx

from ._private import backward_pass_id, checkpoint_of, current_node, innermost_saved_tensors_hooks
from ._private import is_forward_ad_enabled, runs_checkpoint, shows_hooks

_NOTES = "_syncbn_notes"  # attribute of contexts and frames: {layer: True if a pass has moved the statistics}
# The last first pass of each layer in a Function or under hooks: True if it moved the statistics. Layers are known by the
# storage of their name tensor, which eager calls and operators share.
_last_note: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def moves_statistics(name_tensor, tracked):
    """True if the forward that runs now moves the running statistics of the layer with this name tensor.

    `tracked`: the layer's settings ask for it. Every forward asks, also one in evaluation mode, when it runs and not while
    a compiler traces it.
    """
    hooks = innermost_saved_tensors_hooks(False)
    if hooks is None and backward_pass_id() == -1 and (is_forward_ad_enabled() or torch.is_inference_mode_enabled()):
        return tracked  # outside of backward passes, hooks and Functions, in whose forward there is no forward AD
    layer = name_tensor.untyped_storage()
    checkpoint, is_repetition = checkpoint_of(hooks[0]) if hooks else (None, False)
    if not is_repetition and backward_pass_id() == -1:
        moves = has_moved = _last_note[layer] = tracked
    else:
        has_moved = _has_moved(layer, checkpoint if is_repetition else None, hooks is not None)
        moves = tracked and not has_moved
        has_moved = has_moved or tracked
    # For the repetitions that will come.
    places = [*_contexts("forward")]
    if checkpoint is not None and not is_repetition:
        places.append(checkpoint)
    for place in places:
        notes = vars(place).setdefault(_NOTES, {})
        notes[layer] = has_moved or notes.get(layer, False)
    return moves


def _has_moved(layer, checkpoint, under_hooks):
    """True if the forward that runs now repeats a pass that has moved the statistics."""
    node = current_node()
    repeats = any(context is node for context in _contexts("backward"))  # else a hook of the node makes a new call
    for place in (checkpoint, node if repeats else None):
        note = getattr(place, _NOTES, {}).get(layer)
        if note is not None:
            return note
    if not shows_hooks and runs_checkpoint():
        return True  # no first pass could leave a note
    return (repeats or under_hooks) and _last_note.get(layer, False)


def _contexts(method):
    """The contexts of the autograd Functions whose `method`, "forward" or "backward", is running on this thread."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == method and code.co_argcount:
            first = frame.f_locals.get(code.co_varnames[0])
            if isinstance(first, FunctionCtx):
                yield first
        frame = frame.f_back
