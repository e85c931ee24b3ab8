"""MobilenetEdgeTPU/..., as TF-slim names it; a fused block has `expand`, but no `depthwise`."""

SCOPES = (
    (r"backbone\.stem", r"{root}/Conv"),
    (r"backbone\.blocks\.0\.(\w+)", r"{root}/expanded_conv/\1"),
    (r"backbone\.blocks\.(\d+)\.(\w+)", r"{root}/expanded_conv_\1/\2"),
    (r"backbone\.last", r"{root}/Conv_1"),
)
