"""A ComfyUI from its url and its workflow to a picture, and what becomes of a prompt whose dispatcher died."""

from pathlib import Path

from services.gpusim.model import Fault, ProfileName
from tests.acceptance.conftest import MakeCluster
from tests.cluster import Process, eventually, final

WORKFLOW = Path(__file__).parents[2] / "deploy" / "comfyui" / "text-to-image.json"
MODEL = "sd_xl_base_1.0.safetensors"
