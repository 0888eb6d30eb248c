"""nnUNetv2_* commands that evaluate, ensemble, post-process, share and draw."""

from experiments.campaigns.world import CONFIGURATION, MODEL, PREPROCESSED, RAW, STAGES
from experiments.fuzz.command_kinds import Command, Role, one
from experiments.fuzz.preparations import postprocessing, second_prediction

IMAGES_TR, LABELS_TR = Role("image", f"{RAW}/imagesTr/*.nii.gz"), Role("mask", f"{RAW}/labelsTr/*.nii.gz")
REFERENCE, PREDICTED = Role("mask", "validation/labels/*.nii.gz"), Role("mask", "predictions/validation/*.nii.gz")
EVALUATED = ["validation", "predictions/validation"]

COMMANDS = [
    Command(
        "nnUNetv2_evaluate_folder",
        [
            "nnUNetv2_evaluate_folder",
            "validation/labels",
            "predictions/validation",
            "-djfile",
            f"{MODEL}/dataset.json",
            "-pfile",
            f"{MODEL}/plans.json",
            "-np",
            "1",
        ],
        [*EVALUATED, f"{MODEL}/plans.json", f"{MODEL}/dataset.json"],
        [REFERENCE, PREDICTED, one("dataset.json", f"{MODEL}/dataset.json"), one("json", f"{MODEL}/plans.json")],
        ("predictions/validation/summary.json",),
    ),
    Command(
        "nnUNetv2_evaluate_simple",
        ["nnUNetv2_evaluate_simple", "validation/labels", "predictions/validation", "-l", "1", "2", "-np", "1"],
        EVALUATED,
        [Role("mask of chosen labels", role.pattern) for role in (REFERENCE, PREDICTED)],
        ("predictions/validation/summary.json",),
    ),
    Command(
        "nnUNetv2_find_best_configuration",
        ["nnUNetv2_find_best_configuration", "777", "-c", CONFIGURATION, "-f", "0", "-np", "1"],
        [RAW, PREPROCESSED, MODEL],
        [
            Role("mask", f"{MODEL}/fold_0/validation/*.nii.gz"),
            one("dataset.json", f"{MODEL}/dataset.json"),
            one("json", f"{MODEL}/plans.json"),
            Role("mask", f"{RAW}/labelsTr/quiz_?_01[234].nii.gz"),  # of the validation cases
        ],
        ("nnUNet_results",),
    ),
    Command(
        "nnUNetv2_accumulate_crossval_results",
        ["nnUNetv2_accumulate_crossval_results", "777", "-c", CONFIGURATION, "-f", "0"],
        [RAW, PREPROCESSED, MODEL],
        [
            Role("mask", f"{MODEL}/fold_0/validation/*.nii.gz"),
            one("dataset.json", f"{MODEL}/dataset.json"),
            one("json", f"{MODEL}/plans.json"),
        ],
        ("nnUNet_results",),
    ),
    Command(
        "nnUNetv2_ensemble",
        ["nnUNetv2_ensemble", "-i", "predictions/validation", "predictions/second", "-o", "ensembled", "-np", "1"],
        ["predictions/validation"],
        [
            Role("probabilities", "predictions/validation/*.npz"),
            Role("pickle", "predictions/validation/*.pkl"),
            one("dataset.json", "predictions/validation/dataset.json"),
            one("table", "predictions/validation/subtype_probabilities.csv"),
        ],
        ("ensembled",),
        prepare=second_prediction,
    ),
    Command(
        "nnUNetv2_determine_postprocessing",
        ["nnUNetv2_determine_postprocessing", "-i", "predictions/validation", "-ref", "validation/labels", "-np", "1"],
        EVALUATED,
        [
            REFERENCE,
            PREDICTED,
            one("dataset.json", "predictions/validation/dataset.json"),
            one("json", "predictions/validation/plans.json"),
        ],
        ("predictions/validation",),
    ),
    Command(
        "nnUNetv2_apply_postprocessing",
        [
            "nnUNetv2_apply_postprocessing",
            "-i",
            "predictions/validation",
            "-o",
            "processed",
            "-pp_pkl_file",
            "postprocessing.json",
            "-np",
            "1",
        ],
        ["predictions/validation"],
        [Role("mask alone", PREDICTED.pattern), one("json", "postprocessing.json"), one("dataset.json", "predictions/validation/dataset.json")],
        ("processed",),
        prepare=postprocessing,
    ),
    Command(
        "nnUNetv2_apply_postprocessing, pkl",
        ["nnUNetv2_apply_postprocessing", "-i", "predictions/validation", "-o", "processed", "-pp_pkl_file", "given.pkl", "-np", "1"],
        ["predictions/validation"],
        [one("pickle", "given.pkl")],
        ("processed",),
        prepare=lambda root: (root / "given.pkl").write_bytes(b"\x80\x04]]."),
    ),
    Command("nnUNetv2_export_model_to_zip", STAGES["export"], [MODEL], [], ("model.zip",), names=("-c", "-chk")),
    Command(
        "nnUNetv2_verify",
        ["nnUNetv2_verify", "predictions/validation"],
        ["predictions/validation", MODEL, RAW],
        [one("json", "predictions/validation/manifest.json")],
        (),
    ),
    Command("nnUNetv2_verify, model", ["nnUNetv2_verify", MODEL], [MODEL, RAW], [one("json", f"{MODEL}/fold_0/manifest.json")], ()),
    Command(
        "nnUNetv2_install_pretrained_model_from_zip",
        ["nnUNetv2_install_pretrained_model_from_zip", "model.zip"],
        ["model.zip"],
        [one("model zip", "model.zip")],
        ("nnUNet_results",),
    ),
    Command(
        "nnUNetv2_plot_overlay_pngs",
        ["nnUNetv2_plot_overlay_pngs", "-d", "777", "-o", "overlays", "--use_raw", "-np", "1"],
        [RAW],
        [IMAGES_TR, LABELS_TR, one("raw dataset.json", f"{RAW}/dataset.json")],
        ("overlays",),
    ),
]
