"""Read videos, folders of frames and stored clips by index; every failure is a VideoError."""
