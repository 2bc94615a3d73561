"""Percentiles of a sorted list."""


def percentile(ordered, percent):
    """Linear between neighbours, as numpy does by default."""
    at = (len(ordered) - 1) * percent / 100
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def summary(samples):
    ordered = sorted(samples)
    return {
        "median": percentile(ordered, 50),
        "p10": percentile(ordered, 10),
        "p90": percentile(ordered, 90),
        "min": ordered[0],
        "samples": len(ordered),
    }
