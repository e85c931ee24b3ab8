"""MobilenetV2/..., as TF-slim names it."""

SCOPES = (
    (r"backbone\.stem", r"{root}/Conv"),
    (r"backbone\.blocks\.0\.(\w+)", r"{root}/expanded_conv/\1"),
    (r"backbone\.blocks\.(\d+)\.(\w+)", r"{root}/expanded_conv_\1/\2"),
)
