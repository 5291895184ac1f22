# SPDX-License-Identifier: Apache-2.0

"""Which layers of the ranks belong together: by name, and among layers of one name by the order of construction and of
first training calls. What a rank builds and does not train is its own affair."""

import copy
import io
import pickle

import pytest
import torch
import torch.distributed as dist
from torch import nn

from syncbn.torch import SyncBatchNorm, convert_sync_batchnorm

X = torch.linspace(-2, 3, 4 * 3 * 5 * 5).reshape(4, 3, 5, 5)


def network(group=None):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), SyncBatchNorm(4, process_group=group))


def expected(model):
    """The running variance after a step on the whole batch."""
    plain = nn.BatchNorm2d(4)
    plain(model[0](X))
    return plain.running_var


def caught(*calls):
    """(None, "") or the first error: the number of the call, the error's class and its text."""
    for number, call in enumerate(calls, 1):
        try:
            call()
        except Exception as error:
            return number, type(error).__name__, str(error)
    return None, "", ""


def more_on_one_rank(rank):
    own = dist.new_group([0, 1])
    results = []
    for group in (own, None):
        if rank == 0:
            extra = network(group)
            evaluated = copy.deepcopy(extra).eval()
            pickle.loads(pickle.dumps(extra[1]))
            evaluated(X)
        model = network(group)
        if rank == 1:
            copy.deepcopy(model)
        model(X[rank::2]).sum().backward()
        results.append((model[1].running_var, expected(model)))
    return results


def test_a_rank_may_build_more(two_ranks):
    for results in two_ranks(more_on_one_rank):
        for found, right in results:
            torch.testing.assert_close(found, right)


def teacher_and_student(rank, convert, swapped):
    student = network()
    if convert:
        student = convert_sync_batchnorm(nn.Sequential(student[0], nn.BatchNorm2d(4)))
    teacher = copy.deepcopy(student)
    with torch.no_grad():
        teacher[0].weight.mul_(5)
    models = [teacher, student]
    if swapped and rank == 1:
        models.reverse()
    before = copy.deepcopy(models[1].state_dict())
    found = caught(*(lambda model=model: model(X[rank::2]) for model in models))
    unchanged = all(torch.equal(value, before[name]) for name, value in models[1].state_dict().items())
    return found, unchanged, student[1].running_var, expected(student)


@pytest.mark.parametrize("convert", [False, True])
def test_a_copy_in_another_order_is_a_mismatch(two_ranks, convert):
    for (call, name, text), unchanged, _, _ in two_ranks(teacher_and_student, convert, True):
        assert (call, name, unchanged) == (2, "MismatchError", True)
        assert "from call 1 on" in text and "number 1 by construction" in text
        assert "name=, convert_sync_batchnorm, name_layers" in text


@pytest.mark.parametrize("convert", [False, True])
def test_a_copy_in_the_same_order_trains(two_ranks, convert):
    for (call, _, text), _, found, right in two_ranks(teacher_and_student, convert, False):
        assert call is None, text
        torch.testing.assert_close(found, right)


def in_another_order_later(rank):
    """A teacher that is called before its student has the same place at its first sum as the student at its own."""
    student, teacher = network(), network()
    calls = [teacher, student] + ([teacher, student] if rank == 0 else [student, teacher])
    return caught(*(lambda model=model: model(X[rank::2]) for model in calls))


def test_another_order_in_a_later_step_is_a_mismatch(two_ranks):
    for call, name, text in two_ranks(in_another_order_later):
        assert (call, name) == (3, "MismatchError")
        assert "number 1 by first calls" in text and "number 2 by first calls" in text


def made_anew(rank):
    found = []
    for step in range(4):
        if rank == 1:
            network()
        model = network()
        model(X[rank::2])
        found.append((model[1].running_var, expected(model)))
    return found


def test_layers_that_are_made_anew_in_each_step(two_ranks):
    for results in two_ranks(made_anew):
        for found, right in results:
            torch.testing.assert_close(found, right)


def compiled_on_one_rank(rank):
    model, other = network(), network()
    if rank == 0:
        model = torch.compile(model, backend="aot_eager")
    return caught(*(lambda net=net: net(X[rank::2]).sum().backward() for net in (model, other, model)))


def test_compiled_code_is_the_same_layer(two_ranks):
    for found in two_ranks(compiled_on_one_rank):
        assert found == (None, "", "")


def program_and_its_layer(rank, swapped):
    model = network()
    file = io.BytesIO()
    torch.export.save(torch.export.export(model, (X[rank::2],)), file)
    file.seek(0)
    program = torch.export.load(file).module()
    calls = [program, model]
    if swapped and rank == 1:
        calls.reverse()
    return caught(*(lambda net=net: net(X[rank::2]) for net in calls))


@pytest.mark.skipif(torch.__version__.startswith("2.4."), reason="torch 2.4 does not say that it exports")
@pytest.mark.parametrize("swapped", [False, True])
def test_an_exported_program_is_another_layer(two_ranks, swapped):
    for call, name, text in two_ranks(program_and_its_layer, swapped):
        assert (call, name) == ((2, "MismatchError") if swapped else (None, "")), text


@pytest.mark.parametrize("name, said", [("bn1", "forward of layer 'bn1'"), (None, "forward of an unnamed layer")])
@pytest.mark.parametrize("training", [True, False])
def test_an_arguments_error_names_the_layer(name, said, training):
    layer = SyncBatchNorm(4, name=name).train(training)
    for x in (torch.ones(3, 2), torch.ones(3), torch.ones(3, 4, dtype=torch.int32)):
        with pytest.raises((TypeError, ValueError), match=said):
            layer(x)
    if training:
        with pytest.raises(ValueError, match="x: 1 element.*" + said):
            layer(torch.ones(1, 4))
