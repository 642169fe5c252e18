"""Files: weights that are verified, writes that are whole, downloads, and the code behind a result.

>>> import tempfile, torch
>>> from pathlib import Path
>>> from ppap_lib.files import weights
>>> with tempfile.TemporaryDirectory() as folder:
...     file = Path(folder, "layer.safetensors")
...     weights.save({"weight": torch.tensor([0.1, 1.0])}, file, torch.float16)
...     state = weights.read(file, weights.sha256(file))
>>> state["weight"]
tensor([0.1000, 1.0000], dtype=torch.float16)
"""
