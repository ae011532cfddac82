"""What the published protocol of a benchmark becomes with the clips that are there."""

from . import Benchmark


def protocol(benchmark: Benchmark, readable: dict[str, dict[str, int]], shots: list[int], queries: int) -> list[str]:
    """A sentence for each part.

    Args:
        benchmark: As published.
        readable: Part -> class -> number of clips that can be read.
        shots: Numbers of support clips; for each it is told how many classes have enough clips.
        queries: Query clips of a class in an episode.
    """
    told = []
    for part, names in benchmark.classes.items():
        have = [readable.get(part, {}).get(name, 0) for name in names]
        there = sum(count > 0 for count in have)
        if benchmark.full_shot:
            clips = f"{sum(have):,} of {benchmark.sizes[part]:,}" if part in benchmark.sizes else f"{sum(have):,}"
            told.append(f"Part '{part}' of {benchmark.title}: {there} of {len(names)} classes, {clips} clips.")
            continue
        published = list(benchmark.counts[part].values())
        if have == published:
            told.append(f"Part '{part}' is that of {benchmark.title}: {there} classes, {sum(have):,} clips.")
            continue
        enough = (f"{sum(count >= shot + queries for count in have)} for {shot}-shot" for shot in shots)
        each = "1 query" if queries == 1 else f"{queries} queries"
        told.append(
            f"Part '{part}' of {benchmark.title} becomes {there} of {len(names)} classes with {sum(have):,} of "
            f"{sum(published):,} clips; classes with enough for {each} each: {', '.join(enough)}."
        )
    return told
