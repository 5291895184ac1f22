# SPDX-License-Identifier: Apache-2.0

"""Ranks as real processes with torch.distributed, that run one test's function after the other: importing torch takes
seconds, so they are started once."""

import os
import pickle
import time
import traceback
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

#: Seconds until a job counts as hanging; an overloaded machine takes a tenth of it.
PATIENCE = 120
#: What a process brings whose default group torch's own Gloo did not connect: on a busy machine its ranks may close a
#: connection that a peer is about to use. Then all start anew, ATTEMPTS times in all.
_NOT_CONNECTED = "torch.distributed did not connect the default group"
ATTEMPTS = 3
#: The error of a rank whose process has ended.
ENDED = "the process has ended"


class Ranks:
    """`size` processes. Called with a function and arguments: each runs function(rank, *arguments) in a new default
    group, and the results come back by rank. A rank's exception is an AssertionError with all ranks' tracebacks."""

    def __init__(self, size):
        self.size = size
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._jobs = 0
        self._start()

    def _start(self):
        context = mp.get_context("spawn")
        self._pipes, self._processes = [], []
        for rank in range(self.size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, self.size, self._store.port, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __call__(self, function, *arguments):
        outcomes = self.outcomes(function, *arguments)
        failed = [f"rank {rank}:\n{error}" for rank, (error, _) in enumerate(outcomes) if error]
        assert not failed, "\n".join(failed)
        return [result for _, result in outcomes]

    def outcomes(self, function, *arguments):
        """(traceback or None, result) by rank."""
        for _ in range(ATTEMPTS):
            outcomes = self._outcomes(function, arguments)
            if not any(isinstance(result, str) and result == _NOT_CONNECTED for _, result in outcomes):
                break
            self._restart()
        return outcomes

    def _outcomes(self, function, arguments):
        self._jobs += 1
        for pipe in self._pipes:
            pipe.send_bytes(pickle.dumps((self._jobs, function, arguments)))
        deadline = time.monotonic() + PATIENCE
        outcomes = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(max(0.0, deadline - time.monotonic())):
                self._restart()  # a late result must not be taken for the next job's
                raise AssertionError(f"rank {rank}: no result after {PATIENCE} s")
            try:
                outcomes.append(pickle.loads(pipe.recv_bytes()))
            except EOFError:
                outcomes.append((ENDED, None))
        if any(error == ENDED for error, _ in outcomes):
            self._restart()
        return outcomes

    def _restart(self):
        self.close(patience=0)
        self._start()

    def close(self, patience=10):
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(patience)
            if process.is_alive():
                process.kill()
                process.join()


def _serve(rank, size, port, pipe):
    os.environ.setdefault("SYNCBN_TIMEOUT_S", "60")
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    while True:
        try:
            number, function, arguments = pickle.loads(pipe.recv_bytes())
        except EOFError:
            os._exit(0)  # torch takes a while to put itself away
        torch.manual_seed(rank)
        try:
            dist.init_process_group("gloo", store=dist.PrefixStore(str(number), store), rank=rank, world_size=size,
                                    timeout=timedelta(seconds=60))
        except RuntimeError:
            pipe.send_bytes(pickle.dumps((traceback.format_exc(), _NOT_CONNECTED)))
            os._exit(1)
        error = result = None
        try:
            result = function(rank, *arguments)
        except Exception:
            error = traceback.format_exc()
        dist.destroy_process_group()
        pipe.send_bytes(pickle.dumps((error, result)))
