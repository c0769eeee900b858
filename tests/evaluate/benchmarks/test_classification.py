"""Classification sets in their authors' layouts, against a reader of the tests' own, and what bad data is told."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from proclip.data.images import DatasetImages, TarImages
from proclip.errors import ProclipError
from proclip.evaluate.benchmark import Benchmark
from proclip.evaluate.benchmarks import probes
from proclip.evaluate.benchmarks.classification import ENTRIES, webdataset_classification
from proclip.evaluate.benchmarks.hub import from_hub, hub_classification
from proclip.evaluate.benchmarks.imagenet import class_folders
from proclip.evaluate.benchmarks.prompts import DEFAULT_TEMPLATES, IMAGENET_TEMPLATES
from proclip.evaluate.tasks import ClassificationTask, ProbeTask
from proclip.models.zero_shot import prompts

NAMES = ["apple pie", "baby back ribs", "Macaroni, and cheese", "lobster_roll"]
TEMPLATES = ["a photo of {c}, a type of food.", "{c}"]


def colour(number: int) -> tuple[int, int, int]:
    return (37 * number % 256, 91 * number % 256, 11 * number % 256)


def encoded(number: int, kind: str = "webp") -> bytes:
    """A picture of one colour, lossless, which tells its number."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour(number)).save(buffer, kind, **({"lossless": True} if kind == "webp" else {}))
    return buffer.getvalue()


Members = Sequence[tuple[str, bytes]]


def write_tar(path: Path, members: Members) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_set(
    folder: Path, labels: Sequence[int], *, split: str = "test", per_shard: int = 3, kind: str = "webp"
) -> Path:
    """A set as CLIP_benchmark's exporter writes it: keys go on from shard to shard, cls holds the number as text."""
    chunks = [range(len(labels))[start : start + per_shard] for start in range(0, len(labels), per_shard)]
    for shard, rows in enumerate(chunks):
        members = [
            (f"s{row:07d}.{extension}", content)
            for row in rows
            for extension, content in (("cls", str(labels[row]).encode()), (kind, encoded(row, kind)))
        ]
        write_tar(folder / split / f"{shard}.tar", members)
    (folder / split / "nshards.txt").write_text(f"{len(chunks)}\n")
    (folder / "classnames.txt").write_text("\n".join(NAMES) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES) + "\n")
    return folder


def read_independently(folder: Path, split: str) -> list[tuple[tuple[int, int, int], int]]:
    """Colour and label of every sample, archive by archive, by unpacking all of it."""
    found = []
    for number in range(int((folder / split / "nshards.txt").read_text())):
        content: dict[str, dict[str, bytes]] = {}
        with tarfile.open(folder / split / f"{number}.tar") as archive:
            for member in archive.getmembers():
                stem, extension = member.name.split(".")
                file = archive.extractfile(member)
                assert file is not None
                content.setdefault(stem, {})[extension] = file.read()
        for sample in content.values():
            picture = next(value for extension, value in sample.items() if extension != "cls")
            pixel = Image.open(io.BytesIO(picture)).convert("RGB").getpixel((0, 0))
            found.append((pixel, int(sample["cls"])))
    return found


def classification(benchmark: Benchmark) -> ClassificationTask:
    task = benchmark.tasks[""]
    assert isinstance(task, ClassificationTask)
    return task


def seen(benchmark: Benchmark, items: Sequence[tuple[str, int]]) -> list[tuple[tuple[int, int, int], int]]:
    """What the benchmark gives for its items, read from several threads at once."""
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(benchmark.images.open, [key for key, _ in items]))
    return [(picture.getpixel((0, 0)), label) for picture, (_, label) in zip(pictures, items, strict=True)]


@pytest.mark.parametrize("kind", ["webp", "png"])
def test_webdataset_against_a_reader_of_its_own(tmp_path: Path, kind: str) -> None:
    labels = [int(x) for x in np.random.default_rng(0).integers(0, 4, 35)]
    folder = write_set(tmp_path / "wds_food101", labels, kind=kind)  # 12 shards: 10.tar comes after 9.tar
    benchmark = ENTRIES["food101"].load(tmp_path / ENTRIES["food101"].folder)
    task = classification(benchmark)
    assert seen(benchmark, task.items) == read_independently(folder, "test")
    assert [label for _, label in task.items] == labels
    assert task.items[34][0] == "test/11/s0000034"
    assert list(task.classnames) == NAMES  # as the file has them: commas and underscores stay
    assert prompts(task.classnames[3:], task.templates) == ["a photo of lobster_roll, a type of food.", "lobster_roll"]
    assert task.chance == 1 / 4 and benchmark.headline == ("acc1",)
    assert not benchmark.complete and ENTRIES["food101"].expected == {"images": (25_250,)}
    again = ENTRIES["food101"].load(folder)
    assert again.checksum() == benchmark.checksum()
    (folder / "classnames.txt").write_text("\n".join([*NAMES[:3], "lobster roll"]))
    assert ENTRIES["food101"].load(folder).checksum() != benchmark.checksum()


def test_names_of_the_sets_and_their_figures(tmp_path: Path) -> None:
    eleven = [
        "food101", "cifar10", "cifar100", "sun397", "cars", "fgvc_aircraft", "dtd", "pets", "caltech101", "flowers",
        "imagenet1k",
    ]  # fmt: skip
    variants = ["imagenetv2", "imagenet-a", "imagenet-o", "imagenet-r", "imagenet_sketch"]
    assert list(ENTRIES) == [*eleven, *variants]
    assert list(probes.ENTRIES) == [f"probe-{name}" for name in eleven]
    per_class = set()
    for name, entry in ENTRIES.items():
        assert entry.name == name
        write_set(tmp_path / entry.folder, [0, 1])
        benchmark = entry.load(tmp_path / entry.folder)
        assert benchmark.name == name
        per_class |= {name} if benchmark.headline == ("mean_per_class",) else set()
    assert per_class == {"fgvc_aircraft", "pets", "caltech101", "flowers"}


def test_other_names_of_a_folder(tmp_path: Path) -> None:
    write_set(tmp_path / "wds_pets", [1])
    assert ENTRIES["pets"].load(tmp_path / "wds_vtab-pets").headline == ("mean_per_class",)
    with pytest.raises(ProclipError, match=r"dtd: there is none of .*wds_vtab-dtd, .*wds_dtd.*hf download.*clip-bench"):
        ENTRIES["dtd"].load(tmp_path / ENTRIES["dtd"].folder)
    write_set(tmp_path / "wds_mine", [3, 0])
    (tmp_path / "wds_mine" / "zeroshot_classification_templates.txt").unlink()
    benchmark = webdataset_classification(tmp_path / "wds_mine")
    assert (benchmark.name, classification(benchmark).templates) == ("mine", DEFAULT_TEMPLATES)
    assert benchmark.complete and "default template" in benchmark.protocol


def _retype(folder: Path) -> None:
    (folder / "dataset_type.txt").write_text("retrieval\n")


def _names(folder: Path) -> None:
    (folder / "classnames.txt").write_text("apple pie\nbaby back ribs\n")


def _template(folder: Path) -> None:
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of {c}.\na photo of food.\n")


def _shard(folder: Path) -> None:
    (folder / "test" / "2.tar").unlink()


def _text_label(folder: Path) -> None:
    write_tar(folder / "test" / "1.tar", [("a.cls", b"two"), ("a.webp", encoded(0)), ("b.webp", encoded(1))])


def _no_label(folder: Path) -> None:
    write_tar(folder / "test" / "1.tar", [("a.webp", encoded(0)), ("b.cls", b"1"), ("b.webp", encoded(1))])


def _no_picture(folder: Path) -> None:
    write_tar(folder / "test" / "1.tar", [(f"x{n}.cls", b"1") for n in range(8)])


def _cut(folder: Path) -> None:
    path = folder / "test" / "1.tar"
    path.write_bytes(path.read_bytes()[:700])


def _damaged(folder: Path) -> None:
    path = folder / "test" / "1.tar"
    content = bytearray(path.read_bytes())
    content[1024:1536] = b"\x07" * 512  # the header of the second member
    path.write_bytes(content)


def _twice(folder: Path) -> None:
    write_tar(folder / "test" / "1.tar", [("a.cls", b"1"), ("a.webp", encoded(0)), ("a.webp", encoded(1))])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_retype, r"dataset_type\.txt says 'retrieval'"),
        (_names, r"wds_food101: 6 of 9 samples have a label beyond the 2 names.*'test/0/s0000002', .*\(6 in all\)"),
        (_template, r"templates\.txt: a template must hold \{c\}.*'a photo of food\.'"),
        (_shard, r"nshards\.txt says 3 archives.*there are 2.*'2\.tar'"),
        (_text_label, r"1 of 8 samples have no label \(\.cls\): 'test/1/b'"),
        (_no_label, r"1 of 8 samples have no label \(\.cls\): 'test/1/a'"),
        (_no_picture, r"8 of 14 pictures are missing or no pictures: 'test/1/x0', .*\(8 in all\)"),
        (_cut, r"test/1\.tar (is cut short|is not a whole tar archive)"),
        (_damaged, r"test/1\.tar is not a whole tar archive after s0000003: no member's header at byte 1024"),
        (_twice, r"test/1\.tar has the member a\.webp twice"),
    ],
)
def test_bad_webdataset(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    folder = write_set(tmp_path / "wds_food101", [0, 1, 2, 3, 2, 1, 3, 2, 3])
    spoil(folder)
    with pytest.raises(ProclipError, match=message):
        ENTRIES["food101"].load(folder)


def test_tar_images(tmp_path: Path) -> None:
    members = [("./a.b/x.seg.PNG", b"?"), ("./a.b/x.jpg", encoded(3, "jpeg")), ("y.txt", b"text"), (".hidden", b"")]
    write_tar(tmp_path / "0.tar", members)
    write_tar(tmp_path / "1.tar", [("bad.png", b"no picture")])
    images = TarImages({"0": tmp_path / "0.tar", "1": tmp_path / "1.tar"})
    assert images.samples == ["0/a.b/x", "0/y", "1/bad"]
    assert images.open("0/a.b/x").size == (8, 6)
    assert images.content("0/a.b/x", "seg.png") == b"?"
    assert images.missing(["0/y", "1/bad", "2/z"]) == ["0/y", "2/z"]
    for key, message in {
        "0/y": r"0\.tar: sample 'y' has no picture",
        "1/bad": r"image .*1\.tar, bad\.png cannot be read: it is not an image",
        "2/z": "no picture with key '2/z'",
    }.items():
        with pytest.raises(ProclipError, match=message):
            images.open(key)
    (tmp_path / "1.tar").write_bytes(b"")
    with pytest.raises(ProclipError, match=r"1\.tar: bad\.png is cut short"):
        images.open("1/bad")
    with pytest.raises(ProclipError, match=r"1\.tar is not a whole tar archive"):
        TarImages({"1": tmp_path / "1.tar"})
    with pytest.raises(ProclipError, match=r"9\.tar is missing"):
        TarImages({"9": tmp_path / "9.tar"})


WNIDS = [f"n{number:08d}" for number in range(5, 20_005, 20)]
THOUSAND = [f"thing {number}" for number in range(1000)]


def write_folders(folder: Path, names: Sequence[str], pictures: int = 2) -> Path:
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for picture in range(pictures):
            path = folder / name / f"{name}_{picture}.{'JPEG' if picture else 'jpg'}"
            path.write_bytes(encoded(number, "jpeg"))
    return folder


def write_synsets(path: Path) -> None:
    lines = [f"{wnid} name {n}, Latin name {n}" for n, wnid in enumerate(WNIDS)]
    path.write_text("\n".join(lines) + "\n")


def test_subset_of_wnids(tmp_path: Path) -> None:
    chosen = [WNIDS[700], WNIDS[3], WNIDS[42]]
    folder = write_folders(tmp_path / "imagenet-a", chosen)
    (folder / "README.txt").write_text("as published")
    write_synsets(tmp_path / "LOC_synset_mapping.txt")
    (tmp_path / "wds_imagenet1k").mkdir()
    (tmp_path / "wds_imagenet1k" / "classnames.txt").write_text("\n".join(THOUSAND))
    benchmark = ENTRIES["imagenet-a"].load(tmp_path / ENTRIES["imagenet-a"].folder)
    task = classification(benchmark)
    assert task.classnames == ("thing 3", "thing 42", "thing 700")  # only those compete
    assert {key.split("/")[0]: task.classnames[label] for key, label in task.items} == {
        WNIDS[700]: "thing 700",
        WNIDS[3]: "thing 3",
        WNIDS[42]: "thing 42",
    }
    assert len(task.items) == 6 and task.chance == 1 / 3
    assert set(task.templates) == set(IMAGENET_TEMPLATES)
    assert "class names: classnames.txt of 1000 names" in benchmark.protocol
    (folder / "classnames.txt").write_text("ant\nbee\n")
    with pytest.raises(ProclipError, match=r"classnames\.txt has 2 names; wanted one for each of 3 class folders"):
        ENTRIES["imagenet-a"].load(folder)
    (folder / "classnames.txt").write_text("ant, the insect\nbee\ncow\n")
    assert classification(ENTRIES["imagenet-a"].load(folder)).classnames == ("ant, the insect", "bee", "cow")


def test_names_from_imagenets_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _without_open_clip(monkeypatch)
    folder = write_folders(tmp_path / "imagenet-r", [WNIDS[9], WNIDS[8]])
    write_synsets(tmp_path / "LOC_synset_mapping.txt")
    benchmark = ENTRIES["imagenet-r"].load(folder)
    assert classification(benchmark).classnames == ("name 8", "name 9")
    assert "first synonyms of LOC_synset_mapping.txt" in benchmark.protocol
    write_folders(tmp_path / "imagenet-o", [WNIDS[9], "n99999999"])
    with pytest.raises(ProclipError, match=r"1 class folders are not among ImageNet's wnids: 'n99999999'"):
        ENTRIES["imagenet-o"].load(tmp_path / "imagenet-o")


def test_wnids_from_the_folders_of_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _without_open_clip(monkeypatch)
    for wnid in WNIDS:
        (tmp_path / "imagenet1k" / "val" / wnid).mkdir(parents=True)
    (tmp_path / "imagenet1k" / "classnames.txt").write_text("\n".join(THOUSAND))
    folder = write_folders(tmp_path / "imagenet-o", [WNIDS[999], WNIDS[0]])
    assert classification(ENTRIES["imagenet-o"].load(folder)).classnames == ("thing 0", "thing 999")


def test_imagenet_with_the_names_of_the_webdataset(tmp_path: Path) -> None:
    write_folders(tmp_path / "imagenet1k" / "val", [WNIDS[5], WNIDS[2]])
    write_synsets(tmp_path / "imagenet1k" / "LOC_synset_mapping.txt")
    (tmp_path / "wds_imagenet1k").mkdir()
    (tmp_path / "wds_imagenet1k" / "classnames.txt").write_text("\n".join(THOUSAND))
    (tmp_path / "wds_imagenet1k" / "zeroshot_classification_templates.txt").write_text("a {c}.\nthe {c}.\n")
    task = classification(ENTRIES["imagenet1k"].load(tmp_path / ENTRIES["imagenet1k"].folder))
    assert (task.classnames, task.templates) == (("thing 2", "thing 5"), ("a {}.", "the {}."))


def test_names_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _without_open_clip(monkeypatch)
    folder = write_folders(tmp_path / "imagenet-a", [WNIDS[0]])
    with pytest.raises(ProclipError, match=r"names of ImageNet's classes are missing.*LOC_synset_mapping.*open-clip"):
        ENTRIES["imagenet-a"].load(folder)
    (tmp_path / "classnames.txt").write_text("\n".join(THOUSAND))
    with pytest.raises(ProclipError, match=r"1000 wnids are missing.*LOC_synset_mapping.*imagenet1k/val"):
        ENTRIES["imagenet-a"].load(folder)


def _without_open_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another test may have made it importable."""
    for name in ("open_clip", "open_clip.zero_shot_metadata", "timm", "timm.data"):
        monkeypatch.setitem(sys.modules, name, None)


def test_numbered_folders_of_imagenet_v2(tmp_path: Path) -> None:
    names = [str(number) for number in range(12)]  # in lexicographic order 10 and 11 come before 2
    folder = write_folders(tmp_path / "imagenetv2-matched-frequency-format-val", names)
    (folder / "classnames.txt").write_text("\n".join(THOUSAND[:12]))
    benchmark = ENTRIES["imagenetv2"].load(tmp_path / ENTRIES["imagenetv2"].folder)
    task = classification(benchmark)
    assert all(int(key.split("/")[0]) == label for key, label in task.items)
    assert task.classnames == tuple(THOUSAND[:12])
    assert "matched-frequency" in benchmark.protocol
    (folder / "classnames.txt").write_text("\n".join(THOUSAND[:10]))
    with pytest.raises(ProclipError, match=r"2 folders have no name among 10: '10', '11'"):
        ENTRIES["imagenetv2"].load(folder)


def test_bad_class_folders(tmp_path: Path) -> None:
    with pytest.raises(ProclipError, match="has no class folders"):
        class_folders(tmp_path)
    write_folders(tmp_path / "set", [*WNIDS[:2], "cats"])
    with pytest.raises(ProclipError, match=r"named by wnid .* not 'cats'"):
        class_folders(tmp_path / "set")
    write_folders(tmp_path / "other", WNIDS[:1])
    (tmp_path / "other" / WNIDS[1]).mkdir()
    with pytest.raises(ProclipError, match=f"1 of 2 class folders have no pictures: '{WNIDS[1]}'"):
        class_folders(tmp_path / "other")


def test_open_clips_names_and_templates(tmp_path: Path, torchvision_operators: None) -> None:
    metadata = pytest.importorskip("open_clip.zero_shot_metadata")
    assert len(IMAGENET_TEMPLATES) == 80
    assert {t("{}") for t in metadata.OPENAI_IMAGENET_TEMPLATES} == set(IMAGENET_TEMPLATES)
    folder = write_folders(tmp_path / "imagenet-a", ["n02007558", "n01498041"])  # flamingo, stingray
    task = classification(ENTRIES["imagenet-a"].load(folder))
    assert task.classnames == ("stingray", "flamingo")


def test_probe_of_webdataset(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "wds_vtab-pets", [0, 1, 1, 2])
    with pytest.raises(ProclipError, match=r"wds_vtab-pets/train is missing: a probe is fitted"):
        probes.ENTRIES["probe-pets"].load(folder)
    write_set(folder, [2, 1, 0, 0, 1], split="train", per_shard=2)
    benchmark = probes.ENTRIES["probe-pets"].load(folder)
    task = benchmark.tasks[""]
    assert isinstance(task, ProbeTask)
    assert [label for _, label in task.train] == [2, 1, 0, 0, 1] and [label for _, label in task.test] == [0, 1, 1, 2]
    assert seen(benchmark, task.train) == read_independently(folder, "train")
    assert seen(benchmark, task.test) == read_independently(folder, "test")
    assert task.chance == 1 / 2 and benchmark.headline == ("mean_per_class",)
    write_set(folder, [0, 0, 1], split="train")
    (folder / "train" / "2.tar").unlink()
    (folder / "train" / "1.tar").unlink()
    with pytest.raises(ProclipError, match=r"1 test pictures are of classes without a training picture: .*class 2"):
        probes.ENTRIES["probe-pets"].load(folder)


def test_probe_of_class_folders(tmp_path: Path) -> None:
    write_folders(tmp_path / "imagenet" / "train", WNIDS[:3], pictures=3)
    write_folders(tmp_path / "imagenet" / "val", WNIDS[:3], pictures=1)
    benchmark = probes.ENTRIES["probe-imagenet1k"].load(tmp_path / "wds_imagenet1k")
    task = benchmark.tasks[""]
    assert isinstance(task, ProbeTask)
    assert len(task.train) == 9 and len(task.test) == 3
    assert benchmark.images.missing([key for key, _ in (*task.train, *task.test)]) == []
    write_folders(tmp_path / "imagenet" / "val", WNIDS[3:4])
    with pytest.raises(ProclipError, match=f"only one of train and val: '{WNIDS[3]}'"):
        probes.ENTRIES["probe-imagenet1k"].load(tmp_path / "wds_imagenet1k")


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set folder with a parquet file a split, as the hub lays them out."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["apple_pie", "sushi", "tea, green"]),
            "note": datasets.Value("string"),
        }
    )
    (tmp_path / "food" / "data").mkdir(parents=True)
    for split, labels in {"test": [2, 0, 1, 1], "validation": [0, -1, None]}.items():
        images = [{"bytes": encoded(row, "png"), "path": None} for row in range(len(labels))]
        rows = {"image": images, "label": labels, "note": ["n"] * len(labels)}
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(tmp_path / "food" / "data" / f"{split}-00000-of-00001.parquet")
    return tmp_path / "food"


def test_data_set_with_class_labels(saved: Path) -> None:
    benchmark = from_hub(f"hf:{saved}")
    task = classification(benchmark)
    assert task.classnames == ("apple pie", "sushi", "tea, green")
    assert seen(benchmark, task.items) == [(colour(row), label) for row, label in enumerate([2, 0, 1, 1])]
    assert benchmark.name == "food" and benchmark.headline == ("acc1",)
    assert hub_classification(str(saved), image_column="image", label_column="label").checksum() == benchmark.checksum()
    with pytest.raises(ProclipError, match=r"2 of 3 rows have no label .*'image/1', 'image/2'"):
        from_hub(f"hf:{saved}#validation")
    with pytest.raises(ProclipError, match="split 'nowhere', cannot be read"):
        from_hub(f"hf:{saved}#nowhere")
    with pytest.raises(ProclipError, match=r"no column 'note' of the feature ClassLabel; .*note \(Value\)"):
        hub_classification(str(saved), label_column="note")


def test_data_set_saved_to_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    images = [{"bytes": encoded(1, "png"), "path": None}, None, {"bytes": b"no picture", "path": None}]
    table = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 1]}, features=features)
    datasets.DatasetDict({"test": table}).save_to_disk(tmp_path / "set")
    with pytest.raises(ProclipError, match=r"1 of 3 pictures are missing or no pictures: 'image/1'"):
        from_hub(f"hf:{tmp_path / 'set'}")
    with pytest.raises(ProclipError, match=r"no split 'train'; there are: test"):
        from_hub(f"hf:{tmp_path / 'set'}#train")
    pictures = DatasetImages(table, ["image"])
    assert pictures.missing(["image/0", "image/1", "image/3", "other/0"]) == ["image/1", "image/3", "other/0"]
    with pytest.raises(ProclipError, match=r"image image/2 cannot be read"):
        pictures.open("image/2")
    with pytest.raises(ProclipError, match="no picture with key 'image/1'"):
        pictures.open("image/1")


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ProclipError, match="the hub does not give the data set 'clip-benchmark/wds_food101'"):
        from_hub("hf:clip-benchmark/wds_food101")
    with pytest.raises(ProclipError, match="measured on test, not 'train'"):
        from_hub("hf:clip-benchmark/wds_food101#train")
    with pytest.raises(ProclipError, match="named hf:ID"):
        from_hub("food101")


@pytest.mark.network
def test_downloaded_webdataset() -> None:
    benchmark = from_hub("hf:clip-benchmark/wds_vtab-dtd")
    assert benchmark.name == "dtd" and benchmark.complete
    assert len(classification(benchmark).classnames) == 47
