# SPDX-License-Identifier: Apache-2.0

"""Whatever a program recomputes, a call moves the running statistics once: as nn.BatchNorm2d without recomputation."""

import copy
import gc
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import recomputing
from recomputing import IS_TORCH24, PROGRAMS
from syncbn.torch import SyncBatchNorm, _autograd, _operators, _private, _recompute

pytestmark = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_call_moves_the_statistics_once(name):
    program = PROGRAMS[name]
    expected = recomputing.truth(program.run)
    found = recomputing.found(program.run)
    if IS_TORCH24 and program.wrong_on_torch24:
        assert not found.equals(expected), "right by now: docs/pytorch.md says that it is not"
    else:
        assert found.equals(expected), (found, expected)


def repeats_if_in_a_backward_pass(name_tensor, tracked):
    hooks = _private.innermost_saved_tensors_hooks(False)
    return tracked and _private.backward_pass_id() == -1 and not (hooks and _private.checkpoint_of(hooks[0])[1])


@pytest.mark.parametrize("name", [name for name, program in PROGRAMS.items() if program.wrong_by_backward_pass])
def test_control_a_backward_pass_is_no_sign_of_a_repetition(name, monkeypatch):
    monkeypatch.setattr(_autograd, "moves_statistics", repeats_if_in_a_backward_pass)
    program = PROGRAMS[name].run
    assert not recomputing.found(program).equals(recomputing.truth(program))


@pytest.mark.parametrize("name", ["reentrant", "by_hooks", "twice_in_a_region", "an_invertible_block"])
def test_control_every_pass_moves_the_statistics(name, monkeypatch):
    monkeypatch.setattr(_autograd, "moves_statistics", lambda name_tensor, tracked: tracked)
    program = PROGRAMS[name].run
    assert recomputing.found(program).counter == 2 * recomputing.truth(program).counter


def compiled_network(turned_off):
    torch._dynamo.reset()
    net = nn.Sequential(nn.Conv2d(3, 4, 3), SyncBatchNorm(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
    if turned_off:
        recomputing.untracked(net, recomputing.without_gradients)
    return net, torch.compile(net, backend="aot_eager")


@pytest.mark.parametrize("reentrant", [False, True], ids=["by hooks", "reentrant"])
def test_a_checkpoint_of_a_compiled_network(reentrant):
    if IS_TORCH24 and not reentrant:
        pytest.skip("torch 2.4 can't, whatever the layers")
    net, compiled = compiled_network(False)
    recomputing.train(net, lambda x: checkpoint(compiled, x, use_reentrant=reentrant))
    assert net[1].num_batches_tracked == recomputing.STEPS


@pytest.mark.parametrize("turned_off", [False, True], ids=["tracked", "first pass off"])
@pytest.mark.parametrize("reentrant", [False, True], ids=["by hooks", "reentrant"])
def test_a_checkpoint_inside_of_compiled_code(reentrant, turned_off):
    net, _ = compiled_network(turned_off)
    recomputing.train(net, torch.compile(lambda x: checkpoint(net, x, use_reentrant=reentrant), backend="aot_eager"))
    assert net[1].num_batches_tracked == recomputing.STEPS


def test_a_compiled_first_pass_that_is_turned_off():
    net, compiled = compiled_network(True)
    recomputing.train(net, lambda x: checkpoint(compiled, x, use_reentrant=True))
    assert net[1].num_batches_tracked == recomputing.STEPS


def test_a_compiled_first_pass_that_evaluates_after_one_that_tracked():
    net, compiled = compiled_network(False)

    def evaluates_first(x):
        net.train(torch.is_grad_enabled())
        return compiled(x)

    for body in (compiled, evaluates_first):
        recomputing.train(net, lambda x: checkpoint(body, x, use_reentrant=True))
    assert net[1].num_batches_tracked == 2 * recomputing.STEPS


def test_a_compiled_pass_repeats_an_eager_one():
    net, compiled = compiled_network(False)
    recomputing.train(net, lambda x: checkpoint(lambda z: (compiled if torch.is_grad_enabled() else net)(z), x,
                                                use_reentrant=True))
    assert net[1].num_batches_tracked == recomputing.STEPS


def test_notes_are_neither_copied_nor_pickled_nor_kept():
    gc.collect()  # layers of other tests
    known = len(_recompute._last_note)
    layer = SyncBatchNorm(4)
    members = set(vars(layer)), layer._extra.to_dict()
    checkpoint(layer, torch.randn(2, 4, requires_grad=True), use_reentrant=True)
    assert len(_recompute._last_note) == known + 1
    assert (set(vars(layer)), layer._extra.to_dict()) == members
    copies = copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))
    for made in copies:
        assert made._extra.name_tensor.untyped_storage() not in _recompute._last_note
    del layer, copies, made
    assert len(_recompute._last_note) == known
