"""Real films and sounds for tests, written with PyAV."""

from fractions import Fraction

import av
import numpy as np

CORNERS = {"lime": (0, 255, 0), "blue": (0, 0, 255)}  # top left, bottom right


def shade(index):
    """The red of a frame, by which tests know it again."""
    return (index * 37) % 201 + 20


def picture(index, size=(64, 48)):
    """(h, w, 3): one red per frame, a green corner top left, a blue one bottom right."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[..., 0] = shade(index)
    pixels[:12, :12] = CORNERS["lime"]
    pixels[-12:, -12:] = CORNERS["blue"]
    return pixels


def red_of(image):
    """The red in the middle of a PIL image."""
    return image.getpixel((image.width // 2, image.height // 2))[0]


def write_film(
    path, count=60, rate=10, *, codec="libx264", gop=10, size=(64, 48), due=None, turn=None, **more
):
    """A film of `picture`s; `due` gives the seconds of frames in place of a constant rate.

    `turn` is a display matrix; `more` goes to `av.open` (format, options).
    """
    with av.open(str(path), "w", **more) as container:
        options = {"x264-params": "scenecut=0", "preset": "ultrafast"} if "264" in codec else {}
        options |= {"crf": "10"} if "264" in codec else {}
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.gop_size = gop
        stream.max_b_frames = 2 if "264" in codec and due is None else 0
        stream.bit_rate = 2_000_000 if "264" not in codec else 0
        tick = Fraction(1, rate) if due is None else Fraction(1, 1000)
        stream.codec_context.time_base = tick
        if turn is not None:
            stream.set_display_matrix(turn)
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(picture(index, size), "rgb24")
            frame.pts = index if due is None else round(due[index] * 1000)
            frame.time_base = tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def sweep(seconds=3.0, rate=16_000):
    """(samples,): a tone that rises, so that every place in it sounds different."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * (200 * time + 40 * time * time))).astype(np.float32)


def write_sound(path, samples, rate=16_000, *, codec="aac", film=False, **more):
    """A coded mono sound, with two seconds of film beside it if asked for."""
    with av.open(str(path), "w", **more) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        if film:
            pictures = container.add_stream("libx264", rate=10)
            pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        frame = av.AudioFrame.from_ndarray(samples[None], "fltp", "mono")
        frame.rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for index in range(20 if film else 0):
            frame = av.VideoFrame.from_ndarray(picture(index), "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(pictures.encode(frame))
        if film:
            container.mux(pictures.encode(None))
    return path
