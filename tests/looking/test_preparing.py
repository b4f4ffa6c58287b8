"""A picture becomes the input that the network's own library would make of it, bit for bit."""

import pytest
import timm
import torch
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torchvision.transforms import InterpolationMode

import attnsurgeon
from attnsurgeon.errors import UsageError
from attnsurgeon.looking.photographs import as_photograph
from attnsurgeon.looking.preparing import prepare
from attnsurgeon.models import build_on_meta
from attnsurgeon.models.preprocessing import IMAGENET_MEAN, preprocessing_of


def noise(width: int, height: int) -> Image.Image:
    generator = torch.Generator().manual_seed(1)
    values = torch.randint(256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.frombytes("RGB", (width, height), bytes(values.flatten().tolist()))


WIDE, HIGH, SMALL = (noise(*size) for size in ((97, 61), (53, 89), (19, 31)))


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(64, 64), (37, 71)])
def test_timms_networks_get_what_timm_gives_them(mode, size):
    model = timm.create_model("test_resnet")
    for interpolation, share in (("bicubic", 0.875), ("bilinear", 1.0), ("bilinear", 0.9)):
        config = {
            **{"input_size": (3, *size), "crop_mode": mode, "crop_pct": share},
            **{"interpolation": interpolation, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)},
        }
        model.pretrained_cfg = config
        theirs = create_transform(**resolve_data_config({}, pretrained_cfg=config))
        asked = InterpolationMode(interpolation)
        if getattr(theirs.transforms[0], "interpolation", asked) != asked:
            continue  # timm 1.0.24 resizes bilinearly where sizes are not square
        how = preprocessing_of(model)
        assert how.assumed == ()
        for image in (WIDE, HIGH, SMALL):
            assert torch.equal(prepare(as_photograph(image), how).input, theirs(image))


def test_a_network_of_timms_says_its_own_size_and_numbers():
    how = preprocessing_of(timm.create_model("test_vit", img_size=96))
    assert how.size == (96, 96)
    assert (how.mean, how.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # as its authors trained it


def test_torchvisions_networks_get_what_its_weights_ask_for():
    from torchvision.models import get_model_weights

    theirs = get_model_weights("resnet18").DEFAULT.transforms()
    how = preprocessing_of(build_on_meta("torchvision:resnet18"))
    assert how.assumed == ()
    for image in (WIDE, HIGH):
        assert torch.equal(prepare(as_photograph(image), how).input, theirs(image))
    other = preprocessing_of(attnsurgeon.load_model("torchvision:resnet18"))
    assert other == how


def test_torchvisions_named_weights_are_asked_before_its_default():
    from torchvision.models import ResNet50_Weights

    from attnsurgeon.models.provenance import Source, stamp

    model = build_on_meta("torchvision:resnet50")
    assert preprocessing_of(model).resize == (232, 232)  # of the second recipe
    named = {"weights": "IMAGENET1K_V1"}
    assert preprocessing_of(stamp(model, Source("torchvision:resnet50", named))).resize == (
        256,
        256,
    )
    assert ResNet50_Weights.IMAGENET1K_V1.transforms().resize_size == [256]


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["ConvNextForImageClassification", "ViTForImageClassification",
             "SegformerForImageClassification"]
)  # fmt: skip
def test_transformers_networks_get_what_their_image_processor_makes(kind):
    pytest.importorskip("transformers")
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

    model = attnsurgeon.load_model(f"transformers:{kind}")
    theirs = IMAGE_PROCESSOR_MAPPING[type(model.config)]["pil"]()
    how = preprocessing_of(model)
    assert "of the class" in how.assumed[0]
    expected = torch.tensor(theirs(WIDE, return_tensors="np")["pixel_values"])[0]
    assert torch.allclose(prepare(as_photograph(WIDE), how).input, expected, atol=1e-6, rtol=0)


def test_what_nobody_says_is_assumed_and_said_to_be():
    how = preprocessing_of(torch.nn.Conv2d(3, 5, 3), (40, 24))
    assert how.size == (40, 24)
    assert how.mean == IMAGENET_MEAN
    assert how.source == ""
    assert [one.split(":")[0] for one in how.assumed] == ["mean, std", "crop", "image_size"]


def test_what_the_user_says_is_no_longer_assumed():
    how = preprocessing_of(torch.nn.Conv2d(3, 5, 3), (40, 24))
    said = how.changed(mean=0.5, std=(0.1, 0.2, 0.3), image_size=64).of_channels(3)
    assert (said.size, said.mean, said.std) == ((64, 64), (0.5, 0.5, 0.5), (0.1, 0.2, 0.3))
    assert [one.split(":")[0] for one in said.assumed] == ["crop"]
    assert said.resize == (72, 72)  # 64 * 45 / 40 and 64 * 27 / 24: the same share
    half = how.changed(mean=0.5)
    assert [one.split(":")[0] for one in half.assumed] == ["mean, std", "crop", "image_size"]


def test_a_network_of_one_channel_gets_a_grey_picture():
    how = preprocessing_of(torch.nn.Conv2d(1, 5, 3), (40, 24)).of_channels(1)
    made = prepare(as_photograph(Image.new("RGB", (50, 50), (90, 90, 90))), how).input
    assert made.shape == (1, 40, 24)
    mean, std = sum(IMAGENET_MEAN) / 3, (0.229 + 0.224 + 0.225) / 3
    assert torch.allclose(made, torch.tensor((90 / 255 - mean) / std))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mean": (0.5, 0.5)}, "is not 1 or 3 numbers"),
        ({"mean": float("nan")}, "is not 1 or 3 numbers"),
        ({"std": 0}, "is not 1 or 3 numbers above 0"),
        ({"image_size": 0}, "is no size"),
        ({"image_size": (1, 2, 3)}, "is no size"),
        ({"image_size": 1 << 20}, "is no size"),
    ],
)
def test_numbers_that_are_none_are_refused(given, words):
    with pytest.raises(UsageError, match=words):
        preprocessing_of(torch.nn.Conv2d(3, 5, 3), (40, 24)).changed(**given)


def test_a_network_of_five_channels_takes_no_picture():
    with pytest.raises(UsageError, match="takes 5 channels, and a picture has 1 or 3"):
        preprocessing_of(torch.nn.Conv2d(5, 5, 3), (40, 24)).of_channels(5)


# ------------------------------------------------------------------------ where the input lies


def test_the_box_is_the_part_of_the_picture_that_is_seen():
    """100 x 200 resized to 50 x 100, of which the middle 40 x 40 is cut: by hand."""
    how = preprocessing_of(torch.nn.Conv2d(3, 5, 3), (40, 40)).changed()
    how = type(how)(**{**vars(how), "resize": (50, 50)})
    box = prepare(as_photograph(Image.new("RGB", (100, 200))), how).box
    assert box == (10.0, 60.0, 90.0, 140.0)


def test_of_a_letter_box_the_box_reaches_beyond_the_picture():
    """100 x 50 within 40 x 40 is 40 x 20, with ten rows above and below: 25 of the picture's."""
    how = preprocessing_of(torch.nn.Conv2d(3, 5, 3), (40, 40))
    how = type(how)(**{**vars(how), "resize": (40, 40), "fit": "longer"})
    assert prepare(as_photograph(Image.new("RGB", (100, 50))), how).box == (0, -25, 100, 75)


def test_a_white_square_is_where_the_box_says():
    """The square covers the second quarter of what is seen, across; nothing else is white."""
    how = preprocessing_of(torch.nn.Conv2d(3, 5, 3), (40, 40))
    how = type(how)(**{**vars(how), "resize": (50, 50)})
    image = Image.new("RGB", (100, 200))
    image.paste((255, 255, 255), (30, 60, 50, 140))  # the box is (10, 60, 90, 140)
    seen = prepare(as_photograph(image), how).input.mean(0).mean(0)
    white = (seen > seen.mean()).nonzero().flatten().tolist()
    assert white == list(range(10, 20))


def test_a_picture_a_thousand_times_as_long_as_wide_is_refused_before_it_fills_the_memory():
    how = preprocessing_of(torch.nn.Conv2d(3, 5, 3), (224, 224))
    with pytest.raises(UsageError, match="is 3 x 9000, and would be resized to"):
        prepare(as_photograph(Image.new("RGB", (3, 9000))), how)
