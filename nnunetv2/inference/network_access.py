"""The network and its weights, for code that was written against nnU-Net's predictor and handles them itself."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dynamic_network_architectures.architectures.unet import finest_and_class

if TYPE_CHECKING:
    from nnunetv2.inference.model_loading import TrainedModel


NEVER_CALLED = ("_internal_predict_sliding_window_return_logits", "_internal_maybe_mirror_and_predict", "_internal_get_sliding_window_slicers",
                "_manage_input_and_output_lists")  # upstream's inner steps, which are no steps here


class NetworkAccess:
    """`network`, `list_of_parameters` and `predict_sliding_window_return_logits` as upstream has them.

    A subclass may override `predict_sliding_window_return_logits` or `predict_logits_from_preprocessed_data`: every prediction goes through it.

    Predictions run in engines, which hold the weights in their own form. So the torch network is built when somebody asks for it, and from
    then on `predict_sliding_window_return_logits` computes with it as it stands, whatever weights were loaded into it meanwhile.
    Predictions of cases take the weights of `list_of_parameters`, as upstream's do.
    """

    def __init__(self) -> None:
        self._model: TrainedModel | None = None
        self._network: nn.Module | None = None
        self._parameters: Sequence[dict] | None = None
        self._network_in_use = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if NetworkAccess in cls.__bases__:
            cls._original = cls  # the predictor, with whose methods those of its subclasses are compared
        ignored = [name for name in NEVER_CALLED if name in vars(cls)]
        if ignored:
            raise TypeError(f"{cls.__name__} overrides {', '.join(ignored)}, which nothing calls here; override predict_sliding_window_return_logits.")

    def _overrides(self, *names: str) -> bool:
        """Whether a subclass has its own version of a method of nnUNetPredictor's."""
        return any(getattr(type(self), name) is not getattr(self._original, name) for name in names)

    def _mean_of_networks(self, data: Tensor) -> Tensor:
        """Logits (S, D, H, W) of `predict_sliding_window_return_logits` with each fold's weights, averaged."""
        mean = None
        for parameters in self.list_of_parameters or [self.network.state_dict()]:
            self.network.load_state_dict(parameters)
            logits = self.predict_sliding_window_return_logits(data).cpu()
            mean = logits if mean is None else mean + logits
        return mean / len(self.list_of_parameters or [None])

    def _network_is_in(self, model: "TrainedModel") -> None:
        self._model, self._network, self._parameters, self._network_in_use = model, None, None, False

    def _network_is(self, network: nn.Module, parameters: Sequence[dict] | None) -> None:
        self._model, self._network, self._parameters, self._network_in_use = None, network, parameters, False

    @property
    def network(self) -> nn.Module | None:
        """The first fold's network, on the CPU unless it was handed over elsewhere; None before a model is loaded.

        Setting it, or `list_of_parameters`, makes the engines anew from both.
        """
        if self._network is None and self._model is not None:
            self._network = self._model.build_network(self._model.checkpoints[0])
        self._network_in_use = True
        return self._network

    @network.setter
    def network(self, network: nn.Module) -> None:
        self._run_with(network, self.list_of_parameters)
        self._network_in_use = True

    @property
    def list_of_parameters(self) -> Sequence[dict] | None:
        """One state dict a fold; None where a network was handed over without."""
        if self._parameters is None and self._model is not None:
            self._parameters = [self._model.build_network(checkpoint).state_dict() for checkpoint in self._model.checkpoints]
        return self._parameters

    @list_of_parameters.setter
    def list_of_parameters(self, parameters: Sequence[dict] | None) -> None:
        self._run_with(self.network, parameters)

    def hashes_of_networks(self) -> list[str]:
        """One of each fold's weights as they are now, with what its class rests on besides."""
        weights = self._parameters or [self._network.state_dict()]
        evidence = [head and head.to_checkpoint() for head in self.evidence] or [None] * len(weights)
        hashes = []
        for state, head in zip(weights, evidence):
            digest = hashlib.sha256()
            _digest(digest, "fold", {"weights": state, "evidence": head})
            hashes.append(digest.hexdigest())
        return hashes

    def _run_with(self, network: nn.Module, parameters: Sequence[dict] | None) -> None:
        self.manual_initialization(getattr(network, "_orig_mod", network), self.plans_manager, self.configuration_manager, parameters, self.dataset_json,
                                   self.trainer_name, self.allowed_mirroring_axes)

    @torch.inference_mode()
    def predict_sliding_window_return_logits(self, input_image: Tensor) -> Tensor:
        """Logits (S, D, H, W) of preprocessed `input_image` (C, D, H, W) from one network, windows and mirroring as the mode has them."""
        if not isinstance(input_image, Tensor) or input_image.ndim != 4:
            raise ValueError(f"input_image is a tensor (C, D, H, W), not {getattr(input_image, 'shape', type(input_image).__name__)}.")
        engine = _AsItStands(self.network, self.device) if self._network_in_use else self.engines[0]
        return self.case_predictor.volume_logits(engine, input_image)


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


class _AsItStands:
    """An engine around a network that stays the caller's: nothing of it is changed or copied."""

    name, precision, batch_size = "torch", "fp32", 1

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.network, self.device = network.to(device).eval(), device

    def __call__(self, x: Tensor, classify: bool = True) -> tuple[Tensor, Tensor | None]:
        with torch.autocast("cuda") if self.device.type == "cuda" else nullcontext():
            seg_logits, class_logits = finest_and_class(self.network(x.to(self.device)))
        return seg_logits.float(), None if class_logits is None else class_logits.float()

    def classify(self, x: Tensor, seg_logits: Tensor) -> None:
        return None
