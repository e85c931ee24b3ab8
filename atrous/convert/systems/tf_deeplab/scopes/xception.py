"""xception_65/..., as TensorFlow's DeepLab names it."""

SCOPES = (
    (r"backbone\.stem\.0", r"{root}/entry_flow/conv1_1"),
    (r"backbone\.stem\.1", r"{root}/entry_flow/conv1_2"),
    (
        r"backbone\.units\.middle_(\d+)\.separable(\d)\.(\w+)",
        r"{root}/middle_flow/block1/unit_\1/xception_module/separable_conv\2_\3",
    ),
    (
        r"backbone\.(?:units\.)?(entry|exit)_(\d)\.separable(\d)\.(\w+)",
        r"{root}/\1_flow/block\2/unit_1/xception_module/separable_conv\3_\4",
    ),
    (
        r"backbone\.units\.(entry|exit)_(\d)\.shortcut",
        r"{root}/\1_flow/block\2/unit_1/xception_module/shortcut",
    ),
)
