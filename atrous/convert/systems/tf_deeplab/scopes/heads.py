"""The heads, which are at the root of a checkpoint."""

SCOPES = (
    (r"aspp\.image_(?:pooling|gate)", r"image_pooling"),
    (r"aspp\.branches\.(\d+)", r"aspp\1"),
    (r"aspp\.branches\.(\d+)\.(depthwise|pointwise)", r"aspp\1_\2"),
    (r"aspp\.projection", r"concat_projection"),
    (r"cell\.branches\.(\d+)(?:\.project)?", r"meta_architecture/branch\1"),
    (r"cell\.branches\.(\d+)\.(depthwise|pointwise)", r"meta_architecture/branch\1_\2"),
    (r"cell\.projection", r"meta_architecture/concat_projection"),
    # The decoder's first stage has no suffix, the next ones _1, _2.
    (r"decoder\.0\.low_level", r"decoder/feature_projection0"),
    (r"decoder\.(\d)\.low_level", r"decoder/feature_projection0_\1"),
    (r"decoder\.0\.refine\.(\d)\.(depthwise|pointwise)", r"decoder/decoder_conv\1_\2"),
    (r"decoder\.(\d)\.refine\.(\d)\.(depthwise|pointwise)", r"decoder/decoder_conv\2_\1_\3"),
    (r"decoder\.0\.refine\.0", r"decoder/decoder_conv0/decoder_conv0_1"),
    (r"decoder\.0\.refine\.1", r"decoder/decoder_conv0/decoder_conv0_2"),
    (r"decoder\.(\d)\.refine\.0", r"decoder/decoder_conv0_\1/decoder_conv0_\1_1"),
    (r"decoder\.(\d)\.refine\.1", r"decoder/decoder_conv0_\1/decoder_conv0_\1_2"),
    (r"decoder\.0\.refine\.(depthwise|pointwise)", r"decoder/decoder_split_sep_conv0_\1"),
    (r"decoder\.(\d)\.refine\.(depthwise|pointwise)", r"decoder/decoder_split_sep_conv0_\1_\2"),
    (r"decoder\.0\.refine", r"decoder/decoder_conv0"),
    (r"decoder\.(\d)\.refine", r"decoder/decoder_conv0_\1"),
    (r"classify(?:\.0)?", r"logits/semantic"),
    (r"classify\.(\d)", r"logits/semantic_\1"),
)

# What an ImageNet checkpoint has in their place.
CLASSIFIER = ((r"classify", r"{root}/logits"),)
SLIM_CLASSIFIER = ((r"widen", r"{root}/Conv_1"), (r"classify", r"{root}/Logits/Conv2d_1c_1x1"))
