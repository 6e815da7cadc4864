"""Wide-band PESQ of pairs of recordings, 16-bit and 16 kHz: reads lines of two paths, prints a score for each."""

import sys

import numpy
from pesq import pesq

for line in sys.stdin:
    said, heard = (numpy.fromfile(path, dtype="<i2").astype(float) for path in line.split())
    try:
        print(pesq(16000, said, heard, "wb"), flush=True)
    except Exception:  # nobody speaks, or nothing is heard
        print("nan", flush=True)
