"""Flags with values that cannot be: numbers out of range, folders that are not there, names of nothing."""

from dataclasses import dataclass

MISSING = "nowhere/at/all"


@dataclass(frozen=True)
class WrongFlag:
    command: str  # of commands.py
    flag: str  # "" for a positional argument
    value: str
    position: int = 0  # of a positional argument in argv
    named: str = ""  # what the message must show; default: the value

    @property
    def shown(self) -> str:
        return self.named or self.value


def with_flag(argv: list[str], flag: str, value: str, position: int = 0) -> list[str]:
    """argv with the value of `flag` exchanged, or with the flag added; `position` for an argument without a flag.

    A value that begins with a dash goes as FLAG=VALUE, as a shell's user has to write it.
    """
    argv = list(argv)
    if not flag:
        argv[position] = value
    elif flag in argv:
        place = argv.index(flag)
        argv[place : place + 2] = [f"{flag}={value}"] if value.startswith("-") else [flag, value]
    else:
        argv += [f"{flag}={value}"] if value.startswith("-") else [flag, value]
    return argv


def _wrong(command: str, **values: str | list[str]) -> list[WrongFlag]:
    """One a flag and value. `_x` stands for -x, `__x` for --x with its underscores as they are."""
    made = []
    for name, listed in values.items():
        dashes = "--" if name.startswith("__") else "-"
        flag = dashes + name.lstrip("_")
        made += [WrongFlag(command, flag, value) for value in ([listed] if isinstance(listed, str) else listed)]
    return made


PREDICT, FOLDER, TRAIN = "nnUNetv2_predict", "nnUNetv2_predict_from_modelfolder", "nnUNetv2_train"
WRONG_FLAGS = [
    *_wrong(
        PREDICT,
        _i=[MISSING, "home"],
        _d=["999", "Dataset999_Nothing"],
        _c="5d_fullres",
        _f=["7", "x", "-1"],
        _chk="checkpoint_nothing.pth",
        _p="nothingPlans",
        _tr="NothingTrainer",
        _step_size=["0", "-1", "nan", "5"],
        _npp="-1",
        _nps="-3",
        _num_parts="0",
        _part_id=["7", "-1"],
        _device="tpu",
        __tta="3",
        __mode="faster",
        __engine="steam",
    ),
    *_wrong(FOLDER, _m=[MISSING, "home"], _i=[MISSING, "tmp"], _f="all"),
    *_wrong(
        TRAIN,
        _p="nothingPlans",
        _tr="NothingTrainer",
        __epochs=["0", "-5", "x"],
        __iterations="0",
        __batch_size=["0", "-1"],
        _device="tpu",
        _pretrained_weights=MISSING,
        _num_gpus=["0", "-1"],
        __val_iterations="-2",
    ),
    WrongFlag(TRAIN, "", "999", 1),
    WrongFlag(TRAIN, "", "5d", 2),
    WrongFlag(TRAIN, "", "first", 3),
    *_wrong("nnUNetv2_refit_class_head", _views="5", _chk="nothing.pth", _f="3", _d="998"),
    *_wrong(
        "nnUNetv2_plan_experiment",
        _pl="NothingPlanner",
        _gpu_memory_target=["-1", "0", "nan"],
        _preprocessor_name="NothingPreprocessor",
        _d=["999", "abc"],
    ),
    *_wrong("nnUNetv2_extract_fingerprint", _fpe="NothingExtractor", _np=["-1", "x"], _d="0"),
    *_wrong("nnUNetv2_preprocess", _plans_name="nothingPlans", _c="5d", _np="-2"),
    *_wrong("nnUNetv2_evaluate_folder", _djfile=MISSING, _pfile=MISSING, _np="-1", _o="home"),
    WrongFlag("nnUNetv2_evaluate_folder", "", MISSING, 1),
    WrongFlag("nnUNetv2_evaluate_folder", "", MISSING, 2),
    WrongFlag("nnUNetv2_evaluate_simple", "-l", "-5"),
    WrongFlag("nnUNetv2_evaluate_simple", "-l", "text"),
    WrongFlag("nnUNetv2_evaluate_simple", "", "tmp", 2),
    *_wrong("nnUNetv2_ensemble", _i=MISSING, _o="predictions/validation/plans.json", _np="-1"),
    *_wrong("nnUNetv2_apply_postprocessing", _i=MISSING, _pp_pkl_file=MISSING),
    *_wrong("nnUNetv2_determine_postprocessing", _ref=MISSING, _i=MISSING),
    *_wrong("nnUNetv2_export_model_to_zip", _o="home", _f="9", _c="5d", _d="997"),
    WrongFlag("nnUNetv2_install_pretrained_model_from_zip", "", MISSING, 1),
    WrongFlag("nnUNetv2_install_pretrained_model_from_zip", "", "home", 1),
    *_wrong("nnUNetv2_plot_overlay_pngs", _channel_idx=["9", "-1"], _overlay_intensity=["7", "nan"], _d="996"),
    *_wrong("nnUNetv2_convert_MSD_dataset", _i=[MISSING, "home"], _overwrite_id=["0", "5000", "-1"]),
    WrongFlag("nnUNetv2_convert_old_nnUNet_dataset", "", "NoDataset", 2),
    WrongFlag("nnUNetv2_convert_old_nnUNet_dataset", "", MISSING, 1),
    *_wrong("nnUNetv2_move_plans_between_datasets", _s="995", _t="994", _sp="nothing"),
    *_wrong("nnUNetv2_find_best_configuration", _f="4", _c="5d", _tr="Nothing"),
    *_wrong("nnUNetv2_accumulate_crossval_results", _f="4", _p="nothing"),
    *_wrong("nnUNetv2_quantize", _n="0", _f="4"),
    *_wrong("data_prep/convert_quiz.py", __data=[MISSING, "home"], __processes=["-1", "x"]),
    WrongFlag("data_prep/check_dataset.py", "", MISSING, 1),
    WrongFlag("data_prep/described_names.py", "", MISSING, 1),
    *_wrong("data_prep/lidc_to_quiz.py", __source=[MISSING, "quiz"], __task="beauty", __seed="-1", __n="0"),
    *_wrong("data_prep/from_dicom.py", __source=[MISSING, "home"], __processes=["-1", "x"]),
    WrongFlag("data_prep/from_dicom.py", "--min-slices", "1"),
    *_wrong("data_prep/msd_to_quiz.py", __source=[MISSING, "home"], __seed="x", __n="2"),
    *_wrong("data_prep/make_phantom.py", __preset="huge", __train="-4", __seed="-1"),
    *_wrong("data_prep/make_submission.py", __pred=MISSING, __test="home"),
    WrongFlag("data_prep/check_submission.py", "", MISSING, 1),
    *_wrong("data_prep/check_submission.py", __test="home"),
    *_wrong("data_prep/split_view.py", __raw=MISSING, __fold=["99", "-1"]),
    *_wrong(
        "evaluation/compute_metrics.py",
        __pred=[MISSING, "home"],
        __ref="tmp",
        __bootstrap=["-1", "x"],
        __jobs=["0", "-1"],
        __classes="banana",
        __truth=MISSING,
        __subtypes=MISSING,
        __surface="round",
        __splits=MISSING,
    ),
    *_wrong("evaluation/make_figures.py", __results="home", __images=MISSING, __training="home", __speed=MISSING),
    *_wrong("evaluation/make_gallery.py", __results=MISSING, __images="home", __ref="tmp"),
    *_wrong("evaluation/compare_runs.py", __resamples=["-1", "0"]),
    WrongFlag("evaluation/compare_runs.py", "", MISSING, 1),
    *_wrong("evaluation/radiomics_baseline.py", __images=MISSING, __folds=["77", "-1"], __masks="home", __features="beauty", __jobs="-1"),
    WrongFlag("experiments/coarse_to_fine_plans.py", "", MISSING, 1),
]
