# SPDX-License-Identifier: Apache-2.0

"""What the benchmarks measured, as the reports and pictures read it: constants, and queries of performance.json."""

import math

LARGE = ("(32,64,112,112)", "(32,256,56,56)", "(32,512,28,28)", "(32,1024,14,14)")
SMALL = ("(32,2048,7,7)", "(4,64,56,56)", "(8,32,32,32)", "(4,512,7,7)", "(256,1024)", "(64,128)", "(2,2,2,2)")
FIRST, LAST = "channels-first", "channels-last"
DIRECTIONS = [("forward", FIRST), ("forward", LAST), ("backward", FIRST), ("backward", LAST)]
OPERATOR = {"forward": "torch_out", "backward": "torch"}  # the form without an allocation, where there is one
ENGINES = ("threads", "mpi", "gloo")


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def find(results, suite, **wanted):
    return [line for line in results["results"]
            if line["suite"] == suite and all(line.get(key) == value for key, value in wanted.items())]


def isas(results):
    """Instruction sets that were measured, the machine's best first."""
    return list(dict.fromkeys(line["isa"] for line in results["results"]))


def dims(line):
    return tuple(map(int, line["shape"].strip("()").split(",")))


def ratios(lines, ratio, shapes=None):
    return {line["shape"]: line["ratio"][ratio] for line in lines
            if ratio in line["ratio"] and (shapes is None or line["shape"] in shapes)}
