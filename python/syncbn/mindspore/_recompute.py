# SPDX-License-Identifier: Apache-2.0

"""Recomputation: the forwards that Cell.recompute(), mindspore.recompute() and custom backwards run a second time.

A call must move the running statistics once, in its first pass or in a repetition. A program may keep the first pass from
moving them, by evaluation mode for example. So the first pass leaves a note on the objects that will repeat it. A forward
in a backward pass that nothing repeats is a new call, which a hook makes.
"""

import sys

from ._private import backward_pass_id, gradients_are_on, recomputer_of, saves_by_hooks

_NOTES = "_syncbn_notes"  # attribute of recomputing objects: {layer: True if a pass has moved the statistics}


def moves_statistics(layer, tracked):
    """True if the forward that runs now moves the running statistics of `layer`.

    `tracked`: the layer's settings ask for it. Every forward asks, also one in evaluation mode.
    """
    in_backward = backward_pass_id() != -1
    if not in_backward and gradients_are_on() and not saves_by_hooks():
        return tracked
    first_passes, repeats = _recomputers()
    has_moved = repeats is not None and getattr(repeats, _NOTES, {}).get(layer, True)
    moves = tracked and not has_moved
    for recomputer in first_passes:
        vars(recomputer).setdefault(_NOTES, {})[layer] = has_moved or moves
    return moves


def _recomputers():
    """The objects whose first pass is running on this thread, and the innermost object whose repetition is, else None."""
    first_passes, repeats = [], None
    frame = sys._getframe(1)
    while frame is not None:
        recomputer, is_repetition = recomputer_of(frame)
        if recomputer is not None and not is_repetition:
            first_passes.append(recomputer)
        elif repeats is None:
            repeats = recomputer
        frame = frame.f_back
    return first_passes, repeats
