# SPDX-License-Identifier: Apache-2.0

"""train_digits: the same first step and the same whole run on any ranks, what it learns, and its checkpoints."""

import os
import pathlib
import re
import resource
import signal
import struct
import tempfile
import threading
import unittest
import zlib

import programs
from programs import ProgramTest

PROGRAM = "train_digits"
DIGITS = pathlib.Path(__file__).resolve().parents[2] / "examples" / "data" / "digits.bin"


def first_step(text):
    """The three digests of the first step: output, dx, running statistics."""
    match = re.search(r"^first step, bits of the batch norm: output (\w{16}) dx (\w{16}) running statistics (\w{16})$",
                      text, re.M)
    return match.groups() if match else f"no digests of a first step in: {text}"


def whole_run(text):
    """Number of epochs, digest of parameters, velocities and running statistics, digest of losses and accuracy."""
    match = re.search(r"^whole run, bits after epoch (\d+): parameters and running statistics (\w{16}) "
                      r"losses and accuracy (\w{16})$", text, re.M)
    return match.groups() if match else f"no digest of the whole run in: {text}"


def state(text):
    return whole_run(text)[:2]


def epochs(text):
    """The lines of the epochs, without the time."""
    return re.findall(r"^(epoch .*), [\d.]+ s$", text, re.M)


class FirstStepThreads(ProgramTest):
    """Over the same global batch, the bits of output, dx and running statistics on any number of ranks.

    control: fails with statistics of each rank's own, and with dy averaged over the rank's share.
    """

    def digests(self, ranks, *arguments):
        return first_step(self.succeed(programs.as_threads(ranks, PROGRAM, "--digest_only", *arguments)))

    def test_ranks(self):
        for arguments in ([], ["--batch", "31", "--hidden", "17", "--seed", "7"]):
            expected = self.digests(1, *arguments)
            for ranks in (2, 3, 4, 7, 11):  # 11 ranks share 10 samples: some have none
                with self.subTest(ranks=ranks, arguments=arguments):
                    self.assertEqual(self.digests(ranks, *arguments), expected)

    def test_digest_can_tell(self):
        """Control: other weights and another batch have other bits."""
        a, b = self.digests(2), self.digests(2, "--seed", "2")
        for one, other in zip(a, b, strict=True):
            self.assertNotEqual(one, other)

    def test_shares_are_uneven(self):
        for ranks, shares in ((1, "10"), (2, "3 + 7"), (4, "2 + 2 + 2 + 4"), (6, "2 + 2 + 2 + 2 + 2 + 0")):
            text = self.succeed(programs.as_threads(ranks, PROGRAM, "--digest_only"))
            self.assertIn(f"{ranks} rank(s), a step's samples: {shares}\n", text)


class FirstStepProcesses(ProgramTest):
    """The same over real processes."""

    @classmethod
    def setUpClass(cls):
        cls.expected = first_step(programs.as_threads(1, PROGRAM, "--digest_only").out)

    def expect(self, text):
        self.assertEqual(first_step(text), self.expected)

    def test_alone(self):
        self.expect(self.succeed(programs.run(programs.BIN / PROGRAM, "--digest_only")))

    def test_syncbn_run(self):
        for ranks in (1, 2, 4):
            with self.subTest(ranks=ranks):
                job, logs = programs.under_syncbn_run(ranks, PROGRAM, "--digest_only")
                self.succeed(job)
                self.expect(logs[0])

    def test_mpirun(self):
        for ranks in (1, 2, 4):
            with self.subTest(ranks=ranks):
                self.expect(self.succeed(programs.under_mpirun(ranks, PROGRAM, "--digest_only")))

    def test_torchrun_variables(self):
        rank_0, rank_1 = programs.with_torchrun_variables(2, PROGRAM, "--digest_only")
        self.expect(self.succeed(rank_0))
        self.assertEqual(self.succeed(rank_1), "")  # one rank speaks for the job


class WholeRunTest(ProgramTest):
    """A whole run has the same bits, however its batches are split: parameters, running statistics, losses, accuracy.

    An epoch is enough for rounding errors to show in every parameter. Two keep the momentum and the order of images.
    """

    SETTINGS = ["--epochs", "2", "--hidden", "17", "--batch", "31", "--seed", "7"]

    @classmethod
    def setUpClass(cls):
        cls.alone = programs.as_threads(1, PROGRAM, *cls.SETTINGS).out
        assert len(epochs(cls.alone)) == 2 and len(whole_run(cls.alone)) == 3, cls.alone

    def expect(self, text):
        self.assertEqual(whole_run(text), whole_run(self.alone))
        self.assertEqual(epochs(text), epochs(self.alone))


class WholeRun(WholeRunTest):
    """Ranks are threads.

    control: test_control_rounded_on_each_rank.
    """

    def test_ranks(self):
        for ranks in (2, 3, 4):
            with self.subTest(ranks=ranks):
                self.expect(self.succeed(programs.as_threads(ranks, PROGRAM, *self.SETTINGS)))

    def test_ranks_without_samples(self):
        arguments = ["--epochs", "1", "--hidden", "5", "--batch", "10"]
        alone, many = (self.succeed(programs.as_threads(ranks, PROGRAM, *arguments)) for ranks in (1, 7))
        self.assertIn("a step's samples: 2 + 2 + 2 + 2 + 2 + 0 + 0\n", many)
        self.assertEqual(whole_run(many), whole_run(alone))

    def test_threads_of_a_rank(self):
        for threads in ("1", "3"):
            with self.subTest(threads=threads):
                env = programs.environment(SYNCBN_NUM_THREADS=threads)
                self.expect(self.succeed(programs.run(programs.BIN / PROGRAM, "--threads", 2, *self.SETTINGS, env=env)))

    def test_instruction_sets(self):
        refused = programs.run(programs.BIN / PROGRAM, *self.SETTINGS, env=programs.environment(SYNCBN_ISA="none"))
        names = re.search(r"available here: (.*)", refused.err).group(1).split(", ")
        self.assertIn("scalar", names)
        for isa in names:
            with self.subTest(isa=isa):
                env = programs.environment(SYNCBN_ISA=isa)
                self.expect(self.succeed(programs.run(programs.BIN / PROGRAM, "--threads", 2, *self.SETTINGS, env=env)))

    def test_resumed_on_other_ranks(self):
        with tempfile.TemporaryDirectory() as folder:
            arguments = [*self.SETTINGS, "--checkpoint", f"{folder}/digits.checkpoint"]
            stopped = self.succeed(programs.as_threads(3, PROGRAM, *arguments, "--stop_after_epoch", "1"))
            resumed = self.succeed(programs.as_threads(2, PROGRAM, *arguments))
        self.assertEqual(epochs(stopped) + epochs(resumed), epochs(self.alone))
        self.assertEqual(whole_run(resumed), whole_run(self.alone))
        self.assertNotEqual(whole_run(stopped), whole_run(resumed))

    def test_control_rounded_on_each_rank(self):
        """One rank has the same bits, since its sums are rounded once. Two and three ranks round others."""
        runs = [whole_run(self.succeed(programs.as_threads(ranks, PROGRAM, *self.SETTINGS, "--round_on_each_rank")))
                for ranks in (1, 2, 3)]
        self.assertEqual(runs[0], whole_run(self.alone))
        for digests in zip(*runs, strict=True):
            self.assertEqual(len(set(digests)), 1 if digests[0] == "2" else 3, runs)


class WholeRunProcesses(WholeRunTest):
    """The same over real processes."""

    def test_syncbn_run(self):
        for ranks in (1, 3):
            with self.subTest(ranks=ranks):
                job, logs = programs.under_syncbn_run(ranks, PROGRAM, *self.SETTINGS)
                self.succeed(job)
                self.expect(logs[0])

    def test_mpirun(self):
        self.expect(self.succeed(programs.under_mpirun(2, PROGRAM, *self.SETTINGS)))

    def test_without_shared_memory(self):
        """Over Gloo's connections."""
        results = programs.with_torchrun_variables(2, PROGRAM, *self.SETTINGS, SYNCBN_SHARED_MEMORY="0")
        self.expect(self.succeed(results[0]))


class LearningTest(ProgramTest):
    """What training does, with several seeds.

    The arithmetic of the library and of the program is in a fixed order, without fused multiply-adds. std::exp is the
    exception: it belongs to the C library, which may round differently on another processor. So no test asserts an accuracy,
    or by how much one run is better than another.
    """

    SEEDS = range(1, 4)

    def losses(self, text, count=12):
        """Loss of the training images after each epoch."""
        epochs = re.findall(r"^epoch +(\d+): loss ([\d.]+), accuracy [\d.]+ % training [\d.]+ % test, [\d.]+ s$", text, re.M)
        self.assertEqual([int(epoch) for epoch, _ in epochs], list(range(1, count + 1)), text)
        return [float(loss) for _, loss in epochs]

    def compared(self, text):
        """Losses of the training images with synchronized statistics and with local ones."""
        rows = dict(re.findall(r"^  (synchronized|local on each rank) +([\d.]+) .*$", text, re.M))
        return float(rows["synchronized"]), float(rows["local on each rank"])


class Learning(LearningTest):
    """One rank runs to its end, several to epoch 4. control: fails if gradients are not merged."""

    @classmethod
    def setUpClass(cls):
        cls.alone = cls.runs(1)

    @classmethod
    def runs(cls, ranks, *arguments):
        results = [programs.as_threads(ranks, PROGRAM, "--seed", seed, *arguments) for seed in cls.SEEDS]
        assert all(result.code == 0 for result in results), results
        return [result.out for result in results]

    def learned(self, texts, count=12):
        """Number of runs whose loss halves after the first epoch. It falls to a third by epoch 4, to a tenth by epoch 12."""
        losses = [self.losses(text, count) for text in texts]
        return sum(of_run[-1] < of_run[0] / 2 for of_run in losses)

    def test_one_rank(self):
        for text in self.alone:
            self.assertIn("nothing to compare", text)
        self.assertGreaterEqual(self.learned(self.alone), 2, self.alone)

    def test_control_without_learning(self):
        """At a rate of almost 0 the weights stay as they are."""
        self.assertEqual(self.learned(self.runs(1, "--epochs", "2", "--lr", "1e-12"), 2), 0)

    def test_two_and_four_ranks(self):
        """With synchronized statistics they end as one rank does. With local ones they do not."""
        epochs = 4
        alone = [self.losses(text)[epochs - 1] for text in self.alone]
        for ranks in (2, 4):
            with self.subTest(ranks=ranks):
                texts = self.runs(ranks, "--epochs", epochs)
                self.assertGreaterEqual(self.learned(texts, epochs), 2, texts)
                synchronized, local = zip(*map(self.compared, texts), strict=True)
                self.assertEqual(list(synchronized), alone)
                # The losses are about 0.055. The differences are at least 0.03.
                other = sum(abs(loss - one) > one / 10 for one, loss in zip(alone, local, strict=True))
                self.assertGreaterEqual(other, 2, texts)

    def test_single_samples_have_no_local_statistics(self):
        text = self.succeed(programs.as_threads(2, PROGRAM, "--batch", "3", "--epochs", "1"))
        self.assertIn("no comparison: local statistics need 2 samples", text)


class LearningProcesses(LearningTest):
    """Two worker processes give the bits of two threads."""

    def test_syncbn_run(self):
        job, logs = programs.under_syncbn_run(2, PROGRAM)
        self.succeed(job)
        self.losses(logs[0])
        self.compared(logs[0])
        self.assertEqual(state(logs[0]), state(self.succeed(programs.as_threads(2, PROGRAM))))
        self.assertEqual(logs[1], "")


class CheckpointTest(ProgramTest):
    VERSION, HIDDEN, EPOCHS = 18, 26, 54  # offsets in the file

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.file = self.folder / "digits.checkpoint"

    def train(self, *arguments, ranks=2):
        return programs.as_threads(ranks, PROGRAM, "--epochs", "4", "--checkpoint", self.file, *arguments)

    def uninterrupted(self):
        return self.succeed(programs.as_threads(2, PROGRAM, "--epochs", "4"))


class Resume(CheckpointTest):
    """A run that stops and goes on ends with the bits of one that did not stop.

    control: fails without the velocities, without running_var, without the epoch in the order of images, where only
    rank 0 gets the values, and, when killed while writing, without the temporary file.
    """

    def test_bits(self):
        stopped = self.succeed(self.train("--stop_after_epoch", "2"))
        self.assertNotIn("synchronized ", stopped)
        resumed = self.succeed(self.train())
        self.assertIn(f"resumed from {self.file} after epoch 2\n", resumed)
        self.assertNotIn("epoch  2:", resumed)
        self.assertEqual(state(resumed), state(self.uninterrupted()))
        # Control: the digest tells states apart.
        self.assertNotEqual(state(stopped)[1], state(resumed)[1])
        self.assertEqual(os.listdir(self.folder), [self.file.name])

    def test_finished_run_stays_as_it_is(self):
        first, again = self.succeed(self.train()), self.succeed(self.train())
        self.assertEqual(state(first), state(again))
        self.assertNotIn("epoch  4:", again)

    def kill_after(self, line_start):
        process = programs.start([programs.BIN / PROGRAM, "--threads", 2, "--epochs", 400, "--checkpoint", self.file])
        deadline = threading.Timer(programs.DEADLINE_S, process.kill)
        deadline.start()
        try:
            seen = any(line.startswith(line_start) for line in process.stdout)  # reads no further than that line
        finally:
            deadline.cancel()
            process.kill()
            process.communicate()
        self.assertTrue(seen, f"no line '{line_start}' within {programs.DEADLINE_S} s")

    def test_killed(self):
        """Wherever the kill strikes, the file is that of a completed epoch."""
        for last_line in (1, 3):
            with self.subTest(last_line=last_line):
                self.file.unlink(missing_ok=True)
                self.kill_after(f"epoch {last_line:2}:")
                done = struct.unpack_from("<I", self.file.read_bytes(), self.EPOCHS)[0]
                epochs = str(done + 1)
                resumed = self.succeed(programs.as_threads(2, PROGRAM, "--epochs", epochs, "--checkpoint", self.file))
                self.assertIn(f"after epoch {done}\n", resumed)
                whole = self.succeed(programs.as_threads(2, PROGRAM, "--epochs", epochs))
                self.assertEqual(state(resumed), state(whole))

    def test_killed_while_writing(self):
        """The system ends the program in the middle of a write: the older checkpoint stays."""
        self.succeed(self.train("--stop_after_epoch", "1"))
        good = self.file.read_bytes()
        process = programs.start([programs.BIN / PROGRAM, "--threads", 2, "--epochs", 4, "--checkpoint", self.file],
                                 preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)))
        result = programs.finish(process, "a program that may write 1,000 bytes")
        self.assertEqual(result.code, -signal.SIGXFSZ, result)
        self.assertEqual(self.file.read_bytes(), good)
        self.assertEqual(state(self.succeed(self.train())), state(self.uninterrupted()))

    def test_rank_count_may_change(self):
        self.succeed(self.train("--stop_after_epoch", "2", ranks=1))
        resumed = self.succeed(self.train(ranks=4))
        self.assertEqual(state(resumed)[0], "4")


class ResumeProcesses(CheckpointTest):
    """Interrupted in worker processes, resumed in threads, and the other way round."""

    def test_bits(self):
        expected = state(self.uninterrupted())
        arguments = ["--epochs", "4", "--checkpoint", self.file]
        self.succeed(programs.under_syncbn_run(2, PROGRAM, *arguments, "--stop_after_epoch", "2")[0])
        self.assertEqual(state(self.succeed(self.train())), expected)
        self.file.unlink()
        self.succeed(self.train("--stop_after_epoch", "3"))
        job, logs = programs.under_syncbn_run(2, PROGRAM, *arguments)
        self.succeed(job)
        self.assertIn("after epoch 3\n", logs[0])
        self.assertEqual(state(logs[0]), expected)

    def test_refused_on_every_rank(self):
        self.file.write_bytes(b"digits-checkpoint\n")
        arguments = ["--checkpoint", self.file]
        for rank, result in enumerate(programs.with_torchrun_variables(2, PROGRAM, *arguments)):
            self.assertEqual(result.code, 1, result)
            self.assertRegex(result.err, rf"^rank {rank}: {re.escape(str(self.file))}: ")


class OldCheckpoint(CheckpointTest):
    """Every later version resumes from a file of version 0.1.0, with the bits that were saved.

    Made by: train_digits --hidden 4 --stop_after_epoch 1 --checkpoint tests/fixtures/train_digits/epoch_1.checkpoint
    """

    OLD = pathlib.Path(__file__).resolve().parents[1] / "fixtures" / "train_digits" / "epoch_1.checkpoint"
    STATE = "1", "7fb315e6766010b9"  # printed when the file was made

    def resumed(self, epochs, ranks):
        self.file.write_bytes(self.OLD.read_bytes())
        text = self.succeed(programs.as_threads(ranks, PROGRAM, "--hidden", "4", "--epochs", epochs, "--checkpoint", self.file))
        self.assertIn(f"resumed from {self.file} after epoch 1\n", text)
        return state(text)

    def test_bits(self):
        for ranks in (1, 2):
            self.assertEqual(self.resumed(1, ranks), self.STATE)

    def test_training_goes_on(self):
        """Control: another state has another digest."""
        epochs, digest = self.resumed(2, 2)
        self.assertEqual(epochs, "2")
        self.assertNotEqual(digest, self.STATE[1])


class Restarts(CheckpointTest):
    """A worker is killed in the middle of an epoch; --max_restarts starts the job again, and it goes on from its
    checkpoint: with the bits of a run in which nothing happened.

    control: fails without --checkpoint, which then begins with epoch 1, and without --max_restarts.
    """

    TASK = pathlib.Path(__file__).with_name("killed_worker.py")

    def launcher(self, number, local_ranks, port):
        return programs.start([
            programs.BIN / "syncbn-run", "--worker_num=2", f"--local_worker_num={local_ranks}", f"--master_port={port}",
            f"--log_dir={self.folder / str(number)}", "--join=True", "--cluster_time_out=100", "--max_restarts=2",
            self.TASK, programs.BIN / PROGRAM, self.file, CheckpointTest.EPOCHS
        ])

    def check(self, launchers):
        results = [programs.finish(launcher, f"launcher {number}") for number, launcher in enumerate(launchers)]
        for result in results:
            self.succeed(result)
            self.assertRegex(result.err, r"rank 1\b.*signal 9 \(SIGKILL\)")
            self.assertIn("restart 1 of 2\n", result.err)
            self.assertNotIn("restart 2 of 2\n", result.err)
        text = "".join(result.out for result in results).replace("[0] ", "")
        done = int(re.search(r"^resumed from .* after epoch (\d+)$", text, re.M).group(1))
        whole = self.succeed(programs.as_threads(2, PROGRAM, "--epochs", done + 1))
        self.assertEqual(state(text), state(whole))
        self.assertEqual(state(text)[0], str(done + 1))

    def test_one_node(self):
        self.check([self.launcher(0, 2, programs.free_ports())])

    def test_two_launchers(self):
        port = programs.free_ports()
        launchers = [self.launcher(number, 1, port) for number in range(2)]
        try:
            self.check(launchers)
        finally:
            for launcher in launchers:
                if launcher.poll() is None:
                    programs.end(launcher)
                    launcher.communicate()


class BadCheckpoint(CheckpointTest):
    """Refused with the file's name and what is wrong with it; the file stays as it was.

    control: fails where the checksum or the length is not looked at.
    """

    def setUp(self):
        super().setUp()
        self.settings = ["--hidden", "4"]
        self.succeed(self.train("--stop_after_epoch", "1", *self.settings))
        self.good = self.file.read_bytes()

    def refused(self, message, *arguments):
        before = self.file.read_bytes() if self.file.is_file() else None
        result = self.train(*(arguments or self.settings))
        self.assertEqual(result.code, 1, result)
        self.assertRegex(result.err, rf"(?m)^rank 0: {re.escape(str(self.file))}: .*{message}", result)
        self.assertRegex(result.err, r"(?m)^rank 1: ", result)
        self.assertNotIn("epoch", result.out)
        if before is not None:
            self.assertEqual(self.file.read_bytes(), before)

    def test_good_one_is_accepted(self):
        """Control: what the other cases damage is in order."""
        self.assertEqual(zlib.crc32(self.good[:-4]), struct.unpack("<I", self.good[-4:])[0])
        self.assertIn("resumed from", self.succeed(self.train(*self.settings)))

    def test_flipped_bit(self):
        size = len(self.good)
        for position in (self.HIDDEN, 40, 60, 70, 100, size // 2, size - 5, size - 1):
            with self.subTest(position=position):
                damaged = bytearray(self.good)
                damaged[position] ^= 4
                self.file.write_bytes(damaged)
                self.refused("damaged")

    def test_truncated(self):
        for size in (0, 10, 20, 60, 74, len(self.good) // 2, len(self.good) - 1):
            with self.subTest(size=size):
                self.file.write_bytes(self.good[:size])
                self.refused("truncated")

    def test_too_long(self):
        self.file.write_bytes(self.good + b"\0")
        self.refused("1 bytes too many")

    def test_other_file(self):
        self.file.write_bytes(DIGITS.read_bytes())
        self.refused("not a checkpoint of train_digits")

    def test_folder(self):
        self.file.unlink()
        self.file.mkdir()
        self.refused("cannot be read")

    def test_version(self):
        other = self.good[:self.VERSION] + struct.pack("<I", 2) + self.good[self.VERSION + 4:-4]
        self.file.write_bytes(other + struct.pack("<I", zlib.crc32(other)))
        self.refused("made with checkpoint version 2, this run has 1")

    def test_other_run(self):
        self.refused("made with a network 64-4-10, this run has 64-5-10", "--hidden", "5")
        self.refused("made with --batch 10, this run has 12", *self.settings, "--batch", "12")
        self.refused("made with --seed 1, this run has 2", *self.settings, "--seed", "2")
        self.refused("made with --lr 0.01, this run has 0.02", *self.settings, "--lr", "0.02")

    def test_folder_of_it_is_missing(self):
        self.file = self.folder / "missing" / "digits.checkpoint"
        result = self.train("--stop_after_epoch", "1")
        self.assertEqual(result.code, 1, result)
        self.assertRegex(result.err, rf"(?m)^rank 0: {re.escape(str(self.file))}.tmp: cannot be opened", result)


class Arguments(ProgramTest):
    def refused(self, *arguments, message):
        result = programs.run(programs.BIN / PROGRAM, *arguments)
        self.assertNotEqual(result.code, 0, result)
        self.assertRegex(result.err, message)

    def test_help(self):
        text = self.succeed(programs.run(programs.BIN / PROGRAM, "--help"))
        for option in ("--epochs", "--batch", "--hidden", "--seed", "--lr", "--data", "--checkpoint",
                       "--stop_after_epoch", "--digest_only", "--threads"):
            self.assertIn(option, text)

    def test_out_of_range(self):
        for option, value in (("--epochs", "0"), ("--batch", "1"), ("--hidden", "0"), ("--lr", "-1"), ("--lr", "0"),
                              ("--lr", "nan"), ("--lr", "inf"),
                              ("--threads", "-1"), ("--seed", "x"), ("--stop_after_epoch", "-1"), ("--epoch", "3")):
            with self.subTest(option=option, value=value):
                self.refused(option, value, message=option)

    def test_batch_larger_than_the_data(self):
        with tempfile.NamedTemporaryFile() as file:
            records = DIGITS.read_bytes()[16:16 + 5 * 65]
            file.write(b"digits1\n" + struct.pack("<II", 5, zlib.crc32(records)) + records)
            file.flush()
            self.refused("--data", file.name, message="--batch: 10, expected at most the 4 training images")

    def test_data(self):
        good = DIGITS.read_bytes()
        flipped = bytearray(good)
        flipped[1000] ^= 1
        for name, content, message in (("truncated", good[:-1], "truncated"), ("empty", b"", "truncated"),
                                       ("flipped", flipped, "damaged: CRC-32"), ("longer", good + b"x", "1 bytes too long"),
                                       ("another", b"P5 8 8 16\n" + good, "not a file of digits")):
            with self.subTest(name), tempfile.NamedTemporaryFile() as file:
                file.write(content)
                file.flush()
                self.refused("--data", file.name, message=rf"^rank 0: {re.escape(file.name)}: .*{message}")
        self.refused("--data", "/nowhere/digits.bin", message=r"^rank 0: /nowhere/digits.bin: cannot be opened: No such")


class Data(unittest.TestCase):
    def test_checked_in_file(self):
        """What examples/data/README.md says of it."""
        content = DIGITS.read_bytes()
        self.assertEqual(content[:8], b"digits1\n")
        count, checksum = struct.unpack("<II", content[8:16])
        self.assertEqual((count, checksum), (1797, zlib.crc32(content[16:])))
        records = [content[i:i + 65] for i in range(16, len(content), 65)]
        self.assertEqual(len(records), 1797)
        self.assertTrue(all(len(r) == 65 and max(r[:64]) <= 16 and r[64] <= 9 for r in records))
        # The first image is a zero, its first row as scikit-learn shows it in its documentation.
        self.assertEqual((list(records[0][:8]), records[0][64]), ([0, 0, 5, 13, 9, 1, 0, 0], 0))


if __name__ == "__main__":
    unittest.main()
