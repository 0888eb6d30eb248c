"""A trained model's folder -> what prediction needs of it, without initialising weights that a checkpoint overwrites."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from dynamic_network_architectures.architectures.unet import UNet
from nnunetv2.class_evidence.case import Intensities
from nnunetv2.class_evidence.head import EVIDENCE_KEY, EvidenceHead
from nnunetv2.class_evidence.measure import Measurement
from nnunetv2.imageio.reader_writer_registry import refuse_unread_ending
from nnunetv2.inference.coarse_network import GROWTHS_OF_TRAINED, CoarseNetwork
from nnunetv2.inference.engines import Engine, make_engine
from nnunetv2.inference.engines.winograd.layers import check_supported
from nnunetv2.inference.modes import InferenceMode, cpu_has_fast_int8, cpu_has_fast_int16
from nnunetv2.inference.network_geometry import network_geometry
from nnunetv2.training.nnUNetTrainer.architecture import build_network, trainer_with_own_network
from nnunetv2.preprocessing.normalization import check_schemes
from nnunetv2.utilities.checkpoint import CLASS_HEAD_PREFIX, check_contents, load_checkpoint, refuse_non_finite, stored_tensors
from nnunetv2.utilities.data_manifest import read_manifest
from nnunetv2.utilities.errors import InputError, list_some
from nnunetv2.utilities.file_shapes import DatasetJson
from nnunetv2.utilities.files import load_json
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.manifest import changes, dataset_identity, plans_identity, weights_hash
from nnunetv2.utilities.network_parts import OWN_NETWORKS
from nnunetv2.utilities.network_size import check_patch_size, finest_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from nnunetv2.utilities.safe_names import plain_ending, plain_name

CLASS_HEAD_KEY = "class_head_weights"  # of a checkpoint; absent in upstream's


@dataclass(frozen=True)
class TrainedModel:
    """The checkpoints of one model folder, folds of the same training recipe."""

    plans_manager: PlansManager
    configuration_manager: ConfigurationManager
    dataset_json: dict
    trainer_name: str
    mirror_axes: tuple[int, ...] | None
    checkpoints: tuple[Path, ...]  # one a fold
    has_class_head: bool
    stamps: Mapping[Path, tuple] = field(default_factory=dict)  # of the checkpoints, when the model was found

    @property
    def input_channels(self) -> int:
        return determine_num_input_channels(self.plans_manager, self.configuration_manager, self.dataset_json)

    @torch.inference_mode(False)  # whose tensors could not be changed afterwards; a caller may be in it
    def build_network(self, checkpoint: Path) -> nn.Module:
        """The network with a fold's weights, on the CPU, in eval mode. Its tensors are in the checkpoint's file: nothing is read before it is used."""
        content = load_checkpoint(checkpoint, lazy=True)
        if checkpoint in self.stamps and _stamp(checkpoint) != self.stamps[checkpoint]:  # full precision may be wanted long after the model was loaded
            raise InputError(f"{checkpoint} was replaced after this model had been loaded from it, and cannot take its place now. Load the model again.")
        weights = {key.removeprefix("module."): value for key, value in content["network_weights"].items()}
        # copies: an engine that keeps the head alone is not to keep the mapped file with it
        weights |= {CLASS_HEAD_PREFIX + key: value.clone() for key, value in (content.get(CLASS_HEAD_KEY) or {}).items()}
        refuse_non_finite(weights, checkpoint)
        network = self._network_of_shapes()
        try:
            # a network of a trainer's own has values beside its weights, maybe, and may be in need of them while it is built
            network.load_state_dict(weights, assign=self._own_trainer is None)
        except RuntimeError as error:
            first = str(error).splitlines()[1:4]
            raise InputError(f"{checkpoint} does not fit the network of its plans.json; the first differences:\n" + "\n".join(first) +
                             f"\nUse the plans that it was trained with; if its trainer {self.trainer_name} builds its own network, put the trainer into "
                             "a folder that nnUNet_extTrainer names.") from error
        return network.eval()

    @cached_property
    def _own_trainer(self) -> type | None:
        return trainer_with_own_network(self.trainer_name)

    @cached_property
    def takes_any_size(self) -> bool:
        """Whether the network sees volumes of all sizes that its strides divide; a network of another package may know its patch size alone."""
        name = self.configuration_manager.network_arch_class_name.rpartition(".")[2]
        return (self._own_trainer is None and name in OWN_NETWORKS) or isinstance(self._network_of_shapes(), UNet)

    def _network_of_shapes(self) -> nn.Module:
        """The network without its weights. On the meta device, where tensors have shapes and no values, unless a trainer builds one of its own."""
        configuration = self.configuration_manager
        n_outputs = self.plans_manager.get_label_manager(self.dataset_json).num_segmentation_heads
        if self._own_trainer is not None:
            return build_network(self._own_trainer, self.plans_manager, configuration, self.input_channels, n_outputs, enable_deep_supervision=False)
        with torch.device("meta"):
            return get_network_from_plans(
                configuration.network_arch_class_name, configuration.network_arch_init_kwargs,
                configuration.network_arch_init_kwargs_req_import, self.input_channels, n_outputs, allow_init=False,
                deep_supervision=False, class_head=configuration.class_head if self.has_class_head else None, where=configuration.source)

    @property
    def evidence_blocks(self) -> tuple[str, ...]:
        """Of the plans; () for plans of a head that looks at the network's features alone."""
        return tuple((self.configuration_manager.class_head or {}).get("evidence", ())) if self.has_class_head else ()

    def measurement(self) -> Measurement:
        return measurement_of(self.plans_manager, self.configuration_manager)

    def evidence_heads(self) -> list[EvidenceHead | None]:
        """Of every fold; None for one whose checkpoint has none."""
        heads = []
        for checkpoint in self.checkpoints:
            content = load_checkpoint(checkpoint, lazy=True).get(EVIDENCE_KEY) if self.has_class_head else None
            heads.append(None if content is None else EvidenceHead.from_checkpoint(content, self.configuration_manager.class_head["n_classes"], checkpoint))
        return heads

    def make_engines(self, device: torch.device, mode: InferenceMode, wish: str) -> list[Engine]:
        """One engine a fold, in the precision that `mode` wants on `device`."""
        geometry = network_geometry(self.configuration_manager, self.mirror_axes)
        on_cpu = wish != "torch" and device.type == "cpu"
        cached = [self.converted_path(checkpoint, "openvino") if on_cpu else None for checkpoint in self.checkpoints]
        undecided = mode.precision == "reduced" and mode.precision_on("cpu") != "half"  # else nothing is compiled to find out
        winograd = on_cpu and wish != "openvino" and undecided and self._winograd_serves()
        int16_pays = winograd and cpu_has_fast_int16()
        int8_pays = cpu_has_fast_int8() or not winograd
        may_be_int8 = on_cpu and wish != "winograd" and mode.precision_on("cpu", int16_pays, int8_pays) == "int8"
        quantised = [self.converted_path(checkpoint, "int8") if may_be_int8 else None for checkpoint in self.checkpoints]
        not_quantised = [checkpoint for checkpoint, path in zip(self.checkpoints, quantised) if path is None or not path.is_file()]
        precision = mode.precision_on(device.type, int16_pays, may_be_int8 and not not_quantised)
        if precision == "int8" and on_cpu and not_quantised:
            raise FileNotFoundError(f"Not quantised, or since then trained or refitted: {', '.join(map(str, not_quantised))}. Run nnUNetv2_quantize "
                                    "for them (it needs openvino), or choose another --precision.")
        engines = []
        for checkpoint, openvino_model, int8_model in zip(self.checkpoints, cached, quantised):
            def build(checkpoint: Path = checkpoint) -> nn.Module:
                return self.build_network(checkpoint)

            engines.append(make_engine(build, device, precision, wish, self.input_channels, geometry.divisor, openvino_model, int8_model,
                                       geometry.patch_size, self._identity(checkpoint) if on_cpu else None, str(checkpoint)))
        return engines

    def _identity(self, checkpoint: Path) -> str | None:
        """Tells network and weights apart from all others; None for a file too old to tell quickly."""
        try:
            return json.dumps([stored_tensors(checkpoint), self.configuration_manager.configuration["architecture"]], sort_keys=True, default=str)
        except ValueError:
            return None

    def _winograd_serves(self) -> bool:
        """Whether there are Winograd convolutions for this network on a CPU."""
        try:
            check_supported(self._network_of_shapes())
        except RuntimeError:  # make_engine says why, where it matters
            return False
        return True

    def converted_path(self, checkpoint: Path, kind: str) -> Path | None:
        """Where the OpenVINO model of a checkpoint is or will be, .xml; kind "openvino" or "int8". None without OpenVINO."""
        try:
            from nnunetv2.inference.engines.openvino_engine import cached_model_path
        except ImportError:
            return None  # make_engine says so
        return cached_model_path(checkpoint, self.configuration_manager.configuration["architecture"], kind)


def measurement_of(plans_manager: PlansManager, configuration_manager: ConfigurationManager) -> Measurement:
    """How the evidence of a configuration's cases is measured, in training and prediction."""
    intensities = Intensities.of_plans(configuration_manager.normalization_schemes, plans_manager.foreground_intensity_properties_per_channel)
    return Measurement(tuple(configuration_manager.class_head["lesion_labels"]), tuple(configuration_manager.spacing), intensities,
                       tuple(plans_manager.transpose_forward))


def _stamp(path: Path) -> tuple[int, ...]:
    """Another one after a file was replaced or written to."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def available_folds(folder: Path, checkpoint_name: str) -> list[int]:
    """Folds of a model folder that hold `checkpoint_name`; `fold_all` is a model of its own and does not count."""
    names = (path.name.removeprefix("fold_") for path in folder.glob("fold_*") if (path / checkpoint_name).is_file())
    return sorted(int(name) for name in names if name.isdecimal())


def find_model(folder: Path, folds: Sequence[int | str] | None, checkpoint_name: str = "checkpoint_final.pth") -> TrainedModel:
    """The model in `folder` (plans.json, dataset.json, fold_X); `folds` None takes all that are there.

    Raises FileNotFoundError that lists everything missing.
    """
    available = available_folds(folder, checkpoint_name)
    folds = available if folds is None else folds
    plain_name(checkpoint_name, "checkpoint", "-chk")
    checkpoints = tuple(folder / f"fold_{fold}" / checkpoint_name for fold in folds)
    missing = [path for path in (folder / "plans.json", folder / "dataset.json", *checkpoints) if not path.is_file()]
    if missing or not checkpoints:
        raise FileNotFoundError(f"{folder} is no complete model; missing: {', '.join(map(str, missing)) or checkpoint_name}. "
                                f"Folds with {checkpoint_name}: {available or 'none'}; choose them with -f, the checkpoint with -chk.")
    stamps = {checkpoint: _stamp(checkpoint) for checkpoint in checkpoints}
    header = load_checkpoint(checkpoints[0], map_location="meta")  # names and numbers; tensors without their data
    check_contents(header, checkpoints[0])
    plans_manager, dataset_json = PlansManager(folder / "plans.json"), load_json(folder / "dataset.json", DatasetJson)
    configuration_manager = plans_manager.get_configuration(header["init_args"]["configuration"])
    plain_ending(dataset_json["file_ending"], folder / "dataset.json")
    if "image_reader_writer" in plans_manager.plans:  # preprocessed cases need no reader
        refuse_unread_ending(dataset_json["file_ending"], plans_manager.image_reader_writer_class, folder / "dataset.json")
    check_schemes(configuration_manager.configuration, plans_manager.source)
    n_outputs = plans_manager.get_label_manager(dataset_json).num_segmentation_heads
    check_patch_size(configuration_manager.patch_size, 1, finest_channels(configuration_manager.network_arch_init_kwargs, n_outputs), plans_manager.source)
    return TrainedModel(
        plans_manager=plans_manager,
        configuration_manager=configuration_manager,
        dataset_json=dataset_json,
        trainer_name=header["trainer_name"],
        mirror_axes=header.get("inference_allowed_mirroring_axes"),
        checkpoints=checkpoints,
        has_class_head=header.get(CLASS_HEAD_KEY) is not None,
        stamps=stamps,
    )


def refuse_other_plans(model: TrainedModel) -> None:
    """InputError when a fold was trained with other plans or labels than those beside it: its images would be prepared in another way.

    Folds without a record of their training (upstream's) pass.
    """
    present = {"plans": plans_identity(model.plans_manager.plans, model.configuration_manager.configuration), "dataset": dataset_identity(model.dataset_json)}
    for checkpoint in model.checkpoints:
        trained = read_manifest(checkpoint.parent).get("training")
        found = [] if trained is None else [line for part, now in present.items() for line in changes(trained[part], now) if "batch_size" not in line]
        if found:
            raise InputError(f"{checkpoint} was trained with other plans or labels than {checkpoint.parents[1]} has now:\n{list_some(found)}\n"
                             "Put plans.json and dataset.json of that training back, or train the fold again.")


def load_coarse_network(folder: Path, plans_manager: PlansManager, configuration_manager: ConfigurationManager, dataset_json: dict,
                        device: torch.device, mode: InferenceMode, wish: str) -> CoarseNetwork:
    """The first fold of the model in `folder`, to find boxes for a model of the given plans, configuration and dataset.json.

    It sees that model's preprocessed images, averaged onto its own grid, so both have to be preprocessed alike. Raises
    ValueError that lists what differs, and where `folder` holds a 2D network or one of a finer grid.
    """
    fold = next(iter(available_folds(folder, "checkpoint_final.pth")), "all")
    model = find_model(folder, (fold,))
    geometry, fine = (network_geometry(configuration, None) for configuration in (model.configuration_manager, configuration_manager))
    pairs = {
        "input channels": (model.input_channels, determine_num_input_channels(plans_manager, configuration_manager, dataset_json)),
        "axis order": (model.plans_manager.transpose_forward, plans_manager.transpose_forward),
        "normalisation": (model.configuration_manager.normalization_schemes, configuration_manager.normalization_schemes),
        "intensities of the plans": (model.plans_manager.foreground_intensity_properties_per_channel,
                                     plans_manager.foreground_intensity_properties_per_channel),
    }
    problems = [f"{name}: {its} against {wanted}" for name, (its, wanted) in pairs.items() if its != wanted]
    if any(coarse < 0.99 * own for coarse, own in zip(geometry.spacing, fine.spacing)):
        problems.append(f"spacing {geometry.spacing} against {fine.spacing}, which is not coarser")
    if len(geometry.patch_size) < 3:
        problems.append("its network is 2D")
    if problems:
        raise ValueError(f"{folder} cannot find boxes for this model: {'; '.join(problems)}. Train it with a coarser configuration of the same plans, "
                         "such as 3d_lowres.")
    engine, = model.make_engines(device, mode, wish)
    return CoarseNetwork(engine, geometry, model.plans_manager.get_label_manager(model.dataset_json), GROWTHS_OF_TRAINED, weights_hash(model.checkpoints[0]))
