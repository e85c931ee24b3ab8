"""The section `train`: length, batch, initial weights and saves of a training."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from atrous.settings import MAX_COUNT, Count, Seed, Settings

AUTO = "auto"  # train.batch and train.micro_batch: as many images as fit the memory


class TrainConfig(Settings):
    steps: Count = 30_000
    """Updates of the weights in the whole training."""
    epochs: float | None = Field(None, gt=0, le=100_000)
    """Passes over the training images, in place of `steps`; none: `steps` counts."""
    batch: int = Field(8, ge=1, le=2**16)
    """Images that one process takes in one pass; fewer need less memory."""
    accumulate: Count = 1
    """Passes whose gradients are summed into one update: a larger batch without more memory."""
    micro_batch: Count | Literal["auto"] | None = None
    """Images that go through the network at once, where a whole `batch` doesn't fit; auto: as many as fit."""
    seed: Seed = 0
    """Starting point of everything random: equal seeds give equal trainings."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """ddp: each process holds all weights; fsdp: they share them out, which needs less memory."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the passes; bf16 is faster and needs less memory on recent GPUs."""
    activation_checkpointing: bool = False
    """Compute the backbone's activations again in the backward pass: less memory, more time, the same numbers."""
    batch_norm: Literal["tuned", "frozen"] = "tuned"
    """frozen: keep the statistics of the batch norms, for small batches; scales and shifts still learn."""
    batch_norm_momentum: float | None = Field(None, gt=0, le=1)
    """Weight of the newest batch in the statistics of batch norms; none: each layer's own."""
    init: Annotated[str, Field(min_length=1)] | None = None
    """Begin with the weights of this model file, or of anything that `atrous convert` reads."""
    reuse: Literal["all", "all_but_logits", "backbone", "matching"] = "all"
    """Which weights of `init` to take; all_but_logits where the classes differ, matching for whatever fits."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay of averaged weights, which are then evaluated and saved, such as 0.999; none: no averaging."""
    quantize_after: int | None = Field(None, ge=0, le=MAX_COUNT)
    """Steps before the network learns 8-bit arithmetic, for `atrous export --int8`; none: never."""
    save_every: Count = 500
    """Steps between two saves: what a kill can lose at most."""
    eval_every: Count | None = 1000
    """Steps between two validations; none: only after the last step, as where `atrous evaluate --watch` runs."""
    patience: Count | None = None
    """Validations without a better score after which the training ends early; none: all steps are done."""
    log_every: Count = 10
    """Steps between two lines of progress."""
    tensorboard: bool = False
    """Also write TensorBoard's event files into the run's folder; needs the extra tensorboard."""
    profile_steps: tuple[Count, Count] | None = None
    """First and last step that PyTorch's profiler records, such as 10,15; none: it doesn't run."""

    @model_validator(mode="after")
    def _steps_are_in_order(self) -> "TrainConfig":
        if self.profile_steps is not None and self.profile_steps[0] > self.profile_steps[1]:
            raise ValueError(f"profile_steps={list(self.profile_steps)}: the last one comes before the first one")
        if self.patience is not None and self.eval_every is None:
            raise ValueError(f"patience={self.patience} needs eval_every: it counts validations")
        return self

    @model_validator(mode="after")
    def _quantizes_in_time(self) -> "TrainConfig":
        if self.quantize_after is None:
            return self
        if self.epochs is None and self.quantize_after >= self.steps:
            raise ValueError(
                f"quantize_after={self.quantize_after} must be less than steps={self.steps}: no step would be left to "
                "learn from rounded values"
            )
        if self.parallel == "fsdp":
            raise ValueError("quantize_after needs parallel=ddp: processes that share weights out can't round them")
        return self

    @model_validator(mode="before")
    @classmethod
    def _automatic_batch(cls, settings: Any) -> Any:  # noqa: ANN401 - any YAML value
        """`batch: auto` leaves the number of images as it is, and finds how many go through the network at once."""
        if not isinstance(settings, dict) or settings.get("batch") != AUTO:
            return settings
        return {"micro_batch": AUTO, **{name: value for name, value in settings.items() if name != "batch"}}

    @property
    def parts(self) -> int:
        """Passes that a batch is computed in."""
        return 1 if self.micro_batch in (None, AUTO) else -(-self.batch // int(self.micro_batch))

    @model_validator(mode="after")
    def _reuse_needs_init(self) -> "TrainConfig":
        if self.reuse != "all" and self.init is None:
            raise ValueError(f"reuse={self.reuse} needs init, the file that the weights come from")
        return self
