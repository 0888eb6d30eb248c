"""What the compiled functions take, field by field as kernels/arguments.h has it. Pointers are tensors' data_ptr(); nothing here keeps the tensors."""

from ctypes import POINTER, Structure, c_float, c_int, c_long, c_void_p

import torch

Axes = c_int * 3  # (D, H, W)


class Convolution(Structure):
    """Which one: `tile` as layers.TILES names it; with `to_half` an image in float32 gives activations as int16 stores them."""

    _fields_ = (("kernel", Axes), ("stride", Axes), ("tile", c_int), ("int16", c_int), ("pairs", c_int), ("to_half", c_int), ("in_channels", c_int), ("out_channels", c_int))

    @classmethod
    def of(cls, kernel: tuple[int, ...], stride: tuple[int, ...], tile: int, int16: bool, channels: tuple[int, int], to_half: bool = False,
           pairs: bool = False) -> "Convolution":
        """channels: (in, out)."""
        return cls(Axes(*kernel), Axes(*stride), tile, int16, pairs, to_half, *channels)


class ConvolutionData(Structure):
    """inputs (D, H, W, channels of each) of `size` -> result, and the mean and variance of its channels, `moments` (2, out)."""

    _fields_ = (("inputs", POINTER(c_void_p)), ("channels", POINTER(c_int)), ("n_inputs", c_int), ("size", Axes), ("filters", c_void_p), ("bias", c_void_p),
                ("result", c_void_p), ("moments", c_void_p))

    @classmethod
    def of(cls, inputs: list[torch.Tensor], filters: torch.Tensor, bias: torch.Tensor, result: torch.Tensor, moments: torch.Tensor) -> "ConvolutionData":
        n = len(inputs)
        return cls((c_void_p * n)(*(x.data_ptr() for x in inputs)), (c_int * n)(*(x.shape[3] for x in inputs)), n, Axes(*inputs[0].shape[:3]),
                   filters.data_ptr(), bias.data_ptr(), result.data_ptr(), moments.data_ptr())


class Scaling(Structure):
    """In place: x (voxels, channels) * scale + shift, plus `residual` if there is one, then leaky ReLU (slope 1: none)."""

    _fields_ = (("int16", c_int), ("channels", c_int), ("voxels", c_long), ("x", c_void_p), ("scale", c_void_p), ("shift", c_void_p), ("residual", c_void_p),
                ("slope", c_float))


class Segmentation(Structure):
    """x (voxels, channels), weights (labels, channels), bias (labels) -> logits (labels, voxels)."""

    _fields_ = (("int16", c_int), ("channels", c_int), ("labels", c_int), ("voxels", c_long), ("x", c_void_p), ("weights", c_void_p), ("bias", c_void_p),
                ("logits", c_void_p))


class Pooling(Structure):
    """x (*size, channels) -> means of its blocks."""

    _fields_ = (("int16", c_int), ("channels", c_int), ("size", Axes), ("block", Axes), ("x", c_void_p), ("result", c_void_p))


class Transposition(Structure):
    """A transposed convolution whose kernel is its stride."""

    _fields_ = (("int16", c_int), ("pairs", c_int), ("in_channels", c_int), ("out_channels", c_int), ("stride", Axes))


class TranspositionData(Structure):
    """x (*size, in) -> result (*size * stride, out)."""

    _fields_ = (("size", Axes), ("x", c_void_p), ("filters", c_void_p), ("bias", c_void_p), ("result", c_void_p))


STRUCTS = (Convolution, ConvolutionData, Scaling, Segmentation, Pooling, Transposition, TranspositionData)  # in the order of `struct_size`
