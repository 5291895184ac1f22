# SPDX-License-Identifier: Apache-2.0

"""The layer on arrays has the bits of the golden vectors: those of the C++ core, of an independent generator.

Ranks are threads; shares are uneven, some are empty; all pairs of the four dtypes; both memory orders.
"""

import golden
import numpy as np
import pytest
import syncbn

CASES = list(golden.cases())


def first(a):
    return a


def last_in_memory(a):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


def last_axis(a):
    return np.ascontiguousarray(np.moveaxis(a, 1, -1))


def run(case, arrange, channels_last):
    """What each rank gets of one step, by the names of the vectors, and the state after it."""

    def body(rank):
        mine = case.ranks[rank]
        bn = syncbn.SyncBatchNorm(**case.options, channels_last=channels_last).set_train(case.training)
        bn.load_state_dict(case.state)
        got = {"=y": bn(*(arrange(mine[name]) for name in ("x", "residual") if name in mine))}
        dx = bn.backward(arrange(mine["dy"]))
        got["=dx"], got["=d_residual"] = dx if "residual" in mine else (dx, None)
        if channels_last:
            got = {name: None if value is None else np.moveaxis(value, -1, 1) for name, value in got.items()}
        return {**got, "=weight_grad": bn.weight_grad, "=bias_grad": bn.bias_grad}, bn.state_dict()

    return syncbn.run_ranks(len(case.ranks), body)


def differences(case, results):
    found = []
    for rank, (got, state) in enumerate(results):
        for name, value in got.items():
            if name in case.ranks[rank] and value is not None:
                if not np.array_equal(golden.bits(value), golden.bits(case.ranks[rank][name])):
                    found.append(f"rank {rank}, {name[1:]}")
        for name, value in case.state_after.items():
            if not np.array_equal(golden.bits(state[name]), golden.bits(value)):
                found.append(f"rank {rank}, {name}")
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bits(case):
    assert differences(case, run(case, first, False)) == []
    assert differences(case, run(case, last_in_memory, False)) == []
    assert differences(case, run(case, last_axis, True)) == []


def test_vectors_are_many():
    assert len(CASES) > 100


def test_control_one_bit_is_seen():
    case = next(golden.cases())
    case.ranks[0]["=y"].view(np.uint16)[0, 0, 0] ^= 1
    assert differences(case, run(case, first, False)) == ["rank 0, y"]


def test_control_without_synchronization():
    """Where every rank is a group of its own, the vectors of two ranks and more fail."""

    def alone(case, rank):
        bn = syncbn.SyncBatchNorm(**case.options)
        bn.load_state_dict(case.state)
        return bn(case.ranks[rank]["x"])

    several = [case for case in CASES if len(case.ranks) > 1 and case.training and "residual" not in case.ranks[0]
               and all(r["x"].shape[0] * r["x"].shape[2] > 1 for r in case.ranks)]
    differ = [any(not np.array_equal(golden.bits(alone(case, rank)), golden.bits(case.ranks[rank]["=y"]))
                  for rank in range(len(case.ranks))) for case in several]
    assert len(several) >= 10 and sum(differ) >= 10


@pytest.mark.parametrize("case", list(golden.cases("matmul_vectors.txt", golden.Matmul)), ids=lambda case: case.name)
def test_matmul(case):
    def body(rank):
        a, b = case.ranks[rank]
        strided = np.repeat(b, 2, axis=1)[:, ::2]  # used by way of a copy
        return syncbn.all_reduce_matmul(np.asfortranarray(a), strided)

    for product in syncbn.run_ranks(len(case.ranks), body):
        assert product.dtype == case.dtype
        np.testing.assert_array_equal(golden.bits(product), golden.bits(case.product))
