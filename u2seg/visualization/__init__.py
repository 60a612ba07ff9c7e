"""Pictures and reports of anything the other parts leave: NumPy, Pillow and SVG, no Detectron2."""
