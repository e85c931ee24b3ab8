"""What the settings and options of other programs are called here."""

from collections.abc import Mapping

# VALUE stands for the value that the user gave.
OTHER_WORDS: Mapping[str, str] = {
    "batch_size": "train.batch=VALUE",
    "bs": "train.batch=VALUE",
    "max_iter": "train.steps=VALUE",
    "max_iters": "train.steps=VALUE",
    "max_steps": "train.steps=VALUE",
    "iterations": "train.steps=VALUE",
    "iters": "train.steps=VALUE",
    "training_number_of_steps": "train.steps=VALUE",
    "num_epochs": "train.epochs=VALUE",
    "max_epochs": "train.epochs=VALUE",
    "early_stopping": "train.patience=N, where N validations without a better score end the training",
    "early_stop": "train.patience=N, where N validations without a better score end the training",
    "learning_rate": "optim.lr=VALUE",
    "base_learning_rate": "optim.lr=VALUE",
    "base_lr": "optim.lr=VALUE",
    "lr0": "optim.lr=VALUE",
    "wd": "optim.weight_decay=VALUE",
    "optimizer": "optim.name=VALUE",
    "scheduler": "optim.schedule=VALUE",
    "imgsz": "augment.crop=HEIGHT,WIDTH",
    "img_size": "augment.crop=HEIGHT,WIDTH",
    "image_size": "augment.crop=HEIGHT,WIDTH",
    "input_size": "augment.crop=HEIGHT,WIDTH",
    "crop_size": "augment.crop=HEIGHT,WIDTH",
    "train_crop_size": "augment.crop=HEIGHT,WIDTH",
    "arch": "model.name=VALUE",
    "model": "model.name=VALUE",
    "model_variant": "model.backbone=VALUE",
    "encoder": "model.backbone=VALUE",
    "os": "model.output_stride=VALUE",
    "atrous_rates": "model.aspp.rates=VALUE",
    "classes": "names in MYDATA/classes.yaml, or data.names",
    "num_classes": "names in MYDATA/classes.yaml, or data.names",
    "nc": "names in MYDATA/classes.yaml, or data.names",
    "data": "data.root=VALUE",
    "data_dir": "data.root=VALUE",
    "data_root": "data.root=VALUE",
    "dataset": "data.root=VALUE",
    "dataset_dir": "data.root=VALUE",
    "ignore_index": "data.ignore=VALUE",
    "ignore_label": "data.ignore=VALUE",
    "ckpt": "train.init=VALUE",
    "checkpoint": "train.init=VALUE",
    "tf_initial_checkpoint": "train.init=VALUE",
    "pretrained": "train.init=VALUE",
    "weights": "train.init=VALUE",
    "amp": "train.precision=bf16",
    "fp16": "train.precision=bf16",
    "bf16": "train.precision=bf16",
    "half": "train.precision=bf16",
    "accum": "train.accumulate=VALUE",
    "grad_accum": "train.accumulate=VALUE",
    "tta": "evaluate.flip=true evaluate.scales=0.75,1,1.25",
    "add_flipped_images": "evaluate.flip=true",
    "eval_scales": "evaluate.scales=VALUE",
    "cuda": "--device cuda",
    "gpu": "--device cuda:VALUE",
    "gpus": "torchrun --nproc-per-node=VALUE -m atrous train ...",
    "cpu": "--device cpu",
    "num_workers": "--workers VALUE",
    "o": "--out VALUE",
    "output": "--out VALUE",
    "output_dir": "--out VALUE",
    "out_dir": "--out VALUE",
    "save_dir": "--out VALUE",
    "save_path": "--out VALUE",
    "work_dir": "--out VALUE",
    "train_logdir": "--out VALUE",
    "project": "--out VALUE",
    "config": "the name of a recipe or its YAML file, as the first argument",
    "cfg": "the name of a recipe or its YAML file, as the first argument",
    "config_file": "the name of a recipe or its YAML file, as the first argument",
}


def meaning(word: str, value: str = "") -> str:
    """`train.batch=4` for `batch_size` and `4`; the empty string for an unknown word."""
    return OTHER_WORDS.get(word.lower().replace("-", "_"), "").replace("VALUE", value or "VALUE")


def hint(word: str, value: str = "") -> str:
    """`; here it is train.batch=4`, or nothing."""
    text = meaning(word, value)
    return f"; here it is {text}" if text else ""
