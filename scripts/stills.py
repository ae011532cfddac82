"""Still images with labels: what the shipped backbone learns from."""

import numpy as np

from d2st.data.rendered.draw import Track, draw, random_background, random_looks

MOST = 3  # objects in a still
SIZES = (0.11, 0.26)  # radius of an object in image widths


def render_still(seed: int, index: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Render one still with one to three objects, the same for the same (seed, index, side).

    Returns:
        uint8 image (side, side, 3), and float32 objects (MOST, 8), later ones on top: x and y in image widths, size
        scaled to -1..1, cosine and sine of the angle, and the indices of shape, fill and color; -1 throughout where
        there are fewer objects.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, index]))
    count = int(rng.integers(1, MOST + 1))
    background = random_background(rng, side)
    looks = random_looks(rng, count, background)
    x, y = rng.uniform(0.06, 0.94, (2, count))
    spread = rng.random(count)
    size = SIZES[0] * (SIZES[1] / SIZES[0]) ** spread
    angle = rng.random(count)
    tracks = [Track(*(value[i : i + 1] for value in (x, y, size, angle)), seen=np.ones(1, bool)) for i in range(count)]
    image = draw(looks, tracks, background, side, gain=rng.uniform(0.8, 1.15))[0]
    objects = np.full((MOST, 8), -1, np.float32)
    for i, look in enumerate(looks):
        turn = angle[i] * 2 * np.pi
        numbers = x[i], y[i], 2 * spread[i] - 1, np.cos(turn), np.sin(turn)
        objects[i] = *numbers, look.shape, look.fill, look.color
    return image, objects
