"""The ablation's driver with training played by a stub, and its table by hand-made figures."""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from evaluation.segmentation_metrics import SEGMENTATION_METRICS
from evaluation.subtype_tables import read_truth
from experiments import ablation, ablation_blocks, class_study
from experiments.ablation import BASELINES, VARIANTS, Ablation
from experiments.ablation_blocks import block_rows
from experiments.ablation_table import block_lines, calibration_scores, conclusions, markdown, minus
from experiments.draw_cases import draw_cases
from experiments.new_cases import on_new_cases
from experiments.out_of_fold import write_tables
from nnunetv2.training.nnUNetTrainer.registry import available_trainers
from nnunetv2.utilities.files import load_json, save_json
from report.tables import TABLES

DATASET, PLANS = "Dataset777_PancreasCT", "nnUNetResEncUNetMPlans"
HEAD = {"n_classes": 3, "lesion_labels": [2], "regions": {"lesion": [2], "patch": None}, "stages": [0, 1], "statistics": ["mean", "std"],
        "descriptors": True, "hidden": 0, "dropout": 0.1}

RUN = subprocess.run


class Trainer:
    """Stands in for the nnUNetv2_* commands: writes what they would, and remembers the calls."""

    def __init__(self, splits_file: Path, results: Path, truth: np.ndarray):
        self.splits_file, self.results, self.truth, self.calls = splits_file, results, truth, []

    def __call__(self, command: list[str], **kwargs) -> subprocess.CompletedProcess:
        if not command[0].startswith("nnUNetv2_"):  # such as git and uname, by what records code and machine
            return RUN(command, **kwargs)
        self.calls.append(command)
        options = dict(zip(command, command[1:]))
        fold = int(command[3]) if command[0] == "nnUNetv2_train" else int(options["-f"])
        model = self.results / DATASET / f"{options['-tr']}__{options['-p']}__3d_fullres" / f"fold_{fold}"
        if command[0] == "nnUNetv2_predict":
            out, cases = Path(options["-o"]), sorted(path.name.removesuffix("_0000.nii.gz") for path in Path(options["-i"]).iterdir())
            assert cases == sorted(load_json(self.splits_file)[fold]["val"])
            for case in cases:
                sitk.WriteImage(sitk.GetImageFromArray(self.truth), str(out / f"{case}.nii.gz"))
            if "segmentation" not in options["-p"]:
                write_tables(out, ["0", "1", "2"], {f"{case}.nii.gz": np.where(np.arange(3) == int(case[5]), 0.6, 0.2).tolist() for case in cases})
        elif command[0] == "nnUNetv2_refit_class_head":
            save_json({"temperature": 2.0}, model / "class_head_refit.json")
        else:
            model.mkdir(parents=True, exist_ok=True)
        return subprocess.CompletedProcess(command, 0)


@pytest.fixture
def setup(tmp_path, monkeypatch) -> tuple[argparse.Namespace, Trainer]:
    """18 preprocessed cases in name only, 2 of them held out, and stubs in place of training."""
    for variable in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{variable}", str(tmp_path / variable))
    raw, preprocessed = tmp_path / "raw" / DATASET, tmp_path / "preprocessed" / DATASET
    cases = [f"quiz_{i % 3}_{i:03d}" for i in range(18)]
    truth = np.zeros((6, 8, 8), np.uint8)
    truth[1:5, 2:6, 2:6], truth[2:4, 3:5, 3:5] = 1, 2
    (raw / "labelsTr").mkdir(parents=True)
    (raw / "imagesTr").mkdir()
    for case in cases:
        sitk.WriteImage(sitk.GetImageFromArray(truth), str(raw / "labelsTr" / f"{case}.nii.gz"))
        (raw / "imagesTr" / f"{case}_0000.nii.gz").touch()
    (raw / "subtypes.csv").write_text("case,subtype\n" + "".join(f"{case},{case[5]}\n" for case in cases))
    save_json({"labels": {"background": 0, "pancreas": 1, "lesion": 2},
               "classification": {"name": "subtype", "classes": ["0", "1", "2"], "labels": "subtypes.csv"}}, raw / "dataset.json")
    save_json([{"train": cases[:16], "val": cases[16:]}], preprocessed / "splits_final.json")
    save_json({"plans_name": PLANS, "configurations": {"3d_fullres": {"architecture": {"arch_kwargs": {}, "class_head": HEAD}}}},
              preprocessed / f"{PLANS}.json")
    trainer = Trainer(preprocessed / "splits_final.json", tmp_path / "results", truth)
    monkeypatch.setattr(subprocess, "run", trainer)
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # a pool of scorers takes longer to start than these cases
    monkeypatch.setattr(ablation, "_training_seconds", lambda model: 60.0)
    args = argparse.Namespace(out=tmp_path / "ablation", dataset=DATASET, plans=PLANS, configuration="3d_fullres", folds=3, epochs=1, recipe="nnUNetTrainerShort",
                              iterations=1, val_iterations=1, device="cpu", seed=0, synthetic=True, jobs=1, views=2)
    return args, trainer


def test_folds_lie_inside_the_training_cases_and_cover_them(setup):
    splits = Ablation(setup[0]).splits
    assert sorted(case for fold in splits[1:] for case in fold["val"]) == sorted(splits[0]["train"])
    assert Ablation(setup[0]).splits == splits


def test_variants_are_edits_of_the_plans(setup):
    run = Ablation(setup[0])
    heads = {variant.name: load_json(run.preprocessed / f"{run.plans_of(variant)}.json")["configurations"]["3d_fullres"]["architecture"].get("class_head")
             for variant in VARIANTS}
    assert heads["segmentation"] is None
    assert all(heads[name] == HEAD for name in ("chosen", "chosen_refit", "no_loss_refit", "gradient_refit", "gradient_no_teacher_refit"))
    assert {run.trainer(variant) for variant in VARIANTS} <= available_trainers().keys()
    assert all(variant.training == next(other for other in VARIANTS if other.name == variant.refit_of).training for variant in VARIANTS if variant.refit_of)
    assert heads["naive"] == heads["naive_refit"] == HEAD | {"regions": {"patch": None}, "stages": [-1], "statistics": ["mean"], "descriptors": False, "texture_of_channels": 0, "focus": False, "evidence": []}


def test_a_fold_that_is_done_is_skipped_until_a_setting_changes(setup):
    args, trainer = setup
    chosen = next(variant for variant in VARIANTS if variant.name == "chosen")
    Ablation(args).run_fold(chosen, 1)
    Ablation(args).run_fold(chosen, 1)
    assert [call[0] for call in trainer.calls] == ["nnUNetv2_train", "nnUNetv2_predict"]
    args.epochs = 2
    Ablation(args).run_fold(chosen, 1)
    assert len(trainer.calls) == 4


def test_a_fold_that_was_killed_goes_on_with_its_checkpoints(setup, monkeypatch):
    args, trainer = setup
    chosen = next(variant for variant in VARIANTS if variant.name == "chosen")
    checkpoint = Ablation(args).model(chosen) / "fold_1" / "checkpoint_latest.pth"

    def killed(command, **options):
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        Ablation(args).run_fold(chosen, 1)
    monkeypatch.setattr(subprocess, "run", trainer)
    Ablation(args).run_fold(chosen, 1)
    assert "--c" in trainer.calls[0] and checkpoint.exists()


def test_the_refit_follows_the_model_it_refits_and_trains_nothing(setup):
    args, trainer = setup
    run = Ablation(args)
    for name in ("chosen", "chosen_refit"):
        run.run_fold(next(variant for variant in VARIANTS if variant.name == name), 1)
    assert [call[0] for call in trainer.calls] == ["nnUNetv2_train", "nnUNetv2_predict", "nnUNetv2_refit_class_head", "nnUNetv2_predict"]
    assert load_json(run.folder("chosen_refit") / "fold_1" / "done.json")["seconds"] >= 60


def test_what_is_trained_for_its_refit_alone_predicts_nothing(setup):
    args, trainer = setup
    run = Ablation(args)
    for name in ("no_loss", "no_loss_refit"):
        run.run_fold(next(variant for variant in VARIANTS if variant.name == name), 1)
    assert [call[0] for call in trainer.calls] == ["nnUNetv2_train", "nnUNetv2_refit_class_head", "nnUNetv2_predict"]
    assert not list((run.folder("no_loss") / "fold_1").glob("*.nii.gz")) and list((run.folder("no_loss_refit") / "fold_1").glob("*.nii.gz"))


@pytest.mark.slow
def test_two_at_a_time_train_everything_before_any_refit(setup):
    args, trainer = setup
    args.jobs = 2
    run = Ablation(args)
    run.run_all(list(VARIANTS))
    commands = [command[0] for command in trainer.calls]
    assert commands.count("nnUNetv2_train") == 18 and "nnUNetv2_train" not in commands[commands.index("nnUNetv2_refit_class_head") :]
    assert all((run.folder(variant.name) / f"fold_{fold}" / "done.json").is_file() for variant in VARIANTS for fold in run.folds)


def test_a_command_that_fails_shows_the_end_of_its_log(tmp_path):
    run = Ablation.__new__(Ablation)
    run.args = argparse.Namespace(jobs=2)
    with pytest.raises(RuntimeError, match=r"ended with 3[\s\S]*the reason"):
        run._command([sys.executable, "-c", "print('the reason'); raise SystemExit(3)"], tmp_path / "log.txt")


@pytest.mark.slow
def test_rows_hold_scores_of_all_training_cases(setup):
    args, _ = setup
    run = Ablation(args)
    run.run_all(list(VARIANTS))
    rows = {variant.name: run.finish(variant) for variant in VARIANTS if variant.shown}
    run.compare(list(rows.values()))
    assert rows["segmentation"]["whole_pancreas_dsc"]["mean"] == 1 and "macro_f1" not in rows["segmentation"]
    assert rows["chosen"]["n"] == 16 and rows["chosen"]["macro_f1"] == 1 and rows["chosen"]["collapse_alarms"] == 0
    assert rows["chosen_refit"]["brier"] == pytest.approx(0.4**2 + 2 * 0.2**2) and rows["chosen_refit"]["collapse_alarms"] is None
    assert rows["chosen_refit"]["minus_best"] == {} and rows["chosen"]["minus_best"]["macro_f1"]["difference"] == 0
    assert "macro_f1" not in rows["segmentation"]["minus_best"] and rows["segmentation"]["minus_best"]["lesion_dsc"]["difference"] == 0
    table = TABLES["ablation"]({"ablation": {"rows": list(rows.values())}})
    assert r"Segmentation only & -- & -- & -- & 1.000 & 1.000" in table
    assert r"Chosen head + refit with evidence & 1.00~[0.77,~1.00] & 1.00 & 0.240 & 1.000 & 1.000" in table


@pytest.mark.slow
def test_baselines_read_predicted_or_true_masks(setup):
    args, trainer = setup
    run, chosen = Ablation(args), next(variant for variant in VARIANTS if variant.name == "chosen")
    rng, images = np.random.default_rng(0), run.raw / "imagesTr"
    for label in sorted((run.raw / "labelsTr").iterdir()):
        image = rng.normal(20 * int(label.name[5]), 1, trainer.truth.shape).astype(np.float32)  # the mean alone tells the class
        sitk.WriteImage(sitk.GetImageFromArray(image), str(images / label.name.replace(".nii.gz", "_0000.nii.gz")))
    whole_as_lesion = np.where(trainer.truth > 0, 2, 0).astype(np.uint8)
    trainer.truth = whole_as_lesion  # what this trainer predicts from now on
    run.run_all([chosen])
    run.finish(chosen)
    rows = {baseline.name: run.baseline(baseline) for baseline in BASELINES}
    assert all(row["n"] == 16 for row in rows.values()) and rows["volume_and_mean"]["macro_f1"] == 1
    assert rows["radiomics"]["lesion_dsc"]["mean"] < 1 == rows["radiomics_true_masks"]["lesion_dsc"]["mean"]


def test_a_refit_without_its_model_among_the_variants_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="also needs chosen"):
        ablation.main(["--out", str(tmp_path), "--epochs", "1", "--iterations", "1", "--variants", "chosen_refit"])


def test_calibration_scores_by_hand():
    """Two cases, sure at .9 and .6 of the right one of two classes."""
    scores = calibration_scores(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 1]), draws=0)
    assert scores["brier"] == pytest.approx((2 * 0.1**2 + 2 * 0.4**2) / 2)
    assert "ece_expected" not in scores


@pytest.mark.slow
def test_chance_alone_explains_less_of_a_larger_sets_ece():
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet([1, 1, 1], 3000)
    true = np.array([rng.choice(3, p=p) for p in probabilities])
    few, many = calibration_scores(probabilities[:60], true[:60]), calibration_scores(probabilities, true)
    assert few["ece_expected"] > 3 * many["ece_expected"]
    assert many["ece"] == pytest.approx(many["ece_expected"], abs=0.01)  # they are calibrated


@pytest.mark.slow
def test_new_cases_are_predicted_once_by_every_fold(tmp_path):
    images, classes = draw_cases(tmp_path / "new", 3, seed=4713)
    assert sorted(path.name for path in images.iterdir()) == [f"{name}_0000.nii.gz" for name in sorted(classes)]
    assert sorted(path.name for path in (tmp_path / "new/labels").iterdir()) == [f"{name}.nii.gz" for name in sorted(classes)]
    assert read_truth(tmp_path / "new/subtypes.csv") == {name: str(k) for name, k in classes.items()}
    assert sorted(classes.values()) == [0, 1, 2]
    commands = []

    def predict(command):
        commands.append(command)
        folder = Path(command[command.index("-o") + 1])
        folder.mkdir()
        write_tables(folder, ["0", "1", "2"], {f"{name}.nii.gz": np.where(np.arange(3) == k, 0.6, 0.2).tolist() for name, k in classes.items()})

    for _ in range(2):
        found = on_new_cases(tmp_path, (1, 2), tmp_path / "predicted", images, classes, predict, "cpu")
    assert len(commands) == 1 and commands[0][commands[0].index("-f") + 1 :][:2] == ["1", "2"]
    assert (found["n"], found["folds"], found["macro_f1"], found["auroc"]) == (3, 2, 1.0, 1.0)
    assert found["brier"] == pytest.approx(0.4**2 + 2 * 0.2**2)


def row(name: str, f1: float, minus_best: dict | None = None, **more) -> dict:
    minus_best = {key: dict(zip(("difference", "ci_low", "ci_high", "p"), values)) for key, values in (minus_best or {}).items()}
    return {"variant": name, "title": name, "n": 63, "folds": 3, "minutes_per_fold": 1.0, "whole_pancreas_dsc": {"mean": 0.9},
            "lesion_dsc": {"mean": 0.5}, "macro_f1": f1, "macro_f1_ci": [0.0, 1.0], "balanced_accuracy": f1, "auroc": f1,
            "collapse_alarms": 0, "brier": 0.4, "ece": 0.1, "ece_expected": 0.06, "minus_best": minus_best} | more


def test_conclusions_say_what_the_figures_say():
    below, alike = {"macro_f1": (-0.1, -0.2, -0.01, 0.01)}, {"macro_f1": (-0.1, -0.2, 0.01, 0.2)}
    good = [row("segmentation", 0, {"lesion_dsc": (0.01, 0, 0.02, 0.1)}), row("naive", 0.3, below, collapse_alarms=2), row("no_loss_refit", 0.7, below), row("chosen_refit", 0.8),
            row("radiomics", 0.7, below)]
    assert [item["holds"] for item in conclusions(good, "chosen_refit")] == [True] * 6
    assert "(+0.100, +0.010 to +0.200)" in conclusions(good, "chosen_refit")[2]["question"]
    bad = [row("segmentation", 0, {"lesion_dsc": (0.02, 0, 0.02, 0.1)}), row("naive", 0.7, alike), row("no_loss_refit", 0.7, alike), row("chosen_refit", 0.74),
           row("volume_and_mean", 0.6)]
    assert [item["holds"] for item in conclusions(bad, "chosen_refit")] == [False] * 6


def test_differences_are_to_the_best_on_the_same_cases(tmp_path):
    """Of two cases one gains .2 in lesion DSC: .1 in the mean."""
    def metrics(second: float) -> dict:
        cases = [{"case": case, "whole_pancreas_outcome": "found", "lesion_outcome": "found", "lesion_detected": 1}
                 | {f"{structure}_{name}": 0.5 for structure in ("whole_pancreas", "normal_pancreas", "lesion") for name in SEGMENTATION_METRICS} for case in ("a", "b")]
        for case in cases:
            case["normal_pancreas_outcome"] = "found"
        cases[1]["lesion_dsc"] = second
        return {"cases": cases, "definitions": {"surface": "voxels"}, "synthetic": True}

    found = minus({"best": metrics(0.5), "other": metrics(0.7)}, "best")
    assert found["other"]["lesion_dsc"]["difference"] == pytest.approx(0.1) and found["other"]["whole_pancreas_dsc"]["difference"] == 0
    assert found.keys() == {"other"} and "macro_f1" not in found["other"]


def test_markdown_says_synthetic_and_shows_a_dash_for_what_a_row_has_not():
    plain = {key: value for key, value in row("segmentation", 0).items() if not key.startswith(("macro", "balanced", "auroc"))}
    settings = {"folds": 3, "epochs": 1, "iterations": 2, "device": "cpu", "seed": 0, "recipe": "nnUNetTrainerShort"}
    text = markdown({"synthetic": True, "command": "bash x.sh", "commit": "abc", "environment": {"CPU": "two cores"}, "settings": settings,
                     "rows": [plain, row("naive", 0.8, {"macro_f1": (-0.1, -0.2, 0.01, 0.2)})], "conclusions": []})
    assert "SYNTHETIC" in text and "`bash x.sh`; CPU two cores; code abc." in text and "| segmentation | - | - | - | - | - | - | - | 0.900 | 0.500 | 1.0 |" in text
    assert "| naive | 0.800 (0.000 to 1.000) | -0.100, -0.200 to +0.010 | 0.2000 | 0.800 | 0.400 | 0.100 (0.060) | 0 of 3 | 0.900 | 0.500 | 1.0 |" in text


@pytest.mark.slow
def test_blocks_are_fitted_alone_and_left_out(monkeypatch):
    """Of two blocks one tells the class and the other does not."""
    rng = np.random.default_rng(0)
    label_of = {f"c{i:02d}": i % 2 for i in range(40)}
    described = {case: {"evidence": {"texture": {"a": 4.0 * k + rng.normal()}, "size": {"b": rng.normal()}}, "features": rng.normal(size=(2, 3)).astype(np.float32)}
                 for case, k in label_of.items()}
    cases = list(label_of)
    splits = {fold: {"train": [case for i, case in enumerate(cases) if i % 4 // 2 != fold - 1], "val": [case for i, case in enumerate(cases) if i % 4 // 2 == fold - 1]} for fold in (1, 2)}
    monkeypatch.setattr(ablation_blocks, "find_model", lambda folder, folds: None)
    monkeypatch.setattr(ablation_blocks, "describe", lambda *arguments: described)
    monkeypatch.setattr(ablation_blocks, "in_processes", lambda function, jobs, *rest: {name: function(*job) for name, job in jobs.items()})
    monkeypatch.setattr(class_study._Task, "network_fit", property(lambda task: (np.stack([described[case]["features"] for case in task.with_lesion]).astype(float),
                                                                               np.full((len(task.cases), 2), 0.5))))
    found = block_rows(Path(), splits, Path(), label_of, 2, Path(), "cpu", 0)
    rows = found["rows"]
    assert rows["alone:texture"]["macro_f1"] > 0.9 > 0.8 > rows["without:texture"]["macro_f1"]
    assert rows["without:size"]["macro_f1"] > 0.9 and {"all", "without:forest", "alone:network", "without:network"} <= rows.keys()
    assert {"texture", "size"} <= found["weights"].keys()
    text = "\n".join(block_lines(found))
    assert f"| texture | {found['weights']['texture']:.2f} | {rows['alone:texture']['macro_f1']:.3f} (" in text and "| forest | " in text
