"""The network and its weights, for code that was written against nnU-Net's predictor and handles them itself."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dynamic_network_architectures.architectures.unet import finest_and_class
from nnunetv2.inference.network_geometry import network_geometry
from nnunetv2.inference.sliding_window_prediction import GAUSSIAN_PEAK, Slicer, WindowSums, compute_gaussian, pad_centred, window_slicers
from nnunetv2.inference.window_sums import with_index

if TYPE_CHECKING:
    from nnunetv2.inference.case_prediction import CasePredictor
    from nnunetv2.inference.model_loading import TrainedModel

Parts = list[tuple[str, type]]
Stamps = list[dict[str, tuple[int, int]]]

INNER_STEPS = ("_internal_get_sliding_window_slicers", "_internal_maybe_mirror_and_predict", "_internal_predict_sliding_window_return_logits")
OVERRIDABLE = ("predict_logits_from_preprocessed_data", "predict_sliding_window_return_logits", *INNER_STEPS, "_manage_input_and_output_lists",
               "_internal_get_data_iterator_from_lists_of_filenames", "get_data_iterator_from_raw_npy_data", "predict_from_data_iterator")


class NetworkAccess:
    """`network`, `list_of_parameters` and `predict_sliding_window_return_logits` as upstream has them.

    The methods of OVERRIDABLE may be replaced, by a subclass or by assignment to the predictor or its class: every prediction goes through them then.

    Predictions run in engines, which hold the weights in their own form. So the torch network is built when somebody asks for it, and from
    then on `predict_sliding_window_return_logits` computes with it as it stands, whatever weights were loaded into it meanwhile.
    Predictions of cases take the weights of `list_of_parameters`, as upstream's do, and the network itself where it was given hooks or other parts.

    A predictor whose `network`, `plans_manager`, `configuration_manager`, `list_of_parameters` and `dataset_json` were set one by one, in any
    order, is as good as one that `manual_initialization` made.
    """

    plans_manager: Any
    configuration_manager: Any
    dataset_json: Any

    def __init__(self) -> None:
        self._model: TrainedModel | None = None
        self._network: nn.Module | None = None
        self._parameters: Sequence[dict] | None = None
        self._network_in_use = False
        self._parts: Parts | None = None
        self._stamps: Stamps | None = None  # of the parameters, when they were handed out
        self._case_predictor: CasePredictor | None = None
        self._network_was_set = False  # and no engines were made of it yet
        self._settings_changed = False  # and the case predictor has the old ones

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if NetworkAccess in cls.__bases__:  # the predictor, with whose methods those of subclasses and assigned ones are compared
            cls._original, cls._methods = cls, {name: getattr(cls, name) for name in OVERRIDABLE}

    def _overrides(self, *names: str) -> bool:
        """Whether a method of nnUNetPredictor's was replaced, in a subclass or by assignment."""
        return any(getattr(getattr(self, name), "__func__", None) is not self._methods[name] for name in names)

    def _has_own_steps(self) -> bool:
        """Whether the engines are not all there is to a prediction: methods were replaced, or the network is more than its weights."""
        return self._overrides("predict_sliding_window_return_logits", *INNER_STEPS) or self._network_is_altered()

    def _network_is_altered(self) -> bool:
        """Whether it has hooks, a `forward` that was assigned, or other parts than when it came. An engine would know nothing of them."""
        if not isinstance(self._network, nn.Module):
            return self._network is not None  # somebody's own runtime behind a network's methods
        of_its_own = any(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module) for module in self._network.modules())
        return of_its_own or _parts_of(self._network) != self._parts

    @property
    def case_predictor(self) -> "CasePredictor | None":
        """What predicts, up to date with all that was set meanwhile; None while there is no model."""
        if self._stamps is not None and self._stamps != _stamps_of(self._parameters):  # somebody wrote into them
            self._network_is(self.network, self._parameters)
            self._network_was_set = True
        whole = all(value is not None for value in (self._network, self.plans_manager, self.configuration_manager, self.dataset_json))
        if self._network_was_set and whole:
            self._network_was_set, in_use = False, self._network_in_use
            network = getattr(self._network, "_orig_mod", self._network)
            self._original.manual_initialization(self, network, self.plans_manager, self.configuration_manager, self._parameters, self.dataset_json,
                                                 self.trainer_name, self.allowed_mirroring_axes)
            self._network_in_use = in_use
        found = self._case_predictor
        geometry = getattr(found, "geometry", None)  # somebody's own predictor of cases has none
        if geometry is not None and (self._settings_changed or geometry != network_geometry(self.configuration_manager, self.allowed_mirroring_axes)):
            self._make_case_predictor()
        return self._case_predictor

    @case_predictor.setter
    def case_predictor(self, case_predictor: "CasePredictor | None") -> None:
        self._case_predictor, self._settings_changed = case_predictor, False

    def _mean_of_networks(self, data: Tensor) -> Tensor:
        """Logits (S, D, H, W) of `predict_sliding_window_return_logits` with each fold's weights, averaged."""
        mean = None
        folds = self._weights_of_folds()
        for parameters in folds or [self.network.state_dict()]:
            getattr(self.network, "_orig_mod", self.network).load_state_dict(parameters)
            logits = self.predict_sliding_window_return_logits(data).cpu()
            mean = logits if mean is None else mean + logits
        return mean / len(folds or [None])

    def _network_is_in(self, model: "TrainedModel") -> None:
        self._model, self._network, self._parameters, self._network_in_use, self._network_was_set = model, None, None, False, False
        self._stamps = None

    def _network_is(self, network: nn.Module, parameters: Sequence[dict] | None) -> None:
        self._model, self._network, self._parameters, self._network_in_use, self._network_was_set = None, network, parameters, False, False
        self._parts, self._stamps = _parts_of(network), None if self._stamps is None else _stamps_of(parameters)

    @property
    def network(self) -> nn.Module | None:
        """The first fold's network, on the CPU unless it was handed over elsewhere; None before a model is loaded.

        Where it or `list_of_parameters` is set, the next prediction makes its engines of both.
        """
        if self._network is None and self._model is not None:
            self._network = self._model.build_network(self._model.checkpoints[0])
            self._parts = _parts_of(self._network)
        self._network_in_use = True
        return self._network

    @network.setter
    def network(self, network: nn.Module) -> None:
        if network is self._network and self._weights_of_folds() is not None:  # `network = network.to(device)` in somebody's own prediction
            return
        self._network_is(network, self._weights_of_folds())
        self._network_in_use = self._network_was_set = True

    @property
    def list_of_parameters(self) -> Sequence[dict] | None:
        """One state dict a fold; None where a network was handed over without."""
        parameters = self._weights_of_folds()
        if self._stamps is None:
            self._stamps = _stamps_of(parameters)
        return parameters

    def _weights_of_folds(self) -> Sequence[dict] | None:
        if self._parameters is None and self._model is not None:
            self._parameters = [self._model.build_network(checkpoint).state_dict() for checkpoint in self._model.checkpoints]
        return self._parameters

    @list_of_parameters.setter
    def list_of_parameters(self, parameters: Sequence[dict] | None) -> None:
        self._network_is(self.network, parameters)
        self._network_was_set = True

    def hashes_of_networks(self) -> list[str]:
        """One of each fold's weights as they are now, with what its class rests on besides."""
        weights = self._parameters or [self._network.state_dict() if isinstance(self._network, nn.Module) else {"network": repr(self._network)}]
        evidence = [head and head.to_checkpoint() for head in self.evidence] or [None] * len(weights)
        hashes = []
        for state, head in zip(weights, evidence):
            digest = hashlib.sha256()
            _digest(digest, "fold", {"weights": state, "evidence": head})
            hashes.append(digest.hexdigest())
        return hashes

    @torch.inference_mode()
    def predict_sliding_window_return_logits(self, input_image: Tensor) -> Tensor:
        """Logits (S, D, H, W) of preprocessed `input_image` (C, D, H, W) from one network, windows and mirroring as the mode has them."""
        if not isinstance(input_image, Tensor) or input_image.ndim != 4:
            raise ValueError(f"input_image is a tensor (C, D, H, W), not {getattr(input_image, 'shape', type(input_image).__name__)}.")
        self._refuse_without_model()
        if self._overrides(*INNER_STEPS):
            padded, inner = pad_centred(input_image.cpu(), self.configuration_manager.patch_size)
            slicers = self._internal_get_sliding_window_slicers(padded.shape[1:])
            return self._internal_predict_sliding_window_return_logits(padded, slicers, self.perform_everything_on_device)[inner]
        engine = self._network_as_it_stands() if self._network_in_use or self._network_is_altered() else self.engines[0]
        return self.case_predictor.volume_logits(engine, input_image)

    def _network_as_it_stands(self) -> "_AsItStands":
        return _AsItStands(self.network, self.device)

    # ---- upstream's inner steps, for who replaces one of them or calls them ---------------------------------------------

    def _internal_get_sliding_window_slicers(self, image_size: Sequence[int]) -> list[Slicer]:
        """Where the windows of a volume of `image_size` (D, H, W) lie, which is no smaller than a window."""
        return window_slicers(image_size, self.configuration_manager.patch_size, self.tile_step_size)

    @torch.inference_mode()
    def _internal_maybe_mirror_and_predict(self, x: Tensor) -> Tensor:
        """Logits (B, S, *window) of windows (B, C, *window), mean over the mirrored views."""
        self._refuse_without_model()
        engine, views = self._network_as_it_stands(), self.case_predictor.views
        flipped_back = [engine(x.flip(axes))[0].flip(axes) for axes in ([axis + 2 for axis in view] for view in views)]
        return sum(flipped_back[1:], flipped_back[0]) / len(views)

    @torch.inference_mode()
    def _internal_predict_sliding_window_return_logits(self, data: Tensor, slicers: Sequence[Slicer], do_on_device: bool = True) -> Tensor:
        """Logits (S, D, H, W) of `data` (C, D, H, W) from the windows at `slicers`; do_on_device False sums them in main memory."""
        self._refuse_without_model()
        size = tuple(self.configuration_manager.patch_size)
        weight = compute_gaussian(size, 1 / 8, GAUSSIAN_PEAK, device=with_index(self.device)) if self.use_gaussian else 1
        for accumulate in (torch.float16, torch.float32):  # sums that overflow are made again
            with WindowSums(data.shape[1:], weight, accumulate, do_on_device) as sums:
                for slicer in slicers:
                    window = self._internal_maybe_mirror_and_predict(data[slicer][None].to(self.device))[0]
                    sums.add(slicer, window.to(self.device).clone())
            logits = sums.mean()
            if bool(logits.isfinite().all()):
                return logits
        raise RuntimeError("The sums of the windows' logits are NaN or infinite: the image, the weights or an overridden step hold such values.")


def _digest(digest: Any, name: str, value: Any) -> None:
    """Take tensors, and mappings of them at any depth, into a hash; other values as they are written."""
    if isinstance(value, Mapping):
        for key in sorted(value):
            _digest(digest, f"{name}.{key}", value[key])
    elif isinstance(value, Tensor):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    else:
        digest.update(f"{name} {value!r}".encode())


def _parts_of(network: nn.Module) -> Parts | None:
    """Name and type of each module; None for what is no module."""
    if not isinstance(network, nn.Module):
        return None
    return [(name, type(module)) for name, module in network.named_modules()]


def _stamps_of(parameters: Sequence[dict] | None) -> Stamps:
    """Another one after an entry was replaced, a tensor written to, or a fold added or taken away."""
    return [{name: (id(tensor), 0 if tensor.is_inference() else tensor._version) for name, tensor in fold.items() if isinstance(tensor, Tensor)}
            for fold in parameters or ()]


class _AsItStands:
    """An engine around a network that stays the caller's: nothing of it is changed or copied."""

    name, precision, batch_size = "torch", "fp32", 1

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.network, self.device = network.to(device), device
        self.network.eval()

    def __call__(self, x: Tensor, classify: bool = True) -> tuple[Tensor, Tensor | None]:
        with torch.autocast("cuda") if self.device.type == "cuda" else nullcontext():
            seg_logits, class_logits = finest_and_class(self.network(x.to(self.device)))
        return seg_logits.float(), None if class_logits is None else class_logits.float()

    def classify(self, x: Tensor, seg_logits: Tensor) -> None:
        return None
