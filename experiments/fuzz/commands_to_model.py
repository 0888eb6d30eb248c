"""nnUNetv2_* commands up to a model and its predictions."""

from experiments.campaigns.world import CONFIGURATION, MODEL, PLANS, PREPROCESSED, RAW, STAGES
from experiments.fuzz.command_kinds import Command, Role, one
from experiments.fuzz.preparations import formats, move_checkpoint, second_dataset, unprepared

IMAGES_TR, LABELS_TR = Role("image", f"{RAW}/imagesTr/*.nii.gz"), Role("mask", f"{RAW}/labelsTr/*.nii.gz")
MODEL_FILES = [
    one("checkpoint", f"{MODEL}/fold_0/checkpoint_final.pth"),
    one("plans of a model", f"{MODEL}/plans.json"),
    one("dataset.json", f"{MODEL}/dataset.json"),
]
PREDICT = STAGES["predict_validation"][:-1]  # without probabilities
TRAIN = [*STAGES["train"], "--no_val"]
MODEL_FLAGS = ["-d", "777", "-c", CONFIGURATION]

COMMANDS = [
    Command(
        "nnUNetv2_convert_MSD_dataset",
        ["nnUNetv2_convert_MSD_dataset", "-i", "msd/Task07_Small", "-np", "1"],
        ["msd"],
        [Role("image", "msd/Task07_Small/imagesTr/*.nii.gz"), one("json", "msd/Task07_Small/dataset.json")],
        ("nnUNet_raw",),
    ),
    Command(
        "nnUNetv2_convert_old_nnUNet_dataset",
        ["nnUNetv2_convert_old_nnUNet_dataset", "v1/Task005_Old", "Dataset005_Old"],
        ["v1"],
        [one("json", "v1/Task005_Old/dataset.json")],
        ("nnUNet_raw",),
    ),
    Command(
        "nnUNetv2_move_plans_between_datasets",
        ["nnUNetv2_move_plans_between_datasets", "-s", "777", "-t", "778", "-sp", PLANS, "-tp", "moved"],
        [f"{RAW}/dataset.json", PREPROCESSED],
        [one("json", f"{PREPROCESSED}/{PLANS}.json"), one("json", "nnUNet_raw/Dataset778_Other/dataset.json")],
        ("nnUNet_preprocessed",),
        prepare=second_dataset,
        names=("-tp", "-sp"),
    ),
    Command(
        "nnUNetv2_extract_fingerprint",
        ["nnUNetv2_extract_fingerprint", "-d", "777", "-np", "1", "--clean"],
        [RAW],
        # of training cases alone: what is held out is never read here
        [Role(role.kind, role.pattern.replace("*", "quiz_?_00?*", 1)) for role in (IMAGES_TR, LABELS_TR)] + [one("raw dataset.json", f"{RAW}/dataset.json")],
        ("nnUNet_preprocessed",),
    ),
    Command(
        "nnUNetv2_plan_experiment",
        ["nnUNetv2_plan_experiment", "-d", "777"],
        [RAW, f"{PREPROCESSED}/dataset_fingerprint.json"],
        [
            one("fingerprint", f"{PREPROCESSED}/dataset_fingerprint.json"),
            one("dataset.json to plan", f"{RAW}/dataset.json"),
            one("class table", f"{RAW}/subtypes.csv"),
        ],
        ("nnUNet_preprocessed",),
        names=("-overwrite_plans_name",),
    ),
    Command(
        "nnUNetv2_preprocess",
        ["nnUNetv2_preprocess", *MODEL_FLAGS, "-np", "1"],
        [RAW, PREPROCESSED],
        [
            IMAGES_TR,
            LABELS_TR,
            one("plans to preprocess", f"{PREPROCESSED}/{PLANS}.json"),
            one("dataset.json", f"{PREPROCESSED}/dataset.json"),
        ],
        ("nnUNet_preprocessed",),
        prepare=unprepared,
        names=("-plans_name",),
    ),
    Command(
        "nnUNetv2_plan_and_preprocess",
        ["nnUNetv2_plan_and_preprocess", "-d", "777", "-c", CONFIGURATION, "--verify_dataset_integrity", "-npfp", "1", "-np", "1"],
        [RAW],
        [
            IMAGES_TR,
            LABELS_TR,
            one("raw dataset.json", f"{RAW}/dataset.json"),
            one("class table", f"{RAW}/subtypes.csv"),
            one("json", f"{RAW}/splits_final.json"),
        ],
        ("nnUNet_preprocessed",),
    ),
    Command(
        "nnUNetv2_train",
        TRAIN,
        [RAW, PREPROCESSED],
        [
            one("plans to train", f"{PREPROCESSED}/{PLANS}.json"),
            one("dataset.json", f"{PREPROCESSED}/dataset.json"),
            one("splits", f"{PREPROCESSED}/splits_final.json"),
            one("class table", f"{PREPROCESSED}/subtypes.csv"),
            Role("preprocessed image", f"{PREPROCESSED}/{PLANS}_{CONFIGURATION}/quiz_?_00?.b2nd", several=False, every=True),
            Role("preprocessed mask", f"{PREPROCESSED}/{PLANS}_{CONFIGURATION}/quiz_?_00?_seg.b2nd", several=False, every=True),
            Role("case properties", f"{PREPROCESSED}/{PLANS}_{CONFIGURATION}/quiz_?_00?.pkl", several=False, every=True),
        ],
        ("nnUNet_results", f"{PREPROCESSED}/manifest.json"),
        names=("-p",),
    ),
    Command(
        "nnUNetv2_train --c",
        [*TRAIN, "--epochs", "4"],
        [RAW, PREPROCESSED, MODEL],
        [one("checkpoint", f"{MODEL}/fold_0/checkpoint_final.pth")],
        ("nnUNet_results", f"{PREPROCESSED}/manifest.json"),
    ),
    Command(
        "nnUNetv2_train -pretrained_weights",
        [*(part for part in TRAIN if part != "--c"), "-pretrained_weights", "given.pth"],
        [RAW, PREPROCESSED, MODEL],
        [one("pretrained weights", "given.pth")],
        ("nnUNet_results", f"{PREPROCESSED}/manifest.json"),
        prepare=move_checkpoint,
    ),
    Command(
        "nnUNetv2_refit_class_head",
        STAGES["refit"],
        [RAW, PREPROCESSED, MODEL],
        [
            one("checkpoint", f"{MODEL}/fold_0/checkpoint_final.pth"),
            one("plans of a network", f"{MODEL}/plans.json"),
            one("class table", f"{PREPROCESSED}/subtypes.csv"),
            Role("preprocessed image", f"{PREPROCESSED}/{PLANS}_{CONFIGURATION}/quiz_?_00?.b2nd"),
        ],
        ("nnUNet_results", f"{PREPROCESSED}/manifest.json"),
        names=("-chk",),
    ),
    Command(
        "nnUNetv2_predict",
        STAGES["predict"],
        [f"{RAW}/imagesTs", MODEL],
        [Role("image", f"{RAW}/imagesTs/*.nii.gz"), *MODEL_FILES],
        ("predictions",),
        names=("-p", "-c", "-chk", "-tr"),
        survivors="predictions/test/{case}.nii.gz",
    ),
    Command(
        "nnUNetv2_predict_from_modelfolder",
        PREDICT,
        ["validation/images", MODEL],
        [Role("image", "validation/images/*.nii.gz"), *MODEL_FILES],
        ("predictions",),
        survivors="predictions/validation/{case}.nii.gz",
    ),
    *(
        Command(
            f"nnUNetv2_predict_from_modelfolder, {ending}",
            PREDICT,
            ["validation/images", MODEL],
            [Role(f"image{ending}", f"validation/images/*{ending}")],
            ("predictions",),
            prepare=formats(ending),
        )
        for ending in (".nrrd", ".mha", ".nii")
    ),
    Command(
        "nnUNetv2_quantize",
        ["nnUNetv2_quantize", *MODEL_FLAGS, "-f", "0", "-n", "1"],
        [PREPROCESSED, MODEL],
        [one("plans of a network", role.pattern) if role.kind == "plans of a model" else role for role in MODEL_FILES],
        ("nnUNet_results",),
    ),
]
