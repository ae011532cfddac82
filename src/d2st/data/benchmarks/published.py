"""Compare the clips that are there with the published numbers of a benchmark."""

from collections import Counter, defaultdict

from ..class_folders import Listing
from . import Benchmark


def shortfalls(benchmark: Benchmark, listing: Listing, sizes: dict[str, int] | None = None) -> dict[str, list[str]]:
    """Tell which classes have not their published number of clips: part -> sentences.

    Of full-shot benchmarks only the number of clips of a part is known, as published or from annotations (``sizes``).
    """
    sentences: dict[str, list[str]] = defaultdict(list)
    assigned = Counter(listing.assigned.values())
    for part, size in (benchmark.sizes or sizes or {}).items():
        if assigned[part] < size:
            there = f"{assigned[part]:,} of its {size:,} clips"
            sentences[part].append(f"Part '{part}' of {benchmark.title} has {there} here.")
    for part, counts in benchmark.counts.items():
        have = {name: len(listing.clips[name]) for name in counts}
        shares = {name: have[name] / count for name, count in counts.items()}
        fewer = sorted((name for name in counts if have[name] < counts[name]), key=shares.get)
        more = sorted((name for name in counts if have[name] > counts[name]), key=shares.get, reverse=True)
        for word, names in (("fewer", fewer), ("more", more)):
            if names:
                shown = ", ".join(f"{name} ({have[name]} of {counts[name]})" for name in names[:5])
                sentences[part].append(
                    f"Part '{part}' of {benchmark.title} has {sum(have.values())} clips here and "
                    f"{sum(counts.values())} as published; {len(names)} of its {len(counts)} classes have {word}: "
                    + shown
                    + (", ..." if len(names) > 5 else ".")
                )
    return dict(sentences)


def protocol(benchmark: Benchmark, readable: dict[str, dict[str, int]], shots: list[int], queries: int) -> list[str]:
    """Tell for each part what the published protocol becomes with the clips that are there.

    Args:
        benchmark: as published.
        readable: part -> class -> number of clips that can be read.
        shots: numbers of support clips; for each it is told how many classes have enough clips.
        queries: query clips of a class in an episode.
    """
    sentences = []
    for part, names in benchmark.classes.items():
        have = [readable.get(part, {}).get(name, 0) for name in names]
        there = sum(count > 0 for count in have)
        if benchmark.full_shot:
            clips = f"{sum(have):,} of {benchmark.sizes[part]:,}" if part in benchmark.sizes else f"{sum(have):,}"
            sentences.append(f"Part '{part}' of {benchmark.title}: {there} of {len(names)} classes, {clips} clips.")
            continue
        published = list(benchmark.counts[part].values())
        if have == published:
            sentences.append(f"Part '{part}' is that of {benchmark.title}: {there} classes, {sum(have):,} clips.")
            continue
        enough = []
        for shot in shots:
            classes = sum(count >= shot + queries for count in have)
            enough.append(f"{classes} for {shot}-shot")
        each = "1 query" if queries == 1 else f"{queries} queries"
        sentences.append(
            f"Part '{part}' of {benchmark.title} becomes {there} of {len(names)} classes with {sum(have):,} of "
            f"{sum(published):,} clips; classes with enough for {each} each: {', '.join(enough)}."
        )
    return sentences
