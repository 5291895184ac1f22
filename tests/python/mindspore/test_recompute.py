# SPDX-License-Identifier: Apache-2.0

"""Whatever a program recomputes, a call moves the running statistics once: as nn.BatchNorm2d without recomputation."""

import contextlib

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from syncbn.mindspore import SyncBatchNorm, _layer, _private, _recompute

STEPS = 3
_random = np.random.default_rng(5)
BATCHES = [_random.standard_normal((4, 3, 2, 2)).astype(np.float32) * 2 + 1 for _ in range(2 * STEPS)]


class Net(nn.Cell):
    def __init__(self, norm):
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1, weight_init="ones")
        self.norm = norm
        self.activation = nn.Tanh()
        self.calls = 0
        self.set_train()

    def construct(self, x):
        self.calls += 1
        return self.activation(self.norm(self.convolution(x)))


def train(net, forward, batches=BATCHES[:STEPS]):
    for x in batches:
        mindspore.value_and_grad(lambda x: forward(x).sum(), 0, net.trainable_params())(Tensor(x))


def statistics(program, recompute, norm):
    net = Net(norm)
    program(net, recompute)
    theirs = hasattr(norm, "moving_mean")
    return [value.asnumpy() for value in ((norm.moving_mean, norm.moving_variance) if theirs else
                                          (norm.running_mean, norm.running_var))], net


def directly(block, x, **options):
    return block(x)


def check(program):
    """True if the program moves the statistics as nn.BatchNorm2d does in it without recomputation."""
    expected, _ = statistics(program, directly, nn.BatchNorm2d(3))
    found, _ = statistics(program, mindspore.recompute, SyncBatchNorm(3))
    return all(np.allclose(*pair, rtol=1e-4, atol=1e-5) for pair in zip(expected, found))


PROGRAMS = {}  # name: (program, wrong if every forward in a backward pass is a repetition)


def program(wrong_by_backward_pass=False):
    def add(function):
        PROGRAMS[function.__name__] = function, wrong_by_backward_pass
        return function
    return add


@program()
def no_recomputation(net, recompute):
    train(net, net)


@program()
def reentrant(net, recompute):
    train(net, lambda x: recompute(net, x))


@program()
def by_hooks(net, recompute):
    train(net, lambda x: recompute(net, x, use_reentrant=False))


@program()
def merged_outputs(net, recompute):
    train(net, lambda x: recompute(net, x, output_recompute=True))


def of_the_cell(use_reentrant):
    def run(net, recompute):
        if recompute is not directly:
            net.recompute(use_reentrant=use_reentrant)
        train(net, net)
    return run


PROGRAMS["of_the_cell"] = of_the_cell(True), False
PROGRAMS["of_the_cell_by_hooks"] = of_the_cell(False), False


class Outer(nn.Cell):
    def __init__(self, net, inner):
        super().__init__()
        self.net, self.inner = net, inner

    def construct(self, x):
        return self.inner(self.net, x) * 2


def nested(outer, inner):
    def run(net, recompute):
        block = Outer(net, lambda net, x: recompute(net, x, use_reentrant=inner))
        # With early_stop, MindSpore 2.10 fails on a reentrant recomputation inside, whatever the layer.
        options = {"early_stop": False} if inner and not outer else {}
        train(net, lambda x: recompute(block, x, use_reentrant=outer, **options))
    return run


for _outer in (True, False):
    for _inner in (True, False):
        _kinds = ["by_hooks", "reentrant"]
        PROGRAMS[f"{_kinds[_inner]}_inside_{_kinds[_outer]}"] = nested(_outer, _inner), False


class Reversible(nn.Cell):
    """A Cell whose own backward runs its block again."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def construct(self, x):
        return self.net(x)

    def bprop(self, x, out, dout):
        parameters = mindspore.ParameterTuple(self.net.trainable_params())
        dx, _ = ops.GradOperation(get_all=True, get_by_list=True, sens_param=True)(self.net, parameters)(x, dout)
        return dx


@program()
def an_invertible_block(net, recompute):
    block = net if recompute is directly else Reversible(net)
    train(net, block)


@contextlib.contextmanager
def evaluating(norm):
    norm.set_train(False)
    yield
    norm.set_train()


@program(wrong_by_backward_pass=True)
def a_context_makes_the_first_pass_evaluate(net, recompute):
    contexts = lambda: (evaluating(net.norm), contextlib.nullcontext())
    train(net, lambda x: recompute(net, x, use_reentrant=False, early_stop=False, context_fn=contexts))


def without_first_pass(net):
    """Hooks by which the batch norm evaluates in the first pass of a reentrant recomputation."""
    net.norm.register_forward_pre_hook(
        lambda cell, inputs: (cell.set_train(_private.gradients_are_on()), None)[1])
    net.norm.register_forward_hook(lambda cell, inputs, outputs: (cell.set_train(), None)[1])


@program(wrong_by_backward_pass=True)
def hooks_make_the_first_pass_evaluate(net, recompute):
    without_first_pass(net)
    train(net, lambda x: recompute(net, x))


@program(wrong_by_backward_pass=True)
def evaluating_after_recomputed_steps(net, recompute):
    of_the_cell(True)(net, recompute)
    without_first_pass(net)
    train(net, net, BATCHES[STEPS:])


@program(wrong_by_backward_pass=True)
def a_call_in_a_hook(net, recompute):
    def forward(x):
        y = net(x)
        y.register_hook(lambda gradient: (net(Tensor(BATCHES[-1])), None)[1])
        return y
    train(net, forward)


def a_call_in_a_hook_after(use_reentrant):
    def run(net, recompute):
        def forward(x):
            y = recompute(net, x, use_reentrant=use_reentrant) * 1
            y.register_hook(lambda gradient: (net(Tensor(BATCHES[-1])), None)[1])
            return y
        train(net, forward)
    return run


PROGRAMS["a_call_in_a_hook_after_reentrant"] = a_call_in_a_hook_after(True), True
PROGRAMS["a_call_in_a_hook_after_by_hooks"] = a_call_in_a_hook_after(False), True


@program(wrong_by_backward_pass=True)
def a_call_in_a_backward_hook_of_a_cell(net, recompute):
    net.activation.register_backward_hook(
        lambda cell, grad_input, grad_output: (net.norm(net.convolution(Tensor(BATCHES[-1]))), None)[1])
    train(net, net)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_call_moves_the_statistics_once(name):
    assert check(PROGRAMS[name][0])


@pytest.mark.parametrize("name", [name for name, (_, wrong) in PROGRAMS.items() if wrong])
def test_control_a_backward_pass_is_no_sign_of_a_repetition(name, monkeypatch):
    monkeypatch.setattr(_layer, "moves_statistics", lambda layer, tracked: tracked and _private.backward_pass_id() == -1)
    assert not check(PROGRAMS[name][0])


@pytest.mark.parametrize("name", [name for name in PROGRAMS if "reentrant" in name or "cell" in name])
def test_control_every_pass_moves_the_statistics(name, monkeypatch):
    monkeypatch.setattr(_layer, "moves_statistics", lambda layer, tracked: tracked)
    program, wrong = PROGRAMS[name]
    assert check(program) == (name == "a_call_in_a_backward_hook_of_a_cell")


def test_a_recomputation_runs_the_network_twice():
    for name in ("reentrant", "by_hooks", "of_the_cell", "of_the_cell_by_hooks", "an_invertible_block"):
        _, net = statistics(PROGRAMS[name][0], mindspore.recompute, SyncBatchNorm(3))
        assert net.calls == 2 * STEPS, name
