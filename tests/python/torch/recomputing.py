# SPDX-License-Identifier: Apache-2.0

"""Programs that recompute forwards, each with the truth about its running statistics: nn.BatchNorm2d in the same program
without recomputation.

Each program is program(net, recompute). `recompute(body, x, reentrant)` is torch.utils.checkpoint, or for the truth a plain
call body(x).
"""

import contextlib
import copy
import functools
from typing import Callable, NamedTuple

import torch
from torch import nn
from torch.utils import checkpoint as torch_checkpoint

from syncbn.torch import SyncBatchNorm

STEPS = 3
IS_TORCH24 = torch.__version__.startswith("2.4.")


def checkpointed(body, x, reentrant=False, **options):
    return torch_checkpoint.checkpoint(body, x, use_reentrant=reentrant, **options)


def directly(body, x, reentrant=False, **options):
    return body(x)


class Outcome(NamedTuple):
    counter: int
    mean: torch.Tensor
    var: torch.Tensor

    def equals(self, other):
        """Equal counters, and statistics that differ by float32's rounding at most."""
        return self.counter == other.counter and all(
            torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(self[1:], other[1:]))


def outcome_of(program, layer, recompute):
    """The statistics of the network's batch norm, a `layer`, after the program."""
    torch.manual_seed(7)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
    if layer is not nn.BatchNorm2d:
        net[1] = layer(4)
    program(net, recompute)
    norm = net[1]
    return Outcome(norm.num_batches_tracked.item(), norm.running_mean.clone(), norm.running_var.clone())


def truth(program):
    return outcome_of(program, nn.BatchNorm2d, directly)


def found(program):
    return outcome_of(program, SyncBatchNorm, checkpointed)


class Program(NamedTuple):
    run: Callable
    wrong_by_backward_pass: bool  # under the rule that every forward in a backward pass is a repetition
    wrong_on_torch24: bool


PROGRAMS = {}


def program(wrong_by_backward_pass=False, wrong_on_torch24=False):
    def add(function):
        PROGRAMS[function.__name__] = Program(function, wrong_by_backward_pass, wrong_on_torch24)
        return function
    return add


def batch():
    return (torch.randn(4, 3, 8, 8) * 2 + 1).requires_grad_()


def train(net, forward):
    for _ in range(STEPS):
        forward(batch()).sum().backward()


def in_backward_pass():
    return torch._C._current_graph_task_id() != -1


def untracked(net, when):
    """Hooks that turn the statistics of the batch norm off for the calls in which when() is true."""
    earlier = []

    def before(norm, args):
        earlier.append(norm.track_running_stats)
        norm.track_running_stats = norm.track_running_stats and not when()

    def after(norm, args, result):
        norm.track_running_stats = earlier.pop()

    net[1].register_forward_pre_hook(before)
    net[1].register_forward_hook(after)


def without_gradients():
    return not torch.is_grad_enabled()


# Every pass tracks.


@program()
def no_recomputation(net, recompute):
    train(net, net)


@program()
def reentrant(net, recompute):
    train(net, lambda x: recompute(net, x, True))


@program()
def by_hooks(net, recompute):
    train(net, lambda x: recompute(net, x))


def nested(outer, inner):
    def run(net, recompute):
        train(net, lambda x: recompute(lambda z: recompute(net, z, inner).tanh(), x, outer))
    return run


for _outer in (True, False):
    for _inner in (True, False):
        _kinds = ["by_hooks", "reentrant"]
        PROGRAMS[f"{_kinds[_inner]}_inside_{_kinds[_outer]}"] = Program(nested(_outer, _inner), False, False)


if not IS_TORCH24:
    @program()
    def some_results_kept(net, recompute):
        policies = torch_checkpoint.CheckpointPolicy

        def policy(context, operator, *args, **kwargs):
            keep = operator == torch.ops.aten.convolution.default
            return policies.MUST_SAVE if keep else policies.PREFER_RECOMPUTE

        contexts = functools.partial(torch_checkpoint.create_selective_checkpoint_contexts, policy)
        train(net, lambda x: recompute(net, x, context_fn=contexts))


@program()
def in_segments(net, recompute):
    def forward(x):
        if recompute is directly:
            return net(x)
        return torch_checkpoint.checkpoint_sequential(net, 2, x, use_reentrant=False)
    train(net, forward)


@program()
def twice_in_a_region(net, recompute):
    train(net, lambda x: recompute(lambda z: net(z) + net(z * 2), x))


@program()
def in_a_region_and_outside(net, recompute):
    train(net, lambda x: recompute(net, x, True) + net(x * 2))


@program()
def two_backwards_of_a_graph(net, recompute):
    for _ in range(STEPS):
        loss = recompute(net, batch()).sum()
        loss.backward(retain_graph=True)
        loss.backward()


@program()
def backwards_in_the_order_of_the_forwards(net, recompute):
    for _ in range(STEPS):
        results = [recompute(net, batch(), reentrant) for reentrant in (False, True)]
        for result in results:
            result.sum().backward()


@program()
def a_copy_in_between(net, recompute):
    for _ in range(STEPS):
        result = recompute(net, batch())
        copy.deepcopy(net)
        result.sum().backward()


@program(wrong_on_torch24=True)
def a_dropped_tensor_is_asked_for(net, recompute):
    body = nn.Sequential(*net, nn.Tanh())
    for _ in range(STEPS):
        result = recompute(body, batch())
        result.grad_fn._saved_result
        result.sum().backward()


@program()
def offloaded(net, recompute):
    def forward(x):
        with torch.autograd.graph.save_on_cpu():
            return net(x)
    train(net, forward)


@program()
def offloaded_in_a_region(net, recompute):
    def body(z):
        with torch.autograd.graph.save_on_cpu():
            return net(z)
    train(net, lambda x: recompute(body, x))


@program()
def update_bn(net, recompute):
    with torch.no_grad():
        for _ in range(STEPS):
            net(batch())


class Reversible(torch.autograd.Function):
    """Keeps no input: its backward makes one that is not quite the same, as networks of invertible blocks do."""

    @staticmethod
    def forward(ctx, x, net, *parameters):
        ctx.net = net
        ctx.save_for_backward(x)
        return net(x).clone()

    @staticmethod
    def backward(ctx, dy):
        x, = ctx.saved_tensors
        with torch.enable_grad():
            again = (x.detach() * (1 + 1e-6)).requires_grad_()
            torch.autograd.backward(ctx.net(again), dy)
        return again.grad, None, *[None for _ in ctx.net.parameters()]


@program()
def an_invertible_block(net, recompute):
    block = net if recompute is directly else lambda x: Reversible.apply(x, net, *net.parameters())
    train(net, block)


class WithoutContextInForward(torch.autograd.Function):
    """The newer form of a Function: its forward does not see the context."""

    @staticmethod
    def forward(x, net, *parameters):
        return net(x).clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.net = inputs[1]
        ctx.save_for_backward(inputs[0])

    backward = Reversible.backward


@program()
def a_function_without_context_in_forward(net, recompute):
    def forward(x):
        return net(x) if recompute is directly else WithoutContextInForward.apply(x, net, *net.parameters())
    train(net, forward)


# The first pass does not track.


@program(wrong_by_backward_pass=True)
def hooks_turn_the_first_pass_off(net, recompute):
    untracked(net, without_gradients)
    train(net, lambda x: recompute(net, x, True))


@program(wrong_by_backward_pass=True, wrong_on_torch24=True)
def hooks_turn_the_first_pass_off_by_hooks(net, recompute):
    if recompute is checkpointed:
        untracked(net, lambda: not in_backward_pass())
    train(net, lambda x: recompute(net, x))


@program(wrong_by_backward_pass=True)
def hooks_turn_the_first_pass_of_a_function_off(net, recompute):
    untracked(net, without_gradients)
    a_function_without_context_in_forward(net, recompute)


@program(wrong_by_backward_pass=True)
def hooks_turn_all_but_the_innermost_pass_off(net, recompute):
    untracked(net, without_gradients)
    train(net, lambda x: recompute(lambda z: recompute(net, z, True) * 2, x, True))


@program(wrong_by_backward_pass=True)
def turned_off_after_plain_steps(net, recompute):
    train(net, net)
    hooks_turn_the_first_pass_off(net, recompute)


@program(wrong_by_backward_pass=True)
def turned_off_after_recomputed_steps(net, recompute):
    reentrant(net, recompute)
    hooks_turn_the_first_pass_off(net, recompute)


@program(wrong_by_backward_pass=True)
def the_first_pass_evaluates(net, recompute):
    def body(x):
        net.train(torch.is_grad_enabled())
        return net(x)
    train(net, lambda x: recompute(body, x, True))


@program(wrong_by_backward_pass=True, wrong_on_torch24=True)
def the_first_pass_evaluates_by_hooks(net, recompute):
    def body(x):
        net[1].train(recompute is directly or in_backward_pass())
        return net(x)
    train(net, lambda x: recompute(body, x, determinism_check="none"))


def one_region_turned_off(order):
    def run(net, recompute):
        untracked(net, without_gradients)

        def forward(x):
            regions = [lambda: recompute(net, x), lambda: recompute(net, x * 2, True)]
            # The region that is turned off moves the statistics in the backward pass, after the other.
            first, second = (regions[i]() for i in (order if recompute is checkpointed else (0, 1)))
            return first + second
        train(net, forward)
    return run


PROGRAMS["the_second_of_two_regions_turned_off"] = Program(one_region_turned_off((0, 1)), True, False)
PROGRAMS["the_first_of_two_regions_turned_off"] = Program(one_region_turned_off((1, 0)), True, False)


# Evaluation between a forward and its backward.


def evaluation_between(reentrant, evaluations_recomputed):
    def run(net, recompute):
        for _ in range(STEPS):
            result = recompute(net, batch(), reentrant)
            net.eval()
            with torch.no_grad():
                net(batch())
            (recompute if evaluations_recomputed else directly)(net, batch())
            net.train()
            result.sum().backward()
    return run


PROGRAMS["evaluation_in_between"] = Program(evaluation_between(True, False), False, False)
PROGRAMS["evaluation_in_between_by_hooks"] = Program(evaluation_between(False, False), False, False)
PROGRAMS["a_recomputed_evaluation_in_between"] = Program(evaluation_between(False, True), False, False)


# A hook in the backward pass makes a new call.


def new_call(net):
    net(batch().detach())


@program(wrong_by_backward_pass=True)
def a_call_in_a_hook(net, recompute):
    def forward(x):
        result = net(x)
        result.register_hook(lambda _: new_call(net))
        return result
    train(net, forward)


def a_call_in_a_hook_after(reentrant, result_of):
    def run(net, recompute):
        def forward(x):
            result = result_of(recompute(net, x, reentrant))
            result.register_hook(lambda _: new_call(net))
            return result
        train(net, forward)
    return run


for _reentrant, _name in ((False, "by_hooks"), (True, "reentrant")):
    PROGRAMS[f"a_call_in_a_hook_after_{_name}"] = Program(
        a_call_in_a_hook_after(_reentrant, lambda result: result * 1), True, False)
PROGRAMS["a_call_in_a_hook_on_a_reentrant_region"] = Program(
    a_call_in_a_hook_after(True, lambda result: result), True, False)


@program(wrong_by_backward_pass=True)
def a_call_in_a_full_backward_hook(net, recompute):
    net[3].register_full_backward_hook(lambda module, grad_input, grad_output: new_call(net[:3]))
    train(net, net)
