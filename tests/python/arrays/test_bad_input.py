# SPDX-License-Identifier: Apache-2.0

"""Whatever comes in: the right result, or an error that names the argument and leaves the layer as it was."""

import data
import numpy as np
import pytest
import syncbn
from hypothesis import given, settings
from hypothesis import strategies as st

QUICK = settings(derandomize=True, deadline=None, max_examples=300, database=None)
OTHERS = [np.int32, np.bool_, np.complex64, np.longdouble, np.dtype(">f4"), np.dtype(">f2"), np.dtype("S4"), np.dtype("V2"),
          np.dtype("datetime64[s]"), np.dtype(object), np.dtype([("a", np.float32)])]


def reversed_axes(a):
    return a[tuple(slice(None, None, -1) for _ in a.shape)]


def broadcast(a):
    """One element seen everywhere."""
    return np.broadcast_to(a.ravel()[:1].reshape((1,) * a.ndim), a.shape) if a.size else a


def windows(a):
    """Rows that overlap in memory."""
    if a.ndim < 2 or a.size == 0:
        return a
    flat = np.ascontiguousarray(a).ravel()
    strides = [(size > 1) * a.itemsize for size in a.shape]
    return np.lib.stride_tricks.as_strided(flat, a.shape, strides)


def misaligned(a):
    memory = np.zeros(a.nbytes + 1, np.uint8)[1:]
    copy = np.ndarray(a.shape, a.dtype, memory)
    copy[...] = a
    return copy


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


FORMS = [np.ascontiguousarray, np.asfortranarray, reversed_axes, broadcast, windows, misaligned, read_only,
         lambda a: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 0, -1)), -1, 0) if a.ndim else a]


@st.composite
def arrays(draw, shapes=st.lists(st.integers(0, 4), max_size=5)):
    shape = tuple(draw(shapes))
    dtype = draw(st.sampled_from(data.DTYPES * 3 + OTHERS))
    if np.dtype(dtype) in OTHERS:
        return np.zeros(shape, dtype)
    values = np.zeros(shape, dtype)
    values[...] = np.random.default_rng(draw(st.integers(0, 99))).standard_normal(shape) * 3
    return np.asarray(draw(st.sampled_from(FORMS))(values))


def fault(a, channels_last):
    """The error that `a` is as the input of a layer of two channels; None: none."""
    if a.dtype not in data.DTYPES:
        return TypeError
    if a.ndim < 2 or a.shape[-1 if channels_last else 1] != 2:
        return ValueError
    return None


def everything(bn):
    found = {name: value.tobytes() for name, value in bn.state_dict().items()}
    return {**found, "weight_grad": bn.weight_grad.tobytes(), "bias_grad": bn.bias_grad.tobytes(), "training": bn.training}


def refused(bn, call, name, kind):
    """`call` is an error of this kind that names the argument and says what it was given; it changes nothing."""
    before = everything(bn)
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert type(caught.value) in {TypeError: (TypeError,), ValueError: (ValueError, syncbn.InvalidArgument)}[kind]
    assert str(caught.value).startswith(f"{name}: "), str(caught.value)
    assert everything(bn) == before


LIKELY = st.one_of(st.lists(st.integers(0, 4), max_size=5),
                   st.lists(st.integers(0, 4), min_size=1, max_size=3).map(lambda s: [s[0], 2, *s[1:]]),
                   st.lists(st.integers(0, 4), min_size=1, max_size=3).map(lambda s: [*s, 2]))


@QUICK
@given(x=arrays(LIKELY), training=st.booleans(), channels_last=st.booleans())
def test_any_input(x, training, channels_last):
    bn = syncbn.SyncBatchNorm(2, channels_last=channels_last)
    good = np.arange(12, dtype=np.float32).reshape(6, 2)
    bn(good)
    expected = bn.backward(good)
    bn.set_train(training)
    kind = fault(x, channels_last)
    if kind is not None:
        refused(bn, lambda: bn(x), "x", kind)
        assert data.same_bits(bn.backward(good), expected)  # still of the last good call
        return
    if training and x.size == 2:
        before = everything(bn)
        with pytest.raises(syncbn.InvalidArgument, match="1 element per channel"):
            bn(x)
        assert everything(bn) == before
        return
    kept = x.copy()
    y = bn(x)
    dx = bn.backward(x)
    other = syncbn.SyncBatchNorm(2, channels_last=channels_last)
    other(good)
    other.set_train(training)
    assert data.same_bits(y, other(kept)) and data.same_bits(dx, other.backward(kept))
    assert data.same_bits(x, kept) and y.shape == dx.shape == x.shape
    assert not np.shares_memory(x, y) and not np.shares_memory(x, dx)
    assert bn.num_batches_tracked == 1 + (training and x.size > 0)


@QUICK
@given(other=arrays(LIKELY), channels_last=st.booleans(), what=st.sampled_from(["residual", "dy"]))
def test_any_residual_and_gradient(other, channels_last, what):
    x = np.random.default_rng(1).standard_normal((3, 2, 2)).astype(np.float32)
    bn = syncbn.SyncBatchNorm(2, channels_last=channels_last, activation="relu")
    bn(x, x)
    expected = bn.backward(x)
    call = {"residual": lambda a: bn(x, a), "dy": bn.backward}[what]
    kind = fault(other, channels_last)
    if kind is None and (other.shape != x.shape or other.dtype != x.dtype):
        kind = ValueError
    if kind is None:
        call(other)
        return
    refused(bn, lambda: call(other), what, kind if other.dtype not in data.DTYPES else ValueError)
    for again, first in zip(bn.backward(x), expected, strict=True):
        assert data.same_bits(again, first)


@pytest.mark.parametrize("form", [windows, broadcast, reversed_axes, misaligned, read_only],
                         ids=lambda form: form.__name__)
def test_control_the_forms_are_what_they_say(form):
    a = form(np.ones((3, 2, 4), np.float32))
    flags = {"windows": max(a.strides) == 4, "broadcast": a.strides == (0, 0, 0), "reversed_axes": a.strides[0] < 0,
             "misaligned": not a.flags.aligned, "read_only": not a.flags.writeable}
    assert flags[form.__name__]


def test_too_large_for_memory():
    """A view of 2^42 elements is refused before anything is sent or changed."""
    bn = syncbn.SyncBatchNorm(2)
    before = everything(bn)
    with pytest.raises(MemoryError):
        bn(np.broadcast_to(np.float32(1), (2**41, 2)))
    assert everything(bn) == before
    assert bn(np.zeros((0, 2, 2**40), np.float32)).shape == (0, 2, 2**40)


def test_the_peers_hear_of_a_lack_of_memory():
    x = np.ones((2, 2), np.float32)

    def body(rank):
        bn = syncbn.SyncBatchNorm(2)
        if rank == 1:
            with pytest.raises(MemoryError):
                bn(np.broadcast_to(np.float32(1), (2**41, 2)))
        else:
            with pytest.raises(syncbn.PeerError, match="rank 1"):
                bn(x)

    syncbn.run_ranks(2, body)


class Foreign:
    """Another library's array, or what passes for one."""

    def __init__(self, device=(1, 0), error=None, capsule=None):
        self.device, self.error, self.capsule = device, error, capsule

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **_):
        if self.error:
            raise self.error
        return self.capsule


@pytest.mark.parametrize("x", [Foreign(device=(2, 0)), Foreign(error=BufferError("not exportable")), Foreign(capsule=3),
                               Foreign(capsule=None), np.ma.masked_array(np.ones((3, 2), np.float32), mask=True)],
                         ids=["elsewhere", "refuses", "an int", "None", "masked"])
def test_foreign_arrays(x):
    bn = syncbn.SyncBatchNorm(2)
    before = everything(bn)
    with pytest.raises((TypeError, ValueError, BufferError, RuntimeError)):
        bn(x)
    assert everything(bn) == before


HUGE = [2**31, 2**40, 2**63, -2**63 - 1, 10**30]


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("name, call", [
    ("num_features", lambda v: syncbn.SyncBatchNorm(v if abs(v) > 2**62 else -v)),
    ("process_group", lambda v: syncbn.SyncBatchNorm(2, process_group=[v])),
    ("rank", lambda v: syncbn.create_group("g", [0, v])),
    ("rank", lambda v: syncbn.new_group([v])),
    ("group_rank_id", lambda v: syncbn.get_world_rank_from_group_rank("world", v)),
    ("world_rank_id", lambda v: syncbn.get_group_rank_from_world_rank(v, "world")),
    ("size", lambda v: syncbn.run_ranks(v, lambda rank: None)),
    ("count", lambda v: syncbn.set_num_threads(v)),
    ("rank", lambda v: syncbn.init(rank=v, size=2, port=1)),
    ("size", lambda v: syncbn.init(rank=0, size=v, port=1)),
    ("port", lambda v: syncbn.init(rank=0, size=2, port=v)),
], ids=["num_features", "process_group", "create_group", "new_group", "group_rank_id", "world_rank_id", "run_ranks",
        "set_num_threads", "init rank", "init size", "init port"])
def test_integers_that_no_argument_has_place_for(name, call, value):
    """Named, as any wrong value; not what a binding says of its C++ types."""
    with pytest.raises((ValueError, syncbn.GroupError), match=name) as caught:
        call(value)
    assert str(abs(value)) in str(caught.value)
    assert not syncbn.is_initialized()


@pytest.mark.parametrize("size", [0, -1, 2**16 + 1])
def test_number_of_ranks(size):
    with pytest.raises(ValueError, match=rf"^size: {size},.*\[1, 65536\]"):
        syncbn.run_ranks(size, lambda rank: None)


@pytest.mark.parametrize("call", [
    lambda text: syncbn.SyncBatchNorm(2, name=text), lambda text: syncbn.SyncBatchNorm(2, process_group=text),
    lambda text: syncbn.create_group(text, [0]), lambda text: syncbn.get_rank(text), lambda text: syncbn.destroy_group(text),
    lambda text: syncbn.all_reduce_sum(np.ones(1), text),
    lambda text: syncbn.all_reduce_matmul(np.ones((1, 1)), np.ones((1, 1)), text)], ids=["name", "process_group", "create_group", "get_rank",
                                                               "destroy_group", "all_reduce_sum",
                                                               "all_reduce_matmul"])
def test_text_that_is_none(call):
    with pytest.raises(ValueError, match=r"'\\ud800', expected text that UTF-8 can encode"):
        call("\ud800")


@pytest.mark.parametrize("state", [None, [], {1: 2}, {"weight": 1}, 3])
def test_no_state(state):
    bn = syncbn.SyncBatchNorm(2)
    before = everything(bn)
    with pytest.raises((TypeError, ValueError), match="^state: "):
        bn.load_state_dict(state)
    assert everything(bn) == before


@pytest.mark.parametrize("options", [{"host": "elsewhere"}, {"port": 1}, {"timeout": 1}, {"token": "x"}], ids=str)
def test_half_a_world(options):
    with pytest.raises(ValueError, match="rank and size"):
        syncbn.init(**options)
    assert not syncbn.is_initialized()


@QUICK
@given(values=arrays())
def test_any_values_to_sum(values):
    """In a world of one the sum is the value; what can't be summed in place is refused, unchanged."""
    fits = (values.dtype in (np.float32, np.float64) and values.flags.c_contiguous and values.flags.aligned
            and values.flags.writeable)
    before = values.tobytes()
    if fits:
        syncbn.all_reduce_sum(values)
    else:
        with pytest.raises((TypeError, ValueError), match="^values: "):
            syncbn.all_reduce_sum(values)
    assert values.tobytes() == before


def test_fixed_attributes():
    bn = syncbn.SyncBatchNorm(2)
    for name in ("num_features", "eps", "momentum", "affine", "track_running_stats", "process_group", "dtype", "channels_last",
                 "activation", "affine_gradients", "nonfinite"):
        value = getattr(bn, name)
        with pytest.raises(AttributeError, match=f"^{name}: fixed"):
            setattr(bn, name, value)
    for name in ("training", "name"):
        with pytest.raises(AttributeError):
            setattr(bn, name, False)
    bn.own = 3  # a program's


def test_assigned_values_are_the_layers():
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    bn, plain = syncbn.SyncBatchNorm(2), syncbn.SyncBatchNorm(2)
    view = bn.weight
    bn.weight = [1, 2]
    bn.weight *= 2
    assert bn.weight is view and view.tolist() == [2, 4]
    assert np.array_equal(bn(x), plain(x) * np.float32([2, 4]))
    bn.num_batches_tracked += 4
    assert bn.num_batches_tracked == 5
    for value, error in ((np.ones(3), ValueError), (1.0, ValueError), ("ab", TypeError), (None, TypeError)):
        with pytest.raises(error, match="^weight: "):
            bn.weight = value
    assert view.tolist() == [2, 4]
    with pytest.raises(AttributeError, match="weight: this layer has none"):
        syncbn.SyncBatchNorm(2, affine=False).weight = [1, 1]


@pytest.mark.parametrize("change", ["reshaped", "another dtype", "in other strides"])
def test_an_output_that_the_caller_has_changed(change):
    """ReLU's gradient looks at y, which is the caller's."""
    x = np.random.default_rng(0).standard_normal((4, 2, 6)).astype(np.float32)
    bn = syncbn.SyncBatchNorm(2, activation="relu")
    y = bn(x)
    if change == "in other strides":
        same = syncbn.SyncBatchNorm(2, activation="relu")
        same(x)
        values = y.copy()
        y.strides = (4, 16, 32)
        y[...] = values
        assert data.same_bits(bn.backward(x), same.backward(x))
        return
    if change == "reshaped":
        y.shape = (2, 2, 12)
    else:
        y.dtype = np.float16
    with pytest.raises(ValueError, match="^y: "):
        bn.backward(x)
