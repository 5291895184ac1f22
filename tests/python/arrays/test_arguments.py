# SPDX-License-Identifier: Apache-2.0

"""Wrong arguments are the documented errors, which name argument and value; the layer is unchanged."""

import numpy as np
import pytest
import syncbn

X = np.ones((2, 2, 3), np.float32)
X[0] = 2


@pytest.mark.parametrize("num_features", [2.0, "2", True, None, np.float32(2)])
def test_num_features_type(num_features):
    with pytest.raises(TypeError, match="num_features"):
        syncbn.SyncBatchNorm(num_features)


@pytest.mark.parametrize("num_features", [0, -1])
def test_num_features_value(num_features):
    with pytest.raises(ValueError, match=f"num_features: {num_features}, expected 1"):
        syncbn.SyncBatchNorm(num_features)


def test_num_features_of_numpy():
    assert syncbn.SyncBatchNorm(np.int64(3)).num_features == 3


@pytest.mark.parametrize("eps", [1, "x", None, True])
def test_eps_type(eps):
    with pytest.raises(TypeError, match="eps"):
        syncbn.SyncBatchNorm(2, eps=eps)


@pytest.mark.parametrize("eps", [-1.0, float("nan"), float("inf")])
def test_eps_value(eps):
    with pytest.raises(ValueError, match="eps"):
        syncbn.SyncBatchNorm(2, eps=eps)


@pytest.mark.parametrize("momentum", [1.5, -0.1, float("nan")])
def test_momentum_value(momentum):
    with pytest.raises(ValueError, match="momentum"):
        syncbn.SyncBatchNorm(2, momentum=momentum)


@pytest.mark.parametrize("momentum", ["a", True, [0.1]])
def test_momentum_type(momentum):
    with pytest.raises(TypeError, match="momentum"):
        syncbn.SyncBatchNorm(2, momentum=momentum)


@pytest.mark.parametrize("momentum", [None, 0, 1, 0.5])
def test_momentum_allowed(momentum):
    syncbn.SyncBatchNorm(2, momentum=momentum)


@pytest.mark.parametrize("argument", ["affine", "track_running_stats", "channels_last"])
def test_bools(argument):
    with pytest.raises(TypeError, match=argument):
        syncbn.SyncBatchNorm(2, **{argument: 1})


@pytest.mark.parametrize("argument", ["activation", "affine_gradients", "nonfinite"])
def test_choices(argument):
    with pytest.raises(ValueError, match=f"{argument}: 'nope', expected one of"):
        syncbn.SyncBatchNorm(2, **{argument: "nope"})
    with pytest.raises(TypeError, match=argument):
        syncbn.SyncBatchNorm(2, **{argument: 3})


@pytest.mark.parametrize("dtype", [np.int32, "U3", np.complex64, ">f4", np.longdouble])
def test_dtype(dtype):
    with pytest.raises(TypeError, match="dtype"):
        syncbn.SyncBatchNorm(2, dtype=dtype)


@pytest.mark.parametrize("process_group", [5, (0,), {"rank": 0}, [0.5]])
def test_process_group_type(process_group):
    with pytest.raises(TypeError, match="process_group"):
        syncbn.SyncBatchNorm(2, process_group=process_group)


def test_process_group_values():
    with pytest.raises(ValueError, match=r"rank 1 is outside \[0, 1\)"):
        syncbn.SyncBatchNorm(2, process_group=[0, 1])
    with pytest.raises(syncbn.GroupError, match="nope") as error:
        syncbn.SyncBatchNorm(2, process_group="nope")
    assert isinstance(error.value, RuntimeError)
    syncbn.SyncBatchNorm(2, process_group=[0])(X)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3, 3), (2, 1, 2)])
def test_shapes(shape):
    bn = syncbn.SyncBatchNorm(2)
    before = bn.state_dict()
    with pytest.raises(syncbn.InvalidArgument, match="shape"):
        bn(np.ones(shape, np.float32))
    assert all(np.array_equal(before[name], value) for name, value in bn.state_dict().items())


@pytest.mark.parametrize("x", [np.ones((2, 2), int), np.ones((2, 2), ">f4"), np.ones((2, 2), np.complex64),
                               np.ones((2, 2), "V2"), np.ones((2, 2), np.longdouble), [[1.0, 2.0]], None, 3.0])
def test_input_type(x):
    with pytest.raises(TypeError, match="x: "):
        syncbn.SyncBatchNorm(2)(x)


def test_residual_and_gradient():
    bn = syncbn.SyncBatchNorm(2)
    with pytest.raises(ValueError, match="residual: shape"):
        bn(X, X[:1])
    with pytest.raises(ValueError, match="residual: float64, expected x's float32"):
        bn(X, X.astype(np.float64))
    with pytest.raises(ValueError, match="no forward"):
        bn.backward(X)
    bn(X)
    with pytest.raises(ValueError, match="dy: shape"):
        bn.backward(X[:1])
    with pytest.raises(TypeError, match="dy: "):
        bn.backward(X.astype(int))
    bn.backward(X)


def test_one_element_a_channel():
    bn = syncbn.SyncBatchNorm(2)
    with pytest.raises(ValueError, match="1 element per channel"):
        bn(X[:1, :, :1])
    assert bn.num_batches_tracked == 0
    assert bn.eval()(X[:1, :, :1]).shape == (1, 2, 1)


def test_nonfinite_error_and_policy():
    bad = X.copy()
    bad[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="channel 0"):
        syncbn.SyncBatchNorm(2, nonfinite="error")(bad)
    skipping = syncbn.SyncBatchNorm(2, nonfinite="skip_update")
    skipping(bad)
    assert skipping.running_mean[0] == 0 and skipping.running_mean[1] != 0
    taking = syncbn.SyncBatchNorm(2)
    taking(bad)
    assert np.isnan(taking.running_mean[0])


def test_mode_type():
    with pytest.raises(TypeError, match="mode"):
        syncbn.SyncBatchNorm(2).set_train(1)


@pytest.mark.parametrize("call", [
    lambda: syncbn.create_group(1, [0]), lambda: syncbn.create_group("g", (0,)),
    lambda: syncbn.create_group("g", [0.5]), lambda: syncbn.new_group((0,)), lambda: syncbn.destroy_group(None),
    lambda: syncbn.get_rank(3), lambda: syncbn.get_group_size(None), lambda: syncbn.get_local_rank(2),
    lambda: syncbn.get_local_rank_size(b"world"), lambda: syncbn.get_world_rank_from_group_rank("world", 0.5),
    lambda: syncbn.get_group_rank_from_world_rank("0", "world"), lambda: syncbn.init(3),
    lambda: syncbn.all_reduce_sum([1.0]), lambda: syncbn.all_reduce_sum(np.ones(2, int)),
    lambda: syncbn.all_reduce_matmul([[1.0]], np.ones((1, 1))), lambda: syncbn.all_reduce_matmul(np.ones((1, 1)), 1),
    lambda: syncbn.all_reduce_matmul(np.ones((1, 1), np.float16), np.ones((1, 1), np.float16)),
    lambda: syncbn.all_reduce_matmul(np.ones((1, 1)), np.ones((1, 1)), 3),
    lambda: syncbn.run_ranks(2, None), lambda: syncbn.run_ranks("2", print)])
def test_types_of_group_functions(call):
    with pytest.raises(TypeError):
        call()
