"""Images from seeds: `generate` draws them, `shards` draws sets that outlive a kill.

`python -m ppap_lib.generate --images 20000 --folder runs/generated/fashion`
"""

from ppap_lib.generate.drawing import GenerationError, batches, generate
from ppap_lib.generate.shards import draw_set, pending

__all__ = ["GenerationError", "batches", "draw_set", "generate", "pending"]
