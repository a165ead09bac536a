import copy
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from assay import Plan
from assay.core.errors import UsageError
from assay.data import disk_images
from assay.data.disk_images import DiskImages, ImageFiles, blocks
from assay.data.folder import Folder
from assay.experiments.record import record
from assay.training.batches import inputs_at

PICTURES = np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8)).astype(np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number, picture in enumerate(PICTURES):
        path = folder / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture.transpose(1, 2, 0)).save(path)
    return folder


def on_disk(root):
    paths = sorted(root.rglob("*.png"), key=lambda path: path.stem)
    return DiskImages(
        ImageFiles([str(path) for path in paths], lambda path: np.asarray(Image.open(path)).transpose(2, 0, 1), (3, 8, 8))
    )


def test_what_is_taken_of_it_is_what_a_plain_tensor_gives(root):
    images, plain = on_disk(root), torch.from_numpy(PICTURES)
    some, mask = torch.tensor([7, 0, 7, 39]), torch.arange(40) % 3 == 0
    assert images.shape == plain.shape and images.dtype == torch.uint8 and len(images) == 40 and not images.is_floating_point()
    for take in (
        lambda x: x[some],
        lambda x: x[mask],
        lambda x: x[[3, 1]],
        lambda x: x[-1],
        lambda x: x[2:5],
        lambda x: x[::7],
        lambda x: x[:, 1],
        lambda x: torch.cat([x[:3], x[9:]]),
        lambda x: x.to(torch.float32) / 255,
        lambda x: x.flatten(1),
        lambda x: torch.stack(list(x[:3])),
        lambda x: torch.cat(x.split(7)),
    ):
        found, expected = take(images), take(plain)
        assert found.shape == expected.shape and torch.equal(found.clone(), expected)
    assert np.array_equal(images.numpy(), PICTURES) and images[:2].tolist() == PICTURES[:2].tolist()
    assert torch.equal(torch.cat(list(blocks(images))), plain)


def test_parts_stay_on_disk_and_copies_too(root):
    images = on_disk(root)
    for part in (
        images[2:5],
        images.rows(torch.tensor([1, 4])),
        images.split(9)[1],
        torch.cat([images[:3], images[5:]]),
        images.detach(),
    ):
        assert isinstance(part, DiskImages)
    assert type(images[torch.tensor([0])]) is torch.Tensor
    assert torch.equal(copy.deepcopy(images).clone(), images.clone())
    folder = Folder(str(root), test=0.25, memory=0.0).load()
    assert torch.equal(pickle.loads(pickle.dumps(folder.train.inputs)).clone(), folder.train.inputs.clone())


def test_it_cannot_be_written_to(root):
    images = on_disk(root)
    for write in (lambda: images.add_(1), lambda: images.__setitem__(0, 3), lambda: images.copy_(images)):
        with pytest.raises(UsageError, match="cannot be changed in place"):
            write()


def test_all_at_once_is_refused_where_it_does_not_fit(root, monkeypatch):
    images = on_disk(root)
    monkeypatch.setattr(disk_images, "_memory", lambda: 8000)
    assert len(images[torch.arange(30)]) == 30
    with pytest.raises(UsageError, match=r"40 images of 3 x 8 x 8 numbers stay on disk.*features=penultimate"):
        images.flatten(1)
    monkeypatch.setattr(disk_images, "_memory", lambda: 30_000)
    assert len(images.flatten(1)) == 40
    # Four bytes of each number come beside the decoded one.
    with pytest.raises(UsageError, match="asks for all of them at once"):
        images.to(torch.float32)


def test_batches_are_decoded_one_ahead(root, monkeypatch):
    images, began = on_disk(root), []
    start = ImageFiles.start
    monkeypatch.setattr(ImageFiles, "start", lambda files, places: began.append(len(places)) or start(files, places))
    cut = torch.arange(40).flip(0).split(16)
    met = []
    for positions, batch in zip(cut, inputs_at(images, cut), strict=True):
        met.append(len(began))
        assert torch.equal(batch, torch.from_numpy(PICTURES)[positions])
    assert met == [2, 3, 3] and began == [16, 16, 8]
    assert torch.equal(torch.cat(list(inputs_at(torch.from_numpy(PICTURES), cut))), torch.from_numpy(PICTURES).flip(0))
    assert list(inputs_at(images, ())) == []


@pytest.mark.parametrize("more", [{}, {"plant": {"kind": "noise", "rate": 0.3}}, {"folds": 2}])
def test_training_from_disk_ends_on_the_same_bytes_and_never_decodes_all(root, tmp_path, monkeypatch, more):
    most = []
    start = ImageFiles.start
    monkeypatch.setattr(ImageFiles, "start", lambda files, places: most.append(len(places)) or start(files, places))
    monkeypatch.setattr(disk_images, "PART", 10 * 192)
    monkeypatch.setattr("assay.maths.normalisation.PART", 10 * 192)
    runs = []
    for memory in (1.0, 0.0):
        most.clear()
        data = f"folder:path={root},test=0.25,memory={memory}"
        plan = Plan.make(
            {
                "data": data,
                "net": "mlp:widths=8",
                "validation": 0.2,
                "recipe": {"epochs": 2, "batch": 6, "crop": 1},
                "record": {"view": "eval"},
                **more,
            }
        )
        monkeypatch.setattr("assay.training.loop.predict.__kwdefaults__", {"prepare": None, "batch": 7, "device": "cpu"})
        runs.append(record(plan, tmp_path / str(memory)))
        assert max(most, default=0) == (10 if memory == 0.0 else 0)
    one, other = runs
    assert one.header.about["content"] == other.header.about["content"]
    first, second = (run.shard(run.epochs - 1).read_all() for run in runs)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_folder_on_disk_names_its_bad_files(root, tmp_path):
    for number in range(6):
        for name in "ab":
            path = tmp_path / name / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(PICTURES[number].transpose(1, 2, 0)).save(path)
    plain = Folder(str(tmp_path), test=0.25).load()
    (tmp_path / "b/9.png").write_text("no image")
    with pytest.raises(UsageError, match=r"b/9\.png cannot be read as an image.*on_error=skip"):
        Folder(str(tmp_path), test=0.25, memory=0.0).load()
    with pytest.warns(UserWarning, match="1 files were skipped, 12 were read"):
        skipped = Folder(str(tmp_path), test=0.25, memory=0.0, on_error="skip").load()
    assert isinstance(skipped.train.inputs, DiskImages) and skipped.train.content == plain.train.content
    Image.fromarray(PICTURES[0].transpose(1, 2, 0)).resize((9, 8)).save(tmp_path / "b/9.png")
    with pytest.raises(UsageError, match=r"b/9\.png is an image of 3 x 8 x 9 numbers, the others have 3 x 8 x 8\. Give size="):
        Folder(str(tmp_path), test=0.25, memory=0.0).load()
    with pytest.raises(UsageError, match="memory=-1"):
        Folder(str(tmp_path), memory=-1.0)
