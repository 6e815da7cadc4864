"""aiortc, in place of peer.mjs: the same messages on stdin and stdout."""

import asyncio
import fractions
import json
import sys
import time

import aiortc
import numpy
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame

RATE = 48_000
FRAME = 960
HERTZ = 440


class Tone(MediaStreamTrack):
    """A tone, 20 ms at a time."""

    kind = "audio"

    def __init__(self):
        super().__init__()
        self.position = 0
        self.start = None

    async def recv(self):
        self.start = self.start or time.monotonic()
        due = self.start + self.position / RATE
        await asyncio.sleep(max(0, due - time.monotonic()))
        at = numpy.arange(self.position, self.position + FRAME)
        samples = (8000 * numpy.sin(2 * numpy.pi * HERTZ * at / RATE)).astype(numpy.int16)
        frame = AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = RATE
        frame.pts = self.position
        frame.time_base = fractions.Fraction(1, RATE)
        self.position += FRAME
        return frame


def say(**message):
    print(json.dumps(message), flush=True)


class Peer:
    def __init__(self):
        self.connection = RTCPeerConnection()
        self.energy = 0.0
        self.connection.on("track", self.on_track)
        self.open("control", id=0)
        self.open("app", id=4)
        self.open("app-fast", id=5, ordered=False, maxRetransmits=0)

    def open(self, label, **init):
        channel = self.connection.createDataChannel(label, negotiated=True, **init)

        @channel.on("message")
        def on_message(message):
            if label == "control":
                say(closed=json.loads(message)["close"]["code"])
            else:
                channel.send(message)

    def on_track(self, track):
        if track.kind == "audio":
            self.listening = asyncio.ensure_future(self.listen(track))

    async def listen(self, track):
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            samples = frame.to_ndarray().astype(float) / 32768
            self.energy += float((samples**2).sum()) / RATE

    async def handle(self, message):
        connection = self.connection
        if message.get("do") == "offer":
            connection.addTrack(Tone())
            connection.addTransceiver("video", direction="sendrecv")
            await self.describe("offer", await connection.createOffer())
        elif message.get("do") == "restart":
            raise NotImplementedError("aiortc cannot restart ICE")
        elif message.get("do") == "report":
            stats = (await connection.getStats()).values()
            audio = [s for s in stats if s.type == "inbound-rtp" and s.kind == "audio"]
            packets = audio[0].packetsReceived if audio else 0
            say(report={"packets": packets, "energy": self.energy})
        elif "answer" in message:
            answer = RTCSessionDescription(message["answer"], "answer")
            await connection.setRemoteDescription(answer)
        elif "offer" in message:
            offer = RTCSessionDescription(message["offer"], "offer")
            await connection.setRemoteDescription(offer)
            connection.addTrack(Tone())
            await self.describe("answer", await connection.createAnswer())

    async def describe(self, kind, description):
        # Gathers, too.
        await self.connection.setLocalDescription(description)
        say(**{kind: self.connection.localDescription.sdp})


async def main():
    peer = Peer()
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    say(ready=f"aiortc {aiortc.__version__}")
    while line := await reader.readline():
        await peer.handle(json.loads(line))
    await peer.connection.close()


asyncio.run(main())
