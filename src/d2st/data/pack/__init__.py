"""Tar shards with many clips each, for file systems that are slow with millions of small files.

``python -m d2st.data.pack videos --out packed`` writes them (:mod:`d2st.data.pack.writer`); a packed folder is read
wherever a frame store is (:mod:`d2st.data.pack.shard`).
"""
