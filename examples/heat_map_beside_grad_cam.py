"""A heat map shows what the attention did, Grad-CAM what the class score hung on: side by side.

Needs `pip install attnsurgeon[examples]`. Here the weights are random, for nothing is downloaded;
with your own trained folder it is `model = attnsurgeon.load("r18-cbam")`.
"""

import tempfile
from pathlib import Path

import numpy
import torch
from matplotlib.figure import Figure
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import show_cam_on_image

import attnsurgeon
from attnsurgeon.looking.look import look_at
from attnsurgeon.looking.panels import laid_over
from attnsurgeon.looking.preparing import Box

torch.manual_seed(0)
folder = Path(tempfile.mkdtemp())
photo = Image.effect_noise((240, 180), 60).convert("RGB")
photo.paste((250, 160, 40), (150, 60, 210, 120))  # something to look at

base = attnsurgeon.load_model("resnet18", zero_init_last=False).eval()
model = attnsurgeon.insert(base, "cbam", "residual-branch").model
with torch.no_grad():  # stands for training
    model.get_parameter("layer2.1.attn.norm.weight").fill_(2.0)

# Everything that every site does, as one figure
figure = attnsurgeon.heatmap(model, photo, sites="layer2")
figure.savefig(folder / "attention.png")

# One mask beside Grad-CAM, both over what the network saw of the picture
look = look_at(model, photo, sites="layer2.1.attn")
height, width = look.preprocessing.size
mask = next(panel for panel in look.cards[0].panels if panel.name == "spatial").values
over = laid_over(mask, Box(0, 0, width, height), (height, width))
over = (over - over.min()) / (over.max() - over.min())

with GradCAM(model=model, target_layers=[model.layer2[-1]]) as cam:
    x = look.input.unsqueeze(0)
    grad_cam = cam(input_tensor=x, targets=None)[0]  # of the likeliest class, between 0 and 1

seen = numpy.asarray(photo.crop(look.box).resize((width, height)), dtype=numpy.float32) / 255
beside = Figure(figsize=(9, 3.4), layout="constrained")
for axes, title, shown in zip(
    beside.subplots(1, 3),
    ("what the network sees", "spatial mask of CBAM", "Grad-CAM of the likeliest class"),
    (seen, *(show_cam_on_image(seen, one, use_rgb=True) for one in (over.numpy(), grad_cam))),
    strict=True,
):
    axes.imshow(shown)
    axes.set_title(title, fontsize=9)
    axes.axis("off")
beside.savefig(folder / "beside.png")

assert over.shape == grad_cam.shape == (height, width)
assert float(mask.max()) > float(mask.min())  # it tells positions apart
assert (folder / "attention.png").stat().st_size > 10_000
print(f"{folder}/attention.png, {folder}/beside.png")
