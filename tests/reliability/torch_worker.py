# SPDX-License-Identifier: Apache-2.0

"""As worker.cpp, for syncbn.torch over torch.distributed: `torch_worker.py launched <phase> <fault> <culprit>`."""

import os
import signal
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

import syncbn
from syncbn.torch import SyncBatchNorm

PHASE, FAULT, CULPRITS = sys.argv[2], sys.argv[3], [int(rank) for rank in sys.argv[4].split(",")]
RANK, SIZE = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
STEPS, FAULTY_STEP, CHANNELS, PLACES = 4, 2, 4, 3


class Pair:
    """A layer, and one that has the whole batch alone: what they compute must have the same bits."""

    def __init__(self, group, alone, **options):
        self.layer = SyncBatchNorm(CHANNELS, process_group=group, **options)
        self.alone = SyncBatchNorm(CHANNELS, process_group=alone, **options)

    def forward(self, step):
        shares = [r + 2 for r in range(SIZE)]
        if FAULT == "empty" and step == FAULTY_STEP:
            shares[CULPRITS[0]] = 0
        parts = []
        for r, samples in enumerate(shares):
            generator = torch.Generator().manual_seed(1000 * r + step)
            parts.append(torch.randn(2, samples, CHANNELS, PLACES, generator=generator))
        self.x = parts[RANK][0].clone().requires_grad_()
        self.whole = torch.cat([part[0] for part in parts]).requires_grad_()
        self.dy, self.whole_dy = parts[RANK][1], torch.cat([part[1] for part in parts])
        begin = sum(shares[:RANK])
        self.mine = slice(begin, begin + shares[RANK])
        self.y = self.layer(self.x)
        self.whole_y = self.alone(self.whole)
        if not torch.equal(self.y, self.whole_y[self.mine]) or self.state() != state_of(self.alone):
            raise AssertionError("y or the state has other bits than that of the whole batch")

    def backward(self):
        self.y.backward(self.dy)
        self.whole_y.backward(self.whole_dy)
        if not torch.equal(self.x.grad, self.whole.grad[self.mine]):
            raise AssertionError("dx has other bits than that of the whole batch")

    def state(self):
        return state_of(self.layer)


def state_of(layer):
    return [value.numpy().tobytes() for value in layer.state_dict().values()]


class Program:
    def __init__(self):
        self.pairs, self.before, self.step = [], [], 0

    def phase(self, name, right, **wrong):
        self.before = [pair.state() for pair in self.pairs]
        faulty = name == PHASE and RANK in CULPRITS and (self.step == FAULTY_STEP or not self.pairs)
        if not faulty:
            return right()
        if FAULT == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if FAULT == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if FAULT == "exception":
            raise KeyError("no more data")
        if FAULT == "skip":
            return None
        if FAULT == "slow":
            time.sleep(0.7)
        return wrong.get(FAULT, right)()

    def run(self):
        expires = PHASE in ("init", "create_group") and "SYNCBN_TEST_EXPIRES" in os.environ
        patience = timedelta(seconds=15 if expires else 120)
        self.phase("init", lambda: dist.init_process_group("gloo", timeout=patience))
        alone = [dist.new_group([r], timeout=patience) for r in range(SIZE)][RANK]
        group = self.phase("create_group", lambda: dist.new_group(range(SIZE), timeout=patience),
                           order=lambda: dist.new_group([0, 1], timeout=patience))
        eps = 1e-3 if PHASE == "forward" and FAULT == "eps" and RANK in CULPRITS else 1e-5
        self.pairs = [Pair(group, alone, name="bn1", eps=eps), Pair(group, alone, name="bn2")]
        first, second = self.pairs
        for self.step in range(STEPS):
            def forward():
                first.forward(self.step)

            def swapped():
                second.forward(self.step)
                first.forward(self.step)

            self.phase("forward", forward, order=swapped,
                       channels=lambda: SyncBatchNorm(CHANNELS + 1, process_group=group, name="bn1")(
                           torch.ones(2, CHANNELS + 1, PLACES)),
                       dtype=lambda: first.layer(torch.ones(2, CHANNELS, PLACES, dtype=torch.float64)))
            self.before = [pair.state() for pair in self.pairs]
            second.forward(self.step)
            self.phase("backward", second.backward, order=lambda: (first.backward(), second.backward()))
            first.backward()

    def damage(self):
        """What an error must have left alone."""
        if not self.pairs:
            return ""
        text = "" if [pair.state() for pair in self.pairs] == self.before else ", STATE CHANGED"
        try:
            self.pairs[0].layer(torch.ones(2, CHANNELS, PLACES))
            return text + ", GROUP NOT BROKEN"
        except syncbn.GroupError:
            return text


def say(text):
    print(f"rank {RANK}: {text}", flush=True)


program = Program()
try:
    program.run()
    say("right")
except KeyError:
    raise
except AssertionError as error:
    say(f"WRONG RESULT: {error}")
except dist.DistError as error:  # of torch.distributed itself; which of its subclasses is a matter of luck
    say(f"DistError: {error}")
except Exception as error:
    say(f"{type(error).__name__}{program.damage()}: {error}")
deadline = time.monotonic() + 60
while not os.path.exists(os.environ["SYNCBN_TEST_GO"]) and time.monotonic() < deadline:
    time.sleep(0.01)
os._exit(0)
