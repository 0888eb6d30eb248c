"""Plans that name code, lead elsewhere or ask for the impossible. Each must be refused before anything runs or is allocated."""

from dataclasses import replace

from experiments.fuzz.damage import Damage
from experiments.fuzz.json_damage import ANY, setting

CONFIGURATION = "configurations.3d_fullres"
ARCHITECTURE = f"{CONFIGURATION}.architecture"
ARGUMENTS = f"{ARCHITECTURE}.arch_kwargs"
TOUCH = {"args": "touch CANARY", "shell": True}


def _op(name: str, path: str, arguments: dict) -> Damage:
    """An operation and its keyword arguments at once."""
    first = setting(name, f"{ARGUMENTS}.{name}", path)
    second = setting(name, f"{ARGUMENTS}.{name}_kwargs", arguments)

    def apply(file, generator, canary) -> None:
        first.apply(file, generator, canary)
        second.apply(file, generator, canary)

    return Damage(f"{name} {path}", apply)


CODE = [
    _op("dropout_op", "subprocess.call", TOUCH),
    _op("dropout_op", "os.system", {"command": "touch CANARY"}),
    _op("norm_op", "subprocess.Popen", TOUCH),
    _op("nonlin", "builtins.eval", {"source": "open('CANARY', 'w')"}),
    _op("nonlin", "torch.hub.load_state_dict_from_url", {"url": "file:///etc/passwd"}),
    _op("dropout_op", "torch.utils.cpp_extension.load_inline", {"name": "x", "cpp_sources": "x"}),
    _op("dropout_op", "torch.nn.modules.module.torch.load", {"f": "CANARY"}),
    setting("network class subprocess.Popen", f"{ARCHITECTURE}.network_class_name", "subprocess.Popen"),
    setting("network class of an unknown package", f"{ARCHITECTURE}.network_class_name", "antigravity.Network"),
    setting("network class a number", f"{ARCHITECTURE}.network_class_name", 7),
    setting("conv_op builtins.exec", f"{ARGUMENTS}.conv_op", "builtins.exec"),
    setting("preprocessor os.system", f"{CONFIGURATION}.preprocessor_name", "os.system"),
    setting("normalisation eval", f"{CONFIGURATION}.normalization_schemes", ["eval"]),
    setting("resampling os.system", f"{CONFIGURATION}.resampling_fn_data", "os.system"),
    setting("reader subprocess.Popen", "image_reader_writer", "subprocess.Popen"),
    setting("label manager os.system", "label_manager", "os.system"),
    setting("imported by request", f"{ARCHITECTURE}._kw_requires_import", ["n_stages", "conv_bias"]),
]
SIZES = [
    setting("a billion features", f"{ARGUMENTS}.features_per_stage", [10**9, 10**9, 10**9]),
    setting("a million features", f"{ARGUMENTS}.features_per_stage", [10**6] * 3),
    setting("no features", f"{ARGUMENTS}.features_per_stage", [0, 0, 0]),
    setting("features negative", f"{ARGUMENTS}.features_per_stage", [-4, 8, 8]),
    setting("features text", f"{ARGUMENTS}.features_per_stage", ["4", "8", "8"]),
    setting("a million stages", f"{ARGUMENTS}.n_stages", 10**6),
    setting("no stages", f"{ARGUMENTS}.n_stages", 0),
    setting("kernels of 999", f"{ARGUMENTS}.kernel_sizes", [[999, 999, 999]] * 3),
    setting("strides 0", f"{ARGUMENTS}.strides", [[0, 0, 0]] * 3),
    setting("strides too few", f"{ARGUMENTS}.strides", [[1, 1, 1]]),
    setting("patch of a million", f"{CONFIGURATION}.patch_size", [10**6] * 3),
    setting("patch of two axes", f"{CONFIGURATION}.patch_size", [16, 16]),
    setting("patch of 0", f"{CONFIGURATION}.patch_size", [0, 16, 16]),
    setting("patch of text", f"{CONFIGURATION}.patch_size", ["a", "b", "c"]),
    setting("spacing 0", f"{CONFIGURATION}.spacing", [0, 1, 1]),
    setting("spacing negative", f"{CONFIGURATION}.spacing", [-1.0, 1, 1]),
    setting("spacing NaN", f"{CONFIGURATION}.spacing", [float("nan"), 1, 1]),
    setting("spacing 1e-9", f"{CONFIGURATION}.spacing", [1e-9, 1e-9, 1e-9]),
    setting("spacing of two axes", f"{CONFIGURATION}.spacing", [1.0, 1.0]),
    setting("a billion classes", f"{ARCHITECTURE}.class_head.n_classes", 10**9),
    setting("class head a list", f"{ARCHITECTURE}.class_head", [3]),
]
BATCH = [
    setting("batch of a billion", f"{CONFIGURATION}.batch_size", 10**9),
    setting("batch 0", f"{CONFIGURATION}.batch_size", 0),
    setting("batch of text", f"{CONFIGURATION}.batch_size", "two"),
]
PATHS = [
    setting("data_identifier absolute", f"{CONFIGURATION}.data_identifier", "CANARY"),
    setting("data_identifier above", f"{CONFIGURATION}.data_identifier", "../../quiz"),
    setting("data_identifier empty", f"{CONFIGURATION}.data_identifier", ""),
    setting("dataset_name absolute", "dataset_name", "/srv/elsewhere"),
    setting("dataset_name above", "dataset_name", "../../x"),
    setting("plans_name above", "plans_name", "../../x"),
]
STRUCTURE = [
    setting("no configurations", "configurations", {}),
    setting("configuration null", CONFIGURATION, None),
    setting("architecture null", ARCHITECTURE, None),
    setting("inherits from itself", f"{CONFIGURATION}.inherits_from", "3d_fullres"),
    setting("inherits from nothing", f"{CONFIGURATION}.inherits_from", "nowhere"),
    setting("axes twice", "transpose_forward", [0, 0, 1]),
    setting("axes out of range", "transpose_forward", [0, 1, 7]),
    setting("percentiles null", "foreground_intensity_properties_per_channel", {"0": None}),
    setting("no intensities", "foreground_intensity_properties_per_channel", {}),
    setting("mean NaN", "foreground_intensity_properties_per_channel.0.mean", float("nan")),
    setting("std 0", "foreground_intensity_properties_per_channel.0.std", 0.0, must_fail=False),
]
MODEL_PLANS = ANY + CODE + SIZES + STRUCTURE  # batch and folders are not used where a model predicts
PREPROCESSING_PLANS = ANY + PATHS + [damage for damage in STRUCTURE if damage.name != "architecture null"] + [damage for damage in SIZES if damage.name.startswith("spacing")]
# What only a raw image meets: commands that read preprocessed ones may go on, or refuse it too
OF_RAW_IMAGES = {"resampling os.system", "preprocessor os.system", "reader subprocess.Popen", "spacing 1e-9", "no intensities", "percentiles null"}
NETWORK_PLANS = [replace(damage, must_fail=damage.must_fail and damage.name not in OF_RAW_IMAGES) for damage in MODEL_PLANS]
TRAINING_PLANS = NETWORK_PLANS + BATCH + PATHS
FINGERPRINT = ANY + [
    setting("spacings text", "spacings", ["a"]),
    setting("no spacings", "spacings", []),
    setting("spacing 0", "spacings.0", [0, 0, 0]),
    setting("shapes of two axes", "shapes_after_crop", [[10, 10]]),
    setting("shape of 10^9", "shapes_after_crop.0", [10**9] * 3, must_fail=False),
    setting("shapes fewer than spacings", "shapes_after_crop", [[10, 24, 20]]),
    setting("no intensities", "foreground_intensity_properties_per_channel", {}),
]
