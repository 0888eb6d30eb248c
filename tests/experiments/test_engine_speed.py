import pytest

from experiments import engine_speed
from experiments.engine_pass import random_case


@pytest.fixture
def checkouts(tmp_path):
    folders = [tmp_path / "before", tmp_path / "after"]
    for folder in folders:
        (folder / "nnunetv2" / "inference" / "engines").mkdir(parents=True)
    return folders


@pytest.fixture
def runs(monkeypatch):
    """(checkout, what, precision, ...) of every process. The second checkout takes 1.5 times as long and gives other bytes in half."""
    done = []

    def run_pass(checkout, threads, what, precision, *numbers):
        done.append((checkout.name, what, precision))
        after = checkout.name == "after"
        digest = f"{precision} {after and precision == 'half'}"
        return {"seconds": 3.0 if after else 2.0, "cpu_seconds": 1.0, "hash": digest, "hashes": {"0 net": "same", "1 net": digest}}

    monkeypatch.setattr(engine_speed, "run_pass", run_pass)
    return done


def test_rounds_go_forwards_and_backwards_and_ratios_are_to_the_first(checkouts, runs, capsys):
    assert not engine_speed.main([*map(str, checkouts), "--rounds", "2", "--precisions", "half"])
    assert [name for name, *_ in runs] == ["before", "after", "before", "after", "after", "before"], "a warm-up, then there and back"
    table = capsys.readouterr().out
    assert "| half | before | 2.00 (2.00-2.00) | 1.00 | 1.000 | 1.000 | yes |" in table
    assert "| half | after | 3.00 (3.00-3.00) | 1.00 | 1.500 | 1.000 | no |" in table


def test_other_bytes_are_named_and_end_with_status_1(checkouts, runs, capsys):
    assert not engine_speed.main([*map(str, checkouts), "--bytes", "2", "--precisions", "fp32"])
    with pytest.raises(SystemExit) as ended:
        engine_speed.main([*map(str, checkouts), "--bytes", "2", "--precisions", "half"])
    text = capsys.readouterr().out
    assert ended.value.code == 1 and "fp32: the same bytes in 2 of 2" in text and "half: the same bytes in 1 of 2" in text and "not in 1 net" in text


def test_all_folders_that_are_no_checkouts_are_named_at_once(tmp_path):
    with pytest.raises(SystemExit) as ended:
        engine_speed.main([str(tmp_path / "a"), str(tmp_path / "b")])
    assert str(tmp_path / "a") in str(ended.value.code) and str(tmp_path / "b") in str(ended.value.code)


def test_random_networks_take_their_sizes():
    for seed in range(50):
        _, arguments, size = random_case(seed)
        for axis, n in enumerate(size):
            divisor = 1
            for stride in arguments["strides"]:
                divisor *= stride[axis]
            assert n % divisor == 0 and n >= 2 * divisor
            assert all(len(arguments[name]) == arguments["n_stages"] for name in ("features_per_stage", "kernel_sizes", "strides"))
