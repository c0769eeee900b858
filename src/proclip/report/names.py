"""What benchmarks, tasks and languages are called in a report, and the colours of its models."""

from __future__ import annotations

TONES = ("#858a93", "#d6742a", "#1d54a8", "#17917a", "#9567c7", "#b59a1e", "#57aadb", "#b0436e")
"""A colour for each model, the reference's first; each is a variable ``--m0``, ``--m1``, ... of the page."""
LANGUAGES = {
    "ar": "Arabic", "bn": "Bengali", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek", "en": "English",
    "es": "Spanish", "fa": "Persian", "fi": "Finnish", "fil": "Filipino", "fr": "French", "he": "Hebrew",
    "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian", "id": "Indonesian", "it": "Italian", "ja": "Japanese",
    "ko": "Korean", "mi": "Māori", "nl": "Dutch", "no": "Norwegian", "pl": "Polish", "pt": "Portuguese",
    "quz": "Quechua", "ro": "Romanian", "ru": "Russian", "sv": "Swedish", "sw": "Swahili", "te": "Telugu",
    "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
"""Of Crossmodal-3600, in the paper's order, which is that of the codes."""
BENCHMARKS = {
    "mini-world": "Mini world", "food101": "Food101", "cifar10": "CIFAR10", "cifar100": "CIFAR100", "sun397": "SUN397",
    "cars": "Cars", "fgvc_aircraft": "Aircraft", "dtd": "DTD", "pets": "Pets", "caltech101": "Caltech101",
    "flowers": "Flowers", "imagenet1k": "ImageNet", "imagenetv2": "IN-V2", "imagenet-a": "IN-A",
    "imagenet-o": "IN-O", "imagenet-r": "IN-R", "imagenet_sketch": "IN-Sketch", "flickr30k": "Flickr30k",
    "coco": "COCO", "sharegpt4v-1k": "ShareGPT4V", "urban-1k": "Urban-1k", "docci": "DOCCI", "dci": "DCI",
    "xm3600": "XM3600", "mmvp_vlm": "MMVP", "sugarcrepe": "SugarCrepe", "winoground": "Winoground",
}  # fmt: skip
KINDS = {
    "replace_obj": "Replace object", "replace_att": "Replace attribute", "replace_rel": "Replace relation",
    "swap_obj": "Swap object", "swap_att": "Swap attribute", "add_obj": "Add object", "add_att": "Add attribute",
}  # fmt: skip
"""Of SugarCrepe, in the paper's order."""
TASKS = {
    "retrieval_long": "Long caption", "retrieval_short": "Short caption", "pairs": "Pairs of pictures",
    "hard_negatives": "Hard negatives", "zero_shot": "Zero-shot", "linear_probe": "Linear probe",
    "openmoji": "OpenMoji", "twemoji": "Twemoji",
}  # fmt: skip
METRICS = {
    "i2t_r@1": "I→T R@1", "i2t_r@5": "I→T R@5", "i2t_r@10": "I→T R@10", "t2i_r@1": "T→I R@1", "t2i_r@5": "T→I R@5",
    "t2i_r@10": "T→I R@10", "acc1": "Top 1", "acc5": "Top 5", "mean_per_class": "Mean per class",
    "knn_acc1": "k-NN top 1", "cka": "CKA", "mean": "Mean", "i2t_median_rank": "I→T median rank",
    "t2i_median_rank": "T→I median rank",
}  # fmt: skip


def benchmark_label(name: str) -> str:
    """What a benchmark is called."""
    if name.startswith("probe-"):
        return f"{benchmark_label(name.removeprefix('probe-'))}, probe"
    return BENCHMARKS.get(name, name)


def part_label(key: str) -> str:
    """What one part of a figure's key is called: a language, a kind, a metric, a task, a visual pattern."""
    for names in (METRICS, KINDS, TASKS, LANGUAGES):
        if key in names:
            return names[key]
    return key.replace("_", " ").capitalize() if key.islower() else key.replace("_", " ")


def task_label(benchmark: str, prefix: str) -> str:
    """What a task of a benchmark is called, such as "German" for ``multilingual/de``."""
    return part_label(prefix.rpartition("/")[2]) if prefix else benchmark_label(benchmark)
