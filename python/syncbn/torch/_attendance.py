# SPDX-License-Identifier: Apache-2.0

"""What the ranks of a group tell each other through the store, if a sum takes long or fails."""

import threading

# Limit for an answer of the store. The process with the store may be stopped, and the store itself has no limit.
_ANSWER_S = 2.0


class Attendance:
    """Who waits in which sum, and why the group broke. A sum that goes well costs nothing, not even a connection."""

    #: Key of the reason why the group broke.
    END = "end"

    def __init__(self, store, rank, size):
        self._store = store
        self._rank, self._size = rank, size
        self._is_cloned = not hasattr(store, "clone")  # as in GlooEngine._connect
        self._answers = True

    def report_waiting(self, sum_number):
        """Tell the others that this rank waits in this sum."""
        self._ask(lambda: self._store.set(f"waiting/{self._rank}", str(sum_number)))

    def absent_from(self, sum_number):
        """The ranks that do not wait in this sum; empty if the store does not answer."""
        def absent():
            keys = [f"waiting/{rank}" for rank in range(self._size)]
            waiting = [int(self._store.get(key)) if self._store.check([key]) else 0 for key in keys]
            return [rank for rank, number in enumerate(waiting) if number < sum_number]
        return self._ask(absent) or []

    def report_end(self, reason):
        """Tell the others why the group is broken, unless another rank did so before. Return the reason that counts."""
        answer = self._ask(lambda: self._store.compare_set(self.END, "", reason))
        return answer.decode() if answer else reason

    def end(self):
        """Why the group is broken; None if no rank has said so, or the store does not answer."""
        answer = self._ask(lambda: self._store.get(self.END) if self._store.check([self.END]) else None)
        return answer and answer.decode()

    def _ask(self, question):
        """question(), or None if the store does not answer. It is not asked again then."""
        answers = []

        def ask():
            try:
                if not self._is_cloned:
                    self._store, self._is_cloned = self._store.clone(), True
                answers.append(question())
            except RuntimeError:
                pass

        if not self._answers:
            return None
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(_ANSWER_S)
        self._answers = bool(answers)
        return answers[0] if answers else None
