"""Draw sample/input.png, a small evening landscape, and nothing else: run it to see where the sample comes from."""

import math
from pathlib import Path

from PIL import Image, ImageDraw

WIDTH, HEIGHT, SUPER = 96, 72, 4


def sky(y: float) -> tuple[int, int, int]:
    """From deep blue at the top (0) to orange at the horizon (1)."""
    return int(40 + 205 * y**1.4), int(60 + 100 * y), int(140 - 60 * y)


def main() -> None:
    width, height = WIDTH * SUPER, HEIGHT * SUPER
    picture = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(picture)
    for y in range(height):
        draw.line((0, y, width, y), fill=sky(min(1.0, y / (height * 0.7))))
    draw.ellipse((width * 0.62, height * 0.34, width * 0.78, height * 0.555), fill=(255, 226, 150))
    for layer, shade in enumerate(((120, 84, 96), (78, 62, 84), (36, 40, 58))):
        base, swing = height * (0.58 + 0.13 * layer), height * 0.07
        ridge = [
            (x, base - swing * (math.sin(x / (37 + 11 * layer) + layer) + 0.6 * math.sin(x / (13 + 5 * layer))))
            for x in range(0, width + 1, 4)
        ]
        draw.polygon([*ridge, (width, height), (0, height)], fill=shade)
    for x in (0.12, 0.2, 0.26):
        foot, top = height * 0.94, height * (0.55 + x)
        draw.polygon([(width * x, top), (width * (x - 0.035), foot), (width * (x + 0.035), foot)], fill=(18, 30, 34))
    small = picture.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    small.save(Path(__file__).parent / "sample" / "input.png", optimize=True)


if __name__ == "__main__":
    main()
