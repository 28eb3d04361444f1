"""Networks that become students, by task, and what they cost."""

from edge_sdk.students.counting import count_macs, count_parameters
from edge_sdk.students.unet import UNet, build_network, light_unet, unet_teacher

__all__ = ["UNet", "build_network", "count_macs", "count_parameters", "light_unet", "unet_teacher"]
