# SPDX-License-Identifier: Apache-2.0

"""Each private name of PyTorch in syncbn.torch._private: it is there, and it does what the layer relies on."""

import pathlib
import sys
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed import fake_pg  # noqa: F401 -- torch 2.4 knows the backend only then
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from syncbn.torch import SyncBatchNorm, _private

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from private_names import count_of_names, import_anew, uses_elsewhere  # noqa: E402

IS_TORCH24 = torch.__version__.startswith("2.4.")
NAMES = [
    (torch.nn.modules.batchnorm, "_BatchNorm"),
    (torch.nn.modules.batchnorm, "_LazyNormBase"),
    (torch._subclasses.fake_tensor, "FakeTensor"),
    (torch._C, "_len_torch_dispatch_stack"),
    (torch._C._functorch, "peek_interpreter_stack"),
    (torch.autograd.forward_ad, "_current_level"),
    (torch._C, "_get_tracing_state"),
    (torch._C, "_current_graph_task_id"),
    (torch._C, "_current_autograd_node"),
    (torch._C, "_is_fwd_grad_enabled"),
    (dist.distributed_c10d, "_get_default_store"),
    (dist.distributed_c10d, "_resolve_process_group"),
]


@pytest.mark.parametrize("owner, name", NAMES, ids=[name for _, name in NAMES])
def test_a_missing_name_is_an_error_that_names_it(owner, name, monkeypatch):
    import_anew(_private)
    monkeypatch.delattr(owner, name)
    with pytest.raises(ImportError, match=f"syncbn.torch needs {owner.__name__}.{name} .* torch {torch.__version__[:3]}"):
        import_anew(_private)


def test_the_list_of_names_is_complete():
    assert count_of_names(_private) == len(NAMES)


def test_no_other_file_uses_a_private_name_of_torch():
    assert uses_elsewhere(_private, r"torch\._", "_c10d", "import _BatchNorm", r"torch\.nn\.modules") == []
    assert uses_elsewhere(_private, "import torch$", "import torch\n") != []  # control


def test_base_classes():
    assert all(issubclass(cls, _private.BatchNormBase) for cls in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
                                                                   nn.SyncBatchNorm, SyncBatchNorm))
    assert not issubclass(nn.LayerNorm, _private.BatchNormBase)
    lazy = nn.LazyBatchNorm2d()
    assert isinstance(lazy, _private.LazyNormBase) and lazy.has_uninitialized_params()
    lazy(torch.randn(2, 3, 4, 4))
    assert not isinstance(lazy, _private.LazyNormBase)


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(3), SyncBatchNorm(3)], ids=["torch's", "ours"])
def test_members_of_a_module(layer):
    members = vars(layer)
    assert set(_private.MODULE_MEMBERS) <= members.keys()
    assert members["_parameters"].keys() == {"weight", "bias"}
    assert members["_buffers"].keys() == {"running_mean", "running_var", "num_batches_tracked"}
    # All other members may be shared with a converted layer: values that are replaced, and registries of hooks.
    shared = {name for name, value in members.items() if isinstance(value, (dict, set, list))}
    assert all("hook" in name for name in shared - set(_private.MODULE_MEMBERS))


def test_fake_tensors():
    with FakeTensorMode():
        assert isinstance(torch.randn(2), _private.FakeTensor)
    assert not isinstance(torch.randn(2), _private.FakeTensor)


class Mode(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def test_dispatch_modes():
    assert _private.dispatch_mode_count() == 0
    with Mode(), Mode():
        assert _private.dispatch_mode_count() == 2
    assert _private.dispatch_mode_count() == 0


def test_transforms_of_torch_func():
    seen = []
    torch.func.vmap(lambda x: (seen.append(_private.functorch_interpreter()), x)[1])(torch.randn(2))
    assert seen[0] is not None and _private.functorch_interpreter() is None


def test_levels_of_forward_mode():
    levels = [_private.forward_ad._current_level]
    with torch.autograd.forward_ad.dual_level():
        levels.append(_private.forward_ad._current_level)
    assert levels + [_private.forward_ad._current_level] == [-1, 0, -1]


def test_leaves_of_torch_fx():
    class Leaf(nn.Module):
        pass

    leaf = Leaf()
    assert not torch.fx.Tracer().is_leaf_module(leaf, "leaf")
    leaf.__module__ = _private.FX_LEAF_MODULE
    assert torch.fx.Tracer().is_leaf_module(leaf, "leaf")


@pytest.mark.filterwarnings("ignore")  # torch means to give its tracer up
def test_jit_trace():
    seen = []
    torch.jit.trace(lambda x: (seen.append(_private.jit_tracing_state()), x + 1)[1], torch.randn(2), check_trace=False)
    assert seen[0] is not None and _private.jit_tracing_state() is None


class Exported(nn.Module):
    def forward(self, x):
        return x + (1 if _private.is_exporting() else 2)


@pytest.mark.parametrize("strict", [True, False])
def test_export(strict):
    torch._dynamo.reset()
    program = torch.export.export(Exported(), (torch.zeros(1),), strict=strict)
    assert program.module()(torch.zeros(1)) == 1 and Exported()(torch.zeros(1)) == 2
    assert torch.compile(Exported(), fullgraph=True, backend="eager")(torch.zeros(1)) == 2


def test_backward_passes():
    seen = []
    x = torch.ones(2, requires_grad=True)
    y = x * 2
    y.register_hook(lambda _: seen.append(_private.backward_pass_id()))
    y.sum().backward()
    assert seen[0] != -1 and _private.backward_pass_id() == -1


class Doubled(torch.autograd.Function):
    seen = []

    @staticmethod
    def forward(ctx, x):
        Doubled.seen = [ctx, _private.is_forward_ad_enabled(), _private.current_node()]
        return x * 2

    @staticmethod
    def backward(ctx, dy):
        Doubled.seen += [_private.current_node()]
        return dy * 2


def test_the_node_of_a_function_is_its_context():
    x = torch.ones(2, requires_grad=True)
    y = Doubled.apply(x)
    y.register_hook(lambda _: Doubled.seen.append(_private.current_node()))  # runs before the node's backward
    y.sum().backward()
    context, *seen = Doubled.seen
    assert seen[0] is False and seen[1] is None and seen[2] is context and seen[3] is context
    assert isinstance(context, torch.autograd.function.FunctionCtx)
    assert _private.current_node() is None


def test_forward_ad_is_off_in_functions_only():
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            assert _private.is_forward_ad_enabled()
    with torch.inference_mode():
        assert not _private.is_forward_ad_enabled()


@pytest.mark.skipif(IS_TORCH24, reason="torch 2.4 does not show its hooks")
def test_checkpoints_by_their_hooks():
    seen = []

    def body(x):
        hooks = _private.innermost_saved_tensors_hooks(False)
        seen.append(_private.checkpoint_of(hooks[0]))
        return x.sin()

    assert _private.innermost_saved_tensors_hooks(False) is None
    x = torch.ones(2, requires_grad=True)
    y = checkpoint(body, x, use_reentrant=False)
    assert y.grad_fn._saved_self is not None  # recomputes
    y.sum().backward()
    record = seen[0][0]
    assert type(record).__name__ == "_CheckpointFrame"
    assert [repetition for _, repetition in seen] == [False, True, True] and all(found is record for found, _ in seen)


@pytest.mark.parametrize("hook", [len, lambda x: x, nn.Identity(), test_backward_passes])
def test_other_hooks_are_of_no_checkpoint(hook):
    assert _private.checkpoint_of(hook) == (None, False)


@pytest.mark.parametrize("reentrant", [False, True])
def test_the_code_of_checkpoint(reentrant):
    seen = []
    x = torch.ones(2, requires_grad=True)
    y = checkpoint(lambda x: (seen.append(_private.runs_checkpoint()), x.sin())[1], x, use_reentrant=reentrant)
    y.sum().backward()
    assert seen == [True, True] and not _private.runs_checkpoint()


def test_versions_of_tensors():
    tensors = [torch.ones(2), torch.ones(3)]
    with torch.inference_mode():
        inference = torch.ones(2)
    before = [tensor._version for tensor in tensors]
    _private.increment_versions((*tensors, inference))
    assert [tensor._version for tensor in tensors] == [version + 1 for version in before]


def stores_and_groups(rank):
    _private.default_store().set(f"private names {rank}", "here")
    group = dist.new_group([0, 1])
    dist.barrier()
    return (_private.default_store().get(f"private names {1 - rank}").decode(),
            _private.process_group_by_name(group.group_name) is group)


def test_the_store_and_the_names_of_process_groups(two_ranks):
    assert two_ranks(stores_and_groups) == [("here", True)] * 2


def backends_of_groups(rank):
    default = dist.new_group([0, 1])
    dist.set_debug_level(dist.DebugLevel.DETAIL)  # wraps the backends
    try:
        wrapped = dist.new_group([0, 1], timeout=timedelta(seconds=77))
    finally:
        dist.set_debug_level(dist.DebugLevel.OFF)
    fakes = [dist.new_group([0, 1], backend=backend) for backend in ("fake", "cuda:fake", "cuda:gloo,cpu:fake",
                                                                      "cpu:gloo,cuda:fake")]
    groups = (default, wrapped, *fakes)
    return [_private.timeout_of(group) for group in groups], [_private.is_fake(group) for group in groups]


def test_timeouts_and_backends_of_process_groups(two_ranks):
    timeouts = [1800, 77, None, None, 1800, 1800]
    assert two_ranks(backends_of_groups) == [(timeouts, [False, False, True, True, True, False])] * 2


def test_an_unknown_name_of_a_process_group():
    with pytest.raises((RuntimeError, ValueError, KeyError)):
        _private.process_group_by_name("unknown")
