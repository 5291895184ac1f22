# SPDX-License-Identifier: Apache-2.0

"""What all_reduce_matmul costs on one rank beside NumPy's a.T @ b: medians of interleaved rounds, CPU time of one thread.

OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONPATH=build/release/python .venv/bin/python benchmarks/python/matmul.py
"""

import statistics
import time

import numpy as np
import syncbn

ROUNDS = 15
SHAPES = [(10, 64, 64), (10, 64, 10), (256, 64, 64), (10000, 64, 64), (256, 512, 512), (10000, 1, 1)]


def main():
    print(syncbn.active_isa(), "threads", syncbn.get_num_threads())
    for dtype in (np.float32, np.float64):
        for rows, a_columns, b_columns in SHAPES:
            random = np.random.default_rng(0)
            a, b = (random.standard_normal((rows, columns)).astype(dtype) for columns in (a_columns, b_columns))
            times = ([], [])
            for _ in range(ROUNDS):
                for call, taken in zip((lambda: syncbn.all_reduce_matmul(a, b), lambda: a.T @ b), times, strict=True):
                    start = time.thread_time()
                    call()
                    taken.append((time.thread_time() - start) * 1e6)
            exact, blas = map(statistics.median, times)
            message = a_columns * b_columns * (14 if dtype == np.float32 else 92) * 8
            print(f"{dtype.__name__} rows {rows:6} columns {a_columns:4} x {b_columns:4}: {exact:11.1f} us, "
                  f"{exact * 1e3 / (rows * a_columns * b_columns):7.2f} ns a product, NumPy {blas:9.1f} us, "
                  f"ratio {exact / blas:7.1f}, message {message / 1e3:9.1f} kB")


main()
