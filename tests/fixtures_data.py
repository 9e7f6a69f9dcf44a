"""Small data folders in each layout that the suite reads: smooth random photos, always the same."""

from pathlib import Path

import numpy as np
from PIL import Image

from s3e.config import load_config
from s3e.utils import rng, write_file

SMALL = {"data.size": 32, "data.train": 0, "data.val": 0, "data.test": 0, "evaluation.samples": 2}

SUBJECTS = ["dog", "man", "woman", "boy", "girl", "horse", "cat", "child"]
VERBS = ["chases", "holds", "watches", "carries", "rides", "pulls"]
OBJECTS = ["ball", "bike", "kite", "boat", "surfboard", "umbrella", "frisbee"]
SEQUENCES = {
    "train/GOPR0372_07_00": 8,
    "train/GOPR0373_07_01": 6,
    "train/GOPR0374_11_00": 5,
    "test/GOPR0384_11_00": 6,
}


def small(folder, **settings):
    """A configuration that reads a whole data folder in 32 pixels; settings as `data_size=64`."""
    overrides = SMALL | {name.replace("_", ".", 1): value for name, value in settings.items()}
    return load_config("smoke", data=str(folder), overrides=overrides)


def picture(*key, size=(56, 40)):
    """A photo-like uint8 (height, width, 3) of smooth random colours; `size`: (width, height)."""
    generator, total = rng("fixture", *key), np.zeros((size[1], size[0], 3))
    for cells, weight in ((4, 0.5), (10, 0.35), (24, 0.15)):
        grid = Image.fromarray(generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += weight * np.asarray(grid.resize(size, Image.Resampling.BICUBIC))
    return np.clip(1.6 * (total - 128) + 128, 0, 255).astype(np.uint8)


def captions(*key):
    """Five plain captions of one made-up photo."""
    lists = enumerate((SUBJECTS, VERBS, OBJECTS))
    subject, verb, thing = (str(rng("caption", i, *key).choice(words)) for i, words in lists)
    return [
        f"A {subject} {verb} a {thing}.",
        f"The {subject} {verb} the {thing} on the grass.",
        f"a brown {subject} with a {thing}",
        f"A {subject} near a {thing} in a park.",
        f"{subject} {verb} {thing}",
    ]


def save(path, array):
    """Write one image file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"quality": 95} if path.suffix == ".jpg" else {"compress_level": 1}
    Image.fromarray(array).save(path, **options)


def write_photos(folder, count=24, size=(56, 40)):
    """Photos without captions, two levels deep: `00/photo000.jpg`, `01/photo001.jpg`, ..."""
    for i in range(count):
        save(folder / f"{i % 3:02}" / f"photo{i:03}.jpg", picture("photos", i, size=size))
    return folder


def write_coco(folder, counts=None, year="", images="images", size=(56, 40)):
    """COCO's official layout with ids from 1; "{split}" is replaced in the folder `images`."""
    written = 0
    for split, count in (counts or {"train": 20, "val": 12}).items():
        content = {"info": {}, "images": [], "annotations": []}
        for number in range(written + 1, written + 1 + count):
            name = f"{number:06}.jpg"
            save(folder / images.format(split=split) / name, picture("coco", number, size=size))
            content["images"].append({"id": number, "file_name": name})
            texts = [{"image_id": number, "caption": text} for text in captions(number)]
            content["annotations"] += texts
        written += count
        write_file(folder / "annotations" / f"captions_{split}{year}.json", content)
    return folder


def write_karpathy(folder, counts=None, size=(56, 40)):
    """MSCOCO as in `dataset_coco.json`: train photos in train2014, all others in val2014."""
    items = []
    for split, count in (counts or {"train": 12, "restval": 4, "val": 6, "test": 6}).items():
        for _ in range(count):
            number, place = len(items) + 1, "train2014" if split == "train" else "val2014"
            name = f"COCO_{place}_{number:012}.jpg"
            save(folder / place / name, picture("karpathy", number, size=size))
            item = {"filepath": place, "filename": name, "cocoid": number, "imgid": number - 1}
            sentences = [{"raw": text} for text in captions("karpathy", number)]
            items.append(item | {"split": split, "sentences": sentences})
    write_file(folder / "dataset_coco.json", {"images": items, "dataset": "coco"})
    return folder


def write_table(folder, name="captions.txt", row="{photo},{text}", head="image,caption", count=30):
    """Flickr8k as on Kaggle: `Images/` and a table; the fifth caption has a comma and quotes."""
    lines = [head] * bool(head)
    for number in range(count):
        photo = f"{number:04}.jpg"
        save(folder / "Images" / photo, picture("table", number, size=(24, 20)))
        for k, text in enumerate([*captions("table", number)[:4], 'a "big" dog, running']):
            quoted = '"{}"'.format(text.replace('"', '""')) if "," in row else text
            lines.append(row.format(photo=photo, k=k, text=quoted, raw=text))
    (folder / name).write_text("\n".join(lines))
    return folder


def write_gopro(folder, counts=None, subsets=("blur", "blur_gamma"), size=(96, 54)):
    """GoPro's layout from a camera that pans one pixel a raw frame."""
    for place, count in (counts or SEQUENCES).items():
        average = int(place.split("_")[1]) if "_" in place else 7
        wide = picture("gopro", place, size=(size[0] + count * average, size[1]))
        frames = np.stack([wide[:, t : t + size[0]] for t in range(count * average)])
        for n in range(1, count + 1):
            part = frames[(n - 1) * average : n * average]
            views = {"sharp": part[average // 2], "blur": part.mean(0)}
            views["blur_gamma"] = 255 * ((part / 255.0) ** 2.2).mean(0) ** (1 / 2.2)
            for view in ("sharp", *subsets):
                save(folder / place / view / f"{n:06}.png", views[view].round().astype(np.uint8))
    return folder


# layout -> places of the blurred and the sharp photo of a pair, and its splits ("train test"). Of
# each split: a video of GoPro's names, k its number, n that of the frame, i that of the pair
PAIRS = {
    "mprnet": ("{split}/input/{video}-{n:06}.png", "{split}/target/{video}-{n:06}.png"),
    "reds": ("{part}_blur/{k:03}/{n:08}.png", "{part}_sharp/{k:03}/{n:08}.png", "train val"),
    "reds of one": ("{part}_blur_comp/{k:03}/{n}.jpg", "{part}_sharp/{k:03}/{n}.png", "train val"),
    "flat": ("{split}/blur/{i}.png", "{split}/sharp/{i}.png", "train val test"),
    "numbered anew": ("{split}/blurred/{k}-{n}.png", "{split}/clear/{k}-{n}.png"),
    "wrapped": ("motion_blur/{split}/blurry/{i:04}.jpg", "motion_blur/{split}/gt/{i:04}.png"),
    "view first": ("LQ/{split}/{i:04}.png", "HQ/{split}/{i:04}.png", "training validation"),
    "prefixed": ("GoPro_degraded/{i:04}.png", "GoPro_original/{i:04}.png", ""),
    "suffixes": ("{split}/{i:04}_inp.png", "{split}/{i:04}_tar.png", "train valid"),
    "suffixes twice": ("im_lr/{i:04}_lr.png", "im_hr/{i:04}_hr.png", ""),
    "a file each": ("{split}/{i:04}/input.png", "{split}/{i:04}/ground_truth.png"),
    "scenes": ("{split}/{video}/blur/blur_{n}.png", "{split}/{video}/gt/gt_{n}.png"),
    "inner folder": ("{split}/{video}/Blur/RGB/{n:08}.png", "{split}/{video}/Sharp/RGB/{n:08}.png"),
    "patches": (
        "{split}/input_crops/{video}-{n:06}-3.png",
        "{split}/gt_crops/{video}-{n:06}-3.png",
    ),
    "words in names": ("blur/{split}/clear_{video}/{n}.png", "sharp/{split}/clear_{video}/{n}.png"),
    "pix2pix": ("A/{split}/{i}.png", "B/{split}/{i}.png", "training testing"),
    "cyclegan": ("{split}A/{i}.png", "{split}B/{i}.png"),
    "words in files": ("inputs/{word}_{i:04}.png", "clean/{word}_{i:04}.png", ""),
    "numbered": ("view_2/{i:04}.png", "view_1/{i:04}.png", ""),
    "source": ("Data/source images/{i}.bmp", "Data/Target Images/{i}.png", ""),
    "videos": ("{video}/inputs/{n:05}.png", "{video}/groundtruth/{n:05}.png", ""),
}


def pair_places(blurred, sharp, splits="train test", videos=6, frames=3):
    """(split, number, place of the blurred photo, of the sharp one) of pairs; 2 videos held out."""
    for part, split in enumerate(splits.split() or [""]):
        for k in range(videos if part == 0 else 2):
            for n in range(1, frames + 1):
                names = {"split": split, "part": f"{split}/{split}", "k": k, "n": n}
                names |= {
                    "i": (10 * part + k) * frames + n,
                    "video": f"GOPR{10 * part + k:04}_11_00",
                    "word": ("clear IMG", "blurry DSC", "train")[n % 3],
                }
                yield split, names["i"], blurred.format(**names), sharp.format(**names)


def write_pairs(folder, *places, size=(48, 32), **counts):
    """Pairs of unlike pictures at places such as those of `PAIRS` (see `pair_places`)."""
    for _, number, blurred, sharp in pair_places(*places, **counts):
        wide = picture("pairs", number, size=(size[0] + 8, size[1]))
        moved = np.mean([wide[:, step : step + size[0]] for step in range(9)], 0)
        save(folder / sharp, wide[:, 4:-4])
        save(folder / blurred, moved.round().astype(np.uint8))
    return folder


def cut(path):
    """Keep the first half of a file; its path."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)
