"""Runs as a process of its own, under limits, on a file that nobody trusts: `video_child.py FORMAT LIMITS PIPE`.

The video comes as standard input and the facts go to standard output as one line of JSON, {"error": ...} if there are
none. Then the numbers of the wanted frames are read from the open pipe of the number PIPE, a JSON list in ascending
order, and each frame follows: a line with its number and size, and its pixels as bytes of RGB. After PyAV is loaded not
one more file or socket can be opened: whatever a container refers to stays out of reach. It imports nothing of the
package, so that it starts fast.

A frame's number is its place in the order of presentation. Pictures that are decoded and never shown do not count:
VP8's hidden ones, those that an edit list cuts, and those before the first keyframe, which cannot be decoded.
"""

from __future__ import annotations

import contextlib
import json
import math
import resource
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any, BinaryIO

Facts = dict[str, Any]

SPARE_FRAMES = 2
SHARE = 0.02
"""A header may be off by two frames, and by this share of frames or seconds: encoders round."""
SPARE_S = 1.0

NEVER = 1 << 63
"""No packet has this time."""


class Refused(Exception):
    """The field that is wrong, what was found and what was expected."""


class Extent:
    """From the first packet's start to the last one's end."""

    def __init__(self) -> None:
        self.start, self.end = math.inf, -math.inf

    def add(self, packet: Any) -> None:
        """Packets without a time of their own or of their stream change nothing."""
        at = packet.pts if packet.pts is not None else packet.dts
        if at is not None and packet.time_base:
            self.start = min(self.start, float(at * packet.time_base))
            self.end = max(self.end, float((at + (packet.duration or 0)) * packet.time_base))

    @property
    def seconds(self) -> float:
        """0 if no packet had a time."""
        return max(0.0, self.end - self.start)


class Times:
    """When the frames of a stream are shown, as its packets say."""

    def __init__(self) -> None:
        self.shown = array("q")
        """Presentation times, ascending once closed."""
        self.keys = array("q")
        """Those of keyframes."""
        self.untimed = 0
        """Frames without a time."""
        self.reliable = True

    def add(self, packet: Any, hidden: bool) -> None:
        """The next packet in the order of decoding."""
        if packet.pts is None:
            self.untimed += not hidden
            return
        if packet.is_keyframe:
            self.keys.append(packet.pts)
        if not hidden:
            self.shown.append(packet.pts)

    def close(self, reorders: bool) -> int:
        """How many frames are shown, all packets being added; the times are of use only where they are reliable.

        ``reorders``: the codec may show frames in another order than it decodes them. If the times know nothing of
        that, they are FFmpeg's guesses: an AVI has none of its own.
        """
        guessed = reorders and all(a < b for a, b in pairwise(self.shown))
        distinct = len(set(self.shown)) == len(self.shown)
        self.reliable = bool(self.keys) and distinct and not guessed and not self.untimed
        if not self.reliable:
            return self.untimed + len(self.shown)
        self.shown = array("q", sorted(at for at in self.shown if at >= self.keys[0]))
        self.keys = array("q", sorted(self.keys))
        return len(self.shown)

    def keyframe(self, number: int) -> int:
        """The time of the last keyframe that is not shown after frame ``number``."""
        return self.keys[bisect_right(self.keys, self.shown[number]) - 1]


class Film:
    """The first video stream of an open container."""

    def __init__(self, container: Any, sent: int = 0) -> None:
        import av

        pictures = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not pictures:
            raise Refused("streams", [s.type for s in container.streams], "a video stream")
        self.container, self.stream, self.codec = container, pictures[0], pictures[0].codec_context
        self.codec.thread_count = 1
        self.sent = sent
        """Packets that went to the decoder."""

    def decode(self, last: Iterable[int], keyframe: int | None = None) -> Iterator[Any]:
        """Frames until those of the packets of the times ``last`` are out; from a keyframe's time, or from here.

        None at all where the container cannot go to the keyframe. From a keyframe, frames of H.264 that no other refers
        to are passed over, unless they are in ``last``: a third to a half of the work, with the same pixels.
        """
        import av

        if keyframe is not None:
            try:
                self.container.seek(keyframe, stream=self.stream)  # forgets what the decoder holds, too
            except av.FFmpegError:
                return
        wanted = set(last)
        left, sparing = set(wanted), keyframe is not None and self.codec.name == "h264"
        for packet in self.container.demux(self.stream):
            if keyframe is not None:
                if packet.pts is None or packet.pts > keyframe:
                    return
                keyframe = None
            if packet.size == 0:
                break
            self.sent += 1
            self.codec.skip_frame = "NONREF" if sparing and packet.pts not in wanted else "DEFAULT"
            yield from self.codec.decode(packet)
            left.discard(packet.pts)
            if not left:
                break
        yield from self.codec.decode(None)


@contextlib.contextmanager
def opened(file: BinaryIO, format: str, sent: int = 0) -> Iterator[Film]:
    """``file`` from its start."""
    import av

    file.seek(0)
    # Nested opens are impossible (main), but FFmpeg should not even try.
    options = {"protocol_whitelist": "none", "max_streams": "32"}
    with av.open(file, "r", format=format, options=options) as container:
        yield Film(container, sent)


def facts(film: Film, format: str, limits: dict[str, int]) -> tuple[Facts, Times]:
    """Count the frames and decode the first; the times of all come second.

    A header that promises other frames or seconds than there are is refused, so a file that was cut off is, too.
    """
    import av

    container, stream, codec = film.container, film.stream, film.codec
    check_size(codec.width, codec.height, limits)
    promised = {"frames": stream.frames, "seconds": float(container.duration or 0) / av.time_base}
    count, size, times = 0, None, Times()
    pictures, everything = Extent(), Extent()  # sound may go on when the pictures have ended
    for packet in container.demux():
        own = packet.stream_index == stream.index
        if own and size is None:
            film.sent += bool(packet.size)
            for frame in codec.decode(packet):
                size = (frame.width, frame.height)
                break
        if packet.size == 0:
            continue
        if packet.is_corrupt:
            raise Refused(f"frame {count}", "a broken packet", "whole packets")
        everything.add(packet)
        if own:
            count += 1
            pictures.add(packet)
            times.add(packet, packet.is_discard or (codec.name == "vp8" and not memoryview(packet)[0] & 0x10))
        if count > limits["frames"]:
            raise Refused("frames", f"more than {limits['frames']}", f"at most {limits['frames']}")
        if everything.seconds > limits["seconds"]:
            raise Refused("seconds", f"more than {limits['seconds']}", f"at most {limits['seconds']}")
    shown = times.close(codec.has_b_frames and format != "mov")
    if shown == 0 or size is None:
        raise Refused("frames", "none that can be decoded", "at least one")
    check_size(*size, limits)
    if promised["frames"] and abs(promised["frames"] - count) > SPARE_FRAMES + SHARE * count:
        raise Refused("frames", count, f"{promised['frames']}, as the header says")
    seconds = everything.seconds
    if promised["seconds"] and abs(promised["seconds"] - seconds) > SPARE_S + SHARE * seconds:
        raise Refused("seconds", round(seconds, 2), f"{promised['seconds']:.2f}, as the header says")
    seconds = pictures.seconds
    rate = float(stream.average_rate or 0) or (shown / seconds if seconds else 0.0)
    found = {
        "seconds": seconds, "fps": rate, "frames": shown, "width": size[0], "height": size[1],
        "codec": codec.codec.canonical_name,
    }  # fmt: skip
    return found, times


def check_size(width: int, height: int, limits: dict[str, int]) -> None:
    """Refuse a frame that is too large."""
    if width * height > limits["pixels"]:
        raise Refused("size", f"{width} x {height}", f"at most {limits['pixels']} pixels")


def pictures(
    file: BinaryIO, format: str, film: Film, times: Times, wanted: Sequence[int]
) -> Iterator[tuple[int, Any, int]]:
    """Each wanted frame's number, the frame, and how many packets have been decoded so far.

    Decoding starts at the keyframe before some wanted frames and ends with the last of them; at the file's start where
    times are not reliable or a keyframe does not hold what it promises.
    """
    numbers = {times.shown[number]: number for number in wanted} if times.reliable else {}
    found = 0
    for keyframe, group in groupby(wanted, times.keyframe) if times.reliable else ():
        last = list(group)
        for frame in film.decode([times.shown[number] for number in last], keyframe):
            number = numbers.get(frame.pts)
            if number is None:
                continue
            if number != wanted[found] or frame.is_corrupt:
                break
            yield number, frame, film.sent
            found += 1
            if number == last[-1]:
                break
        if found == 0 or wanted[found - 1] != last[-1]:
            break
    if found == len(wanted):
        return
    with opened(file, format, film.sent) as again:
        last = [times.shown[number] for number in wanted[found:]] if times.reliable else [NEVER]
        for place, frame in enumerate(again.decode(last)):
            number = numbers.get(frame.pts) if times.reliable else place
            if number != wanted[found]:
                continue
            if frame.is_corrupt:
                raise Refused(f"frame {number}", "a broken picture", "a whole one")
            yield number, frame, again.sent
            found += 1
            if found == len(wanted):
                return
    raise Refused(f"frame {wanted[found]}", "no picture", "one that can be decoded")


def send(number: int, frame: Any, sent: int, limits: dict[str, int]) -> None:
    """A line about the frame, then its pixels, row by row; ``turn``: degrees against the clock, still to be done."""
    check_size(frame.width, frame.height, limits)
    plane = frame.reformat(format="rgb24", threads=1).planes[0]  # each thread more would count as memory
    say({"frame": number, "width": frame.width, "height": frame.height, "turn": frame.rotation, "decoded": sent})
    pixels, row = memoryview(plane), 3 * frame.width
    for start in range(0, plane.line_size * frame.height, plane.line_size):
        sys.stdout.buffer.write(pixels[start : start + row])


def say(answer: dict[str, Any]) -> None:
    """One line for the parent."""
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Limit this process, then look at the file."""
    format, limits = sys.argv[1], json.loads(sys.argv[2])
    requests = open(int(sys.argv[3]), "rb")  # noqa: SIM115 - closed by the end of the process
    for what, most in (
        (resource.RLIMIT_AS, limits["memory_mib"] << 20),
        (resource.RLIMIT_CPU, limits["cpu_s"]),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    import av
    import av.subtitles.codeccontext
    import av.subtitles.stream  # PyAV would load these two when it meets subtitles, which is too late

    av.logging.set_level(None)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))  # no more than what is open now
    file = sys.stdin.buffer
    try:
        with opened(file, format) as film:
            found, times = facts(film, format, limits)
            say(found)
            wanted = json.loads(requests.readline())
            for number, frame, sent in pictures(file, format, film, times, wanted):
                send(number, frame, sent, limits)
    except Refused as refused:
        say({"error": refused.args})
    except MemoryError:
        say({"error": ["memory", "too much of it", f"at most {limits['memory_mib']} MiB"]})
    except av.FFmpegError as error:
        say({"error": ["video", error.strerror, f"a readable {format} file"]})
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
