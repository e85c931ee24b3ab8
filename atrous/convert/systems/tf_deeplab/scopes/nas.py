"""pnasnet/... and hnasnet/..., whose layers have neither a scope of their own nor one name for the batch norm in it."""

CELL = r"backbone\.cells\.(\d+)"
PATH = CELL + r"\.(left|right)\.(\d)"
IN_CELL = r"{root}/cell_\1"
IN_PATH = r"{root}/cell_\1/comb_iter_\3/\2"

SCOPES = (
    (r"backbone\.stem\.(\d)\.conv", r"{root}/conv\1"),
    (r"backbone\.stem\.(\d)\.norm", r"{root}/conv\1_bn"),
    (CELL + r"\.input\.1\.conv", IN_CELL + "/1x1"),
    (CELL + r"\.input\.1\.norm", IN_CELL + "/beginning_bn"),
    (CELL + r"\.previous\.1\.conv", IN_CELL + "/prev_1x1"),
    (CELL + r"\.previous\.1\.norm", IN_CELL + "/prev_bn"),
    (PATH + r"\.sep(\dx\d)\.(depthwise)_(\d)", IN_PATH + r"/separable_\4_\6/\5_weights"),
    (PATH + r"\.sep(\dx\d)\.(pointwise)_(\d)\.conv", IN_PATH + r"/separable_\4_\6/\5_weights"),
    (PATH + r"\.sep(\dx\d)\.pointwise_(\d)\.norm", IN_PATH + r"/bn_sep_\4_\5"),
    (PATH + r"\.atr(\dx\d)\.filter\.conv", IN_PATH + r"/atrous_\4"),
    (PATH + r"\.atr(\dx\d)\.filter\.norm", IN_PATH + r"/bn_atr_\4"),
    (PATH + r"\.none\.1\.conv", IN_PATH + "/1x1"),
    (PATH + r"\.none\.1\.norm", IN_PATH + "/bn_1"),
    (r"backbone\.head\.stride_(\d+)\.conv", r"{root}/downsample_os\1_conv"),
    (r"backbone\.head\.stride_(\d+)\.norm", r"{root}/downsample_os\1_bn"),
    (r"backbone\.head\.expand\.conv", r"{root}/classification_head_conv"),
    (r"backbone\.head\.expand\.norm", r"{root}/classification_head_bn"),
)
