# SPDX-License-Identifier: Apache-2.0

"""sync_batch_norm_example prints the documented numbers, and the same text whoever starts its two ranks."""

import unittest

import programs
from programs import ProgramTest

PROGRAM = "sync_batch_norm_example"


def tables_of(text):
    """The tables in a program's output, one a rank, in the order in which they stand there."""
    return ["rank " + table for table in ("\n" + text).split("\nrank ")[1:]]


def parse(table):
    """{section: {name: numbers}}, a column of a table with a row for each channel, or a row of values."""
    sections = {}
    for block in table.split("\ndigest ")[0].split("\n\n")[1:]:
        title, *lines = block.splitlines()
        section = sections.setdefault("own data" if "on this rank" in title else title.split(",")[0], {})
        columns = name = None
        for line in lines:
            label, rest = line[2:10].strip(), line[10:]
            if label == "channel":
                columns = [rest[i:i + 15].strip() for i in range(0, len(rest), 15)]
            elif columns and label.isdigit():
                for column, number in zip(columns, rest.split(), strict=True):
                    section.setdefault(column, []).append(float(number))
            else:
                name = label or name
                section.setdefault(name, []).extend(map(float, rest.split()))
    return sections


def linspace(first, last, count):
    return [first + i * (last - first) / (count - 1) for i in range(count)]


class Numbers(ProgramTest):
    """Eight digits from exact arithmetic. control: fails where the last part's layer takes its own statistics."""

    @classmethod
    def setUpClass(cls):
        cls.text = programs.as_threads(2, PROGRAM).out
        cls.tables = tables_of(cls.text)
        cls.ranks = [parse(table) for table in cls.tables]

    def expect(self, actual, expected):
        self.assertEqual(len(actual), len(expected))
        for a, e in zip(actual, expected):
            self.assertAlmostEqual(a, e, delta=1e-6 * max(1, abs(e)))

    def test_order(self):
        self.assertEqual(len(self.tables), 2, self.text)
        for rank, table in enumerate(self.tables):
            self.assertTrue(table.startswith(f"rank {rank} of 2 in group 0-1, local rank {rank}\n"), table)

    def test_evaluation(self):
        for rank in self.ranks:
            y = rank["evaluation"]["y"]
            self.expect([y[0], y[1], y[15]], [0, 0.33333168, 4.9999750])
            self.expect(y, [x / (1 + 1e-5) ** 0.5 for x in linspace(0, 5, 16)])

    def test_training(self):
        for rank in self.ranks:
            found = rank["training"]
            self.expect(found["mean"], [1.8333333, 3.1666667])
            self.expect(found["variance"], [1.9166667, 1.9166667])
            self.expect(found["running_mean"], [0.18333333, 0.31666667])
            self.expect(found["running_var"], [1.1044444, 1.1044444])
            self.expect(found["weight_grad"], [-0.55678317, 0.60192762])
            self.expect(found["bias_grad"], [-0.875, 1])
            self.expect([found["y"][0], found["y"][1], found["y"][15]], [-1.3242409, -1.0834699, 1.3242409])
            self.expect(found["dx"][:4], [-0.43901431, 0.20511368, -0.14393901, 0.50018898])

    def test_own_statistics_differ_from_the_groups(self):
        for number, rank in enumerate(self.ranks):
            found = rank["own data"]
            self.expect(found["group mean"], [1.05, 1.45])
            self.expect(found["group variance"], [0.65861109, 0.85861107])
            self.expect(found["running_mean"], [0.105, 0.145])
            self.expect(found["running_var"], [0.970251850, 0.991585180])
            x = linspace(number, 2 * number + 1, 16)
            for channel in (0, 1):
                at = [i for i in range(16) if i // 4 % 2 == channel]
                mean = sum(x[i] for i in at) / 8
                variance = sum((x[i] - mean) ** 2 for i in at) / 8
                self.expect([found["own mean"][channel], found["own variance"][channel]], [mean, variance])
                self.expect([found["y, own"][i] for i in at], [(x[i] - mean) / (variance + 1e-5) ** 0.5 for i in at])
                self.expect(
                    [found["y, group"][i] for i in at],
                    [(x[i] - found["group mean"][channel]) / (found["group variance"][channel] + 1e-5) ** 0.5 for i in at])

    def test_digest_can_tell(self):
        """Control: the ranks' data differ, so must their digests."""
        digests = [table.split("digest ")[1].strip() for table in self.tables]
        self.assertNotEqual(*digests)

    def test_one_write_a_table_is_atomic(self):
        """A pipe keeps writes of up to 4,096 bytes together, so tables of ranks cannot interleave in one."""
        for table in self.tables:
            self.assertLess(len(table.encode()), 4096)


class SameTextAsThreads(ProgramTest):
    """Every digit and the digest of all bits, whatever starts and joins the two ranks."""

    @classmethod
    def setUpClass(cls):
        cls.expected = [table.rstrip() for table in tables_of(programs.as_threads(2, PROGRAM).out)]

    def expect(self, texts):
        self.assertEqual([text.rstrip() for text in texts], self.expected)

    def test_syncbn_run(self):
        job, logs = programs.under_syncbn_run(2, PROGRAM)
        self.succeed(job)
        self.expect(logs)

    def test_mpirun(self):
        self.expect(tables_of(self.succeed(programs.under_mpirun(2, PROGRAM))))

    def test_torchrun_variables(self):
        self.expect([self.succeed(result) for result in programs.with_torchrun_variables(2, PROGRAM)])


class Errors(ProgramTest):
    """A world that the example was not made for: an error that names the rank, and no exit code 0."""

    def test_one_rank(self):
        result = programs.run(programs.BIN / PROGRAM)
        self.assertEqual(result.code, 1, result)
        self.assertRegex(result.err, r"^rank 0: .*0-1")

    def test_rank_outside_the_group(self):
        result = programs.as_threads(3, PROGRAM)
        self.assertEqual(result.code, 1, result)
        self.assertRegex(result.err, r"(?m)^rank 2: .*0-1")

    def test_bad_option(self):
        for arguments in (["--threads", "0"], ["--threads", "two"], ["--thread", "2"]):
            with self.subTest(arguments=arguments):
                result = programs.run(programs.BIN / PROGRAM, *arguments)
                self.assertNotEqual(result.code, 0, result)
                self.assertIn("--thread", result.err, result)


if __name__ == "__main__":
    unittest.main()
