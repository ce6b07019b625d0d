"""Our own CPU kernels, where torch's are memory-bound and fusing them pays. Each computes what torch computes, up to rounding."""
