"""What lies where: in a packed folder, and in the folder of a slice's results."""

MIB = 2**20

MANIFEST = "manifest.json"
"""In a packed folder: the commit, Python's version, what the images are."""
WHEELS, SOURCE, IMAGES, EARLIER = "wheels", "source", "images", "earlier.tar"
MAX_PACKED = 45 * MIB

SLICE = "slice.json"
"""Of the results: which slice, on what machine, and what became of each part."""
SMOKE, SPEED, RECORDS, WEIGHTS, RUNS = "smoke.json", "speed.json", "records.json", "weights.tar", "runs.tar"
LOG = "log.txt"
"""Everything that the parts print."""
RESULTS = (SLICE, SMOKE, SPEED, RECORDS, WEIGHTS, RUNS, LOG)
MAX_FILE = 16 * MIB
"""Of one result; that which cannot be bounded otherwise, the runs, is packed by it."""

REFERENCE = "rotnet_cifar10"
"""The recipe whose pretrained network comes back, and its name among the bundled weights."""

MAX_WEIGHTS = 3_000_000
"""Bytes of the network in half precision: it is part of every wheel."""
