"""MobilenetV3/..., as TF-slim names it. Only the first block has no number."""

SCOPES = (
    (r"backbone\.stem", r"{root}/Conv"),
    (r"backbone\.blocks\.0\.squeeze\.reduce", r"{root}/expanded_conv/squeeze_excite/Conv"),
    (r"backbone\.blocks\.0\.squeeze\.restore", r"{root}/expanded_conv/squeeze_excite/Conv_1"),
    (r"backbone\.blocks\.(\d+)\.squeeze\.reduce", r"{root}/expanded_conv_\1/squeeze_excite/Conv"),
    (r"backbone\.blocks\.(\d+)\.squeeze\.restore", r"{root}/expanded_conv_\1/squeeze_excite/Conv_1"),
    (r"backbone\.blocks\.0\.(\w+)", r"{root}/expanded_conv/\1"),
    (r"backbone\.blocks\.(\d+)\.(\w+)", r"{root}/expanded_conv_\1/\2"),
    (r"backbone\.last", r"{root}/Conv_1"),
)
