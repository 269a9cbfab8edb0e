#!/usr/bin/env python3
"""Makes maglev.txt and ring.txt: an implementation of its own, written from the description of the algorithms in
src/proxy/balance/hash, with a heap for the turns and a plain list for the ring.

Run in this folder, with nothing but Python 3: python3 hashes.py
"""

import bisect
import heapq
import random

MASK = (1 << 64) - 1


def siphash24(data):
    """SipHash-2-4 under a zero key."""

    def rotl(x, b):
        return ((x << b) | (x >> (64 - b))) & MASK

    v = [0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573]

    def rounds(n):
        for _ in range(n):
            v[0] = (v[0] + v[1]) & MASK
            v[1] = rotl(v[1], 13) ^ v[0]
            v[0] = rotl(v[0], 32)
            v[2] = (v[2] + v[3]) & MASK
            v[3] = rotl(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & MASK
            v[3] = rotl(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & MASK
            v[1] = rotl(v[1], 17) ^ v[2]
            v[2] = rotl(v[2], 32)

    tail = len(data) % 8
    padded = data + bytes(7 - tail) + bytes([len(data) & 0xFF])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def mix(x):
    """The output function of SplitMix64."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def stable_hash(pool, name):
    return siphash24(pool.encode() + b"\0" + name.encode())


def takers(pool, backends):
    """(stable hash, weight, name) of whoever has keys."""
    found = [(stable_hash(pool, name), weight, name) for name, weight in backends if weight > 0]
    return found or [(stable_hash(pool, name), 1, name) for name, _ in backends]


def maglev(pool, backends):
    size = 65537 if len(takers(pool, backends)) <= 512 else 655373
    slots = [None] * size
    heap = []
    for hashed, weight, name in takers(pool, backends):
        first = mix(hashed)
        heap.append((-(-1000 // (2 * weight)), hashed, 0, weight, name, first % size, mix(first) % (size - 1) + 1))
    heapq.heapify(heap)
    for _ in range(size):
        _, hashed, turn, weight, name, slot, step = heap[0]
        while slots[slot] is not None:
            slot = (slot + step) % size
        slots[slot] = name
        turn += 1
        time = -(-(2 * turn + 1) * 1000 // (2 * weight))
        heapq.heapreplace(heap, (time, hashed, turn, weight, name, (slot + step) % size, step))
    return lambda key: slots[mix(key) * size >> 64]


def ring(pool, backends):
    found = takers(pool, backends)
    total = min(1024 * len(found), 1 << 20)
    weights = sum(weight for _, weight, _ in found)
    points = []
    for hashed, weight, name in found:
        count = max(1, ((weight * total << 32) // weights + (mix(hashed) >> 32)) >> 32)
        points += [(mix(hashed ^ mix(number)), hashed, name) for number in range(count)]
    points.sort()
    places = [point for point, _, _ in points]
    return lambda key: points[bisect.bisect_left(places, mix(key)) % len(points)][2]


POOLS = [
    ("shop", [("app1", 1)]),
    ("shop", [("app1", 100), ("app2", 100), ("app3", 100)]),
    ("shop", [("app3", 100), ("app2", 100), ("app1", 100), ("app4", 0)]),
    ("shop", [("app1", 100), ("app2", 50), ("app3", 0), ("app4", 7)]),
    ("shop", [("app1", 0), ("app2", 0)]),
    ("api", [(f"10.0.0.{number}:8080", weight) for number, weight in enumerate([1, 2, 3, 4, 1000], 1)]),
    ("café", [(f"b{number}", 1 + number % 4) for number in range(40)]),
    ("many", [(f"b{number}", 1 + number % 4) for number in range(600)]),
]


def write(file, algorithm, title):
    rng = random.Random(4)
    with open(file, "w", encoding="utf-8") as out:
        out.write(f"# Homes by {title} that every replica and every release must agree on. Made by hashes.py.\n")
        out.write("# `pool NAME`, then its backends as name=weight; below it a key in hex and its home a line.\n")
        for pool, backends in POOLS:
            home = algorithm(pool, backends)
            out.write(f"pool {pool} {' '.join(f'{name}={weight}' for name, weight in backends)}\n")
            keys = [0, 1, MASK] + [rng.getrandbits(64) for _ in range(12)]
            out.writelines(f"{key:016x} {home(key)}\n" for key in keys)


if __name__ == "__main__":
    assert siphash24(b"") == 0x1E924B9D737700D7, "the vector of an empty message under a zero key"
    write("maglev.txt", maglev, "maglev")
    write("ring.txt", ring, "ring")
