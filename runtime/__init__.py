"""What ships to the device: bundle + stream -> poses. No torch, no scipy, no onnx package.

from edgelift.runtime import Lifter

with Lifter("bundles/first", skeleton="coco17") as lift:
    poses = lift(keypoints, camera)
"""

from edgelift.runtime.lifter import Lifter, People, PoseStream, StreamSettings
from edgelift.runtime.smoothing import OneEuroSettings

__all__ = ["Lifter", "OneEuroSettings", "People", "PoseStream", "StreamSettings"]
