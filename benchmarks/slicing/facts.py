"""Prints what must stand beside every result of a slice: the device, the versions, the commit."""

import json

from measurement.environment import describe_environment

if __name__ == "__main__":
    print(json.dumps(describe_environment()))
