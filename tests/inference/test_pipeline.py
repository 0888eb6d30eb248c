import errno
import threading
import time
import traceback
import weakref

import numpy as np
import pytest

from nnunetv2.inference.pipeline import Case, CasesFailed, Pipeline, StageTimes
from nnunetv2.inference.watch import PredictionCancelled

CASES = [Case(name, (), None) for name in "abcde"]


def pipeline(**stages):
    steps = {"prepare": lambda case: (case.name, case.name), "predict": lambda case, data: data, "export": lambda case, properties, p: p * 2}
    return Pipeline(**steps | stages, progress=False)


def fail_on(name):
    def stage(case, *rest):
        if case.name == name:
            raise OSError(f"no {name}")
        return rest[0] if rest else (case.name, case.name)

    return stage


def test_results_come_in_the_order_of_cases():
    def slow_first(case):
        time.sleep(0.02 if case.name == "a" else 0)
        return case.name, None

    assert pipeline(prepare=slow_first, readers=3, writers=2).run(CASES) == ["aa", "bb", "cc", "dd", "ee"]


def test_no_cases_no_results():
    assert pipeline().run([]) == []


@pytest.mark.parametrize("stage", ["prepare", "predict", "export"])
def test_a_failed_case_is_reported_after_the_others_are_done(stage):
    exported = []

    def export(case, properties, prediction):
        exported.append(case.name)

    with pytest.raises(CasesFailed, match="1 of 5 case.*\n  b: OSError: no b") as caught:
        pipeline(**{"export": export} | {stage: fail_on("b")}).run(CASES)
    assert list(caught.value.failures) == ["b"]
    assert stage == "export" or exported == ["a", "c", "d", "e"]


@pytest.mark.parametrize("cause", [False, True])
def test_what_a_failed_case_had_allocated_is_free_for_the_next(cause):
    allocated, free = [], []

    def predict(case, data):
        if allocated:
            free.append(allocated[0]() is None)
            return data
        activations = np.zeros(3)
        allocated.append(weakref.ref(activations))
        try:
            raise MemoryError
        except MemoryError as error:
            if cause:
                raise RuntimeError("out of memory") from error
            raise

    with pytest.raises(CasesFailed) as caught:
        pipeline(predict=predict).run(CASES)
    assert free == [True] * 4
    assert "predict" in "".join(traceback.format_exception(caught.value.failures["a"]))  # where it was


def test_all_failures_are_listed():
    def predict(case, data):
        raise ValueError(case.name)

    with pytest.raises(CasesFailed) as caught:
        pipeline(predict=predict).run(CASES)
    assert sorted(caught.value.failures) == list("abcde")


def test_the_next_case_is_read_while_the_network_runs():
    reading_b = threading.Event()

    def prepare(case):
        if case.name == "b":
            reading_b.set()
        return case.name, None

    def predict(case, data):
        assert case.name != "a" or reading_b.wait(5), "b was not read while a was predicted"

    pipeline(prepare=prepare, predict=predict, export=lambda *_: None).run(CASES)


def test_export_runs_beside_the_network():
    predicting_b = threading.Event()

    def predict(case, data):
        if case.name == "b":
            predicting_b.set()

    def export(case, properties, prediction):
        assert case.name != "a" or predicting_b.wait(5), "b was not predicted while a was exported"

    pipeline(predict=predict, export=export).run(CASES)


def test_no_more_cases_are_read_ahead_than_readers():
    started = []

    def prepare(case):
        started.append(case.name)
        return case.name, None

    def predict(case, data):
        time.sleep(0.02)
        assert len(started) <= "abcde".index(case.name) + 1 + 2

    pipeline(prepare=prepare, predict=predict, export=lambda *_: None, readers=2).run(CASES)


def test_times_are_kept_by_case_and_stage():
    times = StageTimes()
    with times.stage("a", "read"):
        time.sleep(0.01)
    assert times.seconds["a"]["read"] >= 0.01


TWINS = [Case("x", (), None, position=i, distinct_name=f"d{i}/x") for i in range(2)]


def test_cases_of_one_name_keep_their_own_results():
    assert pipeline(prepare=lambda case: (case.position, None), export=lambda case, _, prediction: prediction).run(TWINS) == [0, 1]


def test_a_failed_case_does_not_take_its_namesake_along():
    def prepare(case):
        if case.position == 0:
            raise ValueError("damaged")
        return case.position, None

    with pytest.raises(CasesFailed, match="1 of 2 case.*\n  d0/x: ValueError: damaged") as caught:
        pipeline(prepare=prepare, export=lambda case, _, prediction: prediction).run(TWINS)
    assert caught.value.results == [None, 1]


def test_failures_of_one_label_are_both_listed():
    def predict(case, data):
        raise ValueError(str(case.position))

    with pytest.raises(CasesFailed) as caught:
        pipeline(predict=predict).run([Case("x", (), None), Case("x", (), None)])
    assert list(caught.value.failures) == ["x", "x (case 2)"]


def test_without_threads_one_case_is_done_before_the_next_is_begun():
    order = []
    steps = {"prepare": lambda case: order.append(f"read {case.name}") or (case.name, None), "predict": lambda case, data: order.append(f"predict {case.name}"),
             "export": lambda case, *_: order.append(f"export {case.name}")}
    pipeline(**steps, readers=0, writers=0).run(CASES[:2])
    assert order == ["read a", "predict a", "export a", "read b", "predict b", "export b"]


def test_everything_runs_in_the_callers_thread_without_threads():
    threads = set()
    pipeline(prepare=lambda case: threads.add(threading.get_ident()) or (None, None), export=lambda *_: threads.add(threading.get_ident()),
             readers=0, writers=0).run(CASES)
    assert threads == {threading.get_ident()}


def test_cases_of_an_iterator_are_taken_when_they_are_due():
    taken = []

    def cases():
        for case in CASES:
            taken.append(case.name)
            yield case

    def predict(case, data):
        assert len(taken) <= CASES.index(case) + 2
        return data

    assert pipeline(predict=predict).run(cases()) == ["aa", "bb", "cc", "dd", "ee"]


@pytest.mark.parametrize("end", [KeyboardInterrupt, PredictionCancelled])
def test_what_the_network_is_through_with_is_exported_when_a_run_ends_early(end):
    exported = []

    def predict(case, data):
        if case.name == "c":
            raise end
        return data

    def export(case, properties, prediction):
        time.sleep(0.02)
        exported.append(case.name)

    with pytest.raises(end):
        pipeline(predict=predict, export=export).run(CASES)
    assert exported == ["a", "b"]


def test_a_full_disk_ends_a_run_after_a_few_cases():
    begun = []

    def export(case, properties, prediction):
        begun.append(case.name)
        raise OSError(errno.ENOSPC, "No space left on device", "out/a.nii.gz")

    with pytest.raises(CasesFailed, match="(?s)3 of 20 case.*17 more were not begun.*out/a.nii.gz: No space left.*MiB are free") as caught:
        pipeline(export=export, writers=0).run([Case(str(i), (), None) for i in range(20)])
    assert len(begun) == 3 and caught.value.not_begun == 17 and len(caught.value.results) == 20


def test_failures_one_after_the_other_that_are_no_full_disk_end_nothing():
    with pytest.raises(CasesFailed, match="5 of 5"):
        pipeline(predict=lambda case, data: 1 / 0).run(CASES)


def test_of_very_many_failures_a_hundred_are_named():
    failures = {f"case_{i:03d}": ValueError("bad") for i in range(250)}
    lines = str(CasesFailed(failures, 300)).splitlines()
    assert lines[0].startswith("250 of 300") and lines[100:] == ["  case_099: ValueError: bad", "  and 150 more"]
