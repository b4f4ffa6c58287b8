"""Files -> pictures as people see them; what is none is named, and never passed over in silence."""

import io
import os

import pytest
from PIL import Image

from attnsurgeon.errors import UsageError
from attnsurgeon.looking.photographs import _pillows_own, as_photograph, bad_files, files_in

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def two_colours(mode: str = "RGB") -> Image.Image:
    """Red on the left, blue on the right; 8 x 4."""
    image = Image.new("RGB", (8, 4), RED)
    image.paste(BLUE, (4, 0, 8, 4))
    return image.convert(mode)


def colours(image: Image.Image) -> tuple:
    return image.getpixel((0, 0)), image.getpixel((image.width - 1, 0))


def saved(path, image: Image.Image, **how):
    image.save(path, **how)
    return path


def test_a_plain_picture_is_taken_as_it_is(tmp_path):
    picture = as_photograph(saved(tmp_path / "a.png", two_colours()))
    assert (picture.name, picture.notes, picture.image.size) == ("a.png", (), (8, 4))
    assert colours(picture.image) == (RED, BLUE)
    assert colours(as_photograph(two_colours()).image) == (RED, BLUE)


def test_a_picture_is_turned_as_its_camera_was_held(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    file = saved(tmp_path / "a.png", two_colours(), exif=exif)
    picture = as_photograph(file)
    assert picture.image.size == (4, 8)
    assert picture.image.getpixel((0, 0)) == RED  # left becomes top
    assert picture.image.getpixel((0, 7)) == BLUE
    assert picture.notes == ("turned as its EXIF says",)


def test_what_is_transparent_is_shown_on_white(tmp_path):
    image = two_colours("RGBA")
    image.putpixel((0, 0), (255, 0, 0, 0))
    picture = as_photograph(saved(tmp_path / "a.png", image))
    assert colours(picture.image) == (WHITE, BLUE)
    assert picture.notes == ("its transparent parts on white",)
    opaque = as_photograph(saved(tmp_path / "b.png", two_colours("RGBA")))
    assert (colours(opaque.image), opaque.notes) == ((RED, BLUE), ())


def test_a_palette_with_a_transparent_colour_too(tmp_path):
    image = two_colours("P")
    file = saved(tmp_path / "a.gif", image, transparency=image.getpixel((0, 0)))
    assert colours(as_photograph(file).image) == (WHITE, BLUE)


def test_the_inks_of_a_print_become_colours(tmp_path):
    file = saved(tmp_path / "a.tif", two_colours("CMYK"))
    picture = as_photograph(file)
    assert picture.image.mode == "RGB"
    assert picture.notes == ("CMYK converted to RGB",)
    left, right = colours(picture.image)
    assert left[0] > 200 > left[2]
    assert right[2] > 200 > right[0]


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path):
    image = Image.new("I;16", (2, 1))
    image.putpixel((0, 0), 65535)
    image.putpixel((1, 0), 257 * 100)
    picture = as_photograph(saved(tmp_path / "a.png", image))
    assert colours(picture.image) == (WHITE, (100, 100, 100))
    with Image.open(tmp_path / "a.png") as read:
        mode = read.mode  # "I" before Pillow 11
    assert mode in ("I;16", "I")
    assert picture.notes == (f"{mode} brought to 8 bits",)


def test_fractions_of_white_are_scaled_and_other_numbers_refused(tmp_path):
    image = Image.new("F", (2, 1), 1.0)
    image.putpixel((1, 0), 0.4)
    assert colours(as_photograph(saved(tmp_path / "a.tif", image)).image) == (WHITE, (102,) * 3)
    image.putpixel((1, 0), 1000.0)
    with pytest.raises(UsageError, match=r"b\.tif has grey values from 1 to 1000"):
        as_photograph(saved(tmp_path / "b.tif", image))
    image.putpixel((1, 0), float("nan"))
    with pytest.raises(UsageError, match="has grey values from"):
        as_photograph(saved(tmp_path / "c.tif", image))


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [two_colours(), Image.new("RGB", (8, 4), "green")]
    file = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    picture = as_photograph(file)
    assert colours(picture.image) == (RED, BLUE)
    assert picture.notes == ("the first of 2 frames",)


def cut_off(path, share: float = 0.5):
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(stream, format="JPEG")
    path.write_bytes(stream.getvalue()[: int(share * stream.tell())])
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_text("hello"), r"a\.jpg is no image that Pillow knows"),
        (lambda path: path.write_bytes(b""), r"a\.jpg is empty"),
        (lambda path: path.mkdir(), r"a\.jpg is a folder"),
        (lambda path: None, r"a\.jpg does not exist"),
        (cut_off, r"a\.jpg is damaged or cut off"),
    ],
    ids=["text", "empty", "folder", "nothing", "cut off"],
)
def test_what_is_no_picture_is_refused_by_name(tmp_path, make, words):
    make(tmp_path / "a.jpg")
    with pytest.raises(UsageError, match=words):
        as_photograph(tmp_path / "a.jpg")


def test_a_decompression_bomb_is_refused_and_what_pillow_warns_of_is_not(tmp_path, monkeypatch):
    file = saved(tmp_path / "a.png", Image.new("RGB", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_000)
    with pytest.raises(UsageError, match="more than 8,000 pixels, which Pillow does not read"):
        as_photograph(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6_000)  # warnings are errors in this suite
    assert as_photograph(file).image.size == (100, 100)


def test_what_is_neither_a_file_nor_a_picture_is_refused():
    with pytest.raises(UsageError, match="a list is no picture"):
        as_photograph([1, 2])


# ---------------------------------------------------------------------------------- folders


@pytest.fixture
def folder(tmp_path):
    for name in ("b/2.png", "a/1.png", "a/0.png", "c/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        two_colours().save(tmp_path / name)
    (tmp_path / ".hidden").write_text("no image")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.png").write_text("no image")
    return tmp_path


def names(files, folder):
    return [os.fspath(file.relative_to(folder)) for file in files]


def test_a_folder_is_read_in_order_with_what_is_below_and_nothing_hidden(folder):
    assert names(files_in(folder), folder) == ["a/0.png", "a/1.png", "b/2.png", "c/3.png"]


def test_a_limit_takes_files_of_the_whole_folder(folder):
    assert names(files_in(folder, 2), folder) == ["a/0.png", "b/2.png"]
    assert len(files_in(folder, 100)) == 4


def test_a_folder_without_a_file_or_that_is_none_is_refused(tmp_path):
    with pytest.raises(UsageError, match="there is no image in"):
        files_in(tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        files_in(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file, not a folder"):
        files_in(tmp_path / "file")


def test_files_that_are_no_images_are_counted_named_and_left_out_only_if_that_is_said(folder):
    (folder / "labels.csv").write_text("a,b")
    (folder / "b" / "empty.jpg").write_bytes(b"")
    files = files_in(folder)
    with pytest.raises(UsageError) as refused:
        bad_files(files, "photos", skip_bad=False)
    assert "of 6 files in photos 4 can be read as an image:" in refused.value.what
    assert "labels.csv is no image" in refused.value.what
    assert "empty.jpg is empty" in refused.value.what
    assert refused.value.hint is not None
    assert "skip_bad=True" in refused.value.hint
    bad = bad_files(files, "photos", skip_bad=True)
    assert sorted(names(bad, folder)) == ["b/empty.jpg", "labels.csv"]


def test_a_folder_of_nothing_but_other_files_is_refused_even_so(tmp_path):
    for number in range(7):
        (tmp_path / f"{number}.txt").write_text("x")
    with pytest.raises(UsageError, match="of 7 files in photos none can be read") as refused:
        bad_files(files_in(tmp_path), "photos", skip_bad=True)
    assert "and 2 more" in refused.value.what


@pytest.mark.parametrize("kept", ["globals", "closure"])
def test_another_opening_that_a_library_has_put_in_place_is_not_asked(tmp_path, monkeypatch, kept):
    file = tmp_path / "a.txt"
    file.write_text("no picture")
    code = "def opens(file): raise SystemError('asked')"
    own = _pillows_own(Image.open)  # ultralytics may have been here before
    names = {"kept": own} if kept == "globals" else {}
    exec(code, names)
    opens = names["opens"]
    if kept == "closure":

        def another(file):
            raise SystemError(f"asked, and not {own}")

        opens = another

    monkeypatch.setattr(Image, "open", opens)
    with pytest.raises(UsageError, match="is no image that Pillow knows"):
        as_photograph(file)
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    assert as_photograph(tmp_path / "a.png").image.size == (3, 2)
