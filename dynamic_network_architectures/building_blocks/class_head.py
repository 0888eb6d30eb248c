"""Class head: statistics of encoder features inside regions of the segmentation -> one class per volume.

Shallow encoder stages keep the texture that tells lesion types apart, and a lesion fills a small part of the volume;
global average pooling of the bottleneck loses both. So the features of several stages are pooled (weighted mean and
standard deviation) over regions, each a soft mask from the segmentation's own probabilities, and described further by the
size and shape of these masks. Regions are unions of labels, read as channels of the segmentation's softmax. A few texture
channels of the input image, pooled over each region, its core and its rim, spare the encoder learning them from little data.

Everything here runs in float32 without autocast: sums over a million voxels overflow float16.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

STATISTICS = ("mean", "std")
TEXTURE_CHANNELS = 4  # per input channel, see `image_texture`


class RunningStandardiser(nn.Module):
    """(x - mean) / std with running statistics, also in training: batch statistics are useless at batch size 2.

    The statistics are the plain average of all rows so far, and an exponential one with horizon `horizon` rows after
    that. They start as one pseudo-row of mean 0 and variance 1, so the first batches cannot blow up. Frozen in eval mode.

    over_processes: rows of all processes of the group count together. Every process must then call `forward`.
    """

    over_processes = False

    def __init__(self, n_features: int, horizon: float = 500.0, eps: float = 1e-6):
        super().__init__()
        self.horizon, self.eps = horizon, eps
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("variance", torch.ones(n_features))
        self.register_buffer("count", torch.ones(()))

    def forward(self, x: Tensor, row_weights: Tensor | None = None) -> Tensor:
        """(B, F), weights (B,) in 0..1 of the rows in the statistics -> (B, F)."""
        if self.training:
            self._update(x.detach(), torch.ones_like(x[:, 0]) if row_weights is None else row_weights)
        return (x - self.mean) * torch.rsqrt(self.variance + self.eps)

    @torch.no_grad()
    def _update(self, x: Tensor, row_weights: Tensor) -> None:
        """Rows that are not finite, from a pass that overflowed, do not count: they would stay in the statistics for good."""
        finite = torch.isfinite(x).all(1) & torch.isfinite(row_weights)
        x, row_weights = torch.where(finite[:, None], x, 0), torch.where(finite, row_weights, 0)
        n = self._total(row_weights.sum())
        shares = (row_weights / n.clamp_min(1e-6))[:, None]
        batch_mean = self._total((shares * x).sum(0))
        batch_variance = self._total((shares * (x - batch_mean).square()).sum(0))
        rate = n / (self.count + n)
        # variance of the mixture of two distributions with weights (1 - rate, rate)
        variance = (1 - rate) * self.variance + rate * batch_variance + rate * (1 - rate) * (batch_mean - self.mean).square()
        mean = self.mean.lerp(batch_mean, rate)
        usable = torch.isfinite(variance).all() & torch.isfinite(mean).all()  # squares of finite values may overflow
        self.variance.copy_(torch.where(usable, variance, self.variance))
        self.mean.copy_(torch.where(usable, mean, self.mean))
        self.count.copy_(torch.where(usable, (self.count + n).clamp_max(self.horizon), self.count))

    def _total(self, value: Tensor) -> Tensor:
        if self.over_processes:
            distributed.all_reduce(value)
        return value


class ClassHead(nn.Module):
    """Pool -> standardise -> (hidden layer) -> dropout -> linear layer -> divide by the temperature (eval mode only).

    The temperature is 1 until calibration sets it; training never sees it.

    stage_channels, stage_strides: of every encoder stage, finest first; strides per axis, relative to the stage before.
    n_labels: channels of the segmentation.
    n_classes, lesion_labels: of the task; the head only carries `lesion_labels` for its users, and `evidence`, names of what is measured
        beside the network (nnunetv2/class_evidence).
    regions: name -> labels whose probabilities add up to the region's mask; None = the whole patch (no descriptors).
    stages: encoder stages to pool, 0 = full resolution, -1 = bottleneck.
    statistics: of "mean", "std", over the region, of every channel.
    descriptors: add size and shape of every region mask, see `describe_masks`.
    texture_of_channels: how many input channels, the first ones, to take `image_texture` of, over core, rim and whole of the regions; 0: none. In a
        cascade labels of the previous stage follow them.
    focus: pool where a region's mask is dense, so that specks and fringes that a segmentation gets wrong count little.
    hidden: width of a hidden layer, 0 for none. dropout: probability, before the linear layer.
    """

    def __init__(self, stage_channels: Sequence[int], stage_strides: Sequence[Sequence[int]], n_labels: int, *,
                 n_classes: int, lesion_labels: Sequence[int], regions: Mapping[str, Sequence[int] | None],
                 stages: Sequence[int] = (0, 1, 2), statistics: Sequence[str] = STATISTICS, descriptors: bool = True,
                 texture_of_channels: int = 0, focus: bool = False, hidden: int = 0, dropout: float = 0.1,
                 evidence: Sequence[str] = ()):
        super().__init__()
        _check_configuration(regions, stages, statistics, len(stage_channels), n_labels)
        self.lesion_labels, self.evidence = tuple(lesion_labels), tuple(evidence)
        self.encoder_gradient = 1.0  # share of the class loss's gradient that reaches the encoder, 0..1
        self.stages = [s % len(stage_channels) for s in stages]
        self.n_stages = max(self.stages) + 1  # of the encoder that the head needs
        # of every stage, relative to the input
        self.stage_strides = [tuple(prod(axis) for axis in zip(*stage_strides[:s + 1])) for s in self.stages]
        self.statistics = tuple(statistics)
        self.focus = focus
        self.region_labels = [list(range(n_labels)) if labels is None else list(labels) for labels in regions.values()]
        labelled = [i for i, labels in enumerate(regions.values()) if labels is not None]
        self.described = labelled if descriptors else []
        self.textured = labelled if texture_of_channels else []
        self.texture_of_channels = texture_of_channels

        n_axes = len(stage_strides[0])
        per_region = len(statistics) * sum(stage_channels[s] for s in self.stages)
        self.n_features = len(regions) * per_region + len(self.described) * (2 + n_axes)
        self.n_features += 3 * len(self.textured) * len(statistics) * TEXTURE_CHANNELS * texture_of_channels
        self.standardiser = RunningStandardiser(self.n_features)
        self.hidden = nn.Sequential(nn.Linear(self.n_features, hidden), nn.LeakyReLU(1e-2)) if hidden else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden or self.n_features, n_classes)
        # all classes alike at the start, and no gradient into an encoder that has not learnt anything yet
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, skips: Sequence[Tensor], seg_logits: Tensor, teacher: Tensor | None = None,
                teacher_weight: float = 0.0, image: Tensor | None = None) -> Tensor:
        """-> class logits (B, n_classes) float32; arguments as for `features`.

        Rows in which a region is missing (a patch without lesion) do not count in the running statistics.
        """
        with torch.autocast(seg_logits.device.type, enabled=False):
            masks = self._region_masks(seg_logits, teacher, teacher_weight)
            complete = region_presence(masks).amin(1)  # (B,)
            return self.classify(self._pool(skips, masks, image), complete)

    def features(self, skips: Sequence[Tensor], seg_logits: Tensor, teacher: Tensor | None = None,
                 teacher_weight: float = 0.0, image: Tensor | None = None) -> Tensor:
        """Pooled features (B, n_features) float32, not standardised.

        skips: encoder features of the first `n_stages` stages at least, finest first; seg_logits (B, n_labels, D, H, W), used without gradient;
        teacher (B, 1, D, H, W): labels whose one-hot masks are mixed in with weight `teacher_weight`. Where it holds no
        label of the segmentation (ignore label, -1) the network's own probabilities stand alone. image (B, C, D, H, W): the
        network's input, needed with `texture_of_channels`.

        Order: by stage, statistic, region, channel; then the descriptors of each region; then the image's texture by
        statistic, part (whole, core, rim), region, channel.
        A region of no mass gives zeros, one of less than a voxel fades towards them.
        """
        with torch.autocast(seg_logits.device.type, enabled=False):
            return self._pool(skips, self._region_masks(seg_logits, teacher, teacher_weight), image)

    def represent(self, features: Tensor, row_weights: Tensor | None = None) -> Tensor:
        """What the linear layer sees, without dropout: standardised features, through the hidden layer if there is one."""
        return self.hidden(self.standardiser(features, row_weights))

    def classify(self, features: Tensor, row_weights: Tensor | None = None) -> Tensor:
        """Pooled features (B, n_features) -> class logits (B, n_classes)."""
        logits = self.classifier(self.dropout(self.represent(features, row_weights)))
        return logits if self.training else logits / self.temperature

    @torch.no_grad()
    def _region_masks(self, seg_logits: Tensor, teacher: Tensor | None, teacher_weight: float) -> Tensor:
        """Soft masks (B, R, D, H, W) in 0..1."""
        probabilities = seg_logits.float().softmax(1)  # (B, L, D, H, W)
        if teacher is not None and teacher_weight > 0:
            labels = torch.arange(seg_logits.shape[1], device=teacher.device).view(1, -1, *[1] * (teacher.ndim - 2))
            one_hot = (teacher == labels).float()
            known = one_hot.sum(1, keepdim=True)
            probabilities = torch.lerp(probabilities, one_hot, teacher_weight * known)
        return torch.stack([channels(probabilities, labels).sum(1) for labels in self.region_labels], dim=1)

    def _pool(self, skips: Sequence[Tensor], masks: Tensor, image: Tensor | None) -> Tensor:
        presence = region_presence(masks)[:, :, None]  # (B, R, 1)
        pooled = []
        if self.described:
            descriptors = channels(describe_masks(masks) * presence, self.described)
        if self.focus:
            masks = masks * density(masks)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.encoder_gradient > 0):
            for stage, stride in zip(self.stages, self.stage_strides):
                statistics = masked_statistics(skips[stage], average_pool(masks, stride), self.statistics)
                pooled += [(statistic * presence).flatten(1) for statistic in statistics]
        features = torch.cat(pooled, dim=1)
        if 0 < self.encoder_gradient < 1:  # same value, scaled gradient
            features = features.detach() * (1 - self.encoder_gradient) + features * self.encoder_gradient
        if self.described:
            features = torch.cat([features, descriptors.flatten(1)], dim=1)
        if self.textured:
            parts = core_and_rim(channels(masks, self.textured))
            statistics = masked_statistics(image_texture(image[:, :self.texture_of_channels].float()), parts, self.statistics)
            presence = region_presence(parts)[:, :, None]
            features = torch.cat([features, *((statistic * presence).flatten(1) for statistic in statistics)], dim=1)
        return features


def channels(x: Tensor, indices: Sequence[int]) -> Tensor:
    """x[:, indices], one by one: a list as an index is a tensor on the CPU first, and every pass on a GPU would wait for its way there."""
    return torch.stack([x[:, index] for index in indices], dim=1)


def region_presence(masks: Tensor) -> Tensor:
    """(B, R, D, H, W) -> (B, R): 1 from a mask mass of one voxel on, below that the mass itself."""
    return masks.flatten(2).sum(2).clamp_max(1.0)


def average_pool(masks: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Masks on the grid of an encoder stage: means over boxes of `stride`, which divides the grid."""
    if prod(stride) == 1:
        return masks
    return (F.avg_pool3d if len(stride) == 3 else F.avg_pool2d)(masks, stride, stride)


def masked_statistics(features: Tensor, masks: Tensor, statistics: Sequence[str] = STATISTICS) -> list[Tensor]:
    """Weighted mean and standard deviation of every channel under every mask.

    features (B, C, D, H, W), masks (B, R, D, H, W) >= 0 -> for each of `statistics` (B, R, C). Finite for empty masks.
    """
    totals = masks.flatten(2).sum(2).clamp_min(1e-6)[:, None]  # (B, 1, R)
    mean, mean_square = 0, 0
    for values, weights in _by_planes(features, masks):
        values, weights = values.flatten(2).float(), weights.flatten(2).transpose(1, 2) / totals  # (B, C, n), (B, n, R)
        mean = mean + values @ weights
        if "std" in statistics:
            mean_square = mean_square + values.square() @ weights
    found = {"mean": mean}
    if "std" in statistics:
        found["std"] = (mean_square - mean.square()).clamp_min(1e-6).sqrt()  # the floor keeps the root's gradient finite
    return [found[name].transpose(1, 2) for name in statistics]


def _by_planes(features: Tensor, masks: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """Both, (B, C, *spatial), in slices along the first spatial axis; in one piece for a gradient, which needs every value again.

    Slices are what a CPU's cache holds with what is made of them, or what takes little of a GPU's memory: at full resolution float32
    features alone would be hundreds of megabytes.
    """
    if torch.is_grad_enabled() or torch.jit.is_tracing():  # a trace is for any size
        return [(features, masks)]
    values = 2**20 if features.device.type == "cpu" else 2**23
    planes = max(1, values // features[:, :, 0].numel())
    return zip(features.split(planes, dim=2), masks.split(planes, dim=2))


def image_texture(image: Tensor) -> Tensor:
    """(B, C, *spatial) -> (B, 4 C, *spatial): the image, its detail, its local spread, and a band of coarser detail.

    Detail is the image minus its mean over 3 voxels an axis, spread the root mean square of detail over them, the band
    that mean minus its own mean over 3. At its border the image is continued by its outermost voxels.
    """
    mean = _box_mean(image)
    detail = image - mean
    return torch.cat([image, detail, _box_mean(detail.square()).sqrt(), mean - _box_mean(mean)], dim=1)


def _box_mean(x: Tensor) -> Tensor:
    """Mean over 3 voxels an axis."""
    return _over_three_voxels(x, torch.add) / 3 ** (x.ndim - 2)


def _over_three_voxels(x: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Voxels (B, C, *spatial) combined with both neighbours along each axis in turn; the outermost are their own neighbours.

    By axis, a box of 27 voxels takes 6 operations: torch's average pooling, which looks at every one, costs ten times as much on a CPU.
    """
    x = F.pad(x, [1] * (2 * (x.ndim - 2)), mode="replicate")
    for axis in range(2, x.ndim):
        before, middle, after = (x[(slice(None),) * axis + (part,)] for part in (slice(None, -2), slice(1, -1), slice(2, None)))
        x = combine(combine(before, middle), after)
    return x


def density(masks: Tensor) -> Tensor:
    """Share of mask around each voxel, (B, R, *spatial) in 0..1: three means over 3 voxels, a bell about 7 voxels wide."""
    return _box_mean(_box_mean(_box_mean(masks)))


def core_and_rim(masks: Tensor) -> Tensor:
    """(B, R, *spatial) -> (B, 3 R, *spatial): the masks, what erosion by one voxel leaves of them, and what it takes away.

    Erosion of a soft mask is its minimum over 3 voxels an axis; the border of the volume does not erode.
    """
    core = _over_three_voxels(masks, torch.minimum)
    return torch.cat([masks, core, masks - core], dim=1)


def describe_masks(masks: Tensor) -> Tensor:
    """Size and shape of soft masks, (B, R, D, H, W) -> (B, R, 2 + axes), each as log(1 + x), so that ratios are linear.

    Volume (voxels); surface (total variation: for a sharp mask the number of voxel faces on its border inside the
    volume); extent along each axis (standard deviation of the mass in voxels). Voxels are alike in all cases, because
    preprocessing resamples to one spacing. An empty mask gives zeros.
    """
    volume = masks.flatten(2).sum(2)  # (B, R)
    surface = torch.zeros_like(volume)
    extents = []
    for axis in range(2, masks.ndim):
        slices = masks.transpose(2, axis)
        surface = surface + (slices[:, :, 1:] - slices[:, :, :-1]).abs().flatten(2).sum(2)
        mass = slices.flatten(3).sum(3) / volume.clamp_min(1e-6)[:, :, None]  # (B, R, n), adds up to 1
        position = torch.ones_like(mass).cumsum(2)
        centre = (mass * position).sum(2, keepdim=True)
        extents.append((mass * (position - centre).square()).sum(2).sqrt())
    return torch.stack([volume, surface, *extents], dim=2).log1p()


def _check_configuration(regions: Mapping, stages: Sequence[int], statistics: Sequence[str], n_stages: int, n_labels: int) -> None:
    problems = [f"region {name!r} has labels {list(labels)}, the segmentation has 0..{n_labels - 1}"
                for name, labels in regions.items() if labels is not None and not set(labels) <= set(range(n_labels))]
    problems += [f"stage {s}, the encoder has {n_stages}" for s in stages if not -n_stages <= s < n_stages]
    problems += [f"statistic {name!r}, known are {STATISTICS}" for name in statistics if name not in STATISTICS]
    problems += [f"{name} is empty" for name, value in (("regions", regions), ("stages", stages), ("statistics", statistics)) if not value]
    if problems:
        raise ValueError("class_head in the plans does not fit the network: " + "; ".join(problems))
