"""Small models trained on either side, and their predictions by either side. Made once, used by several checks."""

import json
import shutil
from pathlib import Path

from tests.conformance.bench import Bench
from tests.conformance.datasets import tiny_model

FOLDS = (0, 1)


def trained_models(bench: Bench) -> dict[str, Path]:
    """Model folders "ours" and "upstream", two folds each with their validation; the same plans, data and length of training."""

    def make() -> dict[str, Path]:
        folder, plans = tiny_model(bench)
        epochs, iterations = 2, 60
        number = folder.name[7:10]
        dataset_json = json.loads((folder / "dataset.json").read_text())
        bench.command("preprocess", "-d", number, "-plans_name", "tinyPlans", "-c", "tiny", "-np", 1)
        for fold in FOLDS:
            bench.command("train", number, "tiny", fold, "-p", "tinyPlans", "-device", "cpu", "--npz", "--epochs", epochs,
                          "--iterations", iterations, "--val_iterations", 2)
            theirs = bench.upstream.call("upstream_training:train", plans=plans, dataset_json=dataset_json, configuration="tiny", fold=fold,
                                         epochs=epochs, iterations=iterations)["folder"]
        return {"ours": bench.ours / "results" / folder.name / Path(theirs).name, "upstream": Path(theirs)}

    return bench.once("trained models", make)


def classified_model(bench: Bench) -> Path:
    """The folder of a model with a class head and one fold, trained here by a recipe that upstream does not have."""

    def make() -> Path:
        source, tiny = tiny_model(bench)
        number = int(source.name[7:10]) + 400
        folder = bench.raw / f"Dataset{number}_Classified"
        shutil.copytree(source, folder)
        cases = sorted(path.name.removesuffix(".nii.gz") for path in (folder / "labelsTr").iterdir())
        (folder / "subtypes.csv").write_text("case,subtype\n" + "".join(f"{case},{'ab'[i % 2]}\n" for i, case in enumerate(cases)))
        task = {"classification": {"name": "subtype", "classes": ["a", "b"], "labels": "subtypes.csv"}}
        (folder / "dataset.json").write_text(json.dumps(json.loads((folder / "dataset.json").read_text()) | task))
        bench.command("plan_and_preprocess", "-d", number, "-pl", "nnUNetPlannerResEncM", "--no_pp", "-npfp", 1)
        preprocessed = bench.ours / "preprocessed" / folder.name
        plans = json.loads((preprocessed / "nnUNetResEncUNetMPlans.json").read_text())
        head = plans["configurations"]["3d_fullres"]["architecture"]["class_head"]
        configuration = tiny["configurations"]["tiny"]
        plans["plans_name"] = "classPlans"
        plans["configurations"]["tiny"] = configuration | {"architecture": configuration["architecture"] | {"class_head": head}}
        (preprocessed / "classPlans.json").write_text(json.dumps(plans))
        (preprocessed / "splits_final.json").write_text(json.dumps([{"train": cases[:-1], "val": cases[-1:]}]))
        bench.command("preprocess", "-d", number, "-plans_name", "classPlans", "-c", "tiny", "-np", 1)
        bench.command("train", number, "tiny", 0, "-p", "classPlans", "-tr", "nnUNetTrainerShort", "-device", "cpu", "--no_val",
                      "--epochs", 2, "--iterations", 60, "--val_iterations", 2)
        return bench.ours / "results" / folder.name / "nnUNetTrainerShort__classPlans__tiny"

    return bench.once("classified model", make)


def predictions(bench: Bench, origin: str, model: Path, folds: tuple[int, ...] = FOLDS) -> dict[str, Path]:
    """Folders "ours" and "upstream": the model's predictions of two cases by either side's command, with probabilities."""

    def make() -> dict[str, Path]:
        source, images = bench.raw / tiny_model(bench)[0].name / "imagesTr", bench.folder / "to_predict"
        for case in ("case_001", "case_003"):  # something to crop; oblique
            images.mkdir(exist_ok=True)
            shutil.copyfile(source / f"{case}_0000.nii.gz", images / f"{case}_0000.nii.gz")
        name = "".join(map(str, folds))
        outputs = {side: bench.folder / f"predicted_{origin}_{name}_by_{side}" for side in ("ours", "upstream")}
        flags = ["-i", images, "-m", model, "-f", *folds, "-device", "cpu", "--save_probabilities", "--disable_progress_bar", "-npp", 1, "-nps", 1]
        bench.command("predict_from_modelfolder", *flags, "-o", outputs["ours"])
        bench.upstream.command("predict_from_modelfolder", *flags, "-o", outputs["upstream"])
        return outputs

    return bench.once(f"predictions {origin} {folds}", make)
