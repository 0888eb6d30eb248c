"""The study of training choices with the nnUNetv2_* commands played by a stub."""

import argparse
import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from experiments import training_choices
from experiments.class_averaging import averaging_markdown, logits_against_probabilities, p_text, table_logits
from experiments.out_of_fold import write_tables
from experiments.training_choices import CHOICES, Study, markdown, rows_of
from nnunetv2.training.nnUNetTrainer.training_state import HEAD_BEFORE_REFIT
from nnunetv2.utilities.checkpoint import load_checkpoint, save_checkpoint
from nnunetv2.utilities.files import save_json

DATASET, PLANS = "Dataset777_PancreasCT", "nnUNetResEncUNetMPlans"
TRUTH = np.zeros((6, 8, 8), np.uint8)
TRUTH[1:5, 2:6, 2:6], TRUTH[2:4, 3:5, 3:5] = 1, 2
RUN = subprocess.run


class Commands:
    """Writes what the commands would: a refitted head is right, a trained one only with balanced sampling, else it says class 0."""

    def __init__(self, results: Path):
        self.results, self.calls = results, []

    def __call__(self, command: list[str], **kwargs) -> subprocess.CompletedProcess:
        if not command[0].startswith("nnUNetv2_"):  # such as git and uname, by what records code and machine
            return RUN(command, **kwargs)
        options = dict(zip(command, command[1:]))
        fold = command[3] if command[0] == "nnUNetv2_train" else options["-f"]
        if command[0] == "nnUNetv2_predict_from_modelfolder":
            return self.predict(Path(options["-i"]), Path(options["-o"]), right=True)
        model = self.results / DATASET / f"{options['-tr']}__{options['-p']}__3d_fullres" / f"fold_{fold}"
        self.calls.append((command[0], options["-tr"], int(fold), options.get("-chk")))
        if command[0] == "nnUNetv2_train":
            for name in ("checkpoint_final.pth", *(["checkpoint_ema.pth"] if options["-tr"] == "nnUNetTrainerEMA" else [])):
                if not (model / name).exists():
                    save_checkpoint({"class_head_weights": {}}, model / name)
        elif command[0] == "nnUNetv2_refit_class_head":
            save_checkpoint({"class_head_weights": {}, HEAD_BEFORE_REFIT: {}}, model / options["-chk"])
        else:
            right = HEAD_BEFORE_REFIT in load_checkpoint(model / options["-chk"]) or options["-tr"] == "nnUNetTrainerBalancedSampling"
            return self.predict(Path(options["-i"]), Path(options["-o"]), right)
        return subprocess.CompletedProcess(command, 0)

    def predict(self, images: Path, out: Path, right: bool) -> subprocess.CompletedProcess:
        table = {}
        out.mkdir(parents=True, exist_ok=True)
        for image in sorted(images.iterdir()):
            name = image.name.replace("_0000", "")
            sitk.WriteImage(sitk.GetImageFromArray(TRUTH), str(out / name))
            table[name] = np.where(np.arange(3) == (int(name[5]) if right else 0), 0.6, 0.2).tolist()
        write_tables(out, ["0", "1", "2"], table)
        return subprocess.CompletedProcess([], 0)


@pytest.fixture
def args(tmp_path, monkeypatch) -> argparse.Namespace:
    """18 cases in name only, 2 of them held out from everything."""
    for variable in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{variable}", str(tmp_path / variable))
    raw, preprocessed = tmp_path / "raw" / DATASET, tmp_path / "preprocessed" / DATASET
    cases = [f"quiz_{i % 3}_{i:03d}" for i in range(18)]
    for folder, ending in (("labelsTr", ".nii.gz"), ("imagesTr", "_0000.nii.gz")):
        (raw / folder).mkdir(parents=True)
        for case in cases:
            sitk.WriteImage(sitk.GetImageFromArray(TRUTH), str(raw / folder / f"{case}{ending}"))
    (raw / "subtypes.csv").write_text("case,subtype\n" + "".join(f"{case},{case[5]}\n" for case in cases))
    save_json({"labels": {"background": 0, "pancreas": 1, "lesion": 2},
               "classification": {"name": "subtype", "classes": ["0", "1", "2"], "labels": "subtypes.csv"}}, raw / "dataset.json")
    save_json([{"train": cases[:16], "val": cases[16:]}], preprocessed / "splits_final.json")
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # a pool of scorers takes longer to start than these cases
    return argparse.Namespace(out=tmp_path / "study", dataset=DATASET, plans=PLANS, configuration="3d_fullres", folds=3, only_folds=None, epochs=1,
                              iterations=1, views=1, device="cpu", seed=0, synthetic=True, jobs=1, new_cases=3)


@pytest.fixture
def commands(tmp_path, monkeypatch, args) -> Commands:
    stub = Commands(tmp_path / "results")
    monkeypatch.setattr(subprocess, "run", stub)
    return stub


def scored(study: Study) -> dict:
    return {(choice.name, head): study.score(choice, head) for choice in CHOICES for head in ("trained", "refitted")}


def report(args: argparse.Namespace, rows: list[dict]) -> dict:
    return {"synthetic": True, "command": "c", "environment": {"cpu": "x"}, "settings": vars(args), "rows": rows, "averaging": []}


@pytest.mark.slow
def test_every_choice_is_compared_with_the_first_before_and_after_the_refit(args, commands):
    study = Study(args)
    study.run_all()
    rows = {(row["choice"], row["head"]): row for row in rows_of(scored(study), seed=0)}
    assert {row["n"] for row in rows.values()} == {16}
    # of 16 cases 6 are of class 0: all called 0 gives that class F1 = 2*6/(6+16), the others 0
    sampling = rows["sampling", "trained"]["subtype_macro_f1"]
    assert sampling["a"] == pytest.approx(12 / 22 / 3) and sampling["b"] == 1
    # Brier of .6/.2/.2: .16 + .04 + .04 where right, .04 + .36 + .64 where wrong
    assert rows["sampling", "trained"]["subtype_brier"]["b"] == pytest.approx(0.24)
    assert rows["default", "trained"]["subtype_brier"]["b"] == pytest.approx((6 * 0.24 + 10 * 1.04) / 16)
    for head in ("trained", "refitted"):
        assert rows["texture_keeping", head]["subtype_macro_f1"]["difference"] == rows["averaged", head]["lesion_dsc"]["difference"] == 0
    assert rows["sampling", "refitted"]["subtype_macro_f1"]["difference"] == 0
    text = markdown(report(args, list(rows.values())))
    assert "SYNTHETIC" in text and "| 1.000 [+" in text


@pytest.mark.slow
def test_what_was_trained_is_predicted_before_its_head_is_refitted(args, commands):
    Study(args).run_all()
    assert {call[2] for call in commands.calls} == {1, 2, 3}
    trainings = [call for call in commands.calls if call[0] == "nnUNetv2_train"]
    assert len(trainings) == 9 and len({call[1:3] for call in trainings}) == 9  # two choices share a training
    for choice in CHOICES:
        steps = [call[0] for call in commands.calls if call[1:] == (choice.trainer, 2, choice.checkpoint)]
        assert steps == ["nnUNetv2_predict", "nnUNetv2_refit_class_head", "nnUNetv2_predict"]


@pytest.mark.slow
def test_a_rerun_predicts_nothing_again(args, commands):
    Study(args).run_all()
    commands.calls.clear()
    Study(args).run_all()
    assert {call[0] for call in commands.calls} == {"nnUNetv2_train"}  # which sees that it is finished


@pytest.mark.slow
def test_some_folds_are_scored_alone(args, commands):
    args.only_folds = [2]
    study = Study(args)
    study.run_all()
    assert {call[2] for call in commands.calls} == {2}
    rows = rows_of(scored(study), seed=0)
    assert {row["n"] for row in rows} == {len(study.splits[2]["val"])}
    assert "1 of 3 folds" in markdown(report(args, rows))


def test_other_settings_do_not_enter_the_same_study(args, commands):
    Study(args)
    args.iterations = 2
    with pytest.raises(ValueError, match="other settings"):
        Study(args)


@pytest.mark.slow
def test_a_refitted_head_is_never_taken_for_the_trained_one(args, commands):
    study = Study(args)
    study.run_all()
    (study.predictions(CHOICES[0], "trained") / "fold_2" / "subtype_probabilities.csv").unlink()
    with pytest.raises(ValueError, match="refitted already"):
        Study(args).run_all()


def test_logits_and_probabilities_are_averaged_by_hand():
    # view 1 is sure of class 0, views 2 and 3 less so of class 1: the mean logit follows the first, the mean probability the others
    logits = np.array([[[9.0, 0.0]], [[-4.0, 0.0]], [[-4.0, 0.0]]]).repeat(2, axis=1)  # two cases alike
    logits[:, 1] = logits[:, 1, ::-1]  # the second with its classes exchanged
    figures = logits_against_probabilities(logits, np.array([0, 1]), resamples=50, seed=0)
    assert figures["macro_f1"]["a"] == 1 and figures["macro_f1"]["b"] == 0
    p = np.mean([1 / (1 + np.exp(-9)), 1 / (1 + np.exp(4)), 1 / (1 + np.exp(4))])
    assert figures["brier"]["b"] == pytest.approx(2 * (1 - p) ** 2) and figures["brier"]["a"] == pytest.approx(2 * (1 - 1 / (1 + np.exp(-1 / 3))) ** 2)
    assert "| views | 2 | 1.0000 -> 0.0000 [" in "\n".join(averaging_markdown([{"what": "views", "figures": figures}]))


def test_a_small_p_is_never_printed_as_0():
    assert p_text(1 / 2001) == "p < 0.001" and p_text(0.0125) == "p 0.013"


def test_tables_give_logits_up_to_a_constant(tmp_path):
    for folder, p in (("a", 0.8), ("b", 0.0)):
        (tmp_path / folder).mkdir()
        write_tables(tmp_path / folder, ["0", "1"], {"x.nii.gz": [p, 1 - p]})
    got = table_logits([tmp_path / "a", tmp_path / "b"], ["x"])
    assert got.shape == (2, 1, 2) and got[0, 0, 0] - got[0, 0, 1] == pytest.approx(np.log(4)) and np.isfinite(got).all()


@pytest.mark.slow
def test_views_are_averaged_on_held_out_cases_and_folds_on_new_ones(args, commands, monkeypatch):
    """Every view is right; every fold is, too, since the stub's refitted heads are."""
    monkeypatch.setattr(training_choices, "view_logits", lambda model, fold, checkpoint, cases, device: np.stack(
        [np.where(np.arange(3) == int(case[5]), 2.0, 0.0) for case in cases])[None].repeat(8, axis=0))
    monkeypatch.setattr(training_choices, "draw_cases", lambda folder, n, seed: (new_images, {"quiz_0_900": 0, "quiz_2_901": 2}))
    new_images = args.out / "new_images"
    new_images.mkdir(parents=True)
    for case in ("quiz_0_900", "quiz_2_901"):
        (new_images / f"{case}_0000.nii.gz").touch()
    study = Study(args)
    study.run_all()
    views, folds = study.averaging()
    assert views["figures"]["brier"]["n"] == 16 and views["figures"]["macro_f1"]["a"] == 1
    assert folds["figures"]["brier"]["n"] == 2 and folds["what"].startswith("3 folds") and folds["figures"]["macro_f1"]["b"] == 1
