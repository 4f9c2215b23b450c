"""The engine: tasks in processes of their own, whatever a task does to its process."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import engine_tasks as tasks
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaginet_build import engine
from imaginet_build.engine import Pool
from imaginet_build.errors import BuildError

SUPPORT = Path(tasks.__file__).parent


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has: only its parent has not looked yet)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until(true, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(true())


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()}


# --- outcomes ----------------------------------------------------------------------------------------------------------


def test_every_task_has_one_outcome_which_carries_the_task_and_its_value():
    outcomes = list(engine.run(tasks.Work(tasks.double), range(20), Pool(workers=2)))
    assert sorted((o.task, o.value) for o in outcomes) == [(n, 2 * n) for n in range(20)]
    assert not any(o.error or o.fatal for o in outcomes)


def test_no_tasks_start_no_process():
    before = children()
    assert list(engine.run(tasks.Work(tasks.double), [], Pool(workers=2))) == []
    assert children() == before


def test_a_factory_is_called_once_in_each_process(tmp_path):
    outcomes = list(engine.run(tasks.Expensive(tmp_path), range(12), Pool(workers=2)))
    assert not [o.error for o in outcomes if o.error]
    assert {str(o.value) for o in outcomes} == {mark.name for mark in tmp_path.iterdir()}


def test_errors_are_outcomes_and_end_nothing():
    """An expected failure is its own sentence; a bug is its type, its words and its place; the worker goes on."""
    wanted = ["refused", "extra", "bug", "unpicklable", "fine"]
    found = {o.task: o for o in engine.run(tasks.Work(tasks.fail), wanted, Pool(workers=1))}
    assert found["refused"].error == "the disk is full. Make room and run again"
    assert found["extra"].error == "sdxl needs diffusers: pip install 'imaginet-build[diffusion]'"
    assert found["bug"].error is not None
    assert found["bug"].error.startswith("KeyError: 'width' (engine_tasks.py:")
    assert "pickle" in str(found["unpicklable"].error).lower()
    assert (found["fine"].value, found["fine"].error) == ("fine", None)
    assert not any(o.fatal for o in found.values())


def test_a_factory_that_raises_gives_every_task_its_reason():
    outcomes = list(engine.run(tasks.broken_factory, [1, 2, 3], Pool(workers=1)))
    assert [o.task for o in outcomes] == [1, 2, 3]
    assert all(o.error and o.error.startswith("ValueError: the weights are broken (engine_tasks.py:") for o in outcomes)


def test_a_factory_that_cannot_be_imported_there_says_so():
    (outcome,) = engine.run(tasks.Missing(), [1], Pool(workers=1))
    assert not outcome.fatal
    assert str(outcome.error).startswith("ModuleNotFoundError: No module named 'my_lab'")


def test_a_script_whose_processes_cannot_start_is_told_and_no_task_is_blamed(tmp_path):
    """Without its guard a script would start itself in every process: spawn refuses that, and so does the engine, once."""
    script = tmp_path / "script.py"
    script.write_text(
        "from imaginet_build import engine\nimport engine_tasks\n"
        "print(list(engine.run(engine_tasks.Work(engine_tasks.double), [1], engine.Pool(workers=1))))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(SUPPORT)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("if __name__ == '__main__':")
    assert "BuildError: a worker process ended before it began (exit code 1)" in done.stderr
    assert done.stdout == ""


def test_an_error_of_the_callers_own_tasks_is_raised_as_it_is_and_leaves_no_process():
    def faulty():
        yield 1
        raise RuntimeError("the list of tasks broke")

    before = children()
    with pytest.raises(RuntimeError, match="the list of tasks broke"):
        list(engine.run(tasks.Work(tasks.double), faulty(), Pool(workers=2)))
    assert wait_until(lambda: children() <= before)


# --- processes that die or hang ----------------------------------------------------------------------------------------


def test_a_killed_worker_is_replaced_and_its_task_tried_again_so_many_times(tmp_path):
    work = [(str(tmp_path), name) for name in ("good", "once", "always")]
    found = {o.task[1]: o for o in engine.run(tasks.Work(tasks.die), work, Pool(workers=2, attempts=3))}
    assert (found["good"].value, found["once"].value) == ("good", "once")
    assert found["always"].fatal
    assert found["always"].error == "the worker process died (signal 9 (SIGKILL))"
    assert len(list(tmp_path.glob("once-*"))) == 2
    assert len(list(tmp_path.glob("always-*"))) == 3


def test_a_process_that_ends_itself_says_with_which_exit_code():
    (outcome,) = engine.run(tasks.Work(tasks.fail), ["exit"], Pool(workers=1, attempts=1))
    assert outcome.fatal
    assert outcome.error == "the worker process died (exit code 7)"


def test_a_worker_killed_in_the_middle_of_its_answer_counts_as_dead(tmp_path):
    large = str(tmp_path / "nobody reads meanwhile")
    found = {}
    for outcome in engine.run(tasks.Work(tasks.die_while_answering), ["quick", large], Pool(workers=2, attempts=1)):
        found[outcome.task] = outcome
        if outcome.task == "quick":
            Path(large).touch()
            time.sleep(1.5)
    assert found["quick"].value == b"quick"
    assert found[large].fatal
    assert "SIGKILL" in str(found[large].error)


def test_a_hanging_task_is_ended_after_its_time_and_the_others_go_on():
    started = time.monotonic()
    found = {o.task: o for o in engine.run(tasks.Work(tasks.hang), [600.0, 0.0], Pool(workers=2, attempts=1, timeout=3))}
    assert time.monotonic() - started < 30
    assert found[600.0].fatal
    assert found[600.0].error == "the worker gave no answer in 3 s and was ended"
    assert found[0.0].value == 0.0


def test_time_that_the_caller_takes_is_not_the_workers():
    """An answer that waits to be read is an answer, however long the caller was busy."""
    found = []
    for outcome in engine.run(tasks.Work(tasks.hang), [0.0, 1.0, 1.2], Pool(workers=3, attempts=1, timeout=4)):
        found.append(outcome)
        time.sleep(4.3 if len(found) == 1 else 0)
    assert [o.error for o in found] == [None] * 3


def test_a_worker_whose_pipe_breaks_is_not_left_behind(monkeypatch):
    monkeypatch.setattr(engine, "GRACE", 0.5)
    before = children()
    (outcome,) = engine.run(tasks.Work(tasks.fall_silent), [None], Pool(workers=1, attempts=1))
    assert outcome.fatal
    assert wait_until(lambda: children() <= before, 3)


def test_interrupting_ends_the_workers_even_the_deaf(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "GRACE", 0.5)
    pid_file = tmp_path / "pid"
    # Where the tests were started in a shell's background, Ctrl-C is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        wait_until(pid_file.is_file)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        next(engine.run(tasks.Work(tasks.hang_deaf), [str(pid_file)], Pool(workers=1)))
    signal.signal(signal.SIGINT, before)
    assert gone(int(pid_file.read_text()))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent_however_it_ends(tmp_path, how):
    driver = subprocess.Popen([sys.executable, SUPPORT / "orphan_driver.py", tmp_path, "2"])
    try:
        assert wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        workers = [int(mark.name) for mark in tmp_path.iterdir()]
        assert not any(gone(pid) for pid in workers)
        driver.send_signal(how)
        driver.wait(20)
        assert wait_until(lambda: all(gone(pid) for pid in workers))
    finally:
        driver.kill()
        driver.wait()


# --- order and laziness ------------------------------------------------------------------------------------------------


def test_ordered_keeps_the_order_of_the_tasks():
    assert list(engine.ordered(tasks.slow_if_even, range(10), Pool(workers=2))) == list(range(10))


def test_ordered_looks_only_a_little_ahead():
    """While the first of an endless list of tasks is slow, the others are not computed without bound."""
    drawn = 0

    def endless():
        nonlocal drawn
        while True:
            yield drawn
            drawn += 1

    answers = engine.ordered(tasks.first_is_slow, endless(), Pool(workers=2))
    assert next(answers) == 0
    assert drawn <= 4 * 2 + 4
    assert [next(answers) for _ in range(30)] == list(range(1, 31))
    answers.close()


def test_ordered_raises_the_first_error_and_leaves_no_process():
    before = children()
    with pytest.raises(BuildError, match=r"^the disk is full"):
        list(engine.ordered(tasks.fail, ["fine", "refused", "fine"], Pool(workers=2)))
    assert wait_until(lambda: children() <= before)


def test_tasks_are_taken_as_workers_become_free():
    taken = []

    def endless():
        for number in itertools.count():
            taken.append(number)
            yield number

    outcomes = engine.run(tasks.Work(tasks.double), endless(), Pool(workers=2))
    for done in range(1, 20):
        next(outcomes)
        assert len(taken) <= done + 2
    outcomes.close()


def test_nothing_is_taken_while_the_caller_asks_to_hold():
    """Then one task at a time is taken, when nothing else is under way: holding delays, it never stops."""
    taken = []
    outcomes = engine.run(
        tasks.Work(tasks.double), (taken.append(n) or n for n in range(6)), Pool(workers=2), hold=lambda: True
    )
    for done, outcome in enumerate(outcomes, start=1):
        assert outcome.value == 2 * outcome.task
        assert len(taken) == done
    assert len(taken) == 6


def test_ahead_the_next_task_is_begun_before_the_caller_sees_the_last_outcome(tmp_path):
    work = [(str(tmp_path / f"mark{n}"), n) for n in range(3)]
    outcomes = engine.run(tasks.Work(tasks.leave_mark), work, Pool(workers=1), ahead=True)
    assert next(outcomes) is None, "the processes are started, and something else may start meanwhile"
    for outcome in outcomes:
        assert outcome is not None
        assert outcome.value is not None
        assert outcome.value == 2 or wait_until((tmp_path / f"mark{outcome.value + 1}").exists)


# --- the same answer everywhere ----------------------------------------------------------------------------------------


def test_threads_are_set_before_anything_numerical_is_imported(tmp_path):
    """Also where the caller's own main module imports numpy, which a spawned process imports again before it does anything."""
    driver = tmp_path / "driver.py"
    driver.write_text(
        "import json, sys\nimport numpy\nfrom imaginet_build import engine\nimport engine_tasks\n"
        "if __name__ == '__main__':\n"
        "    (o,) = engine.run(engine_tasks.Work(engine_tasks.threads), [0], engine.Pool(workers=1, threads_per_worker=1))\n"
        "    print(json.dumps(o.value or o.error))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(SUPPORT)} | dict.fromkeys(engine.THREAD_VARIABLES, "2")
    done = subprocess.run([sys.executable, driver], env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert set(engine.THREAD_VARIABLES) <= set(found["variables"])
    assert {found["variables"][name] for name in engine.THREAD_VARIABLES} == {"1"}
    assert found["pools"], "numpy came without a threaded library: nothing was tested"
    assert set(found["pools"]) == {1}


def test_the_callers_own_environment_is_left_alone(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    list(engine.run(tasks.Work(tasks.double), [1], Pool(workers=1)))
    assert os.environ["OMP_NUM_THREADS"] == "5"
    assert "MKL_NUM_THREADS" not in os.environ


def test_any_number_of_workers_gives_the_same_bytes():
    runs = [list(engine.ordered(tasks.sums, range(6), Pool(workers=n))) for n in (1, 2, 4)]
    assert runs[0] == runs[1] == runs[2]


# --- small things ------------------------------------------------------------------------------------------------------


def test_a_pool_of_zero_workers_has_one_for_every_core_it_may_use():
    assert Pool(workers=0).size == len(os.sched_getaffinity(0))
    assert Pool(workers=3).size == 3


@settings(max_examples=30)
@given(st.integers(0, 64), st.integers(1, 8), st.integers(1, 5), st.floats(0.1, 1e6))
def test_a_pool_survives_the_way_between_processes(workers, threads, attempts, timeout):
    pool = Pool(workers, threads, attempts, timeout)
    assert pickle.loads(pickle.dumps(pool)) == pool
    assert pool.size >= 1
