"""Make a video encoder of a frozen image model: :func:`adapt`, :class:`VideoEncoder`, :func:`load`."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from . import adapter_file
from .adapter_file import PASSAGE, TRAINED
from .adapters import SYSTEMS, AdapterConfig, D2STConfig
from .backbones import build as backbones
from .backbones.build import ImageSize
from .backbones.compiled import compile_blocks, leave_blocks
from .backbones.features import FrameFeatures, features_and_stages, features_and_tokens
from .backbones.fingerprint import difference
from .backbones.halves import round_weights, widen_weights
from .backbones.hooks import ClipShape, carries_adapters, check_keys, insert, mark, remove
from .backbones.merge import Merged, find_foldable, merge
from .backbones.restore import Snapshot, unchanged_on_error
from .backbones.sites import Backbone, Site, ends_of_parts, inspect, token_blocks
from .data.clip_reading import ClipReading, Transforms
from .data.preprocessing import Preprocessing
from .data.transforms import ClipTransform
from .errors import D2STError
from .layers.frozen import lean, ordinary
from .utils.config import Bounds, checked
from .utils.device import DTYPES
from .utils.hub import find
from .utils.hub_model import CardFacts, HubModel
from .utils.limits import FRAMES, SIDE
from .utils.modes import evaluating

_EITHER = (
    "compile and grad_checkpointing exclude each other: compiled blocks decide themselves what they keep for the "
    "backward pass. Choose one of them."
)


def adapt(
    model: str | nn.Module,
    config: AdapterConfig | type[AdapterConfig] | str | None = None,
    *,
    frames: int = 8,
    pretrained: bool | str | Path = True,
    image_size: ImageSize = None,
) -> "VideoEncoder":
    """Freeze an image model and plug video adapters into it.

    Args:
        model: a timm name, a backbone that ships with d2st ("d2st_stills"), or a model built by timm, which is then
            frozen in place and gets hooks and layers that keep less for the backward pass (:mod:`d2st.layers.frozen`);
            its state-dict keys stay as they are. :meth:`VideoEncoder.restore` is the way back. Adapters get its
            precision and device.
        config: the adapter system; a name ("st") or a class is that system with its defaults, None is
            :class:`D2STConfig`.
        frames: T, frames of a clip that the adapters are laid out for.
        pretrained: for a name: True for the published weights, False for random ones, or a local file
            (safetensors, or ``.pth`` read with ``weights_only``).
        image_size: side or (height, width) of the frames in pixels; None is the backbone's own.

    Returns:
        The encoder, in eval mode. Adapters start as the identity: it gives what the frozen backbone gives, but for
        systems whose config's ``starts_as_backbone`` is False (DUALPATH, DiST, LSN and Side4Video read features in
        their own way, shifted heads look at other frames, and one of Task-Adapter's adapters starts at random).

    Raises:
        D2STError: unknown name, weights that are missing or do not fit, a model without usable stages, a system that
            does not fit the backbone. The model is then left as it was.
    """
    config = _config(config)
    frames = checked("d2st.adapt", "frames", frames, int, Bounds(**FRAMES))
    pretrained = checked("d2st.adapt", "pretrained", pretrained, bool | str | Path)
    image_size = checked("d2st.adapt", "image_size", image_size, ImageSize, Bounds(**SIDE))
    if not isinstance(model, str | nn.Module):
        raise D2STError(f"A backbone is a timm name or a model built by timm, not a {type(model).__name__}.")
    if isinstance(model, VideoEncoder):
        raise D2STError("This is an encoder with adapters already; pass its backbone after encoder.restore().")
    if hasattr(model, "_orig_mod"):  # its parameters have other names, by which some would not be found
        raise D2STError(
            "This model went through torch.compile already; adapt the model itself, and compile the encoder "
            "(encoder.compile_blocks(), or torch.compile(encoder))."
        )
    if isinstance(model, nn.Module) and carries_adapters(model):
        raise D2STError(
            f"{type(model).__name__} already carries adapters, or is another encoder's backbone: take it back with "
            "restore() of that encoder, build a fresh backbone, or deepcopy it before."
        )
    name, source = "", None
    if isinstance(model, str):
        name = model
        source = pretrained if isinstance(pretrained, bool) else Path(pretrained).name
        model = backbones.build(name, pretrained, image_size, config.keeps_classifier)
        if pretrained is not False:
            _warn_of_quickgelu(name, model)
    with unchanged_on_error(model):
        if not name and image_size is not None:
            backbones.resize(model, backbones.nominal_size(model, image_size))
        backbone = inspect(model, backbones.nominal_size(model, image_size))
        encoder = VideoEncoder(backbone, config, frames, name, source)
        like = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
        for own in (encoder.adapters, encoder.passage):  # not the backbone, which may be in more than one precision
            own.to(like)
        return encoder.eval()


def _warn_of_quickgelu(name: str, model: nn.Module) -> None:
    """Warn of weights that were trained with another activation than the model of this name has, as timm notes."""
    if "quickgelu" in name:
        return
    for note in model.pretrained_cfg.get("notes") or ():
        if "quickgelu" in note.lower():
            better = name.replace("_clip_", "_clip_quickgelu_", 1)
            warnings.warn(f"{name}: {note} (e.g. {better}).", stacklevel=3)


def _config(config: object) -> AdapterConfig:
    """Make a config of an instance, a class, a name or None."""
    if config is None:
        return D2STConfig()
    if isinstance(config, type) and issubclass(config, AdapterConfig):
        config = config()
    if isinstance(config, AdapterConfig) and type(config) is not AdapterConfig:
        return config
    if isinstance(config, str) and config in SYSTEMS:
        return SYSTEMS[config]()
    given = repr(config) if isinstance(config, str | type) else f"a {type(config).__name__}"
    raise D2STError(
        f"config={given} is no adapter system. Give one of the names {', '.join(sorted(SYSTEMS))}, or a config such as "
        f"D2STConfig()."
    )


def load(
    source: str | Path,
    *,
    backbone: nn.Module | None = None,
    weights: str | Path | None = None,
    revision: str | None = None,
) -> "VideoEncoder":
    """Rebuild an encoder from an adapter file.

    Args:
        source: a folder written by ``save_pretrained``, or a Hub repository ("hub:user/name").
        backbone: the timm model to put it on, in any precision; None builds the one that the file names.
        weights: weight file for that; needed when the backbone's weights came from a file.
        revision: branch, tag or commit of a Hub repository.

    Raises:
        D2STError: no such adapter, another kind of backbone, or the same kind with other weights. The backbone is then
            left as it was.
    """
    folder = find(source, adapter_file.CONFIG, adapter_file.WEIGHTS, revision=revision)
    saved = adapter_file.read_config(folder)
    spec = saved["backbone"]
    config = adapter_file.config_from_dict(saved["adapter"], f"{adapter_file.CONFIG} in {folder}")
    adapter_file.check_backbone(source, spec, backbone, weights)
    frames, size = saved["laid_out"] or saved["frames"], saved["image_size"]
    reading = adapter_file.reading_of(saved, folder)  # before tensors of a given backbone are written over
    with unchanged_on_error(backbone):
        model = backbone
        if model is None:
            model = backbones.build(spec["name"], weights or True, size, config.keeps_classifier)
        adapter_file.refuse_other_shapes(folder, model, config, frames, size, spec)
        encoder = adapt(model, config, frames=frames, image_size=size)
        different = difference(spec, encoder.backbone, encoder.trained_names)
        if different:
            raise D2STError(
                f"The adapter in {source} was trained on {spec['name'] or spec['class']} {different}. Pass the weights "
                "it was trained with (weights=, --weights)."
            )
        encoder.load_adapter_state_dict(adapter_file.read_weights(folder))
    encoder.backbone_name, encoder.weights_source = spec["name"], spec["weights"]
    for setting in ("mean", "std", "interpolation"):  # as in the training, whatever a given model says of itself
        if spec[setting] is not None:  # earlier versions did not save it
            setattr(encoder, setting, spec[setting])
    encoder.frames, encoder.reading = saved["frames"], reading
    return encoder


class VideoEncoder(nn.Module, HubModel):
    """A frozen image backbone with video adapters: (B, T, 3, H, W) -> (B, T, D), one feature a frame.

    The feature of a frame is what timm gives just before its classifier. Build it with :func:`adapt`.

    Attributes:
        backbone: the timm model, its state-dict keys untouched.
        adapters: everything that was inserted, by site. Hooks in the backbone run these very modules: to replace or
            delete an entry changes what is saved, and not what is computed.
        passage: takes a clip's frames through the backbone; has parameters in some systems.
        config: the adapter system's config.
        frames: T of the clips that it is for, what the adapters are laid out for unless it was trained on others.
        laid_out: T that the adapters are laid out for.
        reading: how the clips were read that it was trained on; None where it was not trained.
        image_size: (H, W) in pixels that they are laid out for.
        merged: the backbone's own parameters that :meth:`merge` put aside; None before.
        halves: type of the frozen weights after :meth:`half_weights`; None before.
        num_features: D.
        map_channels: channels of the maps, see :meth:`features_and_maps`; None if it has none.
        mean, std, interpolation: how the backbone wants its input, from its ``pretrained_cfg``; of a loaded adapter as
            in its training. See :meth:`transform`.
        crop_pct: share of a picture's side that timm's own evaluation of the backbone shows, from there too;
            :meth:`transform` shows as much as fits.
    """

    def __init__(self, backbone: Backbone, config: AdapterConfig, frames: int, name: str = "", source=None):
        super().__init__()
        self.backbone = backbone.model
        self.config, self.frames, self.laid_out = config, frames, frames
        self.reading: ClipReading | None = None
        self.backbone_name, self.weights_source = name, source
        self.image_size, self.has_tokens = backbone.image_size, backbone.has_tokens
        self.trained_names = tuple(config.trained_backbone_parameters(backbone))
        self.checkpointing, self.restored = False, False
        self.merged: Merged | None = None
        self.halves: torch.dtype | None = None
        self.clip = ClipShape(frames, self.image_size)
        self.adapters = nn.ModuleDict()
        insertions = config.insertions(backbone, frames)  # all checks first: a refusal leaves the model as it was
        check_keys(insertions, type(config).__name__)
        self.passage = config.frame_features(backbone, frames)
        self.before = Snapshot.of(self.backbone, () if config.tunes_backbone else self.trained_names)
        backbones.freeze(self.backbone, self.trained_names)
        if not config.tunes_backbone:
            lean(self.backbone)
        self.num_features, self.map_channels = self.passage.num_features, self.passage.map_channels
        plain = type(self.passage) is FrameFeatures
        self._stages = ends_of_parts(backbone.sites, 4) if plain else ()
        self._token_blocks = token_blocks(backbone) if plain else ()
        for insertion in insertions:
            self.adapters[insertion.key] = insertion.adapter
            insert(self.backbone, insertion, self.clip)
        mark(self.backbone)
        cfg = getattr(self.backbone, "pretrained_cfg", None) or {}
        wanted = Preprocessing.of_timm(cfg, self.image_size)
        self.mean, self.std, self.interpolation = wanted.mean, wanted.std, wanted.interpolation
        self.crop_pct = cfg.get("crop_pct") or 1.0

    def forward(self, video: Tensor) -> Tensor:
        """Encode clips. Threads may do so at once, also clips of different shapes.

        Args:
            video: (B, T, 3, H, W), normalized with ``mean`` and ``std``, of any floating-point type: it gets that of
                the backbone.

        Returns:
            (B, T, D); systems that see fewer images than frames (DUALPATH, DiST) give as many features as their
            config says.

        Raises:
            D2STError: wrong shape or type, a number of frames that the adapter cannot take, or a frame size that the
                patches of a ViT cannot; or the adapters were taken out.
            RuntimeError: frames that are too small for a CNN, or of sides that it cannot halve evenly (CLIP's ResNets).
        """
        with self.clip.turn(), self.halved(video):
            images = self.images(video)
            features = self.passage(self.backbone, images, video.to(images.dtype))
            self.clip.done()
        return features

    def features_and_maps(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Encode clips to features and the maps that they were pooled from, in one pass.

        A map is what the backbone gives before it pools: the last stage of a CNN, the patch tokens of a ViT after its
        last norm (before ``fc_norm``, where it has that one instead).

        Args:
            video: (B, T, 3, H, W), as for :meth:`forward`.

        Returns:
            (B, T, D) features, the same as :meth:`forward` gives, and (B, T, D', h, w) maps of ``map_channels``
            channels: D unless the backbone changes the width behind its map, as CLIP's ResNets do.

        Raises:
            D2STError: as for :meth:`forward`; or an adapter system that reads features of its own (DUALPATH, DiST), or
                a backbone without a map.
        """
        with self.clip.turn(), self.halved(video):
            images = self.images(video)
            features_and_maps = self.passage.features_and_maps(self.backbone, images, video.to(images.dtype))
            self.clip.done()
        return features_and_maps

    def features_and_stages(self, video: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode clips to features and the maps of four stages on the way to them, in one pass.

        A CNN has four stages (or more, of which four are taken); of a ViT's blocks it is the last of each quarter,
        before its last norm. Maps are what comes out of the adapter, where one stands there.

        Args:
            video: (B, T, 3, H, W), as for :meth:`forward`.

        Returns:
            (B, T, D) features, the same as :meth:`forward` gives, and four maps (B, T, C_i, h_i, w_i).

        Raises:
            D2STError: as for :meth:`forward`; or an adapter system that reads features of its own, or a backbone with
                fewer stages.
        """
        layouts = {stage.module: stage.layout for stage in self.stages}
        with self.clip.turn(), self.halved(video):
            features, maps = features_and_stages(self.backbone, self.images(video), layouts)
            self.clip.done()
        return features, maps

    @property
    def stages(self) -> tuple[Site, ...]:
        """Return the four places of :meth:`features_and_stages`.

        Raises:
            D2STError: an adapter system that reads features of its own, or a backbone with fewer stages.
        """
        if not self._stages:
            raise D2STError(
                f"This {type(self.backbone).__name__} with the adapter '{self.config.name}' has no four stages for a "
                f"head that looks at them (sloshnet). Take a ResNet, another CNN or a ViT, and an adapter that leaves "
                f"the backbone's features as they are, such as d2st."
            )
        return self._stages

    def features_and_tokens(self, video: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode clips to features and the tokens of three of a ViT's blocks on the way to them, in one pass.

        The blocks are those that end each third, with the adapters that stand there, and all three pass the backbone's
        last norm (there is none where it has ``fc_norm`` instead). Register tokens are left out.

        Args:
            video: (B, T, 3, H, W), as for :meth:`forward`.

        Returns:
            (B, T, D) features, the same as :meth:`forward` gives, and three (B, T, 1+N, D), class token first.

        Raises:
            D2STError: as for :meth:`forward`; or an adapter system that reads features of its own, or a backbone that
                is no ViT with a class token and three blocks.
        """
        blocks = self.token_blocks
        with self.clip.turn(), self.halved(video):
            images = self.images(video)
            features, tokens = features_and_tokens(
                self.backbone, images, [block.module for block in blocks], blocks[0].prefix
            )
            self.clip.done()
        return features, tokens

    @property
    def token_blocks(self) -> tuple[Site, ...]:
        """Return the three places of :meth:`features_and_tokens`.

        Raises:
            D2STError: an adapter system that reads features of its own, or a backbone that is no ViT with a class token
                and three blocks.
        """
        if not self._token_blocks:
            raise D2STError(
                f"This {type(self.backbone).__name__} with the adapter '{self.config.name}' has no three blocks of "
                f"class token and patches for a head that looks at them (emp-net). Take a ViT with a class token, such "
                f"as CLIP's, and an adapter that leaves the backbone's features as they are, such as d2st."
            )
        return self._token_blocks

    def images(self, video: Tensor) -> Tensor:
        """Pick the images that the backbone sees, (B, T, 3, H, W) -> (B, I, 3, H, W), and tell the hooks."""
        self._check_whole()
        if not isinstance(video, Tensor):
            raise D2STError(f"A video batch must be a tensor (B, T, 3, H, W), not a {type(video).__name__}.")
        if video.ndim != 5 or video.shape[1] < 1 or video.shape[2] != 3:
            raise D2STError(f"A video batch must be (B, T, 3, H, W), T at least 1; this one is {tuple(video.shape)}.")
        if not video.is_floating_point():
            raise D2STError(
                f"A video batch must be normalized floating-point frames; this one is {video.dtype}. Scale frames of "
                f"0..255 to 0..1 and normalize them with the encoder's mean and std (encoder.transform()), or give "
                f"them to a FewShotClassifier, which does."
            )
        images = self.passage.images(video).to(self._dtype())  # (B, I, 3, H, W)
        size = tuple(images.shape[3:])
        backbones.check_size(self.backbone, size)
        self.clip.set(images.shape[1], size)
        return images

    @property
    def preprocessing(self) -> Preprocessing:
        """The input that the backbone wants."""
        return Preprocessing(self.image_size, self.mean, self.std, self.interpolation)

    def transform(self, train: bool = False, transforms: Transforms | None = None, **options: object) -> ClipTransform:
        """Build the transform that makes frames fit for the encoder: uint8 (T, 3, H, W) -> float (T, 3, h, w).

        Args:
            train: random crops and flips, instead of the center.
            transforms: plain keeps the aspect ratio, released resizes to a square; None is as the encoder was trained,
                or plain if it was not.
            **options: flip and jitter of :meth:`~d2st.data.preprocessing.Preprocessing.train_transform`.

        Raises:
            D2STError: released transforms for frames that are not square.
        """
        if transforms is None:
            transforms = self.reading.transforms if self.reading else "plain"
        if train:
            return self.preprocessing.train_transform(transforms, **options)
        return self.preprocessing.eval_transform(transforms)

    @torch.no_grad()
    def lay_out(self, reading: ClipReading) -> None:
        """Lay the adapters out for clips that are read so, which is then part of what is saved.

        Raises:
            D2STError: they are laid out for another number of frames, and cannot take this one.
        """
        if reading.frames != self.frames:
            like = next(self.parameters())
            try:
                with evaluating(self):
                    self(like.new_zeros(1, reading.frames, 3, *self.image_size))
            except D2STError as error:
                raise D2STError(
                    f"This adapter is laid out for clips of {self.laid_out} frames and cannot be trained on "
                    f"{reading.frames}: {error}"
                ) from error
            self.frames = reading.frames
        self.reading = reading

    def train(self, mode: bool = True) -> "VideoEncoder":
        """Set training mode for the adapters.

        A frozen backbone stays in eval mode (batch statistics, drop-out); one that is tuned as a whole trains, but for
        its BatchNorms, which keep their statistics.
        """
        super().train(mode)
        for module in self.backbone.modules():
            if not self.config.tunes_backbone or isinstance(module, _BatchNorm):
                module.training = False
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the backbone's blocks in the backward pass instead of keeping their activations.

        They are recomputed as parts of clips of the shape that was encoded last. So call backward before clips of
        another number of frames or another frame size are encoded; otherwise PyTorch raises its CheckpointError.

        Raises:
            D2STError: timm cannot do it for this backbone, its blocks are compiled, or the adapters were taken out.
        """
        self._check_whole()
        if enable and self.compiled:
            raise D2STError(_EITHER)
        try:
            self.backbone.set_grad_checkpointing(enable)
        except (AssertionError, AttributeError, NotImplementedError, TypeError) as error:
            raise D2STError(
                f"timm has no gradient checkpointing for {self.backbone_name or type(self.backbone).__name__}. Train "
                f"without it, with smaller batches, or take another backbone."
            ) from error
        self.checkpointing = enable

    @property
    def compiled(self) -> bool:
        """Say whether the backbone's blocks are compiled, see :meth:`compile_blocks`; copies have them as they were."""
        return self.clip.compiled

    def compile_blocks(
        self, enable: bool = True, device: torch.device | None = None, backend: str = "inductor"
    ) -> None:
        """Compile the backbone's blocks one by one, with the adapters in them; the first pass takes longer then.

        Each length of clips and each batch size may be compiled anew, up to the limit of ``torch.compile``, and so may
        passes with and without gradients. One thread at a time encodes. ``torch.compile(encoder)`` compiles it whole.

        Args:
            enable: False has them as they were.
            device: that the encoder will run on; None is where it is.
            backend: of ``torch.compile``.

        Raises:
            D2STError: nothing can be compiled here, gradient checkpointing is on, or the adapters were taken out.
        """
        self._check_whole()
        if not enable:
            if self.compiled:
                leave_blocks(self.backbone)
        elif self.checkpointing:
            raise D2STError(_EITHER)
        else:
            compile_blocks(self.backbone, device or next(self.backbone.parameters()).device, backend)
        self.clip.compiled = enable

    @property
    def mergeable(self) -> bool:
        """Say whether there are adapters that :meth:`merge` can fold into the backbone."""
        return bool(find_foldable(self.backbone, self.clip))

    def merge(self) -> "VideoEncoder":
        """Fold the adapters that are linear into the frozen weights beside them, in place; gives the encoder itself.

        Features stay the same up to rounding, and the adapters cost nothing any more. What cannot be folded stays: a
        shift of heads, a temporal embedding. Of LoRA without them the plain backbone is left. Dropout is off then. The
        adapter can no longer be saved or loaded: save it before. :meth:`restore` has the backbone's own weights, which
        are kept until then. Code that ``torch.compile`` made before does not see the change.

        Raises:
            D2STError: there is nothing to fold, the blocks are compiled, or a layer is not of the ordinary kind.
        """
        self._check_whole()
        if self.merged:
            raise D2STError("The adapters of this encoder were merged into its backbone already.")
        if self.compiled:
            raise D2STError("Merge before the blocks are compiled; compile_blocks(False) has them as they were.")
        found = find_foldable(self.backbone, self.clip)
        if not found:
            raise D2STError(
                f"Nothing of {type(self.config).__name__} can be merged: only linear adapters at linear layers can "
                f"(LoRAConfig, ZeroI2VConfig)."
            )
        self.merged, folded = merge(self.backbone, found)
        gone = {id(adapter) for adapter in folded}
        for key in [key for key, adapter in self.adapters.items() if id(adapter) in gone]:
            del self.adapters[key]
        return self

    def half_weights(self, precision: Literal["bf16", "fp16"] = "bf16") -> "VideoEncoder":
        """Keep the frozen weights of linear layers and convolutions rounded, in place; gives the encoder itself.

        They take half of the memory, and need not be rounded in every pass: under autocast in this precision, features
        are the same bits. Passes without autocast are under it from now on. Do it last: an encoder that is saved
        after it, or a classifier made of it, knows the rounded weights as its own. There is no way back.

        Raises:
            D2STError: another precision, the whole backbone trains, or it is in half precision already.
        """
        self._check_whole()
        if precision not in list(DTYPES):  # a list, so that what has no hash is refused too
            raise D2STError(f"half_weights: precision={precision!r} is none of {', '.join(DTYPES)}.")
        if self.config.tunes_backbone:
            raise D2STError(f"{type(self.config).__name__} trains the whole backbone; half_weights is for frozen ones.")
        if self._dtype() != torch.float32 or self.halves:
            raise D2STError(f"The backbone's weights are in {self.halves or self._dtype()} already.")
        round_weights(self.backbone, DTYPES[precision])
        self.halves = DTYPES[precision]
        return self

    def restore(self) -> nn.Module:
        """Take the adapters out and give the backbone back as it was before :func:`adapt`: the way back.

        Hooks are off, layers are the ordinary ones, what trained trains, modes are as they were, and parameters that
        trained along with the adapters have their old values. It can be adapted again. Three things stay: the size of
        frames where ``image_size`` changed it, with the position table resampled to it; weights that
        :class:`~d2st.FullConfig` tuned; and the rounding of :meth:`half_weights`, in float32 again. The encoder is of
        no use after it: save the adapter before.

        Raises:
            D2STError: it was done before.
        """
        self._check_whole()
        remove(self.backbone, self.clip)
        if self.merged:
            self.merged.undo(self.backbone)
        if self.halves:
            widen_weights(self.backbone, self.halves)
        if not self.config.tunes_backbone:
            ordinary(self.backbone)
        if self.checkpointing:
            self.set_grad_checkpointing(False)
        if self.compiled:
            self.compile_blocks(False)
        self.before.restore(self.backbone)
        self.restored = True
        return self.backbone

    def check_clips_apart(self) -> None:
        """Refuse an encoder whose clips see each other, for what takes each clip's features as its own.

        Raises:
            D2STError: the config's ``mixes_clips`` says that they do.
        """
        if self.config.mixes_clips:
            raise D2STError(
                f"In the adapter '{self.config.label}' the clips of a call see each other, so that no clip has "
                f"features of its own: it trains with d2st train --validate-every 0, d2st eval --transductive measures "
                f"it, and nothing else takes it. Take an adapter that sees each clip alone, such as "
                f"{self.config.name} with its defaults."
            )

    def _check_whole(self) -> None:
        if getattr(self, "_is_replica", False):
            raise D2STError(
                "nn.DataParallel cannot run adapters, whose hooks stay with the first device. Use one process for each "
                "GPU: torchrun and DistributedDataParallel."
            )
        if self.restored:
            raise D2STError("The adapters of this encoder were taken out by restore(): adapt the backbone again.")

    def halved(self, video: object) -> AbstractContextManager:
        """Return autocast for a pass on clips or maps where rounded weights need it and none is on."""
        if not self.halves or not isinstance(video, Tensor) or torch.is_autocast_enabled(video.device.type):
            return nullcontext()
        return torch.autocast(video.device.type, self.halves)

    def _check_unmerged(self) -> None:
        if self.merged:
            raise D2STError(
                "The adapters of this encoder were merged into its backbone and are no longer there by themselves. "
                "Save an adapter before merge(), and load one into an encoder that was not merged."
            )

    def _dtype(self) -> torch.dtype:
        """Return what the backbone computes in; where only some weights are rounded, as the others are."""
        if self.halves:
            return torch.float32
        return next(parameter.dtype for parameter in self.backbone.parameters() if parameter.is_floating_point())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "VideoEncoder":
        """Hand kernels over time to ``fn`` as rows of numbers: PyTorch refuses layouts of images for them."""

        def over_time(tensor: Tensor) -> Tensor:
            return fn(tensor.flatten()).view(tensor.shape) if tensor.ndim == 5 else fn(tensor)

        return super()._apply(over_time, recurse)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """List what an optimizer gets: the adapters, and the backbone's parameters that train along."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def adapter_state_dict(self) -> dict[str, Tensor]:
        """Collect every trained tensor and the adapters' buffers: all that an adapter file holds."""
        self._check_whole()
        own = dict(self.backbone.named_parameters())
        state = self.adapters.state_dict() | self.passage.state_dict(prefix=PASSAGE)
        return state | {TRAINED + name: own[name].detach() for name in self.trained_names}

    def load_adapter_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take what :meth:`adapter_state_dict` gave.

        Raises:
            D2STError: keys or shapes that are not this encoder's, listed; or its adapters were merged.
        """
        self._check_unmerged()
        own = self.adapter_state_dict()
        different = adapter_file.different_tensors(own, state)
        if different:
            raise D2STError(
                f"These adapter weights are not for {type(self.config).__name__} on {type(self.backbone).__name__}: "
                f"{different}. Build the encoder with the config that they belong to."
            )
        with torch.no_grad():
            for key, tensor in own.items():
                tensor.copy_(state[key])

    def parameter_count(self) -> tuple[int, int]:
        """Count trainable and all parameters."""
        return sum(p.numel() for p in self.trainable_parameters()), sum(p.numel() for p in self.parameters())

    def summary(self) -> dict[str, float]:
        """Print and return the number of trainable and of all parameters, and their share.

        It also says where untrained adapters change what the backbone gives, and where clips see each other.
        """
        trainable, total = self.parameter_count()
        print(
            f"{type(self.config).__name__} on {self.backbone_name or type(self.backbone).__name__}: "
            f"{trainable:,} of {total:,} parameters train ({trainable / total:.2%})"
        )
        if not self.config.starts_as_backbone:
            print("Untrained, it does not give what the frozen backbone gives.")
        if self.config.mixes_clips:
            print("The clips of a call see each other.")
        return {"trainable": trainable, "total": total, "share": trainable / total}

    def _save_pretrained(self, folder: Path) -> None:
        """Write the adapter alone: ``adapter_config.json`` and ``adapter_model.safetensors``."""
        self._check_unmerged()
        self._warn_of_unfrozen()
        adapter_file.save(self, folder)

    def _warn_of_unfrozen(self) -> None:
        """Warn of parameters of the backbone that somebody unfroze: the adapter file has no place for them."""
        named = self.backbone.named_parameters()
        unfrozen = [name for name, own in named if own.requires_grad and name not in self.trained_names]
        if unfrozen:
            warnings.warn(
                f"{len(unfrozen)} parameters of the backbone were unfrozen ({', '.join(unfrozen[:3])}, ...) and are "
                "not in an adapter's file, which will not load on the backbone as it was. Keep encoder.state_dict() "
                "too, or let the config name them (trained_backbone_parameters; FullConfig names all).",
                stacklevel=4,
            )

    def card_facts(self) -> CardFacts:
        """Adapter and backbone."""
        trainable, total = self.parameter_count()
        backbone = self.backbone_name or type(self.backbone).__name__
        published = self.weights_source is True and not backbone.startswith("d2st_")
        return CardFacts(
            title=f"{self.config.label} on {backbone}",
            about={
                "adapter": self.config.label,
                "backbone": backbone,
                "clips": self.reading or f"{self.frames} frames a clip; how they are read is not recorded",
                "trained parameters": f"{trainable:,} of {total:,}",
            },
            usage='encoder = d2st.load("hub:{repo}")\nfeatures = encoder(video)  # (B, T, 3, H, W) -> (B, T, D)',
            base_model=backbones.repository(backbone) if published else None,
        )

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: object) -> "VideoEncoder":
        """Rebuild an encoder from an adapter file; see :func:`load`."""
        return load(source, **options)


def check_encoder(owner: str, encoder: object) -> None:
    """Refuse what is no encoder, or one whose clips see each other, for what takes each clip's features as its own.

    Args:
        owner: name of the class that it was given to.
        encoder: what was given.
    """
    if not isinstance(encoder, VideoEncoder):
        raise D2STError(
            f"{owner} takes a video encoder, not a {type(encoder).__name__}: d2st.load(folder) reads one, and "
            f"d2st.adapt(backbone) makes one."
        )
    encoder.check_clips_apart()
