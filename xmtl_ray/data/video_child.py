"""Runs as a process of its own, under limits, on a file that nobody trusts: `python -I video_child.py LIMITS`.

The video comes as standard input and the facts go to standard output as one JSON object, {"error": ...} if there are
none. After PyAV is loaded not one more file or socket can be opened: whatever a container refers to stays out of reach.
It imports nothing of the package, so that it starts fast.
"""

from __future__ import annotations

import json
import math
import resource
import sys
from typing import Any, BinaryIO

Facts = dict[str, Any]

SPARE_FRAMES = 2
SHARE = 0.02
"""A header may be off by two frames, and by this share of frames or seconds: encoders round."""
SPARE_S = 1.0


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


def facts(file: BinaryIO, format: str, limits: dict[str, int]) -> Facts:
    """Count the packets of the first video stream and decode its first frame.

    A header that promises other frames or seconds than there are is refused, so a file that was cut off is, too.
    """
    import av

    # Nested opens are impossible (main), but FFmpeg should not even try.
    options = {"protocol_whitelist": "none", "max_streams": "32"}
    with av.open(file, "r", format=format, options=options) as container:
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            raise Refused("streams", [s.type for s in container.streams], "a video stream")
        stream = streams[0]
        codec = stream.codec_context
        codec.thread_count = 1
        _check_size(codec.width, codec.height, limits)
        promised = {"frames": stream.frames, "seconds": float(container.duration or 0) / av.time_base}
        count, size = 0, None
        pictures, everything = Extent(), Extent()  # sound may go on when the pictures have ended
        for packet in container.demux():
            own = packet.stream_index == stream.index
            if own and size is None:
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
            if count > limits["frames"]:
                raise Refused("frames", f"more than {limits['frames']}", f"at most {limits['frames']}")
            if everything.seconds > limits["seconds"]:
                raise Refused("seconds", f"more than {limits['seconds']}", f"at most {limits['seconds']}")
        if count == 0 or size is None:
            raise Refused("frames", "none that can be decoded", "at least one")
        _check_size(*size, limits)
        if promised["frames"] and abs(promised["frames"] - count) > SPARE_FRAMES + SHARE * count:
            raise Refused("frames", count, f"{promised['frames']}, as the header says")
        seconds = everything.seconds
        if promised["seconds"] and abs(promised["seconds"] - seconds) > SPARE_S + SHARE * seconds:
            raise Refused("seconds", round(seconds, 2), f"{promised['seconds']:.2f}, as the header says")
        seconds = pictures.seconds
        rate = float(stream.average_rate or 0) or (count / seconds if seconds else 0.0)
        return {
            "seconds": seconds, "fps": rate, "frames": count, "width": size[0], "height": size[1],
            "codec": codec.codec.canonical_name,
        }  # fmt: skip


def _check_size(width: int, height: int, limits: dict[str, int]) -> None:
    if width * height > limits["pixels"]:
        raise Refused("size", f"{width} x {height}", f"at most {limits['pixels']} pixels")


def main() -> None:
    """Limit this process, then look at the file."""
    format, limits = sys.argv[1], json.loads(sys.argv[2])
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
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))  # the three standard streams are all there is
    try:
        answer = facts(sys.stdin.buffer, format, limits)
    except Refused as refused:
        answer = {"error": refused.args}
    except MemoryError:
        answer = {"error": ["memory", "too much of it", f"at most {limits['memory_mib']} MiB"]}
    except av.FFmpegError as error:
        answer = {"error": ["video", error.strerror, f"a readable {format} file"]}
    print(json.dumps(answer))  # noqa: T201 - it is what the parent reads


if __name__ == "__main__":
    main()
