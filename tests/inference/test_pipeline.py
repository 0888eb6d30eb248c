import threading
import time

import pytest

from nnunetv2.inference.pipeline import Case, CasesFailed, Pipeline, StageTimes

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
