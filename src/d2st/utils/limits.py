"""Bounds that several configs share, as keywords of :func:`option` and :class:`Bounds` of :mod:`d2st.utils.config`.

The upper ones are far above all sensible use. They are there so that a slip of the keyboard, or a file of somebody
else's, is a sentence and not a machine without memory.
"""

SIDE = {"least": 1, "most": 4096}  # of a picture, in pixels
FRAMES = {"least": 1, "most": 4096}  # of a clip
CLIPS = {"least": 1, "most": 10_000}  # classes, shots and queries of an episode; clips in a batch
EPISODES = {"least": 1, "most": 10**7}  # of an evaluation, whose results are all kept
STEPS = {"least": 1, "most": 10**9}  # of a training
WIDTH = {"least": 1, "most": 16_384}  # channels of a layer
POINTS = {"least": 1, "most": 4096}  # along a side of a volume
DEPTH = {"least": 1, "most": 64}  # layers
SITES = {"least": 0, "most": 10_000}  # indices of what is adapted
TRAINING_CLASSES = {"least": 0, "most": 100_000}
ATTENTION_HEADS = {"least": 1, "most": 1024}
WORKERS = {"least": 0, "most": 512}  # processes
THREADS = {"least": 1, "most": 1024}
SEED = {"least": 0, "most": 2**63 - 1}
COUNT = {"least": 1, "most": 10_000}  # lines of a table, views of a clip
POSITIVE = {"above": 0}
NOT_NEGATIVE = {"least": 0}
SHARE = {"least": 0, "most": 1}
BELOW_ONE = {"least": 0, "below": 1}
RATIO = {"above": 0, "most": 1}
REJECT_RATE = {"above": 0, "below": 1}
